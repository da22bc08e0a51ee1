//! The network: streams are reliable and ordered, so a lost packet is a late one, and what a network really does to a link is to kill it.
//!
//! Connections are not ordered among each other: the end of an old one may reach the plane after the greeting of the next.

use crate::chance::Chance;
use std::{collections::BTreeMap, time::Duration};

/// The way to one agent.
#[derive(Debug, Clone)]
pub(crate) struct Path {
    pub delay_ms: (u64, u64),
    pub loss_permille: u64,
    /// Nothing gets through before.
    pub cut_until: Duration,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub agent: usize,
    pub version: u16,
    /// Nothing on its way arrives any more.
    pub cut: bool,
    pub agent_left: bool,
    pub plane_left: bool,
    pub to_agent_last: Duration,
    pub to_plane_last: Duration,
}

impl Conn {
    pub fn new(agent: usize, version: u16) -> Self {
        Self {
            agent,
            version,
            cut: false,
            agent_left: false,
            plane_left: false,
            to_agent_last: Duration::ZERO,
            to_plane_last: Duration::ZERO,
        }
    }
}

/// All paths and connections.
#[derive(Debug, Default)]
pub(crate) struct Network {
    pub paths: Vec<Path>,
    pub conns: BTreeMap<u64, Conn>,
    opened: u64,
}

impl Network {
    pub fn open(&mut self, conn: Conn) -> u64 {
        self.opened += 1;
        self.conns.insert(self.opened, conn);
        self.opened
    }

    /// When what is sent now arrives, after what was sent before.
    pub fn arrival(&self, agent: usize, now: Duration, last: Duration, chance: &mut Chance) -> Duration {
        let path = &self.paths[agent];
        let mut delay = chance.ms(path.delay_ms.0, path.delay_ms.1);
        while chance.permille(path.loss_permille) {
            delay += chance.ms(50, 400);
        }
        (now.max(path.cut_until) + delay).max(last + Duration::from_micros(1))
    }

    /// Forgets a connection that both sides have left.
    pub fn forget(&mut self, id: u64) {
        if self.conns.get(&id).is_some_and(|conn| conn.agent_left && conn.plane_left) {
            self.conns.remove(&id);
        }
    }
}
