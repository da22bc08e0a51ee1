//! The task that owns the slots: takes the newest wanted state, makes it serve or says why not.

use super::{
    activation::{Loaded, Proven, Refusal, check_manifests, in_own_task, prove},
    board::Board,
    host::ModelHost,
    last_known_good::LastKnownGood,
    trying::Trying,
};
use crate::{
    artefacts::{ArtefactStore, Fetcher},
    calls::CallDoor,
    node::{ServedModel, Serving},
    registry::Registry,
    trial::Trials,
    update::Updates,
};
use nearfield_shared::{
    artefact::{Manifest, Stage},
    desired::{DesiredState, Generation},
    wire::message::Problem,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// The newest state that the control plane wants. `push` grows with every push, so that the same generation can be tried again.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Counts pushes.
    pub push: u64,
    /// The state; `None` before the first push.
    pub state: Option<Arc<DesiredState>>,
}

/// What became of a wanted state.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It serves.
    Activated(Generation),
    /// It does not, and what served before serves on.
    Rejected(Generation, Problem),
}

/// What the owner is doing, for `status`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Activity {
    /// The generation being activated.
    pub activating: Option<Generation>,
    /// The last refusal: its generation and the words.
    pub last_refusal: Option<(Generation, String)>,
}

/// What the owner works with.
pub struct SlotsParts {
    /// Holds the models.
    pub host: Arc<dyn ModelHost>,
    /// Model files.
    pub store: ArtefactStore,
    /// Gets model files.
    pub fetcher: Fetcher,
    /// The control plane's Ed25519 key, 32 bytes.
    pub signing_key: Vec<u8>,
    /// Says which new models may be installed.
    pub registry: Arc<Registry>,
    /// The last state that served.
    pub last_known_good: LastKnownGood,
    /// Unused model files to keep.
    pub artefacts_keep: usize,
    /// Shows what serves.
    pub board: Board,
    /// Tells calls of a trial that is under way.
    pub trials: Trials,
    /// Told what the owner is doing.
    pub activity: watch::Sender<Activity>,
    /// Gets another program where a state wants one.
    pub updates: Arc<Updates>,
    /// Calls end before another program takes over.
    pub calls: CallDoor,
}

/// How an activation went well.
enum Done {
    /// The state serves.
    Serves,
    /// The daemon makes way for the program that the state wants, which will answer for it.
    MakesWay,
}

/// The owner of a node's models.
pub struct Slots {
    parts: SlotsParts,
    /// The state that serves, whole.
    current: Option<Arc<DesiredState>>,
    /// The newest generation that ever served here; no older one is taken.
    floor: Generation,
    live: BTreeMap<Stage, ServedModel>,
    /// Whether a last-known-good state is there and does not serve.
    boot_failed: bool,
}

impl Slots {
    /// An owner that serves nothing yet.
    pub fn new(parts: SlotsParts) -> Self {
        Self { parts, current: None, floor: Generation(0), live: BTreeMap::new(), boot_failed: false }
    }

    /// Puts the last-known-good state in place, from this node's disk alone. Returns the generation that serves then.
    ///
    /// Never fails: whatever is wrong is logged, and the control plane is asked afterwards.
    pub async fn boot(&mut self) -> Generation {
        let file = &self.parts.last_known_good;
        let state = match if self.parts.updates.trial().is_some() { file.read() } else { file.load() } {
            Ok(Some(state)) => Arc::new(state),
            Ok(None) => {
                tracing::info!("no last-known-good state on this node; waiting for the control plane");
                return Generation(0);
            }
            Err(e) => {
                tracing::error!(error = %e, "the last-known-good state cannot be used");
                self.boot_failed = true;
                return Generation(0);
            }
        };
        self.floor = state.generation;
        self.note_activating(Some(state.generation));
        let outcome = self.put_in_place(&state, None).await;
        match outcome {
            Ok(()) => tracing::info!(generation = %state.generation, "serving the last-known-good state"),
            Err(refusal) => {
                tracing::error!(generation = %state.generation, reason = %refusal.words, "the last-known-good state does not serve");
                self.boot_failed = true;
                self.note_refusal(state.generation, refusal.words);
            }
        }
        self.note_activating(None);
        self.serving_generation()
    }

    /// Whether the last-known-good state serves, as far as there is one.
    pub fn has_booted(&self) -> bool {
        !self.boot_failed
    }

    /// Serves what is wanted until the token fires.
    pub async fn run(
        mut self,
        mut wanted: watch::Receiver<Wanted>,
        outcomes: mpsc::Sender<Outcome>,
        stop: CancellationToken,
    ) {
        let mut done = 0;
        loop {
            let next = async {
                let newest = wanted.wait_for(|wanted| wanted.push > done && wanted.state.is_some()).await;
                newest.ok().map(|wanted| wanted.clone())
            };
            let next = tokio::select! {
                next = next => next,
                () = stop.cancelled() => None,
            };
            let Some(Wanted { push, state: Some(state) }) = next else { return };
            done = push;
            self.note_activating(Some(state.generation));
            let outcome = self.activate(&state, push, &mut wanted, &stop).await;
            self.note_activating(None);
            let outcome = match outcome {
                Ok(Done::MakesWay) => return stop.cancelled().await,
                Ok(Done::Serves) => {
                    tracing::info!(generation = %state.generation, "serving");
                    self.collect();
                    Outcome::Activated(state.generation)
                }
                Err(refusal) => {
                    tracing::warn!(generation = %state.generation, reason = %refusal.words, "state refused; the old one serves on");
                    self.note_refusal(state.generation, refusal.words);
                    Outcome::Rejected(state.generation, refusal.problem)
                }
            };
            if outcomes.send(outcome).await.is_err() {
                return;
            }
        }
    }

    async fn activate(
        &mut self,
        state: &Arc<DesiredState>,
        push: u64,
        wanted: &mut watch::Receiver<Wanted>,
        stop: &CancellationToken,
    ) -> Result<Done, Refusal> {
        if state.generation < self.floor {
            return Err(Refusal::old(state.generation.0, self.floor.0));
        }
        let newer = async {
            // An owner of the link that is gone cannot want anything newer.
            if wanted.wait_for(|wanted| wanted.push > push).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let overtaken = async {
            tokio::select! {
                () = newer => Refusal::superseded(),
                () = stop.cancelled() => Refusal::failed("the agent goes down"),
            }
        };
        tokio::pin!(overtaken);
        let SlotsParts { updates, signing_key, store, fetcher, calls, host, trials, .. } = &self.parts;
        // The program first: the models may be for that one only.
        let ready = tokio::select! {
            ready = updates.prepare(state, signing_key, (store, fetcher.clone()), calls) => ready?,
            refusal = &mut overtaken => return Err(refusal),
        };
        if let Some(ready) = ready {
            updates.hand_over(ready).await?;
            return Ok(Done::MakesWay);
        }
        let manifests = check_manifests(state, signing_key, &**host)?;
        let needed = self.needed(&manifests);
        let new: Vec<_> =
            needed.iter().map(|manifest| (manifest.clone(), state.models[&manifest.stage].digest())).collect();
        let registry = &self.parts.registry;
        let trying = Trying { host, trials, live: &self.live, wanted: manifests.keys().copied().collect() };
        let proving = async {
            // Asked here and nowhere else: what this node has served before it boots into, whatever the registry says by now.
            registry.permits(&new).await?;
            let (proven, loaded) = prove(host, store, Some(fetcher.clone()), needed).await?;
            trying.place_call(&loaded).await?;
            trying.on_turns(&loaded, state.trial.as_ref()).await?;
            Ok::<_, Refusal>((proven, loaded))
        };
        // Every step up to here can be dropped: what is on disk stays, what is on the device is freed, turns on candidates go on with live models.
        let (proven, loaded) = tokio::select! {
            proven = proving => proven?,
            refusal = overtaken => return Err(refusal),
        };
        self.swap(state, &manifests, proven, loaded).await.map(|()| Done::Serves)
    }

    /// Puts a state in place with the files that are here (boot, and after a failed swap).
    async fn put_in_place(&mut self, state: &Arc<DesiredState>, fetcher: Option<Fetcher>) -> Result<(), Refusal> {
        let manifests = check_manifests(state, &self.parts.signing_key, &*self.parts.host)?;
        let needed = self.needed(&manifests);
        let (proven, loaded) = prove(&self.parts.host, &self.parts.store, fetcher, needed).await?;
        self.swap_models(state, &manifests, proven, loaded).await
    }

    fn needed(&self, manifests: &BTreeMap<Stage, Manifest>) -> Vec<Manifest> {
        let is_live = |m: &&Manifest| self.live.get(&m.stage).is_some_and(|live| live.digest == m.digest);
        manifests.values().filter(|m| !is_live(m)).cloned().collect()
    }

    /// The last steps, which nothing interrupts.
    async fn swap(
        &mut self,
        state: &Arc<DesiredState>,
        manifests: &BTreeMap<Stage, Manifest>,
        proven: Proven,
        loaded: Vec<Loaded>,
    ) -> Result<(), Refusal> {
        // The slow and failing part of the write comes before the swap, so that a full disk refuses the state while the old one
        // still serves; after the swap only a rename is left.
        let prepared = self
            .parts
            .last_known_good
            .prepare(state)
            .map_err(|e| Refusal::failed(format!("the last-known-good state cannot be written: {e}")))?;
        if let Err(refusal) = self.swap_models(state, manifests, proven, loaded).await {
            self.step_back().await;
            return Err(refusal);
        }
        self.floor = state.generation;
        if let Err(e) = prepared.commit() {
            // It serves, and is told so; only a restart before the next change would bring the state before it.
            tracing::error!(error = %e, "the last-known-good state could not be put in its place; check the disk");
        }
        Ok(())
    }

    async fn swap_models(
        &mut self,
        state: &Arc<DesiredState>,
        manifests: &BTreeMap<Stage, Manifest>,
        mut proven: Proven,
        loaded: Vec<Loaded>,
    ) -> Result<(), Refusal> {
        let candidates = proven.take();
        if !candidates.is_empty() {
            let host = Arc::clone(&self.parts.host);
            in_own_task(async move { host.activate(candidates).await }).await??;
        }
        self.live.retain(|stage, _| manifests.contains_key(stage));
        for Loaded { manifest, candidate, proven_ms } in loaded {
            let model = ServedModel {
                name: manifest.name,
                version: manifest.version,
                languages: manifest.languages,
                digest: manifest.digest,
                resident_bytes: candidate.resident_bytes,
                load_ms: candidate.load_ms,
                proven_ms,
                golden_cases: manifest.golden_cases,
            };
            self.live.insert(manifest.stage, model);
        }
        self.current = Some(Arc::clone(state));
        self.parts.board.show(Serving::of(state, self.live.clone()));
        Ok(())
    }

    /// After a swap that failed half way nobody knows which models are live: load the state before it again.
    async fn step_back(&mut self) {
        self.live.clear();
        let Some(before) = self.current.take() else {
            self.parts.board.show(Serving::default());
            return;
        };
        match self.put_in_place(&before, None).await {
            Ok(()) => tracing::warn!(generation = %before.generation, "stepped back after a failed swap"),
            Err(refusal) => {
                tracing::error!(reason = %refusal.words, "stepping back failed too; this node serves nothing until the next push");
                // Policy and routes stay in force, the models are gone.
                self.parts.board.show(Serving::of(&before, BTreeMap::new()));
            }
        }
    }

    /// Removes model files that neither the live nor the last-known-good state uses.
    fn collect(&self) {
        let mut keep: BTreeSet<_> = self.live.values().map(|model| model.digest).collect();
        if let Some(current) = &self.current {
            keep.extend(current.models.values().filter_map(|m| Some(m.verify(&self.parts.signing_key).ok()?.digest)));
        }
        // Neighbours take the program from here, too.
        keep.extend(self.parts.updates.digest());
        match self.parts.store.collect(&keep, self.parts.artefacts_keep) {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "removed model files that are not in use"),
            Err(e) => tracing::warn!(error = %e, "model files that are not in use could not be removed"),
        }
    }

    fn serving_generation(&self) -> Generation {
        self.current.as_ref().map_or(Generation(0), |state| state.generation)
    }

    fn note_activating(&self, activating: Option<Generation>) {
        self.parts.activity.send_modify(|activity| activity.activating = activating);
    }

    fn note_refusal(&self, generation: Generation, words: String) {
        self.parts.activity.send_modify(|activity| activity.last_refusal = Some((generation, words)));
    }
}
