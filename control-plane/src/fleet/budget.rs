//! The blast radius: how much of what a jurisdiction can hold was touched lately, and how much more may be.

use super::{
    Fleet,
    change::{Plan, RegionPlan},
    records::put,
};
use crate::{definition::Definition, store::Write};
use nearfield_shared::{
    region::{Jurisdiction, RegionId},
    rollout::{Budget, WATCH_S_MAX},
    wire::NodeName,
};
use serde::{Deserialize, Serialize};

/// Touches of one region that are remembered; more within a week means that somebody applies without pause, and then the oldest are forgotten.
const TOUCHES_MAX: usize = 500;

/// A change reached nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touch {
    /// When, seconds since 1970.
    pub unix_s: i64,
    /// Calls that those nodes can hold.
    pub calls: u64,
}

impl Fleet {
    /// Calls that a node says it can hold.
    pub(super) fn calls_max(&self, node: &NodeName) -> Option<u64> {
        let status = self.live.get(node)?.status.as_ref()?;
        Some(u64::from(status.calls_max).max(1))
    }

    /// What a node that has not said how many calls it can hold is counted as: like the average of those that have.
    pub(super) fn usual_calls_max(&self) -> u64 {
        let stated: Vec<u64> = self.live.keys().filter_map(|node| self.calls_max(node)).collect();
        (stated.iter().sum::<u64>() / (stated.len() as u64).max(1)).max(1)
    }

    fn law(&self, region: &RegionId) -> Option<&Jurisdiction> {
        self.region(region)?.defined.as_ref().map(|defined| &defined.region.jurisdiction)
    }

    /// Calls that the nodes of a region can hold.
    pub(super) fn capacity_of(&self, region: &RegionId) -> u64 {
        let usual = self.usual_calls_max();
        let nodes = self.nodes.values().filter(|node| node.region == *region && node.revoked_unix_s.is_none());
        nodes.map(|node| self.calls_max(&node.node).unwrap_or(usual)).sum()
    }

    /// The same of a jurisdiction, and what was touched in it within so many seconds.
    pub(super) fn capacity_and_touched(&self, law: &Jurisdiction, within_s: u32, now: i64) -> (u64, u64) {
        let usual = self.usual_calls_max();
        let of_law = |region: &RegionId| self.law(region) == Some(law);
        let nodes = self.nodes.values().filter(|node| node.revoked_unix_s.is_none() && of_law(&node.region));
        let capacity = nodes.map(|node| self.calls_max(&node.node).unwrap_or(usual)).sum();
        let since = now - i64::from(within_s);
        let touches = self.touches.iter().filter(|(region, _)| of_law(region)).flat_map(|(_, touches)| touches);
        let touched = touches.filter(|touch| touch.unix_s > since).map(|touch| touch.calls).sum();
        (capacity, touched)
    }

    /// What a budget leaves in a jurisdiction now, in calls.
    pub(super) fn left(&self, law: &Jurisdiction, budget: &Budget, now: i64) -> u64 {
        let (capacity, touched) = self.capacity_and_touched(law, budget.within_s, now);
        allowed(capacity, budget).saturating_sub(touched)
    }

    /// What the budgets of a region's jurisdiction leave, in calls: the least of them counts. `None` where there is none.
    pub(super) fn room(&self, region: &RegionId, now: i64) -> Option<u64> {
        let law = self.law(region)?;
        let budgets = self.regions().filter_map(|record| {
            let region = &record.defined.as_ref()?.region;
            region.rollout.as_ref()?.budget.as_ref().filter(|_| region.jurisdiction == *law)
        });
        budgets.map(|budget| self.left(law, budget, now)).min()
    }

    /// Changes that lie ahead of a clock that was put back count as made now, so that they are forgotten in time. Says what is stored of it.
    pub(super) fn set_touches_right(&mut self, now: i64) -> Vec<Write> {
        let mut writes = Vec::new();
        for (region, touches) in &mut self.touches {
            let ahead = touches.iter_mut().filter(|touch| touch.unix_s > now);
            if ahead.map(|touch| touch.unix_s = now).count() > 0 {
                writes.push(put(format!("touches/{region}"), touches));
            }
        }
        writes
    }

    /// Remembers that a change reached nodes.
    pub(super) fn touch(&mut self, region: &RegionId, calls: u64, now: i64) -> Write {
        let touches = self.touches.entry(region.clone()).or_default();
        touches.retain(|touch| touch.unix_s > now - i64::from(WATCH_S_MAX));
        if touches.len() >= TOUCHES_MAX {
            touches.remove(0);
        }
        touches.push(Touch { unix_s: now, calls });
        put(format!("touches/{region}"), touches)
    }
}

impl Fleet {
    /// Why a plan would touch more than budgets permit; empty where it would not.
    pub(super) fn over_budget(&self, definition: &Definition, plan: &Plan, now: i64) -> Vec<String> {
        let mut refused = Vec::new();
        let file = |region: &RegionId| definition.regions.get(region).map(|defined| &defined.region);
        let budgets = definition.regions.values().filter_map(|defined| {
            let region = &defined.region;
            Some((region, region.rollout.as_ref()?.budget.as_ref()?))
        });
        for (asks, budget) in budgets {
            let law = &asks.jurisdiction;
            let (capacity, _) = self.capacity_and_touched(law, budget.within_s, now);
            let percent = |calls: u64| calls as f64 / capacity.max(1) as f64 * 100.0;
            let permits = format!(
                "[rollout.budget] of region {} permits {} % of jurisdiction {law} within {} min",
                asks.id,
                budget.percent,
                budget.within_s.div_ceil(60)
            );
            let of_law =
                || plan.regions.iter().filter(|change| file(&change.region).is_some_and(|r| r.jurisdiction == *law));
            let told = |change: &&RegionPlan| {
                self.region(&change.region).is_some_and(|record| record.generation != change.generation)
            };
            let at_once = of_law().filter(told).filter(|change| change.waves.is_empty());
            let at_once: u64 = at_once.map(|change| self.capacity_of(&change.region)).sum();
            let left = self.left(law, budget, now);
            if at_once > 0 && at_once > left {
                refused.push(format!(
                    "this touches {:.0} % of jurisdiction {law} at once; {permits}, of which {:.0} % are left. Add [[rollout.waves]], wait, or raise the budget",
                    percent(at_once),
                    percent(left)
                ));
            }
            for change in of_law() {
                let wave = change.waves.iter().enumerate().max_by_key(|(_, wave)| wave.calls);
                if let Some((i, wave)) = wave.filter(|(_, wave)| wave.calls > allowed(capacity, budget)) {
                    refused.push(format!(
                        "wave {} in region {} touches {:.0} % of jurisdiction {law}; {permits}. Make it smaller, or raise the budget",
                        i + 1,
                        change.region,
                        percent(wave.calls)
                    ));
                }
            }
        }
        refused
    }
}

/// Calls' worth of nodes that a budget permits to be touched.
pub(super) fn allowed(capacity: u64, budget: &Budget) -> u64 {
    (capacity as f64 * budget.percent / 100.0).floor() as u64
}
