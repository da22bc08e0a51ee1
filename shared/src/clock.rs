//! Time as a program sees it. It comes in through a trait, so that a test can let weeks pass and clocks jump.

use std::{
    fmt::Debug,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// What tells the time.
pub trait Clock: Debug + Send + Sync {
    /// Seconds since 1970 as this machine believes; may be wrong by any amount, and may jump.
    fn unix_s(&self) -> i64;

    /// Time since a fixed moment; never jumps.
    fn elapsed(&self) -> Duration;
}

/// The machine's own clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn unix_s(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
