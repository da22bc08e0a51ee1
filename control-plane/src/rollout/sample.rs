//! What calls came to, as far as gates ask: turns, failures, latency. Sums over groups of calls; nothing of a single one.

use nearfield_shared::report::{CallTally, LATENCY_BOUNDS_MS};
use serde::{Deserialize, Serialize};

/// Figures about turns.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Turns, failed ones included.
    pub turns: u64,
    /// Turns whose answer failed.
    pub failed: u64,
    /// Commit to first audio: counts of the buckets of `LATENCY_BOUNDS_MS` and one above.
    pub first_audio: Vec<u64>,
}

impl Sample {
    /// What a report says.
    pub fn of(tally: &CallTally) -> Self {
        Self {
            turns: tally.turns_from_cache + tally.turns_by_model + tally.turns_failed,
            failed: tally.turns_failed,
            first_audio: tally.first_audio.to_vec(),
        }
    }

    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        self.turns = self.turns.saturating_add(other.turns);
        self.failed = self.failed.saturating_add(other.failed);
        self.first_audio.resize(LATENCY_BOUNDS_MS.len() + 1, 0);
        for (to, count) in self.first_audio.iter_mut().zip(&other.first_audio) {
            *to = to.saturating_add(*count);
        }
    }

    /// Counts everything half, so that what comes later weighs more.
    pub fn halve(&mut self) {
        self.turns /= 2;
        self.failed /= 2;
        self.first_audio.iter_mut().for_each(|count| *count /= 2);
    }

    /// Failed turns in percent; `None` without turns.
    pub fn errors_percent(&self) -> Option<f64> {
        (self.turns > 0).then(|| self.failed as f64 / self.turns as f64 * 100.0)
    }

    /// The 95th percentile from commit to first audio in milliseconds, as if a bucket's turns were spread evenly over it; `None` without turns. Above the
    /// last bound it is that bound doubled, because how much more is not known.
    pub fn p95_ms(&self) -> Option<f64> {
        let all: u64 = self.first_audio.iter().sum();
        let rank = all as f64 * 0.95;
        let mut below = 0;
        for (bucket, count) in self.first_audio.iter().enumerate() {
            if *count > 0 && (below + count) as f64 >= rank {
                let bound = |i: usize| f64::from(LATENCY_BOUNDS_MS[i]);
                if bucket >= LATENCY_BOUNDS_MS.len() {
                    return Some(bound(LATENCY_BOUNDS_MS.len() - 1) * 2.0);
                }
                let from = if bucket == 0 { 0.0 } else { bound(bucket - 1) };
                let share = (rank - below as f64) / *count as f64;
                return Some(from + (bound(bucket) - from) * share);
            }
            below += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_lies_within_its_bucket() {
        let of = |buckets: &[(usize, u64)]| {
            let mut sample = Sample { first_audio: vec![0; 10], ..Sample::default() };
            buckets.iter().for_each(|(bucket, count)| sample.first_audio[*bucket] = *count);
            sample.p95_ms()
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(0, 100)]), Some(47.5));
        assert_eq!(of(&[(0, 95), (5, 5)]), Some(50.0));
        assert_eq!(of(&[(0, 90), (3, 10)]), Some(175.0));
        assert_eq!(of(&[(0, 10), (9, 90)]), Some(3000.0));
    }
}
