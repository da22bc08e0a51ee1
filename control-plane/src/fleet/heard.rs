//! What a link tells, as changes of the fleet and what follows from them.

use super::{ConnectionId, Fleet};
use crate::store::Write;
use nearfield_shared::{link::PlaneEvent, region::RegionId, wire::NodeName};

/// Whose link it is.
#[derive(Debug, Clone, Copy)]
pub struct Teller<'a> {
    /// Its connection.
    pub connection: ConnectionId,
    /// The node.
    pub node: &'a NodeName,
    /// Its region.
    pub region: &'a RegionId,
}

/// What whoever drives a link does once what it told is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Follows {
    /// Older connections of the node are told that they are replaced; that needs no store.
    pub replaces_older: bool,
    /// Where callers can go may have changed.
    pub routes: bool,
    /// Rollouts are looked at.
    pub rollouts: bool,
    /// The region has a new number, which its nodes are told.
    pub renumbered: bool,
    /// The node states a generation that no plane has made.
    pub impossible: bool,
    /// The report with this id is counted, which the node is told.
    pub taken: Option<u64>,
}

impl Fleet {
    /// Takes what a link tells.
    pub fn heard(&mut self, teller: Teller<'_>, event: &PlaneEvent, now: i64) -> (Follows, Vec<Write>) {
        let Teller { connection, node, region } = teller;
        let nothing = Follows::default();
        match event {
            PlaneEvent::Greeted(here) => {
                let writes = self.greeted(connection, here, now);
                (Follows { replaces_older: true, routes: true, ..nothing }, writes)
            }
            PlaneEvent::Acked(generation) => {
                let (routes, writes) = self.acked(node, *generation, now);
                (Follows { routes, rollouts: true, ..nothing }, writes)
            }
            PlaneEvent::Nacked(nack) => (Follows { rollouts: true, ..nothing }, self.nacked(node, nack, now)),
            PlaneEvent::Status(status) => {
                let (routes, writes) = self.status(node, connection, status.clone(), now);
                (Follows { routes, ..nothing }, writes)
            }
            PlaneEvent::Report(report) => {
                let writes = self.report(node, region, report, now);
                (Follows { rollouts: true, taken: Some(report.id), ..nothing }, writes)
            }
            PlaneEvent::AgentAhead(theirs) => match self.agent_ahead(region, *theirs) {
                Some(writes) => (Follows { renumbered: true, ..nothing }, writes),
                None => (Follows { impossible: true, ..nothing }, Vec::new()),
            },
            PlaneEvent::Goodbye => (nothing, Vec::new()),
        }
    }
}
