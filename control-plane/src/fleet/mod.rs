//! The fleet as pure state: regions, nodes, tokens, figures. Every change returns the [`Write`]s that make it last.
//!
//! Liveness (who is connected, who is busy) is in memory only. What is stored of it are transitions, so that a restarted plane
//! knows who was up and can go on routing while they come back.
//!
//! Times are passed in: `now` is seconds since 1970.

pub mod accounts;
pub mod budget;
pub mod certificates;
pub mod change;
mod cordons;
pub mod events;
pub mod figures;
pub mod heard;
pub mod models;
pub mod neighbours;
pub mod programs;
pub mod records;
pub mod restores;
pub mod rollouts;
pub mod routes;
pub mod tokens;

use crate::{
    definition::DefinedRegion,
    store::{StoreError, Write},
};
use nearfield_shared::{
    desired::{DesiredState, Generation, Route},
    region::RegionId,
    trial::TrialSettings,
    wire::{
        NodeName,
        message::{HereIAm, Nack, Status},
    },
};
use records::{NodeRecord, Refusal, RegionRecord, TokenRecord, Transition};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

/// After a start, nodes that were up count as up for this long while they come back; three times the longest reconnect
/// wait of an agent that saw the plane vanish.
pub const RETURN_GRACE_S: i64 = 90;

/// Generations that a plane skips after its store was restored from an export: more than anyone makes between two exports.
pub const RESTORED_SKIP: u64 = 1_000;

/// A generation this far ahead of ours is not from a lost store, but from a broken or hostile agent.
const AHEAD_MAX: u64 = 1_000_000;

/// One connection of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What is known of a connected node, and never stored.
#[derive(Debug, Clone)]
pub struct Live {
    /// Its connection.
    pub connection: ConnectionId,
    /// Since when.
    pub since: i64,
    /// Where it gives models to nodes of its region.
    pub neighbours: Option<SocketAddr>,
    /// Its last status.
    pub status: Option<Status>,
}

/// Everything the plane knows.
#[derive(Debug, Default)]
pub struct Fleet {
    regions: BTreeMap<RegionId, RegionRecord>,
    nodes: BTreeMap<NodeName, NodeRecord>,
    tokens: BTreeMap<String, TokenRecord>,
    accounts: BTreeMap<accounts::AccountName, accounts::AccountRecord>,
    figures: figures::Figures,
    revoked: certificates::Revoked,
    models: BTreeMap<String, models::ModelRecord>,
    programs: BTreeMap<String, programs::ProgramRecord>,
    renewals: certificates::Renewals,
    /// Oldest first.
    restores: Vec<restores::RestoreRecord>,
    live: BTreeMap<NodeName, Live>,
    /// Nodes of each region that give models to others, as they said when they last came.
    givers: BTreeMap<RegionId, BTreeSet<NodeName>>,
    rollouts: BTreeMap<RegionId, rollouts::Running>,
    /// When changes reached nodes, for budgets.
    touches: BTreeMap<RegionId, Vec<budget::Touch>>,
    recent: BTreeMap<NodeName, rollouts::Recent>,
    events: events::Events,
    started: i64,
}

/// How a node is, for lists and routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// Connected and serving.
    Up,
    /// Connected, and serving nothing yet or no new calls.
    Connected,
    /// Was up when the plane stopped, and has a little time to come back.
    Returning,
    /// Not connected.
    Down,
    /// Its certificate is revoked.
    Revoked,
}

impl NodeState {
    /// The word in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Connected => "connected",
            Self::Returning => "returning",
            Self::Down => "down",
            Self::Revoked => "revoked",
        }
    }
}

/// SHA-256 of a record as it is stored, hex.
fn digest(record: &impl serde::Serialize) -> String {
    tokens::hash(&serde_json::to_string(record).expect("records have string keys only, which JSON can hold"))
}

fn desired(
    region: &RegionId,
    generation: Generation,
    defined: &DefinedRegion,
    trial: Option<TrialSettings>,
    routes: &[Route],
) -> DesiredState {
    DesiredState {
        generation,
        region: region.clone(),
        models: defined.models.clone(),
        routes: routes::part_for(region, routes),
        assistants: defined.assistants.clone(),
        policy: defined.region.policy.clone(),
        trial,
        agent: defined.agent.clone(),
    }
}

/// A stored record that cannot be understood.
fn damaged(key: &str, error: &serde_json::Error) -> StoreError {
    StoreError::Damaged { key: key.to_owned(), detail: error.to_string() }
}

impl Fleet {
    /// The fleet as the store remembers it.
    pub fn load(entries: &[(String, String)], now: i64) -> Result<Self, StoreError> {
        let mut fleet = Self { started: now, events: events::Events::beginning(now), ..Self::default() };
        let mut evidence = Vec::new();
        for (key, value) in entries {
            let fail = |e: serde_json::Error| damaged(key, &e);
            match key.split_once('/') {
                Some(("region", _)) => {
                    let record: RegionRecord = serde_json::from_str(value).map_err(fail)?;
                    fleet.regions.insert(record.id.clone(), record);
                }
                Some(("node", _)) => {
                    let record: NodeRecord = serde_json::from_str(value).map_err(fail)?;
                    fleet.nodes.insert(record.node.clone(), record);
                }
                Some(("token", _)) => {
                    let record: TokenRecord = serde_json::from_str(value).map_err(fail)?;
                    fleet.tokens.insert(record.hash.clone(), record);
                }
                Some(("account", _)) => {
                    let record: accounts::AccountRecord = serde_json::from_str(value).map_err(fail)?;
                    fleet.accounts.insert(record.name.clone(), record);
                }
                Some(("model", _)) => {
                    let record: models::ModelRecord = serde_json::from_str(value).map_err(fail)?;
                    fleet.models.insert(record.name.clone(), record);
                }
                Some(("agent", _)) => {
                    let record: programs::ProgramRecord = serde_json::from_str(value).map_err(fail)?;
                    fleet.programs.insert(record.key(), record);
                }
                Some(("restore", _)) => fleet.load_restore(serde_json::from_str(value).map_err(fail)?),
                Some(("revoked", _)) => fleet.revoked.load(serde_json::from_str(value).map_err(fail)?),
                Some(("revocations", _)) => fleet.revoked.number = serde_json::from_str(value).map_err(fail)?,
                Some(("figures", _)) => fleet.figures.load(serde_json::from_str(value).map_err(fail)?),
                Some(("rollout", _)) => fleet.load_rollout(serde_json::from_str(value).map_err(fail)?),
                Some(("evidence", region)) => evidence.push((region, serde_json::from_str(value).map_err(fail)?)),
                Some(("touches", region)) => {
                    let region = region.parse().map_err(serde::de::Error::custom).map_err(fail)?;
                    fleet.touches.insert(region, serde_json::from_str(value).map_err(fail)?);
                }
                // Keys of a later version stay as they are.
                _ => {}
            }
        }
        for (region, evidence) in evidence {
            fleet.load_evidence(region, evidence);
        }
        Ok(fleet)
    }

    /// Moves every generation, and the number of the revocation list, well ahead, after the store was restored from an export: the fleet may have seen newer ones.
    fn skip_generations(&mut self) -> Vec<Write> {
        let mut renumbered = Vec::new();
        for region in self.regions.values_mut() {
            region.generation.0 += RESTORED_SKIP;
            if let Some(before) = &mut region.before {
                before.generation.0 += RESTORED_SKIP;
                renumbered.push((region.id.clone(), (before.generation, region.generation)));
            }
        }
        let rollouts: Vec<Write> =
            renumbered.into_iter().flat_map(|(region, numbers)| self.renumber_rollout(&region, numbers)).collect();
        self.revoked.number += RESTORED_SKIP;
        let number = records::write_list_number(self.revoked.number);
        self.regions.values().map(RegionRecord::write).chain([number]).chain(rollouts).collect()
    }

    /// All regions that are defined.
    pub fn regions(&self) -> impl Iterator<Item = &RegionRecord> {
        self.regions.values().filter(|region| region.defined.is_some())
    }

    /// One defined region.
    pub fn region(&self, id: &RegionId) -> Option<&RegionRecord> {
        self.regions.get(id).filter(|region| region.defined.is_some())
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }

    /// One node.
    pub fn node(&self, name: &NodeName) -> Option<&NodeRecord> {
        self.nodes.get(name)
    }

    /// What is known of a connected node.
    pub fn live(&self, name: &NodeName) -> Option<&Live> {
        self.live.get(name)
    }

    /// How a node is.
    pub fn state(&self, node: &NodeRecord, now: i64) -> NodeState {
        if node.revoked_unix_s.is_some() {
            return NodeState::Revoked;
        }
        match self.live.get(&node.node) {
            Some(live) => {
                let accepting = live.status.as_ref().is_none_or(|status| status.accepting);
                if node.serving.0 > 0 && accepting { NodeState::Up } else { NodeState::Connected }
            }
            // A clock that was put back behind the start gives nobody more time.
            None if node.transition.up && (self.started..self.started + RETURN_GRACE_S).contains(&now) => {
                NodeState::Returning
            }
            None => NodeState::Down,
        }
    }

    /// What a region's nodes should be, with their part of all `routes`; `None` where nothing was applied. Where a rollout is under way, that
    /// of nodes to which it has come.
    pub fn desired(&self, region: &RegionId, routes: &[Route]) -> Option<DesiredState> {
        let record = self.region(region)?;
        // Only what a rollout brings is tried: what is put back when one is undone has served before, and is wanted at once.
        let rollout =
            self.rollout(region).map(|(rollout, _)| rollout).filter(|rollout| rollout.to == record.generation);
        let trial = rollout.and_then(|rollout| rollout.settings.trial.clone());
        Some(desired(region, record.generation, record.defined.as_ref()?, trial, routes))
    }

    /// The same of nodes to which the rollout under way has not come; `None` where there is none.
    pub fn desired_before(&self, region: &RegionId, routes: &[Route]) -> Option<DesiredState> {
        let before = self.region(region)?.before.as_ref()?;
        Some(desired(region, before.generation, &before.defined, None, routes))
    }

    /// A node has said who it is. An older connection of it is replaced.
    pub fn greeted(&mut self, connection: ConnectionId, here: &HereIAm, now: i64) -> Vec<Write> {
        let live = Live { connection, since: now, neighbours: here.neighbours, status: None };
        self.live.insert(here.node.clone(), live);
        self.note_giver(here);
        let record = self.nodes.get_mut(&here.node);
        // As in `serves`: only a first generation is worth a write of its own.
        if let Some(record) = record.filter(|record| record.serving > Generation(0)) {
            record.serving = here.serving;
        }
        if self.nodes.get(&here.node).is_some_and(|record| !record.transition.up) {
            self.tell_of_node(&here.node, "node.up", format!("came, serving generation {}", here.serving), now);
        }
        self.change(&here.node, |node| {
            node.agent_version = Some(here.agent_version.clone());
            node.device = Some(here.device.clone());
            node.public_url.clone_from(&here.public_url);
            node.serving = here.serving;
            if let Some(refused) = &here.refused {
                node.refusal =
                    Some(Refusal { generation: refused.generation, detail: refused.detail.clone(), unix_s: now });
            }
            if !node.transition.up {
                node.transition = Transition { up: true, unix_s: now };
            }
        })
    }

    /// A node serves a generation. Returns whether that changes where callers can go.
    pub fn acked(&mut self, node: &NodeName, generation: Generation, now: i64) -> (bool, Vec<Write>) {
        let state = |fleet: &Self| fleet.nodes.get(node).map(|record| fleet.state(record, now));
        let before = state(self);
        if self.nodes.get(node).is_some_and(|record| record.serving < generation) {
            self.tell_of_node(node, "node.serves", format!("serves generation {generation}"), now);
        }
        let mut writes = self.serves(node, generation);
        if self.nodes.get(node).is_some_and(|r| r.refusal.as_ref().is_some_and(|old| old.generation <= generation)) {
            writes = self.change(node, |node| node.refusal = None);
        }
        (before != state(self), writes)
    }

    /// Takes the generation that a node serves, and stores it only where it is the node's first: a whole fleet takes a new one at once, a
    /// node states it again with each connection, and what is stored with the next transition is recent enough for whoever asks
    /// about a node that is gone.
    fn serves(&mut self, node: &NodeName, generation: Generation) -> Vec<Write> {
        let Some(record) = self.nodes.get_mut(node) else { return Vec::new() };
        let first = record.serving == Generation(0) && generation > record.serving;
        record.serving = record.serving.max(generation);
        if first { vec![record.write()] } else { Vec::new() }
    }

    /// A node has refused a generation.
    pub fn nacked(&mut self, node: &NodeName, nack: &Nack, now: i64) -> Vec<Write> {
        use nearfield_shared::wire::message::ProblemKind;
        if nack.detail.kind == ProblemKind::Superseded {
            return Vec::new();
        }
        let text = format!("refuses generation {}: {}", nack.generation, nack.detail);
        self.tell_of_node(node, "node.refuses", text, now);
        self.change(node, |node| {
            node.serving = node.serving.max(nack.serving);
            node.refusal = Some(Refusal { generation: nack.generation, detail: nack.detail.clone(), unix_s: now });
        })
    }

    /// How a node is. Returns whether that changes where callers can go.
    pub fn status(
        &mut self,
        node: &NodeName,
        connection: ConnectionId,
        status: Status,
        now: i64,
    ) -> (bool, Vec<Write>) {
        let before = self.nodes.get(node).map(|record| self.state(record, now));
        let Some(live) = self.live.get_mut(node).filter(|live| live.connection == connection) else {
            return (false, Vec::new());
        };
        let serving = status.serving;
        live.status = Some(status);
        let writes = self.serves(node, serving);
        let after = self.nodes.get(node).map(|record| self.state(record, now));
        (before != after, writes)
    }

    /// A connection has ended. Does nothing where the node has a newer one.
    pub fn gone(&mut self, node: &NodeName, connection: ConnectionId, now: i64) -> Vec<Write> {
        if self.live.get(node).is_none_or(|live| live.connection != connection) {
            return Vec::new();
        }
        self.live.remove(node);
        self.tell_of_node(node, "node.down", "went".into(), now);
        self.change(node, |node| node.transition = Transition { up: false, unix_s: now })
    }

    /// A node serves a generation that this plane has not made: its region is numbered above it. `None` where the number
    /// cannot come from an honest fleet.
    pub fn agent_ahead(&mut self, region: &RegionId, theirs: Generation) -> Option<Vec<Write>> {
        let record = self.regions.get_mut(region)?;
        if theirs < record.generation {
            return Some(Vec::new());
        }
        if theirs.0 - record.generation.0 > AHEAD_MAX {
            return None;
        }
        record.generation = Generation(theirs.0 + 1);
        let mut numbers = None;
        if let Some(before) = &mut record.before {
            before.generation = record.generation;
            record.generation.0 += 1;
            numbers = Some((before.generation, record.generation));
        }
        let mut writes = vec![record.write()];
        writes.extend(numbers.into_iter().flat_map(|numbers| self.renumber_rollout(region, numbers)));
        Some(writes)
    }

    /// SHA-256 of a node's record, hex; for the audit.
    pub fn node_digest(&self, node: &NodeName) -> Option<String> {
        self.nodes.get(node).map(digest)
    }

    /// The same for all regions together.
    pub fn regions_digest(&self) -> Option<String> {
        (!self.regions.is_empty()).then(|| digest(&self.regions))
    }

    /// The same for a token, by its hash.
    pub fn token_digest(&self, hash: &str) -> Option<String> {
        self.tokens.get(hash).map(digest)
    }

    /// The same for an account.
    pub fn account_digest(&self, name: &accounts::AccountName) -> Option<String> {
        self.accounts.get(name).map(digest)
    }

    /// Changes a node's record; writes only what is different afterwards.
    fn change(&mut self, node: &NodeName, change: impl FnOnce(&mut NodeRecord)) -> Vec<Write> {
        let Some(record) = self.nodes.get_mut(node) else { return Vec::new() };
        let before = record.clone();
        change(record);
        if *record == before { Vec::new() } else { vec![record.write()] }
    }
}

#[cfg(test)]
mod tests;
