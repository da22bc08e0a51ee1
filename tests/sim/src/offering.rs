//! What the simulated plane tells its nodes: offers as far as the disk has them, routes, and who is shut out.

use crate::{
    ctx::{Ctx, Event},
    links::Link,
    plane::Plane,
    scenario::Sabotage,
};
use control_plane::{
    fleet::routes::part_for,
    offers::{Making, Offers},
    plane::unstored::Unstored,
};
use nearfield_shared::{
    region::RegionId,
    wire::{
        Broadcast,
        message::{Nonce, Revoked, Routes},
    },
};
use std::{cell::RefCell, sync::Arc, time::Duration};

/// Changes within this time make one update of routes (`ROUTES_SETTLE` of the plane).
const ROUTES_SETTLE: Duration = Duration::from_millis(50);

impl Plane {
    fn compute_offers(&self, ctx: &mut Ctx, region: &RegionId, made: Option<&Offers>) -> Option<Offers> {
        let chance = RefCell::new(&mut ctx.chance);
        let now = crate::ctx::BASE_UNIX_S + ctx.now.as_secs() as i64 + ctx.plane_skew_s;
        let with = Making { routes: &|| self.fleet.routes(now), nonce: &|| Nonce(chance.borrow_mut().next()) };
        Offers::of(&self.fleet, region, &with, made)
    }

    /// What a region's nodes are offered, which is followed from now on.
    pub fn follow(&mut self, ctx: &mut Ctx, region: &RegionId) -> (u64, Option<Arc<Offers>>) {
        if !self.offers.contains_key(region) {
            let holds = self.unstored.holds(region);
            let offers = if holds { None } else { self.compute_offers(ctx, region, None).map(Arc::new) };
            self.offers.insert(region.clone(), (0, offers));
        }
        self.offers[region].clone()
    }

    pub fn publish_where(&mut self, ctx: &mut Ctx, asked: impl Fn(&RegionId) -> bool) {
        self.publish(ctx, asked, Unstored::holds);
    }

    pub fn publish(
        &mut self,
        ctx: &mut Ctx,
        asked: impl Fn(&RegionId) -> bool,
        holds: impl Fn(&mut Unstored, &RegionId) -> bool,
    ) {
        if ctx.sabotages(Sabotage::TellsNobody) {
            return;
        }
        let unstored = &mut self.unstored;
        let told = |region: &&RegionId| asked(region) && !holds(unstored, region);
        let followed: Vec<RegionId> = self.offers.keys().filter(told).cloned().collect();
        for region in followed {
            let made = self.offers[&region].1.clone();
            let next = self.compute_offers(ctx, &region, made.as_deref());
            if next.as_ref() != made.as_deref() {
                if let Some(shown) = self.offers.get_mut(&region) {
                    *shown = (shown.0 + 1, next.map(Arc::new));
                }
                self.wake_links(ctx, &region);
            }
        }
    }

    fn wake_links(&mut self, ctx: &mut Ctx, region: &RegionId) {
        let of_region = |link: &&Link| link.identity.region == *region;
        let conns: Vec<u64> = self.links.values().filter(of_region).map(|link| link.conn).collect();
        conns.into_iter().for_each(|conn| self.wake(ctx, conn));
    }

    /// Signs the list of those that are shut out, if it has changed, and tells every node.
    pub fn publish_revoked(&mut self, ctx: &mut Ctx) {
        let Some((number, revoked)) = self.fleet.revocations() else { return };
        if self.revoked.as_ref().is_some_and(|(told, _)| *told >= number) {
            return;
        }
        let crl_pem = Arc::new(format!("list {number} of {}", revoked.len()));
        self.revoked = Some((number, Revoked { crl_pem }.into()));
        let conns: Vec<u64> = self.links.keys().copied().collect();
        conns.into_iter().for_each(|conn| self.wake(ctx, conn));
    }

    pub fn touch_routes(&mut self, ctx: &mut Ctx) {
        if !std::mem::replace(&mut self.routes_due, true) {
            // Telling many takes its time, which the plane waits for.
            let settle = ROUTES_SETTLE.max(Duration::from_millis(self.links.len() as u64 * 10));
            ctx.after(settle, Event::RoutesChange { life: self.life });
        }
    }

    pub fn routes_change(&mut self, ctx: &mut Ctx) {
        self.routes_due = false;
        let routes = self.fleet.routes(ctx.plane_unix_s());
        if routes == self.routes {
            return;
        }
        self.routes = routes;
        let regions: Vec<RegionId> = self.told.keys().cloned().collect();
        for region in regions {
            let part: Broadcast<Routes> = Routes { routes: Arc::new(part_for(&region, &self.routes)) }.into();
            if let Some(told) = self.told.get_mut(&region)
                && told.1 != part
            {
                *told = (told.0 + 1, part);
                self.wake_links(ctx, &region);
            }
        }
    }

    /// What nodes of a region are told of routes, which is followed from now on.
    pub fn follow_routes(&mut self, region: &RegionId) -> (u64, Broadcast<Routes>) {
        let part = || (0, Routes { routes: Arc::new(part_for(region, &self.routes)) }.into());
        self.told.entry(region.clone()).or_insert_with(part).clone()
    }
}
