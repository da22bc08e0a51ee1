//! Where the caller's loudspeaker is, by estimate.
//!
//! Audio is sent faster than it is played. A client plays what it gets in order and without gaps of its own, so the
//! estimate is: a phrase starts when it was sent or when the one before it ends, whichever is later. The network's delay
//! makes the estimate early by that much; a client that knows better says so (`conversation.item.truncate`).

use std::time::Duration;

/// The estimate for one call.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Playback {
    ends: Duration,
}

impl Playback {
    /// Audio was sent; returns when its first sample is played.
    pub fn sent(&mut self, now: Duration, ms: u32) -> Duration {
        let starts = self.ends.max(now);
        self.ends = starts + Duration::from_millis(ms.into());
        starts
    }

    /// When the caller hears nothing any more unless more is sent.
    pub fn runs_out(&self, now: Duration) -> Duration {
        self.ends.max(now)
    }

    /// Whether the caller still hears something.
    pub fn is_on(&self, now: Duration) -> bool {
        self.ends > now
    }

    /// The client threw away what it had not played.
    pub fn stop(&mut self, now: Duration) {
        self.ends = self.ends.min(now);
    }
}
