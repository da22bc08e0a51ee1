//! A clock that a test sets.

use nearfield_shared::clock::Clock;
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

/// Stands still until it is told otherwise.
#[derive(Debug)]
pub struct ManualClock {
    unix_s: AtomicI64,
    elapsed_s: AtomicU64,
}

#[allow(dead_code, reason = "not every test binary does all of it")]
impl ManualClock {
    /// Begins at this time.
    pub fn at(unix_s: i64) -> Arc<Self> {
        Arc::new(Self { unix_s: unix_s.into(), elapsed_s: 0.into() })
    }

    /// Time passes, really.
    pub fn pass_days(&self, days: u32) {
        self.unix_s.fetch_add(i64::from(days) * 86_400, SeqCst);
        self.elapsed_s.fetch_add(u64::from(days) * 86_400, SeqCst);
    }

    /// The same, in seconds.
    pub fn pass_s(&self, seconds: u32) {
        self.unix_s.fetch_add(i64::from(seconds), SeqCst);
        self.elapsed_s.fetch_add(u64::from(seconds), SeqCst);
    }

    /// The wall clock jumps, and no time passes.
    pub fn jump_days(&self, days: i64) {
        self.unix_s.fetch_add(days * 86_400, SeqCst);
    }
}

impl Clock for ManualClock {
    fn unix_s(&self) -> i64 {
        self.unix_s.load(SeqCst)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.elapsed_s.load(SeqCst))
    }
}
