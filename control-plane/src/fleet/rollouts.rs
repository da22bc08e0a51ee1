//! Rollouts of the fleet's regions: what they know of nodes, what becomes of desired state, what is stored.

use super::{Fleet, NodeState, events::Event, records::put};
use crate::{
    audit::Act,
    rollout::{Entry, Evidence, NodeFacts, Order, Phase, Presence, Rollout, Sample, Seen, Takes, Undone},
    store::Write,
};
use nearfield_shared::{
    desired::Generation,
    region::RegionId,
    report::CallTally,
    rollout::RolloutSettings,
    wire::{NodeName, message::Duty},
};
use std::collections::{BTreeMap, BTreeSet};

/// Turns of one node's past after which older ones count half.
const PAST_TURNS_MAX: u64 = 20_000;

/// Nodes of each side of a rollout that are asked for short windows: enough to judge by, and so few that their reports do not keep the disk busy.
const WATCHED_MAX: usize = 100;

/// How often they report. A breach is in the next report, and the rollback goes out with it: well within ten seconds.
pub const WATCH_EVERY_MS: u32 = 5_000;

/// A rollout and what it is judged by.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub rollout: Rollout,
    pub evidence: Evidence,
}

/// What a node's calls came to under the generation that it serves. In memory only.
#[derive(Debug, Clone, Default)]
pub(super) struct Recent {
    generation: Generation,
    sample: Sample,
}

/// What happened to a rollout, for whoever made it happen.
#[derive(Debug, Default)]
pub struct Stepped {
    /// Whether nodes are offered something else now.
    pub offers_changed: bool,
    /// What is stored.
    pub writes: Vec<Write>,
    /// What the audit is told.
    pub act: Option<Act>,
    /// What happened.
    pub told: Vec<Entry>,
}

fn key(region: &RegionId) -> String {
    format!("rollout/{region}")
}

fn evidence_key(region: &RegionId) -> String {
    format!("evidence/{region}")
}

impl Running {
    fn writes(&self) -> Vec<Write> {
        let region = &self.rollout.region;
        vec![put(key(region), &self.rollout), put(evidence_key(region), &self.evidence)]
    }
}

impl Fleet {
    /// Loads a rollout.
    pub(super) fn load_rollout(&mut self, rollout: Rollout) {
        let evidence = Evidence::default();
        self.rollouts.insert(rollout.region.clone(), Running { rollout, evidence });
    }

    /// Loads what a rollout is judged by; rollouts are loaded before.
    pub(super) fn load_evidence(&mut self, region: &str, evidence: Evidence) {
        if let Some(running) = self.rollouts.values_mut().find(|running| running.rollout.region.as_str() == region) {
            running.evidence = evidence;
        }
    }

    /// The rollout of each region: the one under way, or the last.
    pub fn rollouts(&self) -> impl Iterator<Item = (&Rollout, &Evidence)> {
        self.rollouts.values().map(|running| (&running.rollout, &running.evidence))
    }

    /// One of them.
    pub fn rollout(&self, region: &RegionId) -> Option<(&Rollout, &Evidence)> {
        self.rollouts.get(region).map(|running| (&running.rollout, &running.evidence))
    }

    /// The rollout that is under way in a region.
    pub fn rollout_under_way(&self, region: &RegionId) -> Option<&Rollout> {
        self.rollout(region).map(|(rollout, _)| rollout).filter(|rollout| !rollout.is_over())
    }

    /// Regions with a rollout under way.
    pub fn rolling(&self) -> Vec<RegionId> {
        let under_way = self.rollouts.values().filter(|running| !running.rollout.is_over());
        under_way.map(|running| running.rollout.region.clone()).collect()
    }

    /// What a node's calls came to under the generation that it serves.
    pub fn recent(&self, node: &NodeName) -> Option<&Sample> {
        let serving = self.nodes.get(node)?.serving;
        self.recent.get(node).filter(|recent| recent.generation == serving).map(|recent| &recent.sample)
    }

    /// What rollouts know of a region's nodes.
    pub(super) fn facts(&self, region: &RegionId, now: i64) -> Vec<NodeFacts> {
        let to = self.regions.get(region).map_or(Generation(0), |record| record.generation);
        let of_region = self.nodes.values().filter(|node| node.region == *region && node.revoked_unix_s.is_none());
        let usual = self.usual_calls_max();
        of_region
            .map(|node| NodeFacts {
                node: node.node.clone(),
                labels: node.labels.clone(),
                presence: match self.state(node, now) {
                    _ if node.cordon.is_some() => Presence::Cordoned,
                    NodeState::Up | NodeState::Connected | NodeState::Returning => Presence::Here,
                    NodeState::Down | NodeState::Revoked => Presence::Away,
                },
                takes: match &node.refusal {
                    _ if node.serving >= to => Takes::Serves,
                    Some(refusal) if refusal.generation == to && !refusal.detail.kind.is_transient() => {
                        Takes::Refuses(format!("{}: {}", node.node, refusal.detail))
                    }
                    _ => Takes::NotYet,
                },
                calls_max: self.calls_max(&node.node).unwrap_or(usual),
                past: self.recent(&node.node).cloned().unwrap_or_default(),
            })
            .collect()
    }

    /// Takes a report of a node for what rollouts ask.
    pub(super) fn observe(&mut self, node: &NodeName, region: &RegionId, tally: &CallTally, now: i64) -> Vec<Write> {
        let sample = Sample::of(tally);
        if let Some(generation) = tally.generation {
            let recent = self.recent.entry(node.clone()).or_default();
            if generation > recent.generation {
                *recent = Recent { generation, sample: Sample::default() };
            }
            if generation == recent.generation {
                recent.sample.add(&sample);
                if recent.sample.turns > PAST_TURNS_MAX {
                    recent.sample.halve();
                }
            }
        }
        let Some(Running { rollout, evidence }) = self.rollouts.get_mut(region) else { return Vec::new() };
        if !evidence.observe(rollout, node, tally.generation, &sample, now) {
            return Vec::new();
        }
        vec![put(evidence_key(region), &*evidence)]
    }

    /// Begins a rollout in a region, whose record has the change and what was before already.
    pub(super) fn begin_rollout(
        &mut self,
        region: &RegionId,
        generations: (Generation, Generation),
        settings: RolloutSettings,
        restarts: bool,
        now: i64,
    ) -> Vec<Write> {
        let rollout = Rollout::new(region.clone(), generations, settings, now).restarting(restarts);
        self.tell(region, &rollout.log.clone());
        let running = Running { rollout, evidence: Evidence::default() };
        let writes = running.writes();
        self.rollouts.insert(region.clone(), running);
        writes
    }

    /// Ends the rollout of a region because of a newer change. The region's record is the caller's.
    pub(super) fn preempt(&mut self, region: &RegionId, now: i64) -> Vec<Write> {
        let Some(running) = self.rollouts.get_mut(region).filter(|running| !running.rollout.is_over()) else {
            return Vec::new();
        };
        let told = running.rollout.undo(now, Undone::Preempted);
        let writes = running.writes();
        self.tell(region, &[told]);
        writes
    }

    /// Lets the rollout of a region go on as far as it can.
    pub fn step_rollout(&mut self, region: &RegionId, now: i64) -> Stepped {
        let writes = self.set_touches_right(now);
        let facts = self.facts(region, now);
        let room = self.room(region, now);
        let nothing = |writes| Stepped { writes, ..Stepped::default() };
        let Some(running) = self.rollouts.get_mut(region).filter(|running| !running.rollout.is_over()) else {
            return nothing(writes);
        };
        let before = running.rollout.clone();
        let told = running.rollout.step(now, Seen { nodes: &facts, room }, &mut running.evidence);
        if running.rollout == before {
            return nothing(writes);
        }
        let mut stepped = self.settle(region, &before, told, &facts, now);
        stepped.writes.splice(..0, writes);
        stepped
    }

    /// Everything of a region's rollout that is stored, as it is.
    pub fn rollout_writes(&self, region: &RegionId) -> Vec<Write> {
        let mut writes = self.rollouts.get(region).map(Running::writes).unwrap_or_default();
        writes.extend(self.regions.get(region).map(super::RegionRecord::write));
        writes
    }

    /// Does what somebody wants of the rollout of a region.
    pub fn order_rollout(&mut self, region: &RegionId, order: Order, by: &str, now: i64) -> Result<Stepped, String> {
        let Some(running) = self.rollouts.get_mut(region) else {
            return Err(format!(
                "there was no rollout in {region}; a change of a region whose file has [rollout] makes one"
            ));
        };
        let before = running.rollout.clone();
        let told = running.rollout.order(order, by, now)?;
        Ok(self.settle(region, &before, vec![told], &[], now))
    }

    /// After a rollout has changed: what its region offers, what is stored, what is told.
    fn settle(
        &mut self,
        region: &RegionId,
        before: &Rollout,
        told: Vec<Entry>,
        facts: &[NodeFacts],
        now: i64,
    ) -> Stepped {
        self.tell(region, &told);
        let mut stepped = Stepped::default();
        let Some(running) = self.rollouts.get(region) else { return stepped };
        stepped.writes = running.writes();
        let rollout = running.rollout.clone();
        stepped.offers_changed = before.moved.len() != rollout.moved.len() || rollout.is_over();
        let touched =
            |facts: &&NodeFacts| rollout.moved.contains_key(&facts.node) && !before.moved.contains_key(&facts.node);
        let calls: u64 = facts.iter().filter(touched).map(|facts| facts.calls_max).sum();
        if calls > 0 {
            stepped.writes.push(self.touch(region, calls, now));
        }
        let digest = self.regions_digest();
        if rollout.is_over()
            && let Some(record) = self.regions.get_mut(region)
            && let Some(was) = record.before.take()
        {
            if !matches!(rollout.phase, Phase::Done { .. }) {
                record.generation = Generation(record.generation.0 + 1);
                record.changed_unix_s = now;
                // What nodes run goes back; how changes are made stays as it was said last.
                let settings = record.defined.take().and_then(|defined| defined.region.rollout);
                let mut defined = was.defined;
                defined.region.rollout = settings;
                record.defined = Some(defined);
            }
            stepped.writes.push(record.write());
        }
        if stepped.offers_changed {
            let what = if matches!(rollout.phase, Phase::Undone { .. }) { "rollout.undone" } else { "rollout.wave" };
            let detail: Vec<String> = told.iter().map(|entry| entry.what.to_string()).collect();
            let (object, detail) = (format!("region/{region}"), detail.join("; "));
            stepped.act = Some(Act { what, object, detail, before: digest, after: self.regions_digest() });
        }
        stepped.told = told;
        stepped
    }

    fn tell(&mut self, region: &RegionId, told: &[Entry]) {
        for Entry { unix_s, what } in told {
            self.events.add(Event {
                n: 0,
                unix_s: *unix_s,
                region: region.clone(),
                node: None,
                what: what.word().to_owned(),
                text: what.to_string(),
            });
        }
    }

    /// The generation that a node of a region is offered.
    pub fn offered(&self, region: &RegionId, node: &NodeName) -> Option<Generation> {
        let record = self.region(region)?;
        let waits = self.rollout_under_way(region).filter(|rollout| !rollout.moved.contains_key(node));
        let before = record.before.as_ref().filter(|_| waits.is_some());
        Some(before.map_or(record.generation, |before| before.generation))
    }

    /// Nodes that have the change, where a rollout is under way in the region.
    pub fn moved(&self, region: &RegionId) -> Option<BTreeSet<NodeName>> {
        self.rollout_under_way(region).map(|rollout| rollout.moved.keys().cloned().collect())
    }

    /// What nodes of a region are asked beside their state, where that is not the usual.
    pub fn duties(&self, region: &RegionId) -> BTreeMap<NodeName, Duty> {
        let of_region = || self.nodes.values().filter(|node| node.region == *region);
        let drained = of_region().filter(|node| node.cordon.as_ref().is_some_and(|cordon| cordon.drain));
        let mut duties: BTreeMap<NodeName, Duty> =
            drained.map(|node| (node.node.clone(), Duty { accepting: false, ..Duty::default() })).collect();
        if let Some(rollout) = self.rollout_under_way(region).filter(|rollout| !rollout.moved.is_empty()) {
            // Of those with the change, the latest first: their wave is the one that is judged.
            let mut moved: Vec<_> = rollout.moved.iter().collect();
            moved.sort_by_key(|(node, wave)| (std::cmp::Reverse(**wave), *node));
            let others = of_region().map(|node| &node.node).filter(|node| !rollout.moved.contains_key(*node));
            let live = |node: &&NodeName| self.live.contains_key(*node);
            let moved = moved.into_iter().map(|(node, _)| node).filter(live).take(WATCHED_MAX);
            for node in moved.chain(others.filter(live).take(WATCHED_MAX)) {
                duties.entry(node.clone()).or_default().report_every_ms = Some(WATCH_EVERY_MS);
            }
        }
        duties
    }

    /// Every rollout under way and its region are numbered by so much more; for when the numbers of the region were moved.
    pub(super) fn renumber_rollout(&mut self, region: &RegionId, generations: (Generation, Generation)) -> Vec<Write> {
        let Some(running) = self.rollouts.get_mut(region).filter(|running| !running.rollout.is_over()) else {
            return Vec::new();
        };
        (running.rollout.from, running.rollout.to) = generations;
        running.writes()
    }
}
