//! What a region tells the control plane about its calls: a closed set of figures about groups of calls.
//!
//! A [`CallTally`] is what an agent counts; it does not serialise. The only way out is [`AnonymisedReport::suppress`], which asks
//! the policy and refuses groups that are too small. There is no field that could hold words, names, addresses or times
//! of single calls.

use crate::{
    desired::Generation,
    policy::{Denial, Permit, Policy, Request, decide},
};
use serde::{Deserialize, Serialize};

/// Upper bounds of the latency buckets in milliseconds; the last bucket is open.
pub const LATENCY_BOUNDS_MS: [u32; 9] = [50, 100, 150, 200, 300, 450, 600, 900, 1500];

/// Upper bounds of the duration buckets in seconds; the last bucket is open.
pub const DURATION_BOUNDS_S: [u32; 6] = [10, 30, 60, 180, 600, 1800];

/// Figures about the calls of one window, while they are being counted. Stays on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallTally {
    /// The generation that served these calls from beginning to end; `None` where there was more than one.
    pub generation: Option<Generation>,
    /// Calls that ended.
    pub calls: u64,
    /// Turns answered from the cache of known questions.
    pub turns_from_cache: u64,
    /// Turns answered by the language model.
    pub turns_by_model: u64,
    /// Turns whose answer failed.
    pub turns_failed: u64,
    /// Calls handed to a person.
    pub handed_over: u64,
    /// Calls whose caller left before the answer to their last turn was complete.
    pub dropped: u64,
    /// Answers that the caller spoke over.
    pub barge_ins: u64,
    /// Turns whose words were asked for before the turn had certainly ended, and used.
    pub begun_ahead: u64,
    /// Work that was begun before a turn had certainly ended and was thrown away, in milliseconds.
    pub wasted_ahead_ms: u64,
    /// Commit to first audio, one count for each bucket of [`LATENCY_BOUNDS_MS`] and one above.
    pub first_audio: [u64; LATENCY_BOUNDS_MS.len() + 1],
    /// Duration of calls, one count for each bucket of [`DURATION_BOUNDS_S`] and one above.
    pub duration: [u64; DURATION_BOUNDS_S.len() + 1],
}

impl CallTally {
    /// Counts one turn's latency from commit to first audio.
    pub fn count_first_audio(&mut self, ms: u32) {
        let bucket = LATENCY_BOUNDS_MS.iter().position(|bound| ms <= *bound).unwrap_or(LATENCY_BOUNDS_MS.len());
        self.first_audio[bucket] += 1;
    }

    /// Counts one call's duration.
    pub fn count_duration(&mut self, seconds: u32) {
        let bucket = DURATION_BOUNDS_S.iter().position(|bound| seconds <= *bound).unwrap_or(DURATION_BOUNDS_S.len());
        self.duration[bucket] += 1;
    }
}

/// Figures about a group of calls that is large enough to hide each of them.
///
/// The fields are private: the one constructor is [`AnonymisedReport::suppress`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnonymisedReport {
    calls: u64,
    turns_from_cache: u64,
    turns_by_model: u64,
    handed_over: u64,
    dropped: u64,
    barge_ins: u64,
    // Agents of earlier versions do not count what has a default.
    #[serde(default)]
    generation: Option<Generation>,
    #[serde(default)]
    turns_failed: u64,
    #[serde(default)]
    begun_ahead: u64,
    #[serde(default)]
    wasted_ahead_ms: u64,
    first_audio: [u64; LATENCY_BOUNDS_MS.len() + 1],
    duration: [u64; DURATION_BOUNDS_S.len() + 1],
}

impl AnonymisedReport {
    /// Turns a tally into a report if the policy permits one about a group of this size.
    pub fn suppress(tally: &CallTally, policy: Option<&Policy>) -> Result<Self, Denial> {
        let permit = decide(policy, &Request::ReportMetric { calls: tally.calls })?;
        Ok(Self::under(tally, &permit))
    }

    fn under(tally: &CallTally, _permit: &Permit) -> Self {
        Self {
            generation: tally.generation,
            turns_failed: tally.turns_failed,
            calls: tally.calls,
            turns_from_cache: tally.turns_from_cache,
            turns_by_model: tally.turns_by_model,
            handed_over: tally.handed_over,
            dropped: tally.dropped,
            barge_ins: tally.barge_ins,
            begun_ahead: tally.begun_ahead,
            wasted_ahead_ms: tally.wasted_ahead_ms,
            first_audio: tally.first_audio,
            duration: tally.duration,
        }
    }

    /// Figures as a tally, for adding reports up on the control plane.
    pub fn figures(&self) -> CallTally {
        CallTally {
            generation: self.generation,
            turns_failed: self.turns_failed,
            calls: self.calls,
            turns_from_cache: self.turns_from_cache,
            turns_by_model: self.turns_by_model,
            handed_over: self.handed_over,
            dropped: self.dropped,
            barge_ins: self.barge_ins,
            begun_ahead: self.begun_ahead,
            wasted_ahead_ms: self.wasted_ahead_ms,
            first_audio: self.first_audio,
            duration: self.duration,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(metrics_group_min: u32) -> Policy {
        Policy {
            serves_countries: vec!["*".into()],
            store_transcripts: false,
            retention_days: 0,
            metrics_group_min,
            notices: vec![],
        }
    }

    #[test]
    fn small_groups_and_missing_policies_are_suppressed() {
        let tally = |calls| CallTally { calls, ..CallTally::default() };
        assert!(AnonymisedReport::suppress(&tally(19), Some(&policy(20))).is_err());
        assert!(AnonymisedReport::suppress(&tally(20), Some(&policy(20))).is_ok());
        assert!(AnonymisedReport::suppress(&tally(4), Some(&policy(0))).is_err(), "the floor holds");
        assert!(AnonymisedReport::suppress(&tally(1000), None).is_err());
    }

    #[test]
    fn buckets_take_their_upper_bound() {
        let mut tally = CallTally::default();
        tally.count_first_audio(50);
        tally.count_first_audio(51);
        tally.count_first_audio(9999);
        assert_eq!((tally.first_audio[0], tally.first_audio[1], tally.first_audio[9]), (1, 1, 1));
    }
}
