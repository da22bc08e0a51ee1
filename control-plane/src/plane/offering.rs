//! What nodes are offered, as far as the disk has it.

use super::{
    Plane, locked, show_news,
    unstored::{Regions, Unstored},
};
use crate::{
    fleet::Fleet,
    offers::{Making, Offers, random_nonce},
    store::Write,
};
use nearfield_shared::region::RegionId;
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::watch;

/// Changes that wait for the disk. Whoever waits for them may be dropped: then nobody knows what became of them, and they are written anew.
pub(super) struct Queued<'a> {
    plane: &'a Plane,
    regions: Option<Regions>,
}

impl Queued<'_> {
    /// The disk has them, or says that it does not take them.
    pub(super) fn ended(mut self, stored: bool) {
        self.end(stored);
    }

    fn end(&mut self, stored: bool) {
        let Some(regions) = self.regions.take().filter(|regions| !regions.is_empty()) else { return };
        let told = locked(&self.plane.unstored).ended(&regions, stored);
        if !stored {
            locked(&self.plane.rollouts_unsaved).extend(regions.into_keys());
            self.plane.touch_rollouts();
        }
        if !told.is_empty() {
            self.plane.publish_where(|region| told.contains(region));
        }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.end(false);
    }
}

impl Plane {
    /// Changes go to the disk; called under the fleet's lock.
    pub(super) fn queued(&self, writes: &[Write]) -> Queued<'_> {
        Queued { plane: self, regions: Some(locked(&self.unstored).queued(writes)) }
    }

    /// Follows what a region's nodes should be.
    pub fn follow_desired(&self, region: &RegionId) -> watch::Receiver<Option<Arc<Offers>>> {
        let mut all = locked(&self.desired);
        let sender = all.entry(region.clone()).or_insert_with(|| {
            watch::Sender::new(self.look(|fleet| {
                let holds = locked(&self.unstored).holds(region);
                if holds { None } else { self.offers(fleet, region, None) }
            }))
        });
        sender.subscribe()
    }

    /// Follows every region there is, so that there is something stored to offer in each while it changes.
    pub(super) fn follow_all(&self) {
        let regions: Vec<RegionId> = self.look(|fleet| fleet.regions().map(|region| region.id.clone()).collect());
        for region in regions {
            self.follow_desired(&region);
        }
    }

    fn offers(&self, fleet: &Fleet, region: &RegionId, made: Option<&Offers>) -> Option<Arc<Offers>> {
        let with = Making { routes: &|| fleet.routes(self.now()), nonce: &random_nonce };
        Offers::of(fleet, region, &with, made).map(Arc::new)
    }

    /// Tells every follower of a region what its nodes should be now, where the disk has it.
    pub fn publish_desired(&self) {
        self.publish_where(|_| true);
    }

    pub(super) fn publish_where(&self, asked: impl Fn(&RegionId) -> bool) {
        self.publish(asked, Unstored::holds);
    }

    /// The same of one region, whether the disk has it or not.
    pub(super) fn publish_regardless(&self, region: &RegionId) {
        self.publish(|other| other == region, |_, _| false);
    }

    fn publish(&self, asked: impl Fn(&RegionId) -> bool, holds: impl Fn(&mut Unstored, &RegionId) -> bool) {
        let followed = locked(&self.desired);
        self.look(|fleet| {
            let mut unstored = locked(&self.unstored);
            let told: BTreeSet<&RegionId> =
                followed.keys().filter(|region| asked(region) && !holds(&mut unstored, region)).collect();
            for (region, sender) in followed.iter().filter(|(region, _)| told.contains(region)) {
                let made = sender.borrow().clone();
                show_news(sender, self.offers(fleet, region, made.as_deref()));
            }
        });
    }
}
