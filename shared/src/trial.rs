//! How a candidate model is tried on a node before it takes over: `[rollout.trial]` in `regions/*.toml`, as it travels in a desired
//! state, and how far a node has come with it.

use serde::{Deserialize, Serialize};

/// Least and greatest share of the turns that a candidate may get, in percent. Never more than half, so that there are at least as many
/// turns to hold it against.
pub const SHARE_PERCENT: (f64, f64) = (1.0, 50.0);

/// Least and greatest number of turns by which a side is judged. Fewer than five would let single turns show in what a node tells.
pub const TURNS_MIN: (u32, u32) = (5, 10_000);

/// Least and greatest time that a trial may take, in seconds: up to a day.
pub const TIME_S_MAX: (u32, u32) = (1, 24 * 60 * 60);

/// Least and greatest number of percentage points of [`TrialSettings::errors_points_max`].
pub const ERRORS_POINTS_MAX: (f64, f64) = (0.0, 100.0);

/// Least and greatest [`TrialSettings::p95_ratio_max`].
pub const P95_RATIO_MAX: (f64, f64) = (1.0, 100.0);

/// `[rollout.trial]`: a node gives its candidates a share of the live turns before they serve all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrialSettings {
    /// Percent of the turns that the candidates answer. Default 10.
    pub share_percent: f64,
    /// Turns on each side after which the candidates are judged by what they came to. Default 20.
    pub turns_min: u32,
    /// Seconds after which the trial ends with what there is, however few turns that are. Default 600.
    pub time_s_max: u32,
    /// Failed turns may be so many percentage points more than with the live models. Default 2.
    pub errors_points_max: f64,
    /// The 95th percentile from commit to first audio may be so many times as long as with the live models. Default 1.5.
    pub p95_ratio_max: f64,
}

impl Default for TrialSettings {
    fn default() -> Self {
        Self { share_percent: 10.0, turns_min: 20, time_s_max: 600, errors_points_max: 2.0, p95_ratio_max: 1.5 }
    }
}

impl TrialSettings {
    /// The same within the bounds. A plane checks a region's file; a node does not rely on that.
    #[must_use]
    pub fn bounded(&self) -> Self {
        let within = |value: f64, (least, most): (f64, f64), usual: f64| {
            if value.is_finite() { value.clamp(least, most) } else { usual }
        };
        let usual = Self::default();
        Self {
            share_percent: within(self.share_percent, SHARE_PERCENT, usual.share_percent),
            turns_min: self.turns_min.clamp(TURNS_MIN.0, TURNS_MIN.1),
            time_s_max: self.time_s_max.clamp(TIME_S_MAX.0, TIME_S_MAX.1),
            errors_points_max: within(self.errors_points_max, ERRORS_POINTS_MAX, usual.errors_points_max),
            p95_ratio_max: within(self.p95_ratio_max, P95_RATIO_MAX, usual.p95_ratio_max),
        }
    }
}

/// How far a trial has come, as a node tells it. Counts of turns; nothing about what was said in them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Trying {
    /// Turns that the candidates answered.
    pub turns: u32,
    /// Turns that the live models answered meanwhile.
    pub live_turns: u32,
    /// Turns of each side that are wanted.
    pub turns_min: u32,
    /// Percent of the turns that the candidates get.
    pub share_percent: f64,
    /// Seconds after which the trial ends at the latest.
    pub left_s: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_over_the_wire_is_brought_within_bounds() {
        let wild = TrialSettings {
            share_percent: f64::NAN,
            turns_min: 0,
            time_s_max: u32::MAX,
            errors_points_max: -1.0,
            p95_ratio_max: f64::INFINITY,
        };
        let tame = TrialSettings {
            share_percent: 10.0,
            turns_min: 5,
            time_s_max: 86_400,
            errors_points_max: 0.0,
            p95_ratio_max: 1.5,
        };
        assert_eq!(wild.bounded(), tame);
        assert_eq!(TrialSettings::default().bounded(), TrialSettings::default());
        assert_eq!(TrialSettings { share_percent: 100.0, ..tame.clone() }.bounded().share_percent, 50.0);
    }

    #[test]
    fn what_is_left_out_is_usual_and_what_is_new_is_skipped() {
        let read: TrialSettings = serde_json::from_str(r#"{"share_percent":5.0,"of_a_later_version":1}"#).unwrap();
        assert_eq!(read, TrialSettings { share_percent: 5.0, ..TrialSettings::default() });
    }
}
