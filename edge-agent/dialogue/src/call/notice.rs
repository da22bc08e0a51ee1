//! What the law of a region wants every caller to be told before anything else.
//!
//! It is a response of its own, outside of the conversation: no model sees it and no transcript holds it. Nobody can cut it short:
//! while it is said and heard, the caller's audio is kept and not listened to, so that no client throws its audio away because
//! somebody spoke; cancelling is refused; and an answer that a client asks for meanwhile comes after it.
//!
//! Invariant: where a notice is demanded, no audio and no word of anything else is sent before all of it (`tests/notice.rs`).

use super::{Call, answer::Material};
use crate::{
    events::{Event, Refusal, Status, Wish},
    ledger::{AnsweredBy, Moments},
};
use std::time::Duration;

/// How often it is tried to say it, before the call is given up.
const ATTEMPTS_MAX: u32 = 3;

/// How far the notice is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// None is demanded.
    #[default]
    None,
    /// It is to be said; so many attempts have failed.
    Due(u32),
    /// It is being said; so many attempts have failed before.
    Speaking(u32),
    /// All of it was sent, and will have been heard by then.
    Sent(Duration),
    /// It was heard.
    Heard,
    /// It cannot be said, so nothing else is.
    Failed,
}

/// An answer that a client wants and that waits for the notice, or for the answer in progress to end. At most one of them is of the
/// conversation; how many there are beside it is bounded by [`BESIDE_MAX`](super::beside::BESIDE_MAX).
#[derive(Debug)]
pub(super) struct Held {
    pub wish: Wish,
    pub material: Material,
    pub moments: Moments,
}

impl Call {
    /// Takes note of whether the settings demand a notice. One that was told once is not told again.
    pub(super) fn note_notice(&mut self) {
        self.notice = match (self.notice, &self.settings.notice) {
            (Notice::None, Some(_)) => Notice::Due(0),
            (Notice::Due(_), None) => Notice::None,
            (notice, _) => notice,
        };
    }

    /// Begins the notice where it is due. Says whether everything else still has to wait for it.
    pub(super) fn notice_goes_first(&mut self, now: Duration) -> bool {
        if let Notice::Due(failed) = self.notice
            && self.answer.is_none()
            && let Some(words) = self.settings.notice.clone()
        {
            self.notice = Notice::Speaking(failed);
            self.say_aside(now, AnsweredBy::Notice, &words);
        }
        self.notice_is_to_be_said()
    }

    /// Whether not all of the notice has been sent.
    pub(super) fn notice_is_to_be_said(&self) -> bool {
        matches!(self.notice, Notice::Due(_) | Notice::Speaking(_) | Notice::Failed)
    }

    /// Says words of our own outside of the conversation. The greeting comes after them.
    pub(super) fn say_aside(&mut self, now: Duration, source: AnsweredBy, words: &str) {
        let wish = Wish { out_of_band: true, ..Wish::default() };
        let mut answer = self.answer_to(now, wish, self.material(), Moments { owed: now, ..Moments::default() });
        answer.source = Some(source);
        let response = answer.about.response.clone();
        self.put_in_progress(answer);
        self.say(now, &response, source, words);
    }

    /// Whether the caller is not listened to, because of the notice.
    pub(super) fn notice_is_on(&self) -> bool {
        self.notice != Notice::None && self.notice != Notice::Heard
    }

    /// When the notice will have been heard.
    pub(super) fn notice_heard_at(&self) -> Option<Duration> {
        if let Notice::Sent(until) = self.notice { Some(until) } else { None }
    }

    /// The answer that is the notice has ended.
    pub(super) fn notice_ended(&mut self, now: Duration, status: &Status) {
        let Notice::Speaking(failed) = self.notice else { return };
        self.notice = match status {
            Status::Completed => {
                let heard_at = self.playback.runs_out(now);
                self.quiet_since = Some(heard_at);
                Notice::Sent(heard_at)
            }
            _ if failed + 1 < ATTEMPTS_MAX => Notice::Due(failed + 1),
            _ => {
                // FAILURE LADDER: what the law demands first cannot be left out, so without it there is no call.
                self.emit(Event::NoticeFailed);
                Notice::Failed
            }
        };
    }

    /// Tries again what failed, or begins what waited for the notice.
    pub(super) fn go_on_after_notice(&mut self, now: Duration) {
        if self.notice_heard_at().is_some_and(|at| at <= now) {
            self.notice = Notice::Heard;
        }
        self.tell_language(now);
        self.begin_held_beside(now);
        let again = matches!(self.notice, Notice::Due(failed) if failed > 0);
        // What answers the caller goes before what a client wants beside the conversation.
        let beside = self.held.front().is_some_and(|held| held.wish.out_of_band);
        let waits_for_owed = beside && self.owed.is_some();
        let holds = !self.held.is_empty() && !waits_for_owed;
        if self.answer.is_some() || !(again || holds || self.greets) {
            return;
        }
        if !self.notice_goes_first(now) {
            if let Some(Held { wish, material, moments }) = self.held.pop_front_if(|_| holds) {
                self.begin_answer(now, wish, material, moments);
                self.continue_waiting_answers(now);
            } else if std::mem::take(&mut self.greets) {
                self.say_greeting(now);
            }
        }
    }

    /// Nobody skips the notice.
    pub(super) fn unless_notice_is_on(&self) -> Result<(), Refusal> {
        if !self.notice_is_on() {
            return Ok(());
        }
        Err(Refusal {
            code: "notice_cannot_be_skipped",
            message:
                "the law of this region wants the caller to hear this notice; what comes after it can be cancelled"
                    .into(),
            param: None,
        })
    }
}
