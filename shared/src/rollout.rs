//! How a change reaches the nodes of a region: `[rollout]` in `regions/*.toml`. Without it, every node takes a change at once.

use crate::trial::TrialSettings;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Waves of one rollout, at most.
pub const WAVES_MAX: usize = 20;

/// Labels of one node, at most.
pub const LABELS_MAX: usize = 16;

/// Longest time in seconds for which a wave is watched, and for which a budget counts: a week.
pub const WATCH_S_MAX: u32 = 7 * 24 * 60 * 60;

/// A word that an operator gives to nodes, for example `canary`: 1 to 40 of `a-z`, `0-9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

impl Label {
    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=40).contains(&s.len()) && !s.starts_with('-') && s.bytes().all(fits) {
            Ok(Self(s.to_owned()))
        } else {
            Err(format!("`{}` is not a label: use 1 to 40 of a-z, 0-9 and -, not starting with -", s.escape_debug()))
        }
    }
}

impl TryFrom<String> for Label {
    type Error = String;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `[rollout]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutSettings {
    /// Seconds for which a wave is watched once its nodes serve the change, before the next one begins.
    pub bake_s: u32,
    /// The waves, in order; the last one takes every node. At least one.
    pub waves: Vec<WaveSettings>,
    /// What stops a rollout and undoes it.
    #[serde(default)]
    pub gates: Gates,
    /// How much of a jurisdiction may be touched within a time; `None` does not count.
    #[serde(default)]
    pub budget: Option<Budget>,
    /// When waves may begin; `None` is at any time.
    #[serde(default)]
    pub maintenance: Option<Maintenance>,
    /// How each node tries new models on a share of its turns before they serve; `None` has them serve once they are proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialSettings>,
}

/// One entry of `[[rollout.waves]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaveSettings {
    /// Only nodes with this label.
    #[serde(default)]
    pub label: Option<Label>,
    /// Percent of the region's nodes, or of those with the label, that have the change after this wave. 100 where nothing is said.
    #[serde(default = "all")]
    pub percent: f64,
    /// Whether somebody has to approve the wave before it begins.
    #[serde(default)]
    pub approval: bool,
    /// Another time to watch this wave than the rollout's, in seconds.
    #[serde(default)]
    pub bake_s: Option<u32>,
}

fn all() -> f64 {
    100.0
}

/// `[rollout.gates]`: nodes with the change beside those without, in the same window; where too few calls come to the latter, beside
/// the same nodes before the change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gates {
    /// Failed turns may be so many percentage points more.
    pub errors_points_max: f64,
    /// The 95th percentile from commit to first audio may be so many times as long.
    pub p95_ratio_max: f64,
    /// Turns without which a side is not judged.
    pub turns_min: u32,
    /// Percent of a wave's nodes that may refuse the change for good: a golden result that is not reproduced, a model that does not load.
    pub refused_percent_max: f64,
    /// Percent of a wave's nodes that may go away, or not take the change up in time.
    pub lost_percent_max: f64,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            errors_points_max: 2.0,
            p95_ratio_max: 1.5,
            // One failure more or less then moves the share by a point or two, not by ten.
            turns_min: 50,
            refused_percent_max: 0.0,
            lost_percent_max: 25.0,
        }
    }
}

/// `[rollout.budget]`: the blast radius.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Percent of the calls that the jurisdiction's nodes can hold.
    pub percent: f64,
    /// Within so many seconds.
    pub within_s: u32,
}

/// `[rollout.maintenance]`: on these days, from one time of day to another, UTC. A window may go over midnight; it belongs to the day on which it begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    /// Days on which it begins; every day where none is named.
    #[serde(default)]
    pub days: Vec<Day>,
    /// When it begins.
    pub from: TimeOfDay,
    /// When it ends.
    pub until: TimeOfDay,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "days have names")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    /// From Monday on.
    pub const ALL: [Self; 7] = [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];

    /// As it stands in files.
    pub fn as_str(self) -> &'static str {
        ["mon", "tue", "wed", "thu", "fri", "sat", "sun"][self as usize]
    }
}

/// A time of day, `HH:MM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay {
    minutes: u16,
}

impl TimeOfDay {
    /// Seconds after midnight.
    pub fn seconds(self) -> i64 {
        i64::from(self.minutes) * 60
    }
}

impl FromStr for TimeOfDay {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("`{}` is not a time of day: write HH:MM, from 00:00 to 23:59", s.escape_debug());
        let (hours, minutes) = s.split_once(':').ok_or_else(wrong)?;
        let number = |text: &str, below: u16| {
            let good = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u16>().ok().filter(|n| good && *n < below).ok_or_else(wrong)
        };
        Ok(Self { minutes: number(hours, 24)? * 60 + number(minutes, 60)? })
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = String;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.minutes / 60, self.minutes % 60)
    }
}

impl Maintenance {
    /// Whether a time (seconds since 1970) lies in a window.
    pub fn is_open(&self, unix_s: i64) -> bool {
        let (day, second) = (unix_s.div_euclid(86_400), unix_s.rem_euclid(86_400));
        let begins_on = |day: i64| {
            // The first of January 1970 was a Thursday.
            let weekday = Day::ALL[(day + 3).rem_euclid(7) as usize];
            self.days.is_empty() || self.days.contains(&weekday)
        };
        let (from, until) = (self.from.seconds(), self.until.seconds());
        if from < until {
            return begins_on(day) && (from..until).contains(&second);
        }
        (second >= from && begins_on(day)) || (second < until && begins_on(day - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_is_two_pairs_of_digits() {
        for good in ["00:00", "08:30", "23:59"] {
            assert_eq!(good.parse::<TimeOfDay>().unwrap().to_string(), good);
        }
        for wrong in ["", "8:30", "24:00", "12:60", "12", "12:3", "+1:00", "12:30:00"] {
            assert!(wrong.parse::<TimeOfDay>().unwrap_err().contains("HH:MM"), "{wrong}");
        }
    }

    #[test]
    fn a_window_may_go_over_midnight() {
        let window = |days: &[Day], from: &str, until: &str| Maintenance {
            days: days.to_vec(),
            from: from.parse().unwrap(),
            until: until.parse().unwrap(),
        };
        // 2026-11-22, a Sunday, at midnight.
        let sunday = 1_795_305_600;
        let at = |day: i64, hours: i64| sunday + day * 86_400 + hours * 3_600;
        let nightly = window(&[], "22:00", "06:00");
        assert!(nightly.is_open(at(0, 23)) && nightly.is_open(at(0, 5)));
        assert!(!nightly.is_open(at(0, 6)) && !nightly.is_open(at(0, 21)));
        let saturday_night = window(&[Day::Sat], "22:00", "06:00");
        assert!(saturday_night.is_open(at(-1, 22)) && saturday_night.is_open(at(0, 5)));
        assert!(!saturday_night.is_open(at(0, 22)) && !saturday_night.is_open(at(-1, 5)));
        let working = window(&[Day::Mon], "08:00", "16:00");
        assert!(working.is_open(at(1, 8)) && !working.is_open(at(1, 16)) && !working.is_open(at(0, 9)));
    }
}
