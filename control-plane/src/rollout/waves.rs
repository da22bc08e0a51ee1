//! Who belongs to a wave.

use super::{NodeFacts, Presence};
use nearfield_shared::{desired::Generation, rollout::WaveSettings, wire::NodeName};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

/// Nodes that a wave would move now.
pub(super) struct Members<'a> {
    /// Those that are there.
    pub here: Vec<&'a NodeFacts>,
    /// How many more it would have, were they there. Cordoned ones are not among them.
    pub away: usize,
}

/// The members of a wave. The share counts nodes that are there or were moved before; which ones is chance, another one for each generation, so that
/// not always the same nodes go first.
pub(super) fn members<'a>(
    wave: &WaveSettings,
    moved: &BTreeMap<NodeName, usize>,
    to: Generation,
    nodes: &'a [NodeFacts],
) -> Members<'a> {
    let labelled = |facts: &&NodeFacts| wave.label.as_ref().is_none_or(|label| facts.labels.contains(label));
    let (done, rest): (Vec<_>, Vec<_>) =
        nodes.iter().filter(labelled).partition(|facts| moved.contains_key(&facts.node));
    let away = rest.iter().filter(|facts| facts.presence == Presence::Away).count();
    let mut here: Vec<_> = rest.into_iter().filter(|facts| facts.presence == Presence::Here).collect();
    let share = ((done.len() + here.len()) as f64 * wave.percent / 100.0).ceil() as usize;
    here.sort_by_cached_key(|facts| {
        let mut hasher = DefaultHasher::new();
        (to.0, facts.node.as_str()).hash(&mut hasher);
        hasher.finish()
    });
    here.truncate(share.saturating_sub(done.len()));
    here.sort_by(|a, b| a.node.cmp(&b.node));
    Members { here, away }
}
