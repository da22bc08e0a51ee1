//! A rollout: one change of a region on its way to the region's nodes, as pure state. Time and what is known of the nodes are passed in.
//!
//! ```text
//!            ┌────────────── next wave ◀───────────────┐
//!  Waiting ──┴─▶ Moving ── its nodes serve it ──▶ Baking ──▶ … ──▶ Done
//!     │             │                                │
//!     └─────────────┴── a gate is breached, or abort ┴──▶ Undone
//! ```
//! A wave begins when it is approved (where that is asked), a maintenance window is open, the budget has room, and one of its nodes is there. It is
//! watched from its first moment on, also while the rollout is paused; a breached gate undoes the whole rollout in the same step, at any
//! time of day. Undoing is the owner's: every node goes back to what served before, under a new generation.
//!
//! Where the settings have a trial, each node of a wave first gives the change a share of its turns (`edge_agent::trial`); it moves for that much longer, and one
//! that refuses after its trial counts as any other that refuses. What nodes serve again when a rollout is undone has proven itself before and is not tried.
//!
//! Nodes that are away or cordoned are passed over by waves, so none can hold a rollout up; they get the change when it is done.
//! The downside: a node that was away during all waves takes it without being watched. Nodes that start anew for another program of the agent are waited
//! for, as long as one may take to take a change up.

mod gates;
mod moment;
mod orders;
mod preview;
mod sample;
#[cfg(test)]
mod tests;
mod waves;

pub use gates::{Beside, Breach, Evidence};
pub use moment::{Entry, Moment, Undone, Wait};
pub use orders::Order;
pub use preview::{WavePlan, preview};
pub use sample::Sample;

use nearfield_shared::{
    desired::Generation,
    region::RegionId,
    rollout::{Label, RolloutSettings, WaveSettings},
    wire::NodeName,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How long a wave waits for nodes none of which is there, before it is passed over: longer than a machine takes to restart.
pub const NODES_WAIT_S: i64 = 30 * 60;

/// How long nodes of a wave may take to fetch, prove and serve a change: a large model over a slow line. Where they try it on live turns first, that
/// time comes on top ([`Rollout::settle_s`]).
pub const SETTLE_S: i64 = 30 * 60;

/// How long too many nodes may be away before that counts against the change: a reconnect takes less.
pub const LOST_GRACE_S: i64 = 60;

/// Entries of the log that are kept.
const LOG_MAX: usize = 200;

/// One rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// The region.
    pub region: RegionId,
    /// What served before.
    pub from: Generation,
    /// What is rolled out.
    pub to: Generation,
    /// How, as it was when it began.
    pub settings: RolloutSettings,
    /// When it began, seconds since 1970.
    pub began_unix_s: i64,
    /// Where it stands.
    pub phase: Phase,
    /// Since when it is paused, seconds since 1970.
    pub paused_unix_s: Option<i64>,
    /// The wave that waits, moves or is watched; counted from 0.
    pub wave: usize,
    /// Whether that wave is approved.
    pub approved: bool,
    /// Whether nodes start anew for the change, since it brings another program of the agent: being away is then a part of taking it up.
    #[serde(default)]
    pub restarts: bool,
    /// Nodes that were given the change, with their wave.
    pub moved: BTreeMap<NodeName, usize>,
    /// Since when too many of them are away, seconds since 1970.
    pub lost_since_unix_s: Option<i64>,
    /// What happened, oldest first.
    pub log: Vec<Entry>,
}

/// Where a rollout stands. Times in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The wave has not begun.
    Waiting {
        /// For what.
        why: Wait,
        /// Since when.
        since_unix_s: i64,
    },
    /// Nodes of the wave take the change up.
    Moving {
        /// Since when.
        since_unix_s: i64,
    },
    /// They serve it, and are watched.
    Baking {
        /// Until when.
        until_unix_s: i64,
    },
    /// Every wave has passed.
    Done {
        /// When.
        unix_s: i64,
    },
    /// What served before serves again.
    Undone {
        /// When.
        unix_s: i64,
        /// Why.
        why: Undone,
    },
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeFacts {
    /// The node.
    pub node: NodeName,
    /// Its labels.
    pub labels: BTreeSet<Label>,
    /// Whether it can take part.
    pub presence: Presence,
    /// What became of the change on it.
    pub takes: Takes,
    /// Calls that it can hold: its weight in a budget.
    pub calls_max: u64,
    /// What its calls came to before the change.
    pub past: Sample,
}

/// Whether a node can take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is connected, or was a moment ago.
    Here,
    /// It is not connected.
    Away,
    /// Somebody wants it left alone.
    Cordoned,
}

/// What became of the change on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Takes {
    /// Nothing yet.
    NotYet,
    /// It serves it.
    Serves,
    /// It refuses it for good, with a reason.
    Refuses(String),
}

/// Everything outside of a rollout that its steps depend on.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Nodes of the region that are not revoked.
    pub nodes: &'a [NodeFacts],
    /// Calls' worth of nodes that the budgets of the jurisdiction leave to be touched now; `None` where there is no budget.
    pub room: Option<u64>,
}

impl Rollout {
    /// A rollout that begins now.
    pub fn new(region: RegionId, (from, to): (Generation, Generation), settings: RolloutSettings, now: i64) -> Self {
        let waves = settings.waves.len();
        let mut rollout = Self {
            region,
            from,
            to,
            settings,
            began_unix_s: now,
            phase: Phase::Waiting { why: Wait::Turn, since_unix_s: now },
            paused_unix_s: None,
            wave: 0,
            approved: false,
            restarts: false,
            moved: BTreeMap::new(),
            lost_since_unix_s: None,
            log: Vec::new(),
        };
        rollout.note(now, Moment::Began { from, to, waves });
        rollout
    }

    /// The same of a change for which nodes start anew, or do not.
    #[must_use]
    pub fn restarting(self, restarts: bool) -> Self {
        Self { restarts, ..self }
    }

    /// Whether nothing more happens to it.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Done { .. } | Phase::Undone { .. })
    }

    /// The settings of the wave that waits, moves or is watched.
    pub fn wave_settings(&self) -> Option<&WaveSettings> {
        self.settings.waves.get(self.wave)
    }

    /// Seconds for which a wave is watched.
    pub fn bake_s(&self, wave: &WaveSettings) -> i64 {
        i64::from(wave.bake_s.unwrap_or(self.settings.bake_s))
    }

    /// Seconds that nodes of a wave may take until they serve the change.
    pub fn settle_s(&self) -> i64 {
        SETTLE_S + self.settings.trial.as_ref().map_or(0, |trial| i64::from(trial.time_s_max))
    }

    /// Goes on as far as it can. Returns what happened; whoever owns the rollout acts on it.
    pub fn step(&mut self, now: i64, seen: Seen<'_>, evidence: &mut Evidence) -> Vec<Entry> {
        self.set_right(now, evidence);
        let mut told = Vec::new();
        while !self.is_over() {
            if let Some(breach) = self.breach(now, seen.nodes, evidence) {
                told.push(self.undo(now, Undone::Breached(breach)));
                break;
            }
            if self.paused_unix_s.is_some() {
                break;
            }
            match self.advance(now, seen, evidence) {
                Some(moment) => told.push(self.note(now, moment)),
                None => break,
            }
        }
        told
    }

    /// Times that lie ahead of a clock that was put back are taken for now, so that nothing waits until the clock has come to them again. A clock that is put forward shortens
    /// what is measured by it; nothing tells that from time that has passed while no plane ran.
    fn set_right(&mut self, now: i64, evidence: &mut Evidence) {
        let bake_s = self.wave_settings().map_or(0, |settings| self.bake_s(settings));
        match &mut self.phase {
            Phase::Waiting { since_unix_s, .. } | Phase::Moving { since_unix_s } => {
                *since_unix_s = now.min(*since_unix_s);
            }
            Phase::Baking { until_unix_s } => *until_unix_s = (now + bake_s).min(*until_unix_s),
            Phase::Done { .. } | Phase::Undone { .. } => {}
        }
        for since in self.paused_unix_s.iter_mut().chain(&mut self.lost_since_unix_s) {
            *since = now.min(*since);
        }
        evidence.set_right(now);
    }

    /// One move, or none.
    fn advance(&mut self, now: i64, seen: Seen<'_>, evidence: &mut Evidence) -> Option<Moment> {
        let wave = self.wave;
        match self.phase {
            Phase::Waiting { why, since_unix_s } => self.begin(now, seen, evidence, (why, since_unix_s)),
            Phase::Moving { since_unix_s } => {
                let waits = seen.nodes.iter().any(|facts| self.is_pending(facts));
                if waits && now < since_unix_s + self.settle_s() {
                    return None;
                }
                let bake_s = self.wave_settings().map_or(0, |settings| self.bake_s(settings));
                self.phase = Phase::Baking { until_unix_s: now + bake_s };
                Some(Moment::WaveServes { wave, bake_s })
            }
            Phase::Baking { until_unix_s } if now >= until_unix_s => {
                self.next_wave(now);
                Some(Moment::WavePassed { wave, turns: evidence.whole.new.turns })
            }
            Phase::Baking { .. } | Phase::Done { .. } | Phase::Undone { .. } => None,
        }
    }

    /// Whether a node was given the change, is there or starts anew for it, and has neither taken nor refused it.
    fn is_pending(&self, facts: &NodeFacts) -> bool {
        let at_it = facts.presence == Presence::Here || (facts.presence == Presence::Away && self.restarts);
        facts.takes == Takes::NotYet && at_it && self.moved.contains_key(&facts.node)
    }

    fn next_wave(&mut self, now: i64) {
        self.wave += 1;
        self.approved = false;
        self.phase = Phase::Waiting { why: Wait::Turn, since_unix_s: now };
    }

    fn begin(
        &mut self,
        now: i64,
        seen: Seen<'_>,
        evidence: &mut Evidence,
        (waited_for, since): (Wait, i64),
    ) -> Option<Moment> {
        let wave = self.wave;
        let Some(settings) = self.wave_settings() else {
            self.phase = Phase::Done { unix_s: now };
            return Some(Moment::Done);
        };
        let members = waves::members(settings, &self.moved, self.to, seen.nodes);
        let wait = if members.here.is_empty() {
            // Where all of a region is away, nobody is served and nothing can be learnt: that may last.
            let somebody = seen.nodes.iter().any(|facts| facts.presence == Presence::Here);
            let waited = waited_for == Wait::Nodes && now >= since + NODES_WAIT_S;
            if members.away == 0 || (somebody && waited) {
                self.next_wave(now);
                return Some(Moment::WaveSkipped { wave, away: members.away });
            }
            Some(Wait::Nodes)
        } else if settings.approval && !self.approved {
            Some(Wait::Approval)
        } else if self.settings.maintenance.as_ref().is_some_and(|window| !window.is_open(now)) {
            Some(Wait::Maintenance)
        } else if seen.room.is_some_and(|room| members.here.iter().map(|facts| facts.calls_max).sum::<u64>() > room) {
            Some(Wait::Budget)
        } else {
            None
        };
        if let Some(why) = wait {
            if why == waited_for {
                return None;
            }
            self.phase = Phase::Waiting { why, since_unix_s: now };
            return Some(Moment::Waits { wave, why });
        }
        evidence.begin(now, members.here.iter().map(|facts| &facts.past));
        self.moved.extend(members.here.iter().map(|facts| (facts.node.clone(), wave)));
        self.phase = Phase::Moving { since_unix_s: now };
        Some(Moment::WaveBegan { wave, nodes: members.here.len() })
    }

    /// Ends it: what served before is to serve again.
    pub fn undo(&mut self, now: i64, why: Undone) -> Entry {
        self.phase = Phase::Undone { unix_s: now, why: why.clone() };
        self.paused_unix_s = None;
        self.note(now, Moment::Undone(why))
    }

    fn note(&mut self, now: i64, what: Moment) -> Entry {
        if self.log.len() >= LOG_MAX {
            // The beginning says what it is about.
            self.log.remove(1);
        }
        let entry = Entry { unix_s: now, what };
        self.log.push(entry.clone());
        entry
    }
}
