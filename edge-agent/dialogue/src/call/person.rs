//! A person has the call: they took over, the caller was told so, and the assistant is silent.
//!
//! From the words `accepted` on nothing is said by itself: no turn is answered, no silence is asked about, no other hand-over begins. What
//! the client asks for is still done, because whoever asks knows of the person. The assistant comes back when the client says so.
//!
//! What a caller and a person say to each other is none of the assistant's business. Unless a transcript of the call may be kept
//! ([`Settings::hears_with_person`](crate::settings::Settings::hears_with_person)), it is not listened to: audio is passed over as it comes,
//! and nothing of it is kept, transcribed or committed. Otherwise turns are heard and written as before.

use super::Call;
use crate::events::{Event, Refusal};
use std::time::Duration;

impl Call {
    /// Whether a person has the call, so that the assistant is silent.
    pub fn person_has_call(&self) -> bool {
        self.hand_over.has_person()
    }

    /// Whether the end of a turn begins an answer.
    pub(super) fn answers_turns(&self) -> bool {
        self.settings.turn_detection.as_ref().is_some_and(|d| d.create_response) && !self.person_has_call()
    }

    /// Whether the caller's audio is passed over.
    pub(super) fn is_deaf(&self) -> bool {
        self.person_has_call() && !self.settings.hears_with_person
    }

    /// All audio so far is forgotten, a turn in progress with it.
    pub(super) fn pass_over(&mut self, now: Duration) {
        self.throw_away(now);
        self.listener.forget(self.arrived);
        self.listener.skip_to(self.arrived);
        self.buffer_from = self.arrived;
        self.turn_item = None;
        self.asked_turn_model = None;
        self.unheard = false;
    }

    /// The client wants the assistant back.
    pub(super) fn resume(&mut self, now: Duration) -> Result<(), Refusal> {
        if self.is_deaf() {
            self.pass_over(now);
        }
        if !self.hand_over.take_back() {
            return Err(Refusal {
                code: "no_person",
                message: "no person has taken over this call, so the assistant is not silent".into(),
                param: None,
            });
        }
        self.quiet_since = self.answer.is_none().then(|| self.playback.runs_out(now));
        self.emit(Event::Resumed);
        Ok(())
    }

    /// Nobody commits what must not be listened to.
    pub(super) fn unless_deaf(&self) -> Result<(), Refusal> {
        if !self.is_deaf() {
            return Ok(());
        }
        Err(Refusal {
            code: "person_has_call",
            message: "a person has taken over this call and no transcript of it may be kept, so it is not listened to; send nearfield.hand_over.resume first"
                .into(),
            param: None,
        })
    }
}
