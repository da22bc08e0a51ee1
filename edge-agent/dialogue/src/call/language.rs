//! A caller whose language no model here speaks is told so, once, before the greeting or as soon as it is known.
//!
//! It is a response outside of the conversation, as the notice of the law is: it says nothing that a model or a transcript needs. What a
//! client asks for meanwhile comes after it; it may be cancelled.

use super::Call;
use crate::ledger::AnsweredBy;
use std::time::Duration;

impl Call {
    /// The settings have changed what is to be said about the caller's language.
    pub(super) fn note_language(&mut self, before: Option<String>) {
        self.tells_language =
            self.settings.not_spoken.is_some() && (self.tells_language || self.settings.not_spoken != before);
    }

    /// Begins to say it where it is to be said and nothing stands in its way.
    pub(super) fn tell_language(&mut self, now: Duration) {
        let free = self.answer.is_none() && !self.waits() && !self.listener.in_turn();
        let free = free && !self.notice_is_to_be_said() && !self.person_has_call();
        if free && std::mem::take(&mut self.tells_language) {
            let words = self.settings.not_spoken.clone().unwrap_or_default();
            self.say_aside(now, AnsweredBy::Language, &words);
        }
    }

    /// Whether it is being said.
    pub(super) fn language_is_told(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.source == Some(AnsweredBy::Language))
    }
}
