//! How long the caller pauses in the middle of a turn, and so how much silence ends one.
//!
//! What counts is a high quantile of the latest pauses, the later the more, with some room above it. Until enough of them are known,
//! the silence that was set beforehand counts as one of them. A pause that ended a turn by mistake is one, too, the longest:
//! the caller went on before anything was answered.

use std::{collections::VecDeque, ops::RangeInclusive};

/// The least and the greatest silence that ends a turn, in milliseconds, whatever the caller's pauses are: less cuts off words between
/// syllables, more is dead air.
pub const SILENCE_MS: RangeInclusive<u32> = 300..=2_500;

/// Pauses that are remembered: with [`DECAY`], an older one would weigh a fiftieth of the latest.
const PAUSES_MAX: usize = 24;

/// What a pause weighs beside the one after it. A caller who changes is followed within some ten pauses.
const DECAY: f64 = 0.85;

/// The share of pauses that should not end a turn.
const QUANTILE: f64 = 0.9;

/// Pauses that the silence set beforehand weighs as much as. With [`DECAY`] it stops counting after about eight.
const PRIOR_WEIGHT: f64 = 2.0;

/// Shorter ones are the gaps within words.
const PAUSE_MS_MIN: u32 = 96;

/// The pauses of one caller.
#[derive(Debug, Clone, Default)]
pub struct Pauses {
    /// In milliseconds, the latest first.
    latest: VecDeque<u32>,
}

impl Pauses {
    /// The caller paused for so many milliseconds and went on.
    pub fn note(&mut self, ms: u32) {
        if ms < PAUSE_MS_MIN || ms > *SILENCE_MS.end() {
            return;
        }
        self.latest.truncate(PAUSES_MAX - 1);
        self.latest.push_front(ms);
    }

    /// The silence that ends a turn of this caller, in milliseconds; `before` where nothing is known about them, and `percent` of what
    /// their pauses suggest. Within [`SILENCE_MS`].
    pub fn silence_ms(&self, before: u32, percent: u32) -> u32 {
        let mut weight = 1.0;
        let mut weighed: Vec<(u32, f64)> = Vec::with_capacity(PAUSES_MAX + 1);
        for ms in &self.latest {
            weighed.push((percent * enough(*ms) / 100, weight));
            weight *= DECAY;
        }
        weighed.push((before, PRIOR_WEIGHT * weight));
        weighed.sort_by_key(|(ms, _)| *ms);
        let mut left = QUANTILE * weighed.iter().map(|(_, weight)| weight).sum::<f64>();
        let reached = weighed.iter().find(|(_, weight)| {
            left -= weight;
            left <= 0.0
        });
        reached.map_or(before, |(ms, _)| *ms).clamp(*SILENCE_MS.start(), *SILENCE_MS.end())
    }
}

/// The silence that lets a pause of this length be a pause: a quarter more, because the next may be longer, and 150 ms, within which
/// the detector is not exact.
fn enough(pause_ms: u32) -> u32 {
    pause_ms * 5 / 4 + 150
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(pauses: &[u32], before: u32, percent: u32) -> u32 {
        let mut known = Pauses::default();
        pauses.iter().for_each(|ms| known.note(*ms));
        known.silence_ms(before, percent)
    }

    #[test]
    fn the_silence_follows_the_caller_from_where_it_was_set() {
        assert_eq!(after(&[], 1_500, 100), 1_500);
        assert_eq!(after(&[200; 3], 1_500, 100), 1_500, "three pauses are not enough");
        assert_eq!(after(&[200; 10], 1_500, 100), 400);
        assert_eq!(
            after(&[900], 500, 100),
            1_275,
            "longer pauses are believed at once, because cutting somebody off is worse"
        );
        assert_eq!(after(&[[200; 10].as_slice(), &[900], &[200; 3]].concat(), 500, 100), 500, "and soon forgotten");
        assert_eq!(after(&[200; 10], 1_500, 60), 300, "0.3 s at least");
        assert_eq!(after(&[2_400; 10], 500, 100), 2_500, "2.5 s at most");
        assert_eq!(after(&[], 3_000, 100), 2_500);
        let slower = [[200; 12].as_slice(), &[1_000; 8]].concat();
        assert_eq!(after(&slower, 1_500, 100), 1_400, "who becomes slower is waited for");
        let quicker = [[1_000; 8].as_slice(), &[200; 14]].concat();
        assert_eq!(after(&quicker, 1_500, 100), 400);
        assert_eq!(after(&[20, 50, 9_000], 700, 100), 700, "neither a gap in a word nor a long silence is a pause");
    }

    proptest! {
        /// A model in plain words: each pause repeated by its weight, sorted, and one picked.
        #[test]
        fn it_is_the_weighted_quantile(pauses in prop::collection::vec(96u32..2_500, 0..60), before in 300u32..2_500, percent in 50u32..200) {
            let mut all: Vec<u32> = Vec::new();
            let latest: Vec<u32> = pauses.iter().rev().take(PAUSES_MAX).copied().collect();
            let copies = |age: usize, weight: f64| (weight * DECAY.powi(age as i32) * 10_000.0).round() as usize;
            for (age, ms) in latest.iter().enumerate() {
                all.extend(vec![percent * enough(*ms) / 100; copies(age, 1.0)]);
            }
            all.extend(vec![before; copies(latest.len(), PRIOR_WEIGHT)]);
            all.sort_unstable();
            let clamp = |ms: u32| ms.clamp(*SILENCE_MS.start(), *SILENCE_MS.end());
            let near = |share: f64| clamp(all[((all.len() as f64 * share) as usize).min(all.len() - 1)]);
            let found = after(&pauses, before, percent);
            prop_assert!(SILENCE_MS.contains(&found));
            // Weights were rounded, so the neighbours at the border are right, too.
            prop_assert!(near(QUANTILE - 0.002) <= found && found <= near(QUANTILE + 0.002), "{found}");
        }
    }
}
