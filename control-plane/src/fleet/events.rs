//! What happened in the fleet lately: nodes that come, go, serve or refuse, and the steps of rollouts. In memory only; the audit is the record.

use super::Fleet;
use nearfield_shared::{region::RegionId, wire::NodeName};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Events that are kept.
pub const EVENTS_MAX: usize = 2_000;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number; later ones have higher ones, also after a restart.
    pub n: u64,
    /// When, seconds since 1970.
    pub unix_s: i64,
    /// In which region.
    pub region: RegionId,
    /// To which node, where it is about one.
    pub node: Option<NodeName>,
    /// A word for programs: `node.up`, `node.down`, `node.serves`, `node.refuses`, or `rollout.` and what happened to it.
    pub what: String,
    /// A sentence for people.
    pub text: String,
}

/// The events that are kept.
#[derive(Debug, Default)]
pub struct Events {
    last: u64,
    kept: VecDeque<Event>,
}

impl Events {
    /// None yet, with numbers above those of planes that ran before.
    pub(super) fn beginning(now: i64) -> Self {
        // A thousand a second are never reached: each is a change that the disk has taken.
        Self { last: now.unsigned_abs() * 1_000, kept: VecDeque::new() }
    }

    pub(super) fn add(&mut self, event: Event) {
        if self.kept.len() >= EVENTS_MAX {
            self.kept.pop_front();
        }
        self.last += 1;
        self.kept.push_back(Event { n: self.last, ..event });
    }
}

impl Fleet {
    /// Events after this number, oldest first.
    pub fn events(&self, after: u64) -> impl Iterator<Item = &Event> {
        self.events.kept.iter().filter(move |event| event.n > after)
    }

    pub(super) fn tell_of_node(&mut self, node: &NodeName, what: &str, text: String, now: i64) {
        let Some(record) = self.nodes.get(node) else { return };
        let (region, node, what) = (record.region.clone(), Some(node.clone()), what.to_owned());
        self.events.add(Event { n: 0, unix_s: now, region, node, what, text });
    }
}
