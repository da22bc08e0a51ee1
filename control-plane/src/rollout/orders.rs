//! What a person may want of a rollout.

use super::{Entry, Moment, Phase, Rollout, Undone, Wait};
use serde::{Deserialize, Serialize};

/// An order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Let the wave that waits for it begin.
    Approve,
    /// Begin nothing new. What was moved goes on being watched.
    Pause,
    /// Go on.
    Resume,
    /// Put back what served before.
    Abort,
}

impl Order {
    /// As it stands in addresses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
        }
    }
}

impl Rollout {
    /// Does what somebody wants, or says why that makes no sense now.
    pub fn order(&mut self, order: Order, by: &str, now: i64) -> Result<Entry, String> {
        let region = self.region.clone();
        if self.is_over() {
            return Err(format!("the rollout in {region} is over; see `control-plane rollout show {region}`"));
        }
        let by = by.to_owned();
        match (order, self.paused_unix_s) {
            (Order::Approve, _) => {
                if !matches!(self.phase, Phase::Waiting { why: Wait::Approval, .. }) || self.approved {
                    return Err(format!(
                        "no wave in {region} waits for approval now; see `control-plane rollout show {region}`"
                    ));
                }
                self.approved = true;
                Ok(self.note(now, Moment::Approved { wave: self.wave, by }))
            }
            (Order::Pause, Some(_)) => Err(format!("the rollout in {region} is paused already")),
            (Order::Pause, None) => {
                self.paused_unix_s = Some(now);
                Ok(self.note(now, Moment::Paused { by }))
            }
            (Order::Resume, None) => Err(format!("the rollout in {region} is not paused")),
            (Order::Resume, Some(since)) => {
                self.paused_unix_s = None;
                // A pause is no time in which anybody was watched.
                if let Phase::Baking { until_unix_s } = &mut self.phase {
                    *until_unix_s += (now - since).max(0);
                }
                Ok(self.note(now, Moment::Resumed { by }))
            }
            (Order::Abort, _) => Ok(self.undo(now, Undone::Aborted { by })),
        }
    }
}
