//! What must hold after every step, whatever has happened.

use crate::{plane::Plane, world::World};
use control_plane::rollout::{Evidence, Rollout, Sample};
use nearfield_shared::{
    artefact::Digest,
    desired::{DesiredState, Generation},
    link::Offer,
    region::RegionId,
    wire::PlaneToAgent,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

/// Failures that a gate needs, whatever share they are (`rollout/gates.rs`).
const FAILURES_MIN: u64 = 3;

/// Something that must not happen has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The name of the oracle.
    pub oracle: &'static str,
    /// What it saw.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.oracle, self.what)
    }
}

fn violated(oracle: &'static str, what: impl Into<String>) -> Result<(), Violation> {
    Err(Violation { oracle, what: what.into() })
}

/// What an agent was seen at last.
#[derive(Default)]
struct Watched {
    /// The highest generation that it ever told the plane of.
    told: Generation,
    /// The process that was looked at last, and what served in it.
    life: u64,
    served: Generation,
}

/// What the oracles remember.
#[derive(Default)]
pub(crate) struct Oracles {
    touched: BTreeSet<usize>,
    agents: BTreeMap<usize, Watched>,
    /// What was ever shown under a number, and in which allocation it was seen last.
    states: BTreeMap<(RegionId, Generation), (Digest, Arc<Offer>)>,
    shown_max: BTreeMap<RegionId, Generation>,
    /// Regions whose undone rollout was told before it was stored, because the disk failed: the plane may be behind when it comes back.
    excused: BTreeSet<RegionId>,
    /// Gates that do not hold, and how many nodes had the change then.
    breached: BTreeMap<RegionId, (Generation, usize)>,
    shut_out: BTreeSet<String>,
}

/// What nodes are made of, whatever its number.
fn content(state: &DesiredState) -> Digest {
    let parts = (&state.models, &state.assistants, &state.policy);
    Digest::of(&serde_json::to_vec(&parts).expect("a state is JSON"))
}

fn state_of(offer: &Offer) -> Option<Arc<DesiredState>> {
    match offer.push(1) {
        PlaneToAgent::Desired(desired) => Some(desired.state.clone()),
        _ => None,
    }
}

impl Oracles {
    /// Something happened to an agent.
    pub fn touched(&mut self, agent: usize) {
        self.touched.insert(agent);
    }

    /// The plane has died. What it had told nodes may be gone where its disk had failed.
    pub fn plane_died(&mut self, told_unsaved: &BTreeSet<RegionId>) {
        self.excused.extend(told_unsaved.iter().cloned());
        self.breached.clear();
    }

    /// The plane's store was lost: what was shut out since the copy is forgotten, and numbers go on well above.
    pub fn store_was_restored(&mut self) {
        self.shut_out.clear();
    }

    /// Asks every oracle about what has changed.
    pub fn look(&mut self, world: &mut World) -> Result<(), Violation> {
        for agent in std::mem::take(&mut self.touched) {
            self.generations_never_go_back(world, agent)?;
            what_serves_was_verified(world, agent)?;
            at_most_live_and_candidate_per_slot(world, agent)?;
        }
        let Some(plane) = &mut world.plane else { return Ok(()) };
        let seen = std::mem::take(&mut plane.seen);
        plane.seen.told_unsaved.clone_from(&seen.told_unsaved);
        self.the_plane_never_goes_back(plane)?;
        self.one_number_is_one_state(&seen.shown)?;
        self.a_failed_wave_halts_within_one_step(plane, &seen.looked)?;
        self.who_was_shut_out_stays_out(&seen.let_in, seen.shut_out)
    }

    /// A node never serves less than it told the plane of, also not after a crash. Nothing at all is less: it then says so, and takes nothing older.
    fn generations_never_go_back(&mut self, world: &World, agent: usize) -> Result<(), Violation> {
        const NAME: &str = "generations_never_go_back";
        let known = &world.agents[agent];
        let watched = self.agents.entry(agent).or_default();
        let Some(process) = &known.process else { return Ok(()) };
        let (told, serves) = (process.link.serving(), process.slots.serving());
        if watched.life != known.life {
            (watched.life, watched.served) = (known.life, Generation(0));
        }
        for (what, generation, least) in
            [("tells of", told, watched.told), ("serves", serves, watched.told.max(watched.served))]
        {
            if generation > Generation(0) && generation < least {
                return violated(NAME, format!("{} {what} {generation} after {least}", known.node));
            }
        }
        watched.told = watched.told.max(told);
        watched.served = watched.served.max(serves);
        Ok(())
    }

    /// A plane never numbers below what it has shown.
    fn the_plane_never_goes_back(&mut self, plane: &Plane) -> Result<(), Violation> {
        for (region, shown) in &self.shown_max {
            let Some(known) = plane.fleet.region(region).map(|record| record.generation) else { continue };
            if known >= *shown {
                self.excused.remove(region);
            } else if !self.excused.contains(region) {
                return violated("generations_never_go_back", format!("{region} is at {known} and has shown {shown}"));
            }
        }
        Ok(())
    }

    /// Two states never have one number, whichever plane made them.
    fn one_number_is_one_state(&mut self, shown: &[(RegionId, Arc<Offer>)]) -> Result<(), Violation> {
        for (region, offer) in shown {
            let generation = offer.generation();
            let key = (region.clone(), generation);
            let known = self.states.get(&key);
            if known.is_some_and(|(_, seen)| Arc::ptr_eq(seen, offer)) {
                continue;
            }
            let Some(state) = state_of(offer) else { continue };
            let digest = content(&state);
            if known.is_some_and(|(before, _)| *before != digest) {
                return violated("one_number_is_one_state", format!("{region} has two states numbered {generation}"));
            }
            self.states.insert(key, (digest, offer.clone()));
            let max = self.shown_max.entry(region.clone()).or_default();
            *max = generation.max(*max);
        }
        Ok(())
    }

    /// Once a gate does not hold, the next look of the driver ends the rollout, and until then no node is given the change.
    fn a_failed_wave_halts_within_one_step(&mut self, plane: &Plane, looked: &[RegionId]) -> Result<(), Violation> {
        const NAME: &str = "a_failed_wave_halts_within_one_step";
        let mut breached = BTreeMap::new();
        for (rollout, evidence) in plane.fleet.rollouts().filter(|(rollout, _)| !rollout.is_over()) {
            let region = &rollout.region;
            let before = self.breached.get(region).filter(|(to, _)| *to == rollout.to).copied();
            let Some(why) = breach(plane, rollout, evidence) else { continue };
            if let Some((_, moved)) = before {
                if looked.contains(region) {
                    return violated(NAME, format!("the rollout of {} in {region} goes on: {why}", rollout.to));
                }
                if rollout.moved.len() > moved {
                    return violated(NAME, format!("more nodes of {region} have {}: {why}", rollout.to));
                }
            }
            breached.insert(region.clone(), (rollout.to, rollout.moved.len()));
        }
        self.breached = breached;
        Ok(())
    }

    /// A certificate of a node that was shut out opens nothing any more.
    fn who_was_shut_out_stays_out(&mut self, let_in: &[String], shut_out: Vec<String>) -> Result<(), Violation> {
        if let Some(serial) = let_in.iter().find(|serial| self.shut_out.contains(*serial)) {
            return violated("who_was_shut_out_stays_out", format!("certificate {serial} was let in"));
        }
        self.shut_out.extend(shut_out);
        Ok(())
    }
}

/// A gate that does not hold, judged anew from what is known: refusals, failures, latency. Nodes that vanish have a grace, and are left to the rollout's own tests.
fn breach(plane: &Plane, rollout: &Rollout, evidence: &Evidence) -> Option<String> {
    let gates = &rollout.settings.gates;
    let given = plane.fleet.nodes().filter(|node| {
        rollout.moved.contains_key(&node.node) && node.revoked_unix_s.is_none() && node.cordon.is_none()
    });
    let (mut of, mut refuse) = (0_u64, 0_u64);
    for node in given {
        of += 1;
        let refuses = node.refusal.as_ref().is_some_and(|refusal| {
            refusal.generation == rollout.to && node.serving < rollout.to && !refusal.detail.kind.is_transient()
        });
        refuse += u64::from(refuses);
    }
    if refuse > 0 && refuse as f64 * 100.0 > of as f64 * gates.refused_percent_max {
        return Some(format!("{refuse} of {of} refuse it"));
    }
    let old = evidence.reference(gates).map(|(sample, _)| sample);
    [&evidence.whole.new, &evidence.recent.new].into_iter().find_map(|new| {
        if new.turns < u64::from(gates.turns_min) {
            return None;
        }
        let expected = old.and_then(Sample::errors_percent).unwrap_or(0.0) + gates.errors_points_max;
        if new.failed >= FAILURES_MIN && new.errors_percent()? > expected {
            return Some(format!("{} of {} turns failed", new.failed, new.turns));
        }
        let (late, usual) = (new.p95_ms()?, old?.p95_ms()?);
        (late > usual * gates.p95_ratio_max).then(|| format!("first audio after {late} ms instead of {usual}"))
    })
}

/// What serves is what the plane signed, bytes and all, and it was proven on this very node.
fn what_serves_was_verified(world: &World, agent: usize) -> Result<(), Violation> {
    const NAME: &str = "what_serves_was_verified";
    let known = &world.agents[agent];
    let Some(process) = &known.process else { return Ok(()) };
    let Some(state) = &process.slots.current else { return Ok(()) };
    let wrong = |what: &str| violated(NAME, format!("{} serves {} {what}", known.node, state.generation));
    if process.slots.checked.get() == Some(state.generation) {
        return Ok(());
    }
    if !world.ctx.catalogue.is_good(state, &known.node, known.version) {
        return wrong("which nobody vouches for, or which it cannot run");
    }
    if state.models.len() != process.slots.live.len() {
        return wrong("with other models than it names");
    }
    for digest in process.slots.live.values() {
        if process.slots.loaded.get(digest) != Some(digest) {
            return wrong("with other bytes than were signed");
        }
    }
    process.slots.checked.set(Some(state.generation));
    Ok(())
}

/// A slot holds what serves and one candidate beside it.
fn at_most_live_and_candidate_per_slot(world: &World, agent: usize) -> Result<(), Violation> {
    let known = &world.agents[agent];
    for (stage, models) in known.process.iter().flat_map(|process| &process.slots.resident) {
        if models.len() > 2 {
            let what = format!("{} holds {} models for {stage}", known.node, models.len());
            return violated("at_most_live_and_candidate_per_slot", what);
        }
    }
    Ok(())
}

impl World {
    /// Once faults are over, every node that may serves what it is offered, or refuses it for a reason that is true, and the plane knows.
    pub(crate) fn all_converge(&self) -> Result<(), Violation> {
        const NAME: &str = "all_converge";
        let Some(plane) = &self.plane else { return violated(NAME, "no plane runs") };
        if let Some(rollout) = plane.fleet.rolling().first().and_then(|region| plane.fleet.rollout_under_way(region)) {
            return violated(NAME, format!("the rollout in {} is still {:?}", rollout.region, rollout.phase));
        }
        for agent in &self.agents {
            let wrong = |what: String| violated(NAME, format!("{} {what}", agent.node));
            if agent.asked.is_some() {
                return wrong("waits to be enrolled".into());
            }
            let admitted = agent.identity.as_ref().is_some_and(|identity| plane.fleet.admit(identity).is_ok());
            if !admitted {
                if agent.shut_out {
                    continue;
                }
                return wrong("was locked out by nobody".into());
            }
            let (Some(record), Some(process)) = (plane.fleet.node(&agent.node), &agent.process) else {
                return wrong("does not run".into());
            };
            if plane.fleet.live(&agent.node).is_none() || !process.link.is_live() {
                return wrong("has no link".into());
            }
            let Some(offered) = plane.fleet.offered(&agent.region, &agent.node) else { continue };
            let serves = process.slots.serving();
            if record.serving != serves {
                return wrong(format!("serves {serves}, the plane believes {}", record.serving));
            }
            if serves == offered {
                continue;
            }
            let state = plane.fleet.desired(&agent.region, &[]);
            let good = state.is_some_and(|state| self.ctx.catalogue.is_good(&state, &agent.node, agent.version));
            let refuses = record.refusal.as_ref().is_some_and(|refusal| refusal.generation == offered);
            if good || !refuses {
                let refusal = record.refusal.as_ref().map(|refusal| (refusal.generation, refusal.detail.kind));
                return wrong(format!("serves {serves}, is offered {offered}, and refuses {refusal:?}"));
            }
        }
        Ok(())
    }
}
