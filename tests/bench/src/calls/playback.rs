//! The caller's loudspeaker: it plays what came, and falls silent where nothing did.

use std::time::{Duration, Instant};

/// Silence that a caller's own jitter buffer hides: one packet of a telephone.
pub const GAP_MIN: Duration = Duration::from_millis(20);

/// Playback of one answer.
#[derive(Debug, Clone)]
pub struct Playback {
    began: Instant,
    plays_until: Instant,
    gaps: Vec<Duration>,
    last_arrival: Instant,
}

impl Playback {
    /// The first audio begins to play as it arrives.
    pub fn begin(now: Instant, length: Duration) -> Self {
        Self { began: now, plays_until: now + length, gaps: Vec::new(), last_arrival: now }
    }

    /// More audio. If all that was there has been played, the caller has heard silence since.
    pub fn more(&mut self, now: Instant, length: Duration) {
        let silent = now.saturating_duration_since(self.plays_until);
        if silent >= GAP_MIN {
            self.gaps.push(silent);
        }
        self.plays_until = self.plays_until.max(now) + length;
        self.last_arrival = now;
    }

    /// When the first audio came.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// When what has come so far is over.
    pub fn plays_until(&self) -> Instant {
        self.plays_until
    }

    /// When the latest audio came.
    pub fn last_arrival(&self) -> Instant {
        self.last_arrival
    }

    /// Silences inside of the answer.
    pub fn gaps(&self) -> &[Duration] {
        &self.gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_only_where_nothing_was_left_to_play() {
        let ms = Duration::from_millis;
        let t = Instant::now();
        let mut p = Playback::begin(t, ms(200));
        p.more(t + ms(10), ms(200));
        // 400 ms of sound were there after 10 ms; what comes at 405 ms is within the jitter buffer.
        p.more(t + ms(405), ms(100));
        assert_eq!((p.gaps(), p.plays_until()), (&[][..], t + ms(505)));
        p.more(t + ms(600), ms(100));
        assert_eq!((p.gaps(), p.plays_until()), (&[ms(95)][..], t + ms(700)));
    }
}
