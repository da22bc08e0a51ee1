//! When a node asks for its next certificate.

use super::backoff::{Backoff, BackoffConfig, Seed};
use std::time::Duration;

/// Waits between tries: there are days of time.
const RETRY: BackoffConfig = BackoffConfig { first: Duration::from_secs(30), max: Duration::from_secs(3600) };

/// When to renew, by the plane's time: its clock at the last welcome and the time that has really passed since, so that no jump of this
/// machine's clock matters.
#[derive(Debug)]
pub struct RenewalSchedule {
    valid_unix_s: (i64, i64),
    /// Added to half of the life, so that nodes that were enrolled together do not come together.
    jitter_s: i64,
    /// The plane's clock, and ours that does not jump, at the last welcome.
    welcomed: Option<(i64, Duration)>,
    backoff: Backoff,
    not_before: Duration,
}

impl RenewalSchedule {
    /// For a certificate that is valid from and until then.
    pub fn new(valid_unix_s: (i64, i64), seed: &mut Seed) -> Self {
        let life = Duration::from_secs(valid_unix_s.1.saturating_sub(valid_unix_s.0).max(0) as u64);
        let jitter_s = seed.share_of(life / 20).as_secs() as i64;
        Self { valid_unix_s, jitter_s, welcomed: None, backoff: Backoff::new(RETRY), not_before: Duration::ZERO }
    }

    /// When it is due by the plane's clock, seconds since 1970.
    pub fn due_unix_s(&self) -> i64 {
        let (begins, ends) = self.valid_unix_s;
        begins + (ends - begins) / 2 + self.jitter_s
    }

    /// The plane has told its time.
    pub fn welcomed(&mut self, plane_unix_s: i64, elapsed: Duration) {
        self.welcomed = Some((plane_unix_s, elapsed));
    }

    /// Whether to renew now.
    pub fn is_due(&self, elapsed: Duration) -> bool {
        let Some((plane_unix_s, at)) = self.welcomed else { return false };
        let now = plane_unix_s.saturating_add(elapsed.saturating_sub(at).as_secs() as i64);
        elapsed >= self.not_before && (now >= self.due_unix_s() || now < self.valid_unix_s.0)
    }

    /// A try has failed.
    pub fn failed(&mut self, elapsed: Duration, seed: &mut Seed) {
        self.not_before = elapsed + self.backoff.after_failure(seed);
    }

    /// The next certificate is there. The plane's time goes on.
    pub fn renewed(&mut self, valid_unix_s: (i64, i64), seed: &mut Seed) {
        *self = Self { welcomed: self.welcomed, ..Self::new(valid_unix_s, seed) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_renewal_is_due_at_half_life_by_the_planes_time_and_failures_wait() {
        let (mut seed, life) = (Seed(1), 1000 * 3600);
        let mut schedule = RenewalSchedule::new((0, life), &mut seed);
        let due_h = (schedule.due_unix_s() / 3600) as u32;
        assert!((500..=550).contains(&due_h), "half, and up to a twentieth: {due_h}");
        assert!(!schedule.is_due(900 * HOUR), "the plane's time is not known yet");
        schedule.welcomed(100 * 3600, 7 * HOUR);
        assert!(!schedule.is_due(HOUR * (due_h - 100 + 7)) && schedule.is_due(HOUR * (due_h - 100 + 8)));
        let now = 900 * HOUR;
        schedule.failed(now, &mut seed);
        assert!(!schedule.is_due(now) && schedule.is_due(now + HOUR));
        schedule.renewed((800 * 3600, 1800 * 3600), &mut seed);
        assert!(!schedule.is_due(now) && schedule.is_due(1500 * HOUR));
        schedule.welcomed(799 * 3600, now);
        assert!(schedule.is_due(now), "the plane's clock went back behind the certificate's beginning");
    }
}
