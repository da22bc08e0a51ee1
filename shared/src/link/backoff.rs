//! Waiting longer after each failure, with jitter so that many nodes do not come back in step.

use std::time::Duration;

/// A small generator (SplitMix64) whose whole state is passed in, so that a run can be repeated exactly. Not for secrets.
#[derive(Debug, Clone)]
pub struct Seed(pub u64);

impl Seed {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A share of a duration, uniformly from zero to all of it.
    pub fn share_of(&mut self, whole: Duration) -> Duration {
        let share = (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        whole.mul_f64(share)
    }
}

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffConfig {
    /// The wait after the first failure, before jitter.
    pub first: Duration,
    /// No wait is longer.
    pub max: Duration,
}

impl Default for BackoffConfig {
    /// 500 ms hides a restart of the plane; 60 s keeps 10,000 waiting agents at some 170 tries a second.
    fn default() -> Self {
        Self { first: Duration::from_millis(500), max: Duration::from_secs(60) }
    }
}

/// Exponential waits with half of each as jitter ("equal jitter"): never less than half, so a broken plane is not hammered.
#[derive(Debug, Clone)]
pub struct Backoff {
    config: BackoffConfig,
    failures: u32,
}

impl Backoff {
    /// No failure yet.
    pub fn new(config: BackoffConfig) -> Self {
        Self { config, failures: 0 }
    }

    /// Counts a failure and says how long to wait.
    pub fn after_failure(&mut self, seed: &mut Seed) -> Duration {
        let doublings = self.failures.min(20);
        self.failures = self.failures.saturating_add(1);
        let whole = self.config.first.saturating_mul(1 << doublings).min(self.config.max);
        whole / 2 + seed.share_of(whole / 2)
    }

    /// Things work again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_maximum_and_differ_between_nodes() {
        let config = BackoffConfig { first: Duration::from_secs(1), max: Duration::from_secs(10) };
        let mut firsts = std::collections::BTreeSet::new();
        for node in 0..100 {
            let (mut backoff, mut seed) = (Backoff::new(config), Seed(node));
            for (failure, whole) in [1, 2, 4, 8, 10, 10, 10].into_iter().enumerate() {
                let wait = backoff.after_failure(&mut seed);
                let whole = Duration::from_secs(whole);
                assert!(wait >= whole / 2 && wait <= whole, "failure {failure}: {wait:?} of {whole:?}");
                if failure == 0 {
                    firsts.insert(wait);
                }
            }
            backoff.reset();
            assert!(backoff.after_failure(&mut seed) <= Duration::from_secs(1));
        }
        assert!(firsts.len() > 90, "the first waits spread: {}", firsts.len());
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let (mut backoff, mut seed) = (Backoff::new(BackoffConfig::default()), Seed(1));
        for _ in 0..10_000 {
            assert!(backoff.after_failure(&mut seed) <= Duration::from_secs(60));
        }
        assert_eq!(backoff.failures(), 10_000);
    }
}
