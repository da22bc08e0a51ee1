//! Answers beside the conversation: no caller waits for them, so they neither wait for it nor hold it up.
//!
//! A client asks for one to learn something (a summary, a category, a line for a screen), not to have it heard. So it is begun at once,
//! whatever else is in progress, and its audio counts in nobody's playback: the client tells it apart by its response. Where all audio
//! goes through one track that the caller hears (WebRTC, a telephone), a spoken one waits in line instead; a written one does not.
//!
//! What is wanted for it is wanted later than anything for the conversation that was asked for before it, and the shell gives it the
//! places of those who are in no call.
//!
//! Invariant: the conversation is the same with answers beside it and without (`tests/beside.rs`).

use super::{
    Call,
    answer::{Answer, Material},
    notice::Held,
};
use crate::{
    events::{Event, Wish},
    ids::ResponseId,
    ledger::Moments,
};
use std::time::Duration;

/// Answers beside the conversation that are in progress or wait. Who asks for more at once is refused.
pub const BESIDE_MAX: usize = 4;

/// How much later than the last of what the caller hears an answer beside the conversation is wanted: more than anything of the
/// conversation itself is put off.
pub(super) const BESIDE_PATIENCE: Duration = Duration::from_secs(2);

impl Call {
    /// Whether an answer like this is given beside the conversation, and not in line with what the caller hears.
    pub(super) fn runs_beside(&self, wish: &Wish) -> bool {
        let is_heard = self.settings.one_track && wish.spoken.unwrap_or(self.settings.spoken);
        wish.out_of_band && !is_heard
    }

    /// Whether this one is in progress beside the conversation.
    pub(super) fn is_beside(&self, response: &ResponseId) -> bool {
        self.beside.iter().any(|answer| answer.about.response == *response)
    }

    /// How many of them there are, those that wait among them.
    pub(super) fn are_beside(&self) -> usize {
        self.beside.len() + self.held.iter().filter(|held| held.wish.out_of_band).count()
    }

    /// When work for an answer is wanted that is wanted at once if a caller waits for it, and whether it is beside the conversation.
    pub(super) fn wanted(&self, now: Duration, response: &ResponseId) -> (Duration, bool) {
        if self.is_beside(response) { (self.playback.runs_out(now) + BESIDE_PATIENCE, true) } else { (now, false) }
    }

    pub(super) fn begin_beside(&mut self, now: Duration, wish: Wish, material: Material, moments: Moments) {
        let answer = self.answer_to(now, wish, material, moments);
        self.emit(Event::ResponseCreated(answer.about.clone()));
        self.beside.push(answer);
    }

    /// Begins those that waited for the notice alone.
    pub(super) fn begin_held_beside(&mut self, now: Duration) {
        if self.notice_is_to_be_said() {
            return;
        }
        while let Some(at) = self.held.iter().position(|held| self.runs_beside(&held.wish)) {
            let Some(Held { wish, material, moments }) = self.held.remove(at) else { return };
            self.begin_beside(now, wish, material, moments);
            self.continue_waiting_answers(now);
        }
    }

    /// Has what is ready of them spoken, and ends those of which everything is said.
    pub(super) fn speak_beside(&mut self, now: Duration) {
        let name = |answer: &Answer| answer.about.response.clone();
        for response in self.beside.iter().map(name).collect::<Vec<_>>() {
            if let Some(ended) = self.speak_phrase(now, &response) {
                self.end(now, &response, ended);
            }
        }
    }
}
