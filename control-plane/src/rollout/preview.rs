//! Which waves there will be, for whoever asks before.

use super::{NodeFacts, Presence, waves::members};
use nearfield_shared::{
    desired::Generation,
    rollout::{Label, RolloutSettings},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A wave, as it would be now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WavePlan {
    /// The label of its nodes, where it asks for one.
    pub label: Option<Label>,
    /// Percent of the nodes that have the change afterwards.
    pub percent: f64,
    /// Nodes that it moves.
    pub nodes: usize,
    /// Calls that those nodes can hold.
    pub calls: u64,
    /// Whether it has to be approved.
    pub approval: bool,
    /// Seconds for which it is watched.
    pub bake_s: u32,
}

/// The waves of a change, were every node there that is not cordoned.
pub fn preview(settings: &RolloutSettings, to: Generation, nodes: &[NodeFacts]) -> Vec<WavePlan> {
    let all: Vec<NodeFacts> = nodes
        .iter()
        .filter(|facts| facts.presence != Presence::Cordoned)
        .map(|facts| NodeFacts { presence: Presence::Here, ..facts.clone() })
        .collect();
    let mut moved = BTreeMap::new();
    let waves = settings.waves.iter().enumerate().map(|(i, wave)| {
        let here = members(wave, &moved, to, &all).here;
        moved.extend(here.iter().map(|facts| (facts.node.clone(), i)));
        WavePlan {
            label: wave.label.clone(),
            percent: wave.percent,
            nodes: here.len(),
            calls: here.iter().map(|facts| facts.calls_max).sum(),
            approval: wave.approval,
            bake_s: wave.bake_s.unwrap_or(settings.bake_s),
        }
    });
    waves.collect()
}
