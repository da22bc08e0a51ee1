//! What the caller types on a telephone's keys.

use super::{Call, Owed};
use crate::{
    events::Event,
    history::{Content, Item, Role},
    keys::Key,
    ledger::Moments,
};
use std::time::Duration;

impl Call {
    /// A key stops an answer as speech does: whoever knows a menu does not listen to it.
    pub(super) fn press(&mut self, now: Duration, key: Key) {
        self.quiet_since = None;
        self.caller_is_there();
        self.emit(Event::KeyPressed(key));
        if self.is_deaf() {
            return;
        }
        if self.settings.turn_detection.as_ref().is_some_and(|d| d.interrupt_response) {
            self.interrupt(now);
            // Nobody presses a key by mistake, as they cough.
            self.cut_by_estimate.clear();
            self.forget_interrupted();
        }
        if self.keys.press(now, key) {
            self.keys_are_whole(now);
        }
    }

    /// What was typed becomes an item, and where turns are answered, it is answered.
    pub(super) fn keys_are_whole(&mut self, now: Duration) {
        let content = Content::Text(self.keys.take());
        let item = Item { id: self.ids.item(), role: Role::User, content, complete: true };
        let previous = self.history.push(item.clone());
        self.greeted = true;
        self.unheard = false;
        self.emit(Event::ItemAdded { item, previous });
        if self.answers_turns() {
            self.owe(Owed { moments: Moments { owed: now, ..Moments::default() }, fault: None });
        }
    }
}
