//! What stops a rollout: failures and latency of nodes with the change beside others, nodes that refuse it, nodes that vanish with it.

use super::{LOST_GRACE_S, NodeFacts, Phase, Presence, Rollout, Sample, Takes};
use nearfield_shared::{desired::Generation, rollout::Gates, wire::NodeName};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Failures that are needed, whatever share they are: one or two happen.
const FAILURES_MIN: u64 = 3;

/// Seconds of a short look beside the look at the whole wave, so that what goes wrong after an hour of calm is seen at once.
const RECENT_S: i64 = 30;

/// Figures of both sides in one window.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// Of nodes with the change.
    pub new: Sample,
    /// Of nodes without.
    pub old: Sample,
}

/// What a wave is judged by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Since the wave began.
    pub whole: Beside,
    /// Since a moment ago.
    pub recent: Beside,
    /// When that was, seconds since 1970.
    pub recent_unix_s: i64,
    /// Of the nodes with the change, before they had it.
    pub past: Sample,
}

impl Evidence {
    /// Another wave begins, with nodes whose calls came to this before.
    pub(super) fn begin<'a>(&mut self, now: i64, pasts: impl Iterator<Item = &'a Sample>) {
        *self = Self { recent_unix_s: now, past: std::mem::take(&mut self.past), ..Self::default() };
        pasts.for_each(|past| self.past.add(past));
    }

    /// The short look does not begin ahead of a clock that was put back.
    pub(super) fn set_right(&mut self, now: i64) {
        self.recent_unix_s = now.min(self.recent_unix_s);
    }

    /// Takes figures of a node, where they say something about one of the two sides. Says whether they do.
    pub fn observe(
        &mut self,
        rollout: &Rollout,
        node: &NodeName,
        served: Option<Generation>,
        sample: &Sample,
        now: i64,
    ) -> bool {
        let moved = rollout.moved.contains_key(node);
        let side: fn(&mut Beside) -> &mut Sample = match served {
            Some(served) if moved && served == rollout.to => |beside| &mut beside.new,
            Some(served) if !moved && served == rollout.from => |beside| &mut beside.old,
            _ => return false,
        };
        if rollout.moved.is_empty() || rollout.is_over() {
            return false;
        }
        if now >= self.recent_unix_s + RECENT_S {
            self.recent = Beside::default();
            self.recent_unix_s = now;
        }
        side(&mut self.whole).add(sample);
        side(&mut self.recent).add(sample);
        true
    }

    /// What the change is held against: the others where they have turns enough, else the same nodes before.
    pub fn reference(&self, gates: &Gates) -> Option<(&Sample, Reference)> {
        let enough = |sample: &&Sample| sample.turns >= u64::from(gates.turns_min.max(1));
        let others = Some(&self.whole.old).filter(enough).map(|sample| (sample, Reference::Others));
        others.or_else(|| Some(&self.past).filter(enough).map(|sample| (sample, Reference::Before)))
    }
}

/// What the change is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// Nodes without the change, in the same window.
    Others,
    /// The same nodes, before.
    Before,
    /// Nothing: neither had turns enough.
    Nothing,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Others => "on the other nodes",
            Self::Before => "on the same nodes before",
            Self::Nothing => "nowhere",
        })
    }
}

/// A gate that does not hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Breach {
    /// Too many turns fail.
    Errors {
        /// Percent of the turns with the change.
        percent: f64,
        /// How many turns that were.
        turns: u64,
        /// Percent of the turns it is held against.
        reference_percent: f64,
        /// Which turns those are.
        reference: Reference,
    },
    /// Answers come too late.
    Latency {
        /// 95th percentile with the change, in milliseconds.
        p95_ms: u64,
        /// The same of what it is held against.
        reference_ms: u64,
        /// What that is.
        reference: Reference,
    },
    /// Nodes refuse it for good.
    Refused {
        /// How many.
        nodes: usize,
        /// Of so many.
        of: usize,
        /// Why the first one does.
        first: String,
    },
    /// Nodes are away, or never took it up.
    Lost {
        /// How many.
        nodes: usize,
        /// Of so many.
        of: usize,
    },
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errors { percent, turns, reference: Reference::Nothing, .. } => {
                write!(f, "{percent:.1} % of {turns} turns failed, with nothing to compare them with")
            }
            Self::Errors { percent, turns, reference_percent, reference } => {
                write!(f, "{percent:.1} % of {turns} turns failed, {reference_percent:.1} % {reference}")
            }
            Self::Latency { p95_ms, reference_ms, reference } => {
                write!(f, "95 % of first audio within {p95_ms} ms, {reference_ms} ms {reference}")
            }
            Self::Refused { nodes, of, first } => write!(f, "{nodes} of {of} nodes refuse it: {first}"),
            Self::Lost { nodes, of } => write!(f, "{nodes} of {of} nodes went away or did not take it up in time"),
        }
    }
}

/// Holds the figures against the gates.
pub(super) fn judge(gates: &Gates, evidence: &Evidence) -> Option<Breach> {
    let reference = evidence.reference(gates);
    [&evidence.whole.new, &evidence.recent.new].into_iter().find_map(|new| {
        if new.turns < u64::from(gates.turns_min) {
            return None;
        }
        // Where there is nothing to compare with, no failure is what is expected.
        let (old, named) = reference.map_or((None, Reference::Nothing), |(sample, named)| (Some(sample), named));
        let reference_percent = old.and_then(Sample::errors_percent).unwrap_or(0.0);
        let percent = new.errors_percent().unwrap_or(0.0);
        if new.failed >= FAILURES_MIN && percent > reference_percent + gates.errors_points_max {
            // To a tenth, so that it is stored as it is shown.
            let [percent, reference_percent] = [percent, reference_percent].map(|share| (share * 10.0).round() / 10.0);
            return Some(Breach::Errors { percent, turns: new.turns, reference_percent, reference: named });
        }
        let (p95_ms, reference_ms) = (new.p95_ms()?, old?.p95_ms()?);
        let late = p95_ms > reference_ms * gates.p95_ratio_max;
        let [p95_ms, reference_ms] = [p95_ms, reference_ms].map(|ms| ms.round() as u64);
        late.then_some(Breach::Latency { p95_ms, reference_ms, reference: named })
    })
}

impl Rollout {
    /// The first gate that does not hold now.
    pub(super) fn breach(&mut self, now: i64, nodes: &[NodeFacts], evidence: &Evidence) -> Option<Breach> {
        let gates = self.settings.gates.clone();
        let given: Vec<&NodeFacts> = nodes
            .iter()
            .filter(|facts| facts.presence != Presence::Cordoned && self.moved.contains_key(&facts.node))
            .collect();
        let of = given.len();
        let too_many = |nodes: usize, percent: f64| nodes > 0 && nodes as f64 * 100.0 > of as f64 * percent;
        let refusals: Vec<&String> = given
            .iter()
            .filter_map(|facts| if let Takes::Refuses(reason) = &facts.takes { Some(reason) } else { None })
            .collect();
        if let Some(first) = refusals.first()
            && too_many(refusals.len(), gates.refused_percent_max)
        {
            return Some(Breach::Refused { nodes: refusals.len(), of, first: (*first).clone() });
        }
        let moving = matches!(self.phase, Phase::Moving { .. });
        // One that starts anew for the change is away because of it, and overdue when that takes too long.
        let lost = |facts: &&&NodeFacts| facts.presence == Presence::Away && !(moving && self.is_pending(facts));
        let away = given.iter().filter(lost).count();
        let overdue = match self.phase {
            Phase::Moving { since_unix_s } if now >= since_unix_s + self.settle_s() => {
                given.iter().filter(|facts| self.is_pending(facts)).count()
            }
            _ => 0,
        };
        if !too_many(away, gates.lost_percent_max) {
            self.lost_since_unix_s = None;
        } else if now >= *self.lost_since_unix_s.get_or_insert(now) + LOST_GRACE_S {
            return Some(Breach::Lost { nodes: away, of });
        }
        if overdue > 0 && too_many(away + overdue, gates.lost_percent_max) {
            return Some(Breach::Lost { nodes: away + overdue, of });
        }
        judge(&gates, evidence)
    }
}
