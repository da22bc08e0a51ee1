//! A caller who says nothing any more.

use super::{Call, samples_to_ms};
use crate::{
    events::{Event, Wish},
    history::{Content, Item, Role},
    ledger::{AnsweredBy, Moments},
};
use nearfield_shared::pii::Pii;
use std::time::Duration;

impl Call {
    /// When the caller will have been silent for too long.
    pub(super) fn idle_at(&self) -> Option<Duration> {
        let timeout_ms = self.settings.turn_detection.as_ref()?.idle_timeout_ms?;
        // A caller who waits for a person hears about that instead.
        let since = self.quiet_since.filter(|_| self.is_at_rest() && !self.hand_over.is_on())?;
        Some(since + Duration::from_millis(timeout_ms.into()))
    }

    /// The silence becomes an item without words, and the caller is asked whether they are there. The words are the settings' own
    /// and no model's, because a small model makes little of a silence.
    pub(super) fn speak_to_idle_caller(&mut self, now: Duration) {
        let since = self.quiet_since.take().unwrap_or(now);
        let before = |(until, at): &&(u64, Duration)| *at <= since && *until <= self.arrived;
        let start_ms = samples_to_ms(self.arrivals.iter().rev().find(before).map_or(0, |(until, _)| *until));
        let end_ms = samples_to_ms(self.arrived);
        let id = self.ids.item();
        self.emit(Event::IdleTimeout { item: id.clone(), start_ms, end_ms });
        let ms = u32::try_from(end_ms - start_ms).unwrap_or(u32::MAX);
        let content = Content::Heard { transcript: Some(Pii::default()), ms };
        let item = Item { id: id.clone(), role: Role::User, content, complete: true };
        let previous = self.history.push(item.clone());
        self.emit(Event::Committed { item: id.clone(), previous: previous.clone() });
        self.emit(Event::ItemAdded { item, previous });
        self.emit(Event::Transcribed { item: id, words: Pii::default(), rest: Pii::default(), ms });
        self.begin_answer(now, Wish::default(), self.material(), Moments { owed: now, ..Moments::default() });
        let words = self.settings.idle.clone();
        self.say(now, AnsweredBy::Idle, &words);
    }
}
