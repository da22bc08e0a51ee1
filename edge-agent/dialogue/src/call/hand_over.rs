//! Handing a call to a person: when it happens besides being asked for, and the words while the caller waits.
//!
//! A **misunderstanding** is a turn after which the caller is no further: at least [`MISHEARD_MS_MIN`] of what the detector took for speech in
//! which no word was found, or an answer of the model in which it says that it does not know ([`does_not_know`]). Any other answer
//! begins the count again. The recogniser tells no confidence, so a transcript that is merely wrong is not noticed.
//!
//! A caller is **upset** when the mean [`sentiment`] of their last two turns with words is low enough: one harsh word is not the mood.
//!
//! While the caller waits the conversation goes on: what they ask is answered. When nobody speaks, they are told from time to time that
//! they are still waiting, until a person takes over, none will, or the time is over. Where what carries the call can put them through by
//! itself (a telephone), nobody waits: when they have heard that they will be, the call is over, or whoever carries it is asked to do so
//! and the call is over when that was done. What comes after a person took over stands in `person`.

use super::{Call, WORK_MAX};
use crate::{
    events::{Event, HandOverEnd, HandOverReason, Output, Refusal, Wish},
    ids::ResponseId,
    ledger::{AnsweredBy, Moments},
    sentiment::sentiment,
    settings::Transfers,
};
use std::time::Duration;

/// Audio of a turn without words, in milliseconds, from which on it counts as a misunderstanding: 300 ms of it come from before the first
/// sound and half a second from after the last, so less may be a cough.
const MISHEARD_MS_MIN: u32 = 1_500;

/// How a model says that it does not know, in small letters.
const DOES_NOT_KNOW: [&str; 14] = [
    "i don't know",
    "i do not know",
    "i'm not sure",
    "i am not sure",
    "i don't have that information",
    "i do not have that information",
    "i don't have information",
    "i do not have information",
    "i don't have any information",
    "i don't understand",
    "i do not understand",
    "i didn't understand",
    "i can't help with that",
    "i cannot help with that",
];

/// What is waiting to be said, and why.
#[derive(Debug)]
struct Announcement {
    words: String,
    /// Whether a hand-over begins with it.
    reason: Option<HandOverReason>,
    /// Whether a person has the call from then on.
    takes_over: bool,
}

/// The state of handing over.
#[derive(Debug, Default)]
pub(super) struct HandOver {
    misunderstandings: u8,
    /// How the turn before felt.
    felt: Option<f32>,
    announcement: Option<Announcement>,
    waiting: Option<Waiting>,
    transfer: Option<Transfer>,
    has_person: bool,
}

/// A caller who is put through.
#[derive(Debug)]
enum Transfer {
    /// This answer tells them.
    Announced(ResponseId),
    /// They will have heard it then.
    At(Duration),
    /// Whoever carries the call was asked to do it, since then.
    Asked(Duration),
    /// They are.
    Done,
}

#[derive(Debug)]
struct Waiting {
    until: Duration,
    /// When the caller is told again, if nobody speaks before.
    told_again: Duration,
}

impl HandOver {
    /// Whether a caller waits for a person, has one, or is about to be told something about it.
    pub fn is_on(&self) -> bool {
        self.waiting.is_some() || self.announcement.is_some() || self.transfer.is_some() || self.has_person
    }

    /// Whether a person has the call.
    pub fn has_person(&self) -> bool {
        self.has_person
    }

    /// The assistant has the call again, or is to keep it; says whether a person had it, or was about to.
    pub fn take_back(&mut self) -> bool {
        let about_to = self.announcement.take_if(|announcement| announcement.takes_over).is_some();
        let had = std::mem::take(&mut self.has_person) || about_to;
        if had {
            *self = Self::default();
        }
        had
    }
}

/// Whether an answer says that it is none.
pub(super) fn does_not_know(answer: &str) -> bool {
    let answer = answer.to_lowercase().replace('\u{2019}', "'");
    DOES_NOT_KNOW.iter().any(|words| answer.contains(words))
}

impl Call {
    /// A turn had no words in it.
    pub(super) fn heard_no_words(&mut self, ms: u32) {
        if ms >= MISHEARD_MS_MIN {
            self.misunderstood();
        }
    }

    /// An answer has been given.
    pub(super) fn answered(&mut self, now: Duration, source: Option<AnsweredBy>, words: &str) {
        match source {
            Some(AnsweredBy::Model) if does_not_know(words) => self.misunderstood(),
            Some(AnsweredBy::Unheard) => {}
            Some(source) if source.is_about_question() => self.hand_over.misunderstandings = 0,
            _ => {}
        }
        self.tell_again_after(now);
    }

    fn misunderstood(&mut self) {
        let Some(rules) = &self.settings.hand_over else { return };
        self.hand_over.misunderstandings = self.hand_over.misunderstandings.saturating_add(1);
        if rules.misunderstandings > 0 && self.hand_over.misunderstandings >= rules.misunderstandings {
            self.announce_hand_over(HandOverReason::Misunderstood);
        }
    }

    /// The caller said something.
    pub(super) fn caller_said(&mut self, words: &str) {
        let Some(threshold) = self.settings.hand_over.as_ref().and_then(|rules| rules.sentiment) else { return };
        let feels = sentiment(words);
        let felt = self.hand_over.felt.replace(feels);
        if felt.is_some_and(|felt| (felt + feels) / 2.0 <= threshold) {
            // Whoever comes is to be met with fresh patience.
            self.hand_over.felt = None;
            self.announce_hand_over(HandOverReason::Upset);
        }
    }

    /// Has a hand-over begin by itself, unless one has.
    fn announce_hand_over(&mut self, reason: HandOverReason) {
        let Some(rules) = self.settings.hand_over.as_ref().filter(|_| !self.hand_over.is_on()) else { return };
        self.hand_over.announcement =
            Some(Announcement { words: rules.words.clone(), reason: Some(reason), takes_over: false });
    }

    /// An answer hands the call over. Told once, however often the caller asks while they wait.
    pub(super) fn begin_hand_over(&mut self, now: Duration, response: &ResponseId, reason: HandOverReason) {
        self.hand_over.misunderstandings = 0;
        let HandOver { waiting, transfer, has_person, .. } = &self.hand_over;
        if waiting.is_some() || transfer.is_some() || *has_person {
            return;
        }
        self.hand_over.announcement = None;
        if let Some(rules) = &self.settings.hand_over {
            if rules.transfers != Transfers::No {
                self.hand_over.transfer = Some(Transfer::Announced(response.clone()));
            } else if !rules.wait.is_zero() {
                self.hand_over.waiting = Some(Waiting { until: now + rules.wait, told_again: now + rules.told_every });
            }
        }
        self.emit(Event::HandedOver { response: response.clone(), reason });
    }

    /// A person takes over, or none will: the caller is told.
    pub(super) fn end_hand_over(&mut self, end: HandOverEnd) -> Result<(), Refusal> {
        if self.hand_over.waiting.take().is_none() {
            return Err(Refusal {
                code: "no_hand_over",
                message: "no hand-over is waiting in this call, so nothing was ended".into(),
                param: None,
            });
        }
        self.tell_hand_over_ended(end);
        Ok(())
    }

    fn tell_hand_over_ended(&mut self, end: HandOverEnd) {
        self.emit(Event::HandOverEnded { end });
        let takes_over = end == HandOverEnd::Accepted;
        // One that is waiting was begun by these rules; they are the assistant's, and stay.
        let Some(rules) = &self.settings.hand_over else { return };
        let words = if takes_over { rules.accepted.clone() } else { rules.closed.clone() };
        self.hand_over.announcement = Some(Announcement { words, reason: None, takes_over });
    }

    /// When something is to be said to a caller who waits, if nothing happens before.
    pub(super) fn hand_over_at(&self) -> Option<Duration> {
        let waiting = self.hand_over.waiting.as_ref().filter(|_| self.is_at_rest())?;
        Some(waiting.until.min(waiting.told_again))
    }

    /// An answer has ended, however. If it told the caller that they are put through, they are once it was heard.
    pub(super) fn may_have_announced(&mut self, now: Duration, ended: &ResponseId) {
        if matches!(&self.hand_over.transfer, Some(Transfer::Announced(response)) if response == ended) {
            self.hand_over.transfer = Some(Transfer::At(self.playback.runs_out(now)));
        }
    }

    /// The caller has heard what they are going to hear of the announcement.
    pub(super) fn put_through_by(&mut self, now: Duration) {
        if let Some(Transfer::At(at)) = &mut self.hand_over.transfer {
            *at = now.min(*at);
        }
    }

    /// When the caller is put through, or is not any more, if nothing happens before.
    pub(super) fn transfer_at(&self) -> Option<Duration> {
        match self.hand_over.transfer {
            Some(Transfer::At(at)) => Some(at),
            Some(Transfer::Asked(since)) => Some(since + WORK_MAX),
            _ => None,
        }
    }

    /// The caller is put through, which ends the call; or whoever carries the call is asked to do so, and did not in time.
    pub(super) fn transfer(&mut self, now: Duration) {
        let asks = self.settings.hand_over.as_ref().is_some_and(|rules| rules.transfers == Transfers::ByAsking);
        match self.hand_over.transfer {
            Some(Transfer::Asked(_)) => self.put_through(false),
            _ if asks => {
                self.hand_over.transfer = Some(Transfer::Asked(now));
                self.out.push_back(Output::PutThrough);
            }
            _ => self.transferred(),
        }
    }

    /// Whoever carries the call has put the caller through, or does not; then the caller is told that nobody is free, and the
    /// conversation goes on.
    pub(super) fn put_through(&mut self, done: bool) {
        let Some(Transfer::Asked(_)) = self.hand_over.transfer else { return };
        if done {
            return self.transferred();
        }
        self.hand_over.transfer = None;
        self.tell_hand_over_ended(HandOverEnd::Closed);
    }

    fn transferred(&mut self) {
        self.hand_over.transfer = Some(Transfer::Done);
        self.emit(Event::HandOverEnded { end: HandOverEnd::Transferred });
    }

    /// Says what is to be said, when nothing else is being said or heard.
    pub(super) fn speak_to_waiting_caller(&mut self, now: Duration) {
        if self.hand_over.waiting.as_ref().is_some_and(|waiting| waiting.until <= now && self.is_at_rest()) {
            // It is waiting, so it can be ended.
            let _ended = self.end_hand_over(HandOverEnd::NobodyCame);
        }
        if !self.is_at_rest() {
            return;
        }
        if let Some(Announcement { words, reason, takes_over }) = self.hand_over.announcement.take() {
            let moments = Moments { owed: now, ..Moments::default() };
            let response = self.begin_answer(now, Wish::default(), self.material(), moments);
            if let Some(reason) = reason {
                self.begin_hand_over(now, &response, reason);
            }
            self.say(now, &response, AnsweredBy::HandOver, &words);
            self.hand_over.has_person = takes_over;
            if self.is_deaf() {
                self.pass_over(now);
            }
            return self.speak_next(now);
        }
        let is_due = self.hand_over.waiting.as_ref().is_some_and(|waiting| waiting.told_again <= now);
        let words = self.settings.hand_over.as_ref().filter(|_| is_due).map(|rules| rules.waiting.clone());
        if let Some(words) = words {
            self.tell_again_after(now);
            self.begin_to_say(now, AnsweredBy::Filler, &words);
            self.speak_next(now);
        }
    }

    /// The caller has just heard something, or is hearing it.
    fn tell_again_after(&mut self, now: Duration) {
        let silent_from = self.playback.runs_out(now);
        if let (Some(waiting), Some(rules)) = (&mut self.hand_over.waiting, &self.settings.hand_over) {
            waiting.told_again = silent_from + rules.told_every;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::does_not_know;

    #[test]
    fn an_answer_that_is_none_is_noticed() {
        for none in ["I don't know.", "I\u{2019}m not sure about that.", "Sorry, I do not have information on that."] {
            assert!(does_not_know(none), "{none}");
        }
        for answer in ["You should know that we close at six.", "I am sure of it.", "We do not know each other.", ""] {
            assert!(!does_not_know(answer), "{answer}");
        }
    }
}
