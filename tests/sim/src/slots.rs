//! An agent's slots in virtual time: what `edge-agent/src/slots` does with disks and devices, with its order and its checks.
//!
//! Manifests are verified with the real signature, bytes with the real receiver; a model is loaded beside the live one, proven, swapped
//! in, and the state is on the disk before anybody is told.

use crate::{
    catalogue::Catalogue,
    ctx::{Ctx, Event},
    disk::AgentDisk,
    scenario::Sabotage,
};
use nearfield_shared::{
    artefact::{Digest, Manifest, Stage},
    desired::{DesiredState, Generation, stored},
    link::{ArtefactReceiver, Refusal},
    wire::{
        NodeName,
        message::{Problem, ProblemKind},
    },
};
use std::{
    cell::Cell,
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Chunks of one file that may come wrong before it is given up (`edge-agent/src/artefacts/fetch.rs`).
const WRONG_CHUNKS_MAX: u32 = 3;

/// Streams in a row that may bring nothing.
const BARREN_STREAMS_MAX: u32 = 5;

/// What became of a wanted state.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Activated(Generation),
    Rejected(Generation, Problem),
}

/// The step that an activation is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Fetch,
    Prove,
    /// The new state is written beside the old one.
    Prepared,
    /// It serves, and is renamed into its place.
    Swapped,
}

struct Activation {
    push: u64,
    state: Arc<DesiredState>,
    manifests: BTreeMap<Stage, Manifest>,
    needed: VecDeque<Manifest>,
    loading: VecDeque<Manifest>,
    candidates: Vec<(Stage, Digest)>,
    step: Step,
    wrong_chunks: u32,
    barren: u32,
}

/// Whose slots they are.
#[derive(Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub agent: usize,
    pub life: u64,
    pub node: &'a NodeName,
    pub version: u16,
    /// Whether files can be fetched now.
    pub connected: bool,
}

#[derive(Default)]
pub(crate) struct Slots {
    /// What serves.
    pub current: Option<Arc<DesiredState>>,
    pub floor: Generation,
    pub live: BTreeMap<Stage, Digest>,
    /// Models in memory.
    pub resident: BTreeMap<Stage, Vec<Digest>>,
    wanted: (u64, Option<Arc<DesiredState>>),
    done: u64,
    activation: Option<Activation>,
    pub outcomes: VecDeque<Outcome>,
    /// What the bytes that were loaded for a model really are.
    pub loaded: BTreeMap<Digest, Digest>,
    /// The generation that an oracle has found to be verified.
    pub checked: Cell<Option<Generation>>,
}

fn problem(kind: ProblemKind) -> Problem {
    Problem::new(kind)
}

impl Slots {
    pub fn serving(&self) -> Generation {
        self.current.as_ref().map_or(Generation(0), |state| state.generation)
    }

    /// Puts the last known good state in place, from the disk alone.
    pub fn boot(&mut self, ctx: &mut Ctx, owner: Owner<'_>, disk: &mut AgentDisk) {
        let Some(bytes) = disk.last_known_good.read() else { return };
        let state = stored::decode(bytes).expect("the file is the old one or the new one");
        self.floor = state.generation;
        let unverified = ctx.sabotages(Sabotage::ServesUnverified);
        let Ok(manifests) = state.verified_models(ctx.catalogue.public_key()) else { return };
        for manifest in manifests.values() {
            let whole = disk.artefacts.get(&manifest.digest).is_some_and(|file| Digest::of(file) == manifest.digest);
            let runs = Catalogue::runs(owner.version, &manifest.architecture);
            if !unverified && (!whole || !runs || ctx.catalogue.differs_on(&manifest.digest, owner.node)) {
                // A rotten file is fetched again.
                disk.artefacts.retain(|digest, file| Digest::of(file) == *digest);
                return;
            }
        }
        self.live = manifests.iter().map(|(stage, manifest)| (*stage, manifest.digest)).collect();
        self.resident = self.live.iter().map(|(stage, digest)| (*stage, vec![*digest])).collect();
        let held = disk.artefacts.iter().filter(|(digest, _)| self.live.values().any(|live| live == *digest));
        self.loaded = held.map(|(digest, file)| (*digest, Digest::of(file))).collect();
        self.current = Some(Arc::new(state));
    }

    /// The plane wants a state.
    pub fn want(&mut self, ctx: &mut Ctx, owner: Owner<'_>, state: Arc<DesiredState>) {
        self.wanted = (self.wanted.0 + 1, Some(state));
        // Every step up to the swap can be dropped.
        let droppable = |activation: &Activation| matches!(activation.step, Step::Fetch | Step::Prove);
        if self.activation.as_ref().is_some_and(droppable) {
            self.reject(ctx, owner, problem(ProblemKind::Superseded));
        }
        self.begin(ctx, owner);
    }

    fn begin(&mut self, ctx: &mut Ctx, owner: Owner<'_>) {
        let (push, Some(state)) = self.wanted.clone() else { return };
        if self.activation.is_some() || push <= self.done {
            return;
        }
        self.done = push;
        let mut activation = Activation {
            push,
            state: state.clone(),
            manifests: BTreeMap::new(),
            needed: VecDeque::new(),
            loading: VecDeque::new(),
            candidates: Vec::new(),
            step: Step::Fetch,
            wrong_chunks: 0,
            barren: 0,
        };
        let checked = self.check(ctx, owner, &state);
        let refused = match checked {
            Ok(manifests) => {
                let is_live = |manifest: &&Manifest| self.live.get(&manifest.stage) == Some(&manifest.digest);
                activation.needed = manifests.values().filter(|manifest| !is_live(manifest)).cloned().collect();
                activation.loading = activation.needed.clone();
                activation.manifests = manifests;
                None
            }
            Err(problem) => Some(problem),
        };
        self.activation = Some(activation);
        match refused {
            Some(problem) => self.reject(ctx, owner, problem),
            None => self.go_on(ctx, owner, 1, 20),
        }
    }

    fn check(&self, ctx: &Ctx, owner: Owner<'_>, state: &DesiredState) -> Result<BTreeMap<Stage, Manifest>, Problem> {
        if state.generation < self.floor {
            return Err(problem(ProblemKind::OldGeneration));
        }
        if ctx.sabotages(Sabotage::ServesUnverified) {
            let parsed =
                state.models.iter().filter_map(|(stage, m)| Some((*stage, serde_json::from_str(&m.body).ok()?)));
            return Ok(parsed.collect());
        }
        let manifests = state.verified_models(ctx.catalogue.public_key()).map_err(|refused| refused.problem)?;
        let runs = |manifest: &&Manifest| Catalogue::runs(owner.version, &manifest.architecture);
        match manifests.values().find(|manifest| !runs(manifest)) {
            Some(manifest) => Err(problem(ProblemKind::UnknownArchitecture).at(manifest.stage)),
            None => Ok(manifests),
        }
    }

    fn go_on(&mut self, ctx: &mut Ctx, owner: Owner<'_>, from_ms: u64, to_ms: u64) {
        let Some(activation) = &self.activation else { return };
        let wait = ctx.chance.ms(from_ms, to_ms);
        ctx.after(wait, Event::Works { agent: owner.agent, life: owner.life, push: activation.push });
    }

    /// The next step of an activation.
    pub fn work(&mut self, ctx: &mut Ctx, owner: Owner<'_>, disk: &mut AgentDisk, push: u64) {
        let Some(activation) = self.activation.as_mut().filter(|activation| activation.push == push) else { return };
        match activation.step {
            Step::Fetch => match activation.needed.front().cloned() {
                Some(manifest) if disk.artefacts.contains_key(&manifest.digest) => {
                    activation.needed.pop_front();
                    self.go_on(ctx, owner, 0, 1);
                }
                Some(manifest) => self.fetch(ctx, owner, disk, &manifest),
                None => {
                    activation.step = Step::Prove;
                    self.go_on(ctx, owner, 0, 1);
                }
            },
            Step::Prove => match activation.loading.pop_front() {
                Some(manifest) => self.prove(ctx, owner, disk, &manifest),
                None if ctx.fault(10) => self.reject(ctx, owner, problem(ProblemKind::DiskFull)),
                None => {
                    activation.step = Step::Prepared;
                    let state = stored::encode(&activation.state).expect("a state is JSON");
                    disk.last_known_good.prepare(state);
                    self.go_on(ctx, owner, 1, 30);
                }
            },
            Step::Prepared => {
                activation.step = Step::Swapped;
                self.swap();
                disk.last_known_good.rename();
                self.go_on(ctx, owner, 0, 10);
            }
            Step::Swapped => {
                disk.last_known_good.settled();
                let generation = activation.state.generation;
                self.activation = None;
                disk.artefacts.retain(|digest, _| self.live.values().any(|live| live == digest));
                self.tell(ctx, owner, Outcome::Activated(generation));
                self.begin(ctx, owner);
            }
        }
    }

    /// One stream of one file.
    fn fetch(&mut self, ctx: &mut Ctx, owner: Owner<'_>, disk: &mut AgentDisk, manifest: &Manifest) {
        let Some(activation) = &mut self.activation else { return };
        let source = ctx.catalogue.model(&manifest.digest).map(|model| model.file.clone());
        let Some(mut bytes) = source.filter(|_| owner.connected && !ctx.fault(100)) else {
            activation.barren += 1;
            if activation.barren >= BARREN_STREAMS_MAX {
                return self.reject(ctx, owner, problem(ProblemKind::FetchFailed));
            }
            return self.go_on(ctx, owner, 500, 4_000);
        };
        activation.barren = 0;
        if ctx.fault(30) {
            let at = ctx.chance.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1;
        }
        if ctx.sabotages(Sabotage::ServesUnverified) {
            disk.artefacts.insert(manifest.digest, bytes);
            return self.go_on(ctx, owner, 10, 500);
        }
        let mut receiver = ArtefactReceiver::new(manifest);
        let mut file = Vec::new();
        let received = receiver.receive(&bytes).and_then(|chunks| {
            chunks.into_iter().for_each(|chunk| file.extend(chunk.bytes));
            receiver.finish()
        });
        match received {
            Ok(_) => {
                disk.artefacts.insert(manifest.digest, file);
                self.go_on(ctx, owner, 10, 2_000);
            }
            Err(Refusal::WrongChunk { chunk, .. }) => {
                activation.wrong_chunks += 1;
                if activation.wrong_chunks >= WRONG_CHUNKS_MAX {
                    let index = Some(chunk as u64);
                    return self.reject(ctx, owner, Problem { index, ..problem(ProblemKind::WrongDigest) });
                }
                self.go_on(ctx, owner, 10, 500);
            }
            Err(_) => self.reject(ctx, owner, problem(ProblemKind::WrongDigest)),
        }
    }

    /// Loads a model beside the live one and has it reproduce its golden results.
    fn prove(&mut self, ctx: &mut Ctx, owner: Owner<'_>, disk: &mut AgentDisk, manifest: &Manifest) {
        let Some(activation) = &mut self.activation else { return };
        let (stage, digest) = (manifest.stage, manifest.digest);
        if let Some(file) = disk.artefacts.get(&digest) {
            self.loaded.insert(digest, Digest::of(file));
        }
        if !ctx.sabotages(Sabotage::ServesUnverified) {
            if disk.artefacts.get(&digest).is_none_or(|file| Digest::of(file) != digest) {
                disk.artefacts.remove(&digest);
                return self.reject(ctx, owner, problem(ProblemKind::FetchFailed));
            }
            self.resident.entry(stage).or_default().push(digest);
            activation.candidates.push((stage, digest));
            if ctx.catalogue.differs_on(&digest, owner.node) {
                return self.reject(ctx, owner, problem(ProblemKind::GoldenDiffers).at(stage));
            }
            if ctx.fault(10) {
                return self.reject(ctx, owner, problem(ProblemKind::Failed));
            }
        } else {
            self.resident.entry(stage).or_default().push(digest);
            activation.candidates.push((stage, digest));
        }
        self.go_on(ctx, owner, 50, 3_000);
    }

    fn swap(&mut self) {
        let Some(activation) = &self.activation else { return };
        self.live = activation.manifests.iter().map(|(stage, manifest)| (*stage, manifest.digest)).collect();
        self.resident = self.live.iter().map(|(stage, digest)| (*stage, vec![*digest])).collect();
        self.current = Some(activation.state.clone());
        self.floor = activation.state.generation;
    }

    fn reject(&mut self, ctx: &mut Ctx, owner: Owner<'_>, problem: Problem) {
        let Some(activation) = self.activation.take() else { return };
        if !ctx.sabotages(Sabotage::KeepsCandidates) {
            for (stage, digest) in &activation.candidates {
                let resident = self.resident.entry(*stage).or_default();
                if let Some(at) = resident.iter().rposition(|held| held == digest) {
                    resident.remove(at);
                }
            }
        }
        ctx.trace.say(ctx.now, format_args!("{} refuses {}: {problem}", owner.node, activation.state.generation));
        self.tell(ctx, owner, Outcome::Rejected(activation.state.generation, problem));
        self.begin(ctx, owner);
    }

    fn tell(&mut self, ctx: &mut Ctx, owner: Owner<'_>, outcome: Outcome) {
        self.outcomes.push_back(outcome);
        let wait = ctx.chance.ms(0, 2).max(Duration::from_micros(1));
        ctx.after(wait, Event::Outcome { agent: owner.agent, life: owner.life });
    }
}
