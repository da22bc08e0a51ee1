//! Where the time of a turn went.
//!
//! One ledger for each answer. The stages between the moment an answer was owed and its first audio follow each
//! other without gaps, so they add up to `commit_to_first_audio_ms`: what is not accounted for would show.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What an answer was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnsweredBy {
    /// The notice that the law of the region demands.
    Notice,
    /// The assistant's greeting.
    Greeting,
    /// A question whose answer the assistant's file gives.
    KnownQuestion,
    /// The caller asked for a person.
    HandOver,
    /// Something that the assistant does not speak about.
    ForbiddenTopic,
    /// The language model.
    Model,
    /// No words were found in the audio.
    Unheard,
    /// The caller was silent for too long.
    Idle,
    /// Something else is waited for, and the caller is told so.
    Filler,
    /// The caller is told that their language is not spoken.
    Language,
    /// The caller stayed silent; the call ends.
    Goodbye,
}

impl AnsweredBy {
    /// Whether it answers what the caller asked.
    pub fn is_about_question(self) -> bool {
        matches!(self, Self::KnownQuestion | Self::HandOver | Self::ForbiddenTopic | Self::Model)
    }
}

/// The times of one answer, in milliseconds. What did not happen is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// What the answer was made from; `None` where it ended before that was known.
    pub answered_by: Option<AnsweredBy>,
    /// Arrival of the last sample with speech, to the first audio sent.
    pub speech_end_to_first_audio_ms: Option<u32>,
    /// From when the answer was owed (the turn's commit; for an answer that a client asks for later, that request).
    pub commit_to_first_audio_ms: Option<u32>,
    /// Arrival of the last sample with speech, to the commit: silence waited for, and the turn model.
    pub endpoint_ms: Option<u32>,
    /// Of that, the turn model's last verdict on this turn.
    pub turn_model_ms: Option<u32>,
    /// Waiting for the transcript.
    pub transcribe_ms: Option<u32>,
    /// Comparing with the known questions.
    pub match_ms: Option<u32>,
    /// To the language model's first piece of text.
    pub first_text_ms: Option<u32>,
    /// From there to the first whole phrase.
    pub first_phrase_ms: Option<u32>,
    /// From there to its first audio.
    pub first_render_ms: Option<u32>,
    /// From when the answer was owed to its end.
    pub total_ms: u32,
    /// Audio made.
    pub audio_ms: u32,
    /// Pieces of text the language model made.
    pub text_pieces: u32,
    /// How long before the commit the words of this turn were asked for, where they were not thrown away.
    pub begun_ahead_ms: Option<u32>,
    /// Work that was begun before the turn's end was certain, and thrown away because the caller went on.
    pub speculative_waste_ms: u32,
}

/// Moments of one answer, as they happen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moments {
    pub speech_end: Option<Duration>,
    pub owed: Duration,
    pub committed: Option<Duration>,
    pub ahead: Option<Duration>,
    pub wasted: Duration,
    pub turn_model: Option<Duration>,
    pub transcribed: Option<Duration>,
    pub matched: Option<Duration>,
    pub first_text: Option<Duration>,
    pub first_phrase: Option<Duration>,
    pub first_audio: Option<Duration>,
}

impl Moments {
    /// The ledger of an answer that ends now.
    pub fn ledger(&self, now: Duration, answered_by: Option<AnsweredBy>, audio_ms: u32, text_pieces: u32) -> Ledger {
        // Each stage begins where the one before it ended, in whole milliseconds since the answer was owed, so that
        // rounding cannot make the sum differ.
        let since_owed = |at: Option<Duration>| at.map(|at| millis(at.saturating_sub(self.owed)));
        let mut from = 0;
        // An answer that goes on may speak what it had before the model tells more: that is no part of the way to its first audio.
        let in_time = |at: &Duration| self.first_audio.is_none_or(|first| *at <= first);
        let mut stage = |at: Option<Duration>| {
            let end = since_owed(at.filter(in_time))?.max(from);
            let took = end - from;
            from = end;
            Some(took)
        };
        Ledger {
            answered_by,
            speech_end_to_first_audio_ms: between(self.speech_end, self.first_audio),
            endpoint_ms: between(self.speech_end, self.committed),
            turn_model_ms: self.turn_model.map(millis),
            transcribe_ms: stage(self.transcribed),
            match_ms: stage(self.matched),
            first_text_ms: stage(self.first_text),
            first_phrase_ms: stage(self.first_phrase),
            first_render_ms: stage(self.first_audio),
            commit_to_first_audio_ms: since_owed(self.first_audio),
            total_ms: millis(now.saturating_sub(self.owed)),
            audio_ms,
            text_pieces,
            begun_ahead_ms: between(self.ahead, self.committed),
            speculative_waste_ms: millis(self.wasted),
        }
    }
}

fn between(from: Option<Duration>, to: Option<Duration>) -> Option<u32> {
    Some(millis(to?.saturating_sub(from?)))
}

fn millis(d: Duration) -> u32 {
    u32::try_from(d.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_add_up() {
        let at = |us: u64| Some(Duration::from_micros(us));
        let moments = Moments {
            speech_end: at(1_000_400),
            owed: Duration::from_micros(1_500_900),
            ahead: None,
            wasted: Duration::ZERO,
            committed: at(1_500_900),
            turn_model: None,
            transcribed: at(1_600_100),
            matched: at(1_605_700),
            first_text: at(1_700_333),
            first_phrase: at(1_900_999),
            first_audio: at(1_950_001),
        };
        let ledger = moments.ledger(Duration::from_secs(3), Some(AnsweredBy::Model), 1000, 7);
        let stages = [
            ledger.transcribe_ms,
            ledger.match_ms,
            ledger.first_text_ms,
            ledger.first_phrase_ms,
            ledger.first_render_ms,
        ];
        assert_eq!(stages.iter().flatten().sum::<u32>(), ledger.commit_to_first_audio_ms.expect("audio"));
        assert_eq!(ledger.commit_to_first_audio_ms, Some(449));
        assert_eq!(ledger.endpoint_ms, Some(500));
        assert_eq!(ledger.speech_end_to_first_audio_ms, Some(949));
    }

    #[test]
    fn regression_text_after_the_first_audio_is_no_stage() {
        let at = |ms: u64| Some(Duration::from_millis(ms));
        let moments = Moments { first_phrase: at(2), first_audio: at(5), first_text: at(9), ..Moments::default() };
        let ledger = moments.ledger(Duration::from_millis(11), Some(AnsweredBy::Model), 0, 1);
        assert_eq!((ledger.first_text_ms, ledger.first_phrase_ms, ledger.first_render_ms), (None, Some(2), Some(3)));
    }

    #[test]
    fn an_answer_from_the_cache_has_no_text_stage() {
        let at = |ms: u64| Some(Duration::from_millis(ms));
        let moments = Moments { matched: at(9), first_phrase: at(9), first_audio: at(10), ..Moments::default() };
        let ledger = moments.ledger(Duration::from_millis(11), Some(AnsweredBy::KnownQuestion), 0, 0);
        assert_eq!((ledger.first_text_ms, ledger.match_ms, ledger.first_render_ms), (None, Some(9), Some(1)));
    }
}
