//! Which nodes of a region can give another one a model, or the program that they run.

use super::Fleet;
use nearfield_shared::{
    artefact::Digest,
    wire::{NodeName, message::HereIAm, neighbour::NEIGHBOURS_MAX},
};
use std::{net::SocketAddr, ops::Bound};

/// Nodes that are looked at for one answer, so that a whole fleet that asks at once costs each asker the same.
const LOOKED_AT_MAX: usize = 512;

impl Fleet {
    /// Where nodes of a node's region give a model that they serve, or their program. Those that follow it by name come first, so askers spread.
    pub fn neighbours(&self, of: &NodeName, digest: &Digest) -> Vec<SocketAddr> {
        let givers = self.nodes.get(of).and_then(|asker| self.givers.get(&asker.region));
        let Some(givers) = givers else { return Vec::new() };
        let after = givers.range::<NodeName, _>((Bound::Excluded(of), Bound::Unbounded));
        let before = givers.range::<NodeName, _>((Bound::Unbounded, Bound::Excluded(of)));
        after
            .chain(before)
            .take(LOOKED_AT_MAX)
            // Whoever has gone, or was shut out, is not live.
            .filter_map(|name| self.live.get(name))
            .filter(|live| {
                live.status.as_ref().is_some_and(|status| {
                    let models = status.models.iter().map(|model| &model.digest);
                    models.chain(&status.program).any(|held| held == digest)
                })
            })
            .filter_map(|live| live.neighbours)
            .take(NEIGHBOURS_MAX)
            .collect()
    }

    /// A node has said whether it gives models. Whoever does is kept while it is away, too: there are no more than nodes.
    pub(super) fn note_giver(&mut self, here: &HereIAm) {
        let of_region = self.givers.entry(here.region.clone()).or_default();
        match here.neighbours {
            Some(_) => of_region.insert(here.node.clone()),
            None => of_region.remove(&here.node),
        };
    }
}
