//! Interruptions that were none: a noise, or a sign that the caller listens. The answer goes on where the caller had heard it.
//!
//! Whatever sounds like speech stops an answer at once, and to the client its response ends there, because clients throw away what
//! they have not played. Only when the turn is over is it known what it was. Until then the answer is kept: its text goes on coming, and
//! what of its audio was not heard is known from the history. If it was nothing, another response says the rest. Phrases are rendered
//! once more for that instead of being kept: the same phrase sounds the same, and keeping them would cost a megabyte for each call.
//!
//! Invariant: what was heard of the parts of an answer is, in order, the whole answer (`tests/false_interruption.rs`).

use super::{
    Call,
    answer::{Answer, Stage},
    think::TEXT_BYTES_MAX,
};
use crate::{
    events::{Input, Output, Status, Wish},
    history::{Content, Role},
    ids::{ItemId, ResponseId},
    ledger::{AnsweredBy, Moments},
    listen::{HEARD_HZ, TAIL},
    phrases::Phrase,
};
use std::{collections::VecDeque, time::Duration};

/// Speech longer than this says something, whatever its words: a sign of listening takes half a second, two of them one.
const SIGN_MS_MAX: u32 = 1_200;

/// Words of the longest sign of listening: "oh yeah all right".
const SIGN_WORDS_MAX: usize = 4;

/// Words by which people show that they listen. "No", "wait" and "what" are none.
const SIGNS: [&str; 24] = [
    "ah",
    "aha",
    "all",
    "alright",
    "cool",
    "fine",
    "good",
    "got",
    "great",
    "i",
    "it",
    "oh",
    "ok",
    "okay",
    "right",
    "see",
    "sure",
    "true",
    "understood",
    "yeah",
    "yep",
    "yes",
    "yup",
    "well",
];

/// Words of [`SIGNS`] that are signs only together with others: "I see", "got it", "all right".
const PARTS_OF_SIGNS: [&str; 5] = ["all", "got", "i", "it", "well"];

/// An answer that was interrupted, until it is known by what.
#[derive(Debug)]
pub(super) struct Interrupted {
    /// Items that were cut, oldest first.
    cut: Vec<ItemId>,
    /// The latest item of it, where it had one.
    item: Option<ItemId>,
    /// Whether anything of it was heard.
    heard: bool,
    /// The answer, where it was still in progress.
    answer: Option<Answer>,
    /// What came for it since, and the bytes of that.
    results: (Vec<Input>, usize),
    source: Option<AnsweredBy>,
    /// Whether it was interrupted by nothing.
    goes_on: bool,
}

impl Call {
    /// The caller seems to speak over an answer. It stops; `cut` are the items of which not all was heard, and how much of each was.
    pub(super) fn pause_answer(&mut self, now: Duration, cut: &[(ItemId, u32)]) {
        let active = self.answer.as_ref().filter(|answer| answer.about.in_conversation);
        let active_in_conversation = active.is_some();
        let item = active.and_then(|answer| answer.item.clone());
        let mut interrupted = Interrupted {
            heard: cut.iter().any(|(_, heard_ms)| *heard_ms > 0) || (cut.is_empty() && item.is_some()),
            item: item.or_else(|| cut.last().map(|(item, _)| item.clone())),
            cut: cut.iter().map(|(item, _)| item.clone()).collect(),
            answer: None,
            results: (Vec::new(), 0),
            source: self.said_last,
            goes_on: false,
        };
        if let Some(mut answer) = self.answer.take_if(|answer| answer.can_go_on()) {
            let name = answer.about.response.clone();
            if answer.text_done.is_some() {
                answer.thinks_as = None;
                self.out.push_back(Output::Cancel { response: name });
            } else {
                answer.thinks_as.get_or_insert_with(|| name.clone());
                self.out.push_back(Output::Hush { response: name });
            }
            self.tell_end(now, &mut answer, Status::Interrupted);
            interrupted.source = answer.source;
            interrupted.answer = Some(answer);
        } else if active_in_conversation {
            self.end_answer(now, Status::Interrupted);
        }
        if interrupted.answer.is_some() || !interrupted.cut.is_empty() {
            self.forget_interrupted();
            self.interrupted = Some(interrupted);
        }
    }

    /// Whether this is about an answer that was interrupted.
    pub(super) fn is_interrupted(&self, response: &ResponseId) -> bool {
        let answer = self.interrupted.as_ref().and_then(|interrupted| interrupted.answer.as_ref());
        answer.is_some_and(|answer| answer.thinks_as.as_ref() == Some(response))
    }

    /// Keeps what comes for an answer that was interrupted.
    pub(super) fn result_while_interrupted(&mut self, input: Input) {
        let Some(interrupted) = &mut self.interrupted else { return };
        let (results, bytes) = &mut interrupted.results;
        if *bytes > TEXT_BYTES_MAX {
            // A model that does not end. Taking what is here ends it.
            return;
        }
        match &input {
            Input::Text { piece, .. } => *bytes += piece.reveal().len(),
            Input::TextDone { .. } | Input::Failed { .. } => {}
            // Audio of it is made again when it is wanted.
            _ => return,
        }
        results.push(input);
    }

    /// Whether an answer was interrupted of which something had been heard.
    pub(super) fn was_interrupted_in_the_middle(&self) -> bool {
        self.interrupted.as_ref().is_some_and(|interrupted| interrupted.heard)
    }

    /// An answer that was interrupted is not wanted any more.
    pub(super) fn forget_interrupted(&mut self) {
        let answer = self.interrupted.take().and_then(|interrupted| interrupted.answer);
        if let Some(response) = answer.and_then(|answer| answer.thinks_as) {
            self.out.push_back(Output::Cancel { response });
        }
    }

    /// What interrupted the answer was nothing. Says whether there is such an answer.
    pub(super) fn interrupted_by_nothing(&mut self) -> bool {
        self.interrupted.as_mut().map(|interrupted| interrupted.goes_on = true).is_some()
    }

    /// Says the rest of an answer that was interrupted by nothing, once the caller is silent and all their words are known. One that
    /// no turn in progress will decide about is forgotten.
    pub(super) fn go_on(&mut self, now: Duration) {
        if self.caller_goes_on() || !self.transcribing.is_empty() {
            return;
        }
        let Some(interrupted) = self.interrupted.take_if(|interrupted| interrupted.goes_on) else {
            return self.forget_interrupted();
        };
        if self.answer.is_some() || self.owed.is_some() {
            // Another one, out of band perhaps, ends first.
            self.interrupted = Some(interrupted);
            return;
        }
        let Interrupted { cut, item, answer, results: (results, _), source, .. } = interrupted;
        let mut left: VecDeque<Phrase> = VecDeque::new();
        for item in cut.iter().filter_map(|item| self.history.get(item)) {
            if let Content::Spoken(speech) = &item.content {
                left.extend(speech.left());
            }
        }
        let mut answer = answer.unwrap_or_else(|| {
            let mut answer = self.answer_to(now, Wish::default(), self.material(), Moments::default());
            answer.text_done = Some(false);
            answer
        });
        left.append(&mut answer.waiting);
        if left.is_empty() && answer.text_done.is_some() && answer.calls.is_empty() {
            // The last word was out.
            self.quiet_since = Some(now);
            return;
        }
        answer.about.response = self.ids.response();
        answer.about.goes_on_with = item;
        answer.stage = Stage::Answering;
        answer.source = source;
        answer.waiting = left;
        answer.speaking = None;
        answer.spoken = 0;
        answer.audio_ms = 0;
        answer.pieces = 0;
        answer.moments = Moments { owed: now, ..Moments::default() };
        answer.progress = now;
        self.put_in_progress(answer);
        for result in results {
            self.take(now, result);
        }
    }

    /// Whether these words of this much audio are a sign of listening to an answer, and not a turn: short, nothing but such words,
    /// and the answer does not end with a question, to which they would be the reply.
    pub(super) fn is_sign_of_listening(&self, words: &str, ms: u32) -> bool {
        let padding = self.settings.turn_detection.as_ref().map_or(0, |d| d.prefix_padding_ms);
        let tail = (TAIL * 1000 / HEARD_HZ) as u32;
        ms.saturating_sub(padding + tail) <= SIGN_MS_MAX && is_sign(words) && !self.asks_something()
    }

    fn asks_something(&self) -> bool {
        let interrupted = self.interrupted.as_ref().and_then(|interrupted| interrupted.answer.as_ref());
        if let Some(phrase) = interrupted.and_then(|answer| answer.waiting.back()) {
            return phrase.words.reveal().ends_with('?');
        }
        let mut said = self.history.items().rev().filter(|item| item.role == Role::Assistant);
        said.find_map(|item| match &item.content {
            Content::Spoken(speech) => Some(speech.text().ends_with('?')),
            _ => None,
        })
        .unwrap_or(false)
    }
}

/// Whether these words show that somebody listens, and say nothing.
pub(super) fn is_sign(words: &str) -> bool {
    let lower = words.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).collect();
    let is_hum = |word: &str| word.chars().all(|c| matches!(c, 'm' | 'h' | 'u'));
    let known = |word: &&str| is_hum(word) || SIGNS.contains(word);
    let alone = |word: &&str| !PARTS_OF_SIGNS.contains(word);
    !words.is_empty()
        && words.len() <= SIGN_WORDS_MAX
        && words.iter().all(known)
        && (words.len() > 1 || words.iter().all(alone))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_listening_are_told_from_words_that_want_an_answer() {
        for sign in [
            "Mm-hmm.",
            "mhm",
            "Hmm.",
            "Uh-huh.",
            "Okay.",
            "OK",
            "Yeah.",
            "Yes.",
            "Right.",
            "Oh, I see.",
            "All right.",
            "Got it.",
            "Sure, okay.",
            "Um",
            "Oh yeah, right.",
            "Good.",
            "Well, okay",
        ] {
            assert!(is_sign(sign), "{sign}");
        }
        for said in [
            "",
            ".",
            "No.",
            "Wait.",
            "Stop",
            "What?",
            "Okay, but when?",
            "It",
            "Well",
            "All",
            "Yes please do that",
            "Hello",
            "I",
            "yeah yeah yeah yeah yeah",
            "human",
            "right now",
            "4",
        ] {
            assert!(!is_sign(said), "{said}");
        }
    }
}
