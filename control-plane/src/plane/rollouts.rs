//! Keeps rollouts going: after whatever may concern them, and as time passes.

use super::{Plane, locked};
use crate::{
    audit::Actor,
    fleet::{Fleet, rollouts::Stepped},
    rollout::Moment,
};
use nearfield_shared::region::RegionId;
use std::time::Duration;

/// How often rollouts are looked at where nothing happens: a wave's time may be over. Whatever may breach a gate is looked at when it comes.
const ROLLOUTS_EVERY: Duration = Duration::from_millis(500);

/// Pause between two looks, so that many reports at once are judged together.
const ROLLOUTS_SETTLE: Duration = Duration::from_millis(50);

impl Plane {
    /// Looks at rollouts for as long as it is polled.
    pub(super) async fn keep_rollouts(&self) {
        loop {
            let _touched = tokio::time::timeout(ROLLOUTS_EVERY, self.rollouts_touched.notified()).await;
            self.step_rollouts().await;
            tokio::time::sleep(ROLLOUTS_SETTLE).await;
        }
    }

    /// Lets every rollout that is under way go on as far as it can, and tells the nodes.
    async fn step_rollouts(&self) {
        let unsaved = std::mem::take(&mut *locked(&self.rollouts_unsaved));
        let rolling = self.look(Fleet::rolling);
        for region in unsaved.iter().cloned().chain(rolling.into_iter().filter(|region| !unsaved.contains(region))) {
            let stepped = self
                .change(&Actor::Plane, |fleet| {
                    let mut stepped = fleet.step_rollout(&region, self.now());
                    let (mut writes, act) = (std::mem::take(&mut stepped.writes), stepped.act.take());
                    if unsaved.contains(&region) {
                        writes = fleet.rollout_writes(&region);
                    }
                    (stepped, writes, act)
                })
                .await;
            match stepped {
                Ok(stepped) => {
                    self.tell_of_rollout(&region, &stepped);
                    // Nodes that came meanwhile may be among those that are watched.
                    self.publish_where(|rolling| *rolling == region);
                }
                Err(error) => {
                    tracing::error!(%region, %error, "a step of a rollout is not stored; that is tried again");
                    self.rollout_not_stored(&region);
                }
            }
        }
    }

    /// A rollout has changed in memory, and not on the disk: that is tried again until it is there. What serves goes back all the same where a gate is
    /// breached, because a disk that fails must not keep what is bad in place; nodes that are ahead of a store are numbered above.
    pub fn rollout_not_stored(&self, region: &RegionId) {
        locked(&self.rollouts_unsaved).insert(region.clone());
        if self.look(|fleet| fleet.rollout_under_way(region).is_none()) {
            self.publish_regardless(region);
        }
    }

    /// A rollout has changed: its log goes on, and nodes are told where that concerns them.
    pub fn tell_of_rollout(&self, region: &RegionId, stepped: &Stepped) {
        for entry in &stepped.told {
            match &entry.what {
                Moment::Undone(_) => tracing::warn!(%region, "rollout: {}", entry.what),
                _ => tracing::info!(%region, "rollout: {}", entry.what),
            }
        }
        if stepped.offers_changed {
            self.publish_desired();
        }
    }

    /// Something happened that a rollout may depend on.
    pub fn touch_rollouts(&self) {
        self.rollouts_touched.notify_one();
    }
}
