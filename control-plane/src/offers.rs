//! What nodes of a region are offered, as every link of the region sees it: which node gets which state is decided here and nowhere else.

use crate::fleet::Fleet;
use nearfield_shared::{
    desired::{DesiredState, Generation, Route},
    link::Offer,
    region::RegionId,
    wire::{
        NodeName,
        message::{Duty, Nonce},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The states that a region's nodes should have, and what else is asked of some of them.
#[derive(Debug, PartialEq)]
pub struct Offers {
    newest: Arc<Offer>,
    /// While a rollout is under way: what nodes get that it has not come to, and those that it has.
    before: Option<(Arc<Offer>, BTreeSet<NodeName>)>,
    /// Nodes of which something unusual is asked.
    duties: BTreeMap<NodeName, Duty>,
}

/// What offers are made with, apart from the fleet.
pub struct Making<'a> {
    /// Where callers can go; asked only where an offer is new.
    pub routes: &'a dyn Fn() -> Vec<Route>,
    /// The nonce of a new offer; see [`random_nonce`].
    pub nonce: &'a dyn Fn() -> Nonce,
}

/// A nonce from the system's randomness.
pub fn random_nonce() -> Nonce {
    let mut nonce = [0; 8];
    // Without randomness nonces would repeat, which only weakens a check against our own mistakes.
    if aws_lc_rs::rand::fill(&mut nonce).is_err() {
        tracing::warn!("the system gives no randomness");
    }
    Nonce(u64::from_ne_bytes(nonce))
}

/// An offer that was made before, or a new one.
fn offer(
    made: Option<&Offers>,
    generation: Generation,
    state: impl FnOnce() -> Option<DesiredState>,
    nonce: &dyn Fn() -> Nonce,
) -> Option<Arc<Offer>> {
    let made = made.into_iter().flat_map(|made| [Some(&made.newest), made.before.as_ref().map(|(offer, _)| offer)]);
    // Made once, so that its frames are encoded once, and pushes that are on their way can be answered.
    if let Some(made) = made.flatten().find(|offer| offer.generation() == generation) {
        return Some(made.clone());
    }
    Some(Arc::new(Offer::new(state()?, nonce())))
}

impl Offers {
    /// What a region's nodes are offered now; `None` where nothing was applied. What was `made` before is used again.
    pub fn of(fleet: &Fleet, region: &RegionId, with: &Making<'_>, made: Option<&Self>) -> Option<Self> {
        let record = fleet.region(region)?;
        let newest = offer(made, record.generation, || fleet.desired(region, &(with.routes)()), with.nonce)?;
        let before = fleet.moved(region).zip(record.before.as_ref()).and_then(|(moved, before)| {
            let state = || fleet.desired_before(region, &(with.routes)());
            Some((offer(made, before.generation, state, with.nonce)?, moved))
        });
        Some(Self { newest, before, duties: fleet.duties(region) })
    }

    /// What this node should be.
    pub fn state_for(&self, node: &NodeName) -> Arc<Offer> {
        match &self.before {
            Some((before, moved)) if !moved.contains(node) => before.clone(),
            _ => self.newest.clone(),
        }
    }

    /// What is asked of this node beside its state.
    pub fn duty_of(&self, node: &NodeName) -> Duty {
        self.duties.get(node).copied().unwrap_or_default()
    }
}
