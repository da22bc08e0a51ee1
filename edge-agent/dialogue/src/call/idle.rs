//! A caller who says nothing any more.
//!
//! Two things can ask them: the client's own `idle_timeout_ms`, with the events of the Realtime API, as often as it likes; or the
//! assistant's file, some times in a row and then with a goodbye. Where the client set the first, the second is not used.

use super::{Call, samples_to_ms};
use crate::{
    events::Event,
    history::{Content, Item, Role},
    ledger::AnsweredBy,
    settings::Silence,
};
use nearfield_shared::pii::Pii;
use std::time::Duration;

/// How often a silent caller was asked.
#[derive(Debug, Default)]
pub(super) struct Asked {
    times: u32,
    /// When the goodbye has been heard.
    over_at: Option<Duration>,
    is_over: bool,
}

impl Asked {
    /// The caller seems to speak after all.
    pub fn take_goodbye_back(&mut self) {
        self.over_at = None;
    }
}

impl Call {
    /// When the caller will have been silent for too long.
    pub(super) fn idle_at(&self) -> Option<Duration> {
        let timeout_ms = self.idle_timeout_ms().or_else(|| self.silence().map(|silence| silence.after_ms))?;
        // A caller who waits for a person hears about that instead.
        let since = self.quiet_since.filter(|_| self.is_at_rest() && !self.hand_over.is_on())?;
        Some(since + Duration::from_millis(timeout_ms.into()))
    }

    /// When the goodbye will have been heard, if the caller does not speak up.
    pub(super) fn over_at(&self) -> Option<Duration> {
        self.asked.over_at.filter(|_| !self.caller_goes_on())
    }

    /// The caller has heard the goodbye.
    pub(super) fn be_over(&mut self) {
        self.asked = Asked { is_over: true, ..Asked::default() };
        self.emit(Event::Goodbye);
    }

    /// The goodbye was said whole.
    pub(super) fn said_goodbye(&mut self, now: Duration) {
        self.asked.over_at = Some(self.playback.runs_out(now));
    }

    /// The caller said, typed or pressed something.
    pub(super) fn caller_is_there(&mut self) {
        self.asked = Asked::default();
    }

    fn idle_timeout_ms(&self) -> Option<u32> {
        self.settings.turn_detection.as_ref()?.idle_timeout_ms
    }

    /// What the assistant asks, where it is the one that answers, aloud, and the call is not over.
    fn silence(&self) -> Option<&Silence> {
        let answers = self.answers_turns() && self.settings.spoken;
        let open = !self.asked.is_over && self.asked.over_at.is_none();
        self.settings.silence.as_ref().filter(|_| answers && open)
    }

    /// The caller is asked whether they are there. The words are the settings' own and no model's, because a small model makes little
    /// of a silence.
    pub(super) fn speak_to_idle_caller(&mut self, now: Duration) {
        let (source, words) = if self.idle_timeout_ms().is_some() {
            self.tell_idle_timeout(now);
            (AnsweredBy::Idle, self.settings.idle.clone())
        } else if let Some(Silence { ask, times, goodbye, .. }) = self.silence().cloned() {
            self.asked.times += 1;
            if self.asked.times <= times { (AnsweredBy::Idle, ask) } else { (AnsweredBy::Goodbye, goodbye) }
        } else {
            return;
        };
        self.begin_to_say(now, source, &words);
    }

    /// The silence becomes an item without words.
    fn tell_idle_timeout(&mut self, now: Duration) {
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
    }
}
