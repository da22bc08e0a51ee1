//! What was said, as the caller knows it: of an answer that was interrupted only the part that was heard.

use crate::{
    ids::ItemId,
    phrases::Phrase,
    tools::{ToolCall, ToolResult, shown_call, shown_result},
};
use nearfield_shared::pii::Pii;
use std::{collections::VecDeque, time::Duration};

/// Items one conversation keeps; beyond it the oldest leaves. Two hundred turns are more than any prompt takes.
pub const ITEMS_MAX: usize = 400;

/// Bytes of text one item may hold.
pub const ITEM_BYTES_MAX: usize = 16 * 1024;

/// Who an item is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The operator or the client's program.
    System,
    /// The caller.
    User,
    /// The voice at this end.
    Assistant,
}

impl Role {
    /// The name in prompts and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// One item of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its name.
    pub id: ItemId,
    /// Who it is from.
    pub role: Role,
    /// What it holds.
    pub content: Content,
    /// Whether nothing more will be added, and nothing was cut off.
    pub complete: bool,
}

/// What an item holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Typed or written text.
    Text(Pii<String>),
    /// Audio of the caller.
    Heard {
        /// Its words, once known.
        transcript: Option<Pii<String>>,
        /// Its length in milliseconds.
        ms: u32,
    },
    /// Audio of an answer.
    Spoken(Speech),
    /// A function that the client is to do.
    Called(ToolCall),
    /// What a function returned.
    Returned(ToolResult),
}

/// A spoken answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Speech {
    /// Its phrases in order.
    pub phrases: Vec<Spoken>,
    /// How much of it the caller heard, in milliseconds; `None` where all of it.
    pub heard_ms: Option<u32>,
    /// Whether the client itself said how much was heard; an estimate does not override that.
    pub heard_by_client: bool,
}

/// One spoken phrase.
#[derive(Debug, Clone, PartialEq)]
pub struct Spoken {
    /// Its words.
    pub text: Pii<String>,
    /// Its length in milliseconds.
    pub ms: u32,
    /// When its first sample is played, by estimate.
    pub starts: Duration,
    /// What was made audio of: more than its words, where only the end of a phrase was said.
    pub phrase: Phrase,
}

impl Speech {
    /// Length of all phrases in milliseconds.
    pub fn ms(&self) -> u32 {
        self.phrases.iter().fold(0, |sum, phrase| sum.saturating_add(phrase.ms))
    }

    /// How much has been played by now, by estimate, in milliseconds.
    pub fn played_ms(&self, now: Duration) -> u32 {
        let played =
            |p: &Spoken| now.saturating_sub(p.starts).min(Duration::from_millis(p.ms.into())).as_millis() as u32;
        self.phrases.iter().fold(0, |sum, phrase| sum.saturating_add(played(phrase)))
    }

    /// All that was sent.
    pub fn text(&self) -> String {
        self.words(u32::MAX)
    }

    /// What the caller heard: whole phrases, and of the one that was cut the words that had time to be said.
    pub fn heard(&self) -> String {
        self.words(self.heard_ms.unwrap_or(u32::MAX))
    }

    /// What is left to say: of the phrase that was cut the words that had no time, and all phrases behind it.
    pub(crate) fn left(&self) -> Vec<Phrase> {
        let mut heard_ms = self.heard_ms.unwrap_or(u32::MAX);
        let mut left = Vec::new();
        for spoken in &self.phrases {
            let (said, words) = spoken.split(heard_ms);
            if !words.is_empty() {
                let mut phrase = spoken.phrase.clone();
                // The beginning of a first word is no word.
                phrase.from_ms += if said.is_empty() { 0 } else { heard_ms.min(spoken.ms) };
                phrase.words = Pii::new(words.join(" "));
                left.push(phrase);
            }
            heard_ms = heard_ms.saturating_sub(spoken.ms);
        }
        left
    }

    fn words(&self, until_ms: u32) -> String {
        let mut left_ms = until_ms;
        let mut out = Vec::new();
        for spoken in &self.phrases {
            out.extend(spoken.split(left_ms).0);
            left_ms = left_ms.saturating_sub(spoken.ms);
        }
        out.join(" ")
    }
}

impl Spoken {
    /// The words that had time to be said in so many milliseconds, and the others.
    fn split(&self, heard_ms: u32) -> (Vec<&str>, Vec<&str>) {
        let mut words: Vec<&str> = self.text.reveal().split_whitespace().collect();
        if heard_ms >= self.ms {
            return (words, Vec::new());
        }
        // Spoken time is shared out by letters, which follows speech closely enough for the place of a word.
        let letters = |w: &[&str]| w.iter().map(|w| w.chars().count() + 1).sum::<usize>();
        let whole = letters(&words).max(1);
        let said = (0..=words.len())
            .take_while(|n| letters(&words[..*n]) * self.ms as usize <= whole * heard_ms as usize)
            .last()
            .unwrap_or(0);
        let left = words.split_off(said);
        (words, left)
    }
}

impl Item {
    /// The words of this item as the caller knows them.
    pub fn words(&self) -> Option<String> {
        match &self.content {
            Content::Text(text) => Some(text.reveal().clone()),
            // A full stop is what a recogniser hears in a cough.
            Content::Heard { transcript, .. } => {
                transcript.as_ref().map(|t| t.reveal().clone()).filter(|words| says_something(words))
            }
            Content::Spoken(speech) => Some(speech.heard()),
            Content::Called(_) | Content::Returned(_) => None,
        }
    }

    /// Milliseconds of the caller's audio in it.
    pub(crate) fn heard_ms(&self) -> u32 {
        if let Content::Heard { ms, .. } = self.content { ms } else { 0 }
    }

    /// This item as the model is told of it; nothing where it holds no words.
    pub(crate) fn message(&self) -> Option<Message> {
        let (role, words) = match &self.content {
            Content::Called(call) => (Role::Assistant, shown_call(call)),
            Content::Returned(result) => (Role::User, shown_result(result)),
            _ => (self.role, self.words()?),
        };
        let words = words.trim();
        (!words.is_empty()).then(|| Message { role, text: Pii::new(words.to_owned()) })
    }
}

/// Whether there is a word in it.
pub(crate) fn says_something(words: &str) -> bool {
    words.chars().any(char::is_alphanumeric)
}

/// A message of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who it is from.
    pub role: Role,
    /// Its text.
    pub text: Pii<String>,
}

/// The items of one conversation, oldest first.
#[derive(Debug, Clone, Default)]
pub struct History {
    items: VecDeque<Item>,
}

impl History {
    /// How many items there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing was said yet.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// An item.
    pub fn get(&self, id: &ItemId) -> Option<&Item> {
        self.items.iter().find(|item| item.id == *id)
    }

    pub(crate) fn get_mut(&mut self, id: &ItemId) -> Option<&mut Item> {
        self.items.iter_mut().find(|item| item.id == *id)
    }

    /// The items, oldest first.
    pub fn items(&self) -> impl DoubleEndedIterator<Item = &Item> {
        self.items.iter()
    }

    /// Adds an item at the end; returns the one before it.
    pub(crate) fn push(&mut self, item: Item) -> Option<ItemId> {
        let previous = self.items.back().map(|item| item.id.clone());
        self.items.push_back(item);
        if self.items.len() > ITEMS_MAX {
            self.items.pop_front();
        }
        previous
    }

    /// Adds an item behind another (`Some(None)` is the beginning); `Err` where that one is not known.
    pub(crate) fn insert(&mut self, after: Option<&ItemId>, item: Item) -> Result<Option<ItemId>, Item> {
        let at = match after {
            None => 0,
            Some(id) => match self.items.iter().position(|item| item.id == *id) {
                Some(at) => at + 1,
                None => return Err(item),
            },
        };
        self.items.insert(at, item);
        if self.items.len() > ITEMS_MAX {
            self.items.pop_front();
        }
        Ok(after.cloned())
    }

    pub(crate) fn remove(&mut self, id: &ItemId) -> bool {
        let before = self.items.len();
        self.items.retain(|item| item.id != *id);
        self.items.len() != before
    }

    /// Marks what is still being played as heard only up to now; returns the items that were cut, oldest first.
    pub(crate) fn cut_playback(&mut self, now: Duration) -> Vec<(ItemId, u32)> {
        let mut cut = Vec::new();
        for item in self.items.iter_mut().rev().take(8) {
            let Content::Spoken(speech) = &mut item.content else { continue };
            let played = speech.played_ms(now);
            if played < speech.ms() && speech.heard_ms.is_none_or(|heard| !speech.heard_by_client && heard > played) {
                speech.heard_ms = Some(played);
                cut.push((item.id.clone(), played));
            }
        }
        cut.reverse();
        cut
    }

    /// Whether the latest item is what a function returned, so that the caller waits for words about it.
    pub(crate) fn ends_with_result(&self) -> bool {
        self.items.back().is_some_and(|item| matches!(item.content, Content::Returned(_)))
    }

    /// Takes an estimated cut back: the caller is taken to have heard all of it.
    pub(crate) fn uncut(&mut self, id: &ItemId) {
        if let Some(Item { content: Content::Spoken(speech), complete: true, .. }) = self.get_mut(id)
            && !speech.heard_by_client
        {
            speech.heard_ms = None;
        }
    }

    /// What the caller said since the last answer of which they heard something, as one text.
    pub fn asked(&self) -> Pii<String> {
        let mut words: Vec<String> = Vec::new();
        for item in self.items.iter().rev() {
            match item.role {
                Role::User => words.extend(item.words()),
                Role::Assistant if item.words().is_none_or(|w| w.is_empty()) => {}
                Role::Assistant => break,
                Role::System => {}
            }
        }
        words.reverse();
        words.retain(|w| !w.trim().is_empty());
        Pii::new(words.join(" "))
    }

    /// The conversation as a prompt: instructions first, then as many of the latest items as fit, the last one always.
    pub fn prompt(&self, instructions: &str, chars_max: usize) -> Vec<Message> {
        let mut system = instructions.trim().to_owned();
        for item in self.items.iter().filter(|item| item.role == Role::System) {
            if let Some(words) = item.words() {
                system.push_str(if system.is_empty() { "" } else { "\n" });
                system.push_str(words.trim());
            }
        }
        let mut messages: Vec<(Role, String)> = Vec::new();
        let mut left = chars_max;
        let mut cut = false;
        let said = self
            .items
            .iter()
            .rev()
            .filter(|item| item.role != Role::System || matches!(item.content, Content::Returned(_)));
        for Message { role, text: words } in said.filter_map(Item::message) {
            let words = words.reveal();
            let chars = words.chars().count();
            if chars > left && !messages.is_empty() {
                cut = true;
                break;
            }
            let kept: String = words.chars().skip(chars.saturating_sub(left)).collect();
            left = left.saturating_sub(chars);
            match messages.last_mut() {
                // Two turns of the same side follow each other where an answer was never heard: one message to the model.
                Some((latest, text)) if *latest == role => *text = format!("{kept} {text}"),
                _ => messages.push((role, kept)),
            }
        }
        // A prompt that begins with our own words, their question cut away, would only confuse.
        if cut && messages.last().is_some_and(|(role, _)| *role == Role::Assistant) {
            messages.pop();
        }
        if !system.is_empty() {
            messages.push((Role::System, system));
        }
        messages.reverse();
        messages.into_iter().map(|(role, text)| Message { role, text: Pii::new(text) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoken(phrases: &[(&str, u32)]) -> Speech {
        let mut starts = Duration::ZERO;
        let mut speech = Speech::default();
        for (text, ms) in phrases {
            let phrase = Phrase::whole((*text).to_owned(), false);
            speech.phrases.push(Spoken { text: phrase.words.clone(), ms: *ms, starts, phrase });
            starts += Duration::from_millis((*ms).into());
        }
        speech
    }

    fn text(n: u32, role: Role, words: &str) -> Item {
        Item {
            id: ItemId::from_client(&format!("i{n}")),
            role,
            content: Content::Text(Pii::new(words.into())),
            complete: true,
        }
    }

    #[test]
    fn only_what_was_heard_counts() {
        let mut speech = spoken(&[("We open at nine.", 1000), ("We close at five in the afternoon.", 2000)]);
        let mut check = |heard, expect: &str| {
            speech.heard_ms = heard;
            assert_eq!(speech.heard(), expect, "{heard:?}");
        };
        check(None, "We open at nine. We close at five in the afternoon.");
        check(Some(0), "");
        check(Some(999), "We open at");
        check(Some(1000), "We open at nine.");
        check(Some(2000), "We open at nine. We close at five");
        check(Some(3000), "We open at nine. We close at five in the afternoon.");
    }

    #[test]
    fn what_was_not_heard_is_left() {
        let mut speech = spoken(&[("We open at nine.", 1000), ("We close at five.", 2000)]);
        let mut check = |heard, expect: &[(&str, u32)]| {
            speech.heard_ms = heard;
            let left = speech.left();
            let left: Vec<_> = left.iter().map(|phrase| (phrase.words.reveal().as_str(), phrase.from_ms)).collect();
            assert_eq!(left, expect, "{heard:?}");
        };
        check(None, &[]);
        check(Some(0), &[("We open at nine.", 0), ("We close at five.", 0)]);
        check(Some(100), &[("We open at nine.", 0), ("We close at five.", 0)]);
        check(Some(600), &[("at nine.", 600), ("We close at five.", 0)]);
        check(Some(1000), &[("We close at five.", 0)]);
        check(Some(2100), &[("at five.", 1100)]);
        check(Some(3000), &[]);
    }

    #[test]
    fn a_pause_between_phrases_is_not_playback() {
        let mut speech = spoken(&[("One.", 1000), ("Two.", 1000)]);
        speech.phrases[1].starts = Duration::from_millis(5000);
        for (now, played) in [(500, 500), (1000, 1000), (4000, 1000), (5500, 1500), (9000, 2000)] {
            assert_eq!(speech.played_ms(Duration::from_millis(now)), played, "{now}");
        }
    }

    #[test]
    fn a_prompt_keeps_the_latest_and_joins_what_was_cut_apart() {
        let mut history = History::default();
        history.push(text(1, Role::User, "first question"));
        history.push(text(2, Role::Assistant, "first answer"));
        history.push(text(3, Role::User, "second"));
        history.push(text(4, Role::User, "question"));
        let show = |chars_max| {
            let show = |m: &Message| format!("{}:{}", m.role.as_str(), m.text.reveal());
            history.prompt("Be kind.", chars_max).iter().map(show).collect::<Vec<_>>().join("|")
        };
        assert_eq!(show(1000), "system:Be kind.|user:first question|assistant:first answer|user:second question");
        assert_eq!(show(30), "system:Be kind.|user:second question");
        assert_eq!(show(3), "system:Be kind.|user:ion");
        assert_eq!(history.asked().reveal(), "second question");
    }

    #[test]
    fn the_oldest_item_makes_room() {
        let mut history = History::default();
        (0..ITEMS_MAX as u32 + 5).for_each(|n| drop(history.push(text(n, Role::User, "x"))));
        assert_eq!(history.len(), ITEMS_MAX);
        assert!(history.get(&ItemId::from_client("i0")).is_none());
    }
}
