//! Work that is done before it is certain that it is wanted: words while the caller still speaks, and at a likely pause the
//! words of the whole turn and the answer to them.
//!
//! What is heard ahead at a pause covers exactly the audio that the turn will have if the caller says no more, so it is the
//! turn's transcript and not a guess at it. The answer is thought on the conversation as it will then be. If the caller goes on,
//! both are thrown away and counted ([`crate::ledger::Ledger::speculative_waste_ms`]).
//!
//! Invariant: nothing of an answer leaves before the turn is committed; until then its results are only kept.
//! Invariant: an answer that was begun ahead is the one that would have been begun at the commit: same question, same prompt.

use super::{Call, resume::is_sign};
use crate::{
    events::{Event, Fault, Found, Input, Output},
    history::{Content, History, Item, Message, Role, says_something},
    ids::{ItemId, ResponseId},
    listen::{FRAME, HEARD_HZ, TAIL},
    phrases::Phraser,
    tools::{CallReader, Reading},
};
use nearfield_shared::pii::Pii;
use std::{ops::Range, time::Duration};

/// Speech between two partial transcripts: 320 ms.
const PARTIAL_EVERY: u64 = 10 * FRAME;

/// A turn longer than this gets no more partial transcripts: each of them hears all of it again.
const PARTIAL_AUDIO_MAX: u64 = 20 * HEARD_HZ;

/// Work that waits for the device, beyond which partial transcripts come half as often, and beyond which there are none.
const PARTIAL_BACKLOG_MS: (u128, u128) = (80, 250);

/// Work that waits for the device, beyond which nothing is heard ahead. Four of five pauses of this length end a turn, so little is
/// lost by it; what is lost is other calls' time.
const HEAR_BACKLOG_MS: u128 = 600;

/// Work that waits for the device, beyond which no answer is thought ahead: a prompt is the most that a call can ask for.
const THINK_BACKLOG_MS: u128 = 200;

/// How long after its words are known a turn is usually committed: until then its answer lets the work of others go first.
const COMMIT_IN: Duration = Duration::from_millis(150);

/// What is being done and was done ahead for the turn in progress.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Grows with each transcript that is asked for, so that a late one is told from the one that is waited for.
    attempts: u32,
    hearing: Option<Hearing>,
    heard: Option<Heard>,
    guess: Option<Guess>,
    partial: Partial,
    partial_at: u64,
    partials_fail: bool,
    /// Where the last attempt to hear the whole turn ended, so that each pause is tried once.
    tried_until: u64,
    wasted: Duration,
}

/// A transcript that is being made.
#[derive(Debug)]
struct Hearing {
    attempt: u32,
    range: Range<u64>,
    began: Duration,
    whole: bool,
}

/// The words of the whole turn, if it ends here.
#[derive(Debug)]
struct Heard {
    range: Range<u64>,
    words: Pii<String>,
    began: Duration,
    took: Duration,
}

/// An answer that is thought before the turn is committed.
#[derive(Debug)]
struct Guess {
    response: ResponseId,
    question: Pii<String>,
    spoken: bool,
    tokens_max: usize,
    facts: Vec<String>,
    /// What the model was asked, once it was.
    prompt: Option<Vec<Message>>,
    /// Finds calls in the model's text, where tools were offered.
    reader: Option<CallReader>,
    phraser: Phraser,
    first_phrase: Option<String>,
    results: Vec<Input>,
    began: Duration,
}

/// What was already asked for, for the answer in progress.
#[derive(Debug)]
pub(super) struct Begun {
    response: ResponseId,
    matching: bool,
    thinking: bool,
    first_phrase: Option<String>,
}

/// The words of a turn that was committed, as far as they were heard ahead.
pub(super) enum Words {
    /// They are known.
    Known(Pii<String>, Duration),
    /// They are on their way, under this attempt.
    Coming(u32, Duration),
    /// They must be asked for, under this attempt.
    Unknown(u32),
}

/// What a client has been told of a turn's words while it was spoken. Only words on which two transcripts in a row agree are told,
/// so that what was told rarely has to be taken back.
#[derive(Debug, Default)]
pub(super) struct Partial {
    last: Vec<String>,
    told: Vec<String>,
}

impl Partial {
    /// Takes a transcript of the turn so far; returns the words that can now be told.
    fn take(&mut self, words: &str) -> Option<String> {
        let new: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let agreed = new.iter().zip(&self.last).take_while(|(a, b)| a == b).count();
        let more = new[..agreed].strip_prefix(self.told.as_slice()).map(<[String]>::to_vec);
        self.last = new;
        let more = more.filter(|more| !more.is_empty() && says_something(&more.concat()))?;
        Some(self.tell(more))
    }

    /// What is left to tell of the whole transcript; nothing where it contradicts what was told.
    pub fn rest(mut self, whole: &str) -> String {
        if self.told.is_empty() {
            return whole.trim().to_owned();
        }
        let words: Vec<String> = whole.split_whitespace().map(str::to_owned).collect();
        match words.strip_prefix(self.told.as_slice()) {
            Some(rest) if !rest.is_empty() => self.tell(rest.to_vec()),
            _ => String::new(),
        }
    }

    fn tell(&mut self, more: Vec<String>) -> String {
        let space = if self.told.is_empty() { "" } else { " " };
        let text = format!("{space}{}", more.join(" "));
        self.told.extend(more);
        text
    }
}

impl Ahead {
    /// A number for the next transcript.
    fn attempt(&mut self) -> u32 {
        self.attempts += 1;
        self.attempts
    }

    /// What was thrown away since the last look.
    pub fn take_wasted(&mut self) -> Duration {
        std::mem::take(&mut self.wasted)
    }

    /// What the client was told of the turn's words.
    pub fn take_partial(&mut self) -> Partial {
        std::mem::take(&mut self.partial)
    }

    /// The words of the turn that ends with this audio.
    pub fn take_words(&mut self, range: &Range<u64>, now: Duration) -> Words {
        let heard = self.heard.take_if(|heard| heard.range == *range);
        if let Some(Heard { words, began, .. }) = heard {
            return Words::Known(words, began);
        }
        match self.hearing.take() {
            Some(Hearing { attempt, range: of, began, whole: true }) if of == *range => Words::Coming(attempt, began),
            Some(hearing) => {
                self.wasted += now.saturating_sub(hearing.began);
                Words::Unknown(self.attempt())
            }
            None => Words::Unknown(self.attempt()),
        }
    }
}

impl Call {
    /// Takes note of how much work waits for the device. The more there is, the less is done ahead.
    pub fn note_backlog(&mut self, backlog: Duration) {
        self.backlog = backlog;
    }

    /// A turn began.
    pub(super) fn begin_ahead(&mut self, now: Duration) {
        self.throw_away(now);
        self.ahead = Ahead {
            attempts: self.ahead.attempts,
            wasted: self.ahead.wasted,
            partial_at: self.listener.position() + PARTIAL_EVERY,
            ..Ahead::default()
        };
    }

    /// After each frame: begins what is worth beginning, and throws away what the caller made useless by going on.
    pub(super) fn work_ahead(&mut self, now: Duration) {
        let (Some((from, speech_end)), Some(item)) = (self.listener.turn(), self.turn_item.clone()) else { return };
        let until = speech_end + TAIL;
        let went_on = |range: &Range<u64>| range.end != until;
        let whole = self.ahead.hearing.as_ref().filter(|hearing| hearing.whole);
        if whole.is_some_and(|hearing| went_on(&hearing.range))
            || self.ahead.heard.as_ref().is_some_and(|h| went_on(&h.range))
        {
            self.throw_away(now);
        }
        let position = self.listener.position();
        if position >= until {
            if self.ahead.tried_until != until && self.backlog.as_millis() <= HEAR_BACKLOG_MS {
                self.ahead.tried_until = until;
                self.hear_ahead(now, item, from..until, true);
            }
        } else if position == speech_end && position >= self.ahead.partial_at {
            let every = match self.backlog.as_millis() {
                _ if !self.settings.partial_words || self.ahead.partials_fail => return,
                ms if ms > PARTIAL_BACKLOG_MS.1 => return,
                ms if ms > PARTIAL_BACKLOG_MS.0 => 2 * PARTIAL_EVERY,
                _ => PARTIAL_EVERY,
            };
            if self.ahead.hearing.is_none() && position - from <= PARTIAL_AUDIO_MAX {
                self.ahead.partial_at = position + every;
                self.hear_ahead(now, item, from..position, false);
            }
        }
    }

    fn hear_ahead(&mut self, now: Duration, item: ItemId, range: Range<u64>, whole: bool) {
        let attempt = self.ahead.attempt();
        // A partial transcript that is still being made is given up by the shell: there is one at a time for each item.
        self.ahead.hearing = Some(Hearing { attempt, range: range.clone(), began: now, whole });
        self.out.push_back(Output::Transcribe { item, attempt, range, partial: !whole });
    }

    /// A transcript that was asked for ahead.
    pub(super) fn words_ahead(&mut self, now: Duration, id: &ItemId, attempt: u32, words: Result<Pii<String>, Fault>) {
        if self.turn_item.as_ref() != Some(id) {
            return;
        }
        let Some(hearing) = self.ahead.hearing.take_if(|hearing| hearing.attempt == attempt) else { return };
        let took = now.saturating_sub(hearing.began);
        let Ok(words) = words else {
            self.ahead.partials_fail = true;
            self.ahead.wasted += took;
            return;
        };
        if self.settings.partial_words
            && let Some(more) = self.ahead.partial.take(words.reveal())
        {
            self.emit(Event::TranscribedPart { item: id.clone(), words: Pii::new(more) });
        }
        if hearing.whole {
            self.think_ahead(now, &words);
            self.ahead.heard = Some(Heard { range: hearing.range, words, began: hearing.began, took });
        }
    }

    /// Begins the answer to the turn as it is if the caller says no more.
    fn think_ahead(&mut self, now: Duration, words: &Pii<String>) {
        let answers = self.answers_turns();
        let free = self.answer.is_none() && self.owed.is_none() && self.transcribing.is_empty();
        let free = free && self.functions.are_done();
        // Where calls are demanded, nothing is compared first.
        let free = free && !self.settings.tools.are_forced();
        if self.turn_over_answer && is_sign(words.reveal()) {
            return;
        }
        if !answers || !free || !says_something(words.reveal()) || self.backlog.as_millis() > THINK_BACKLOG_MS {
            return;
        }
        let question = self.history_with(words).asked();
        let response = self.ids.response();
        self.ahead.guess = Some(Guess {
            response: response.clone(),
            question: question.clone(),
            spoken: self.settings.spoken,
            tokens_max: self.settings.tokens_max,
            facts: Vec::new(),
            prompt: None,
            reader: None,
            phraser: Phraser::new(),
            first_phrase: None,
            results: Vec::new(),
            began: now,
        });
        self.out.push_back(Output::Match { response, question, due: now, beside: false });
    }

    /// The conversation as it will be when this turn is committed and its words are known.
    fn history_with(&self, words: &Pii<String>) -> History {
        let mut history = self.history.clone();
        let content = Content::Heard { transcript: Some(words.clone()), ms: 0 };
        history.push(Item { id: ItemId::from_client(""), role: Role::User, content, complete: true });
        history
    }

    /// Whether this is about an answer that is thought ahead.
    pub(super) fn is_ahead(&self, response: &ResponseId) -> bool {
        self.ahead.guess.as_ref().is_some_and(|guess| guess.response == *response)
    }

    /// Keeps a result of an answer that is thought ahead, and asks for what comes next.
    pub(super) fn result_ahead(&mut self, now: Duration, input: Input) {
        let words = self.ahead.heard.as_ref().map(|heard| heard.words.clone());
        let prompt = match (&input, &words) {
            (Input::Matched { found: Found::Nothing { facts }, .. }, Some(words))
                if self.backlog.as_millis() <= THINK_BACKLOG_MS =>
            {
                let history = self.history_with(words);
                let tools = self.offered(&history);
                Some((facts.clone(), self.prompt(&history, None, facts, tools.as_ref()), tools))
            }
            _ => None,
        };
        let Some(guess) = &mut self.ahead.guess else { return };
        let response = guess.response.clone();
        if let Some((facts, prompt, tools)) = prompt {
            guess.facts = facts;
            guess.reader = tools.map(CallReader::new);
            guess.prompt = Some(prompt.clone());
            let tokens_max = guess.tokens_max;
            let due = now + COMMIT_IN;
            let response = response.clone();
            self.out.push_back(Output::Generate { response, prompt, tokens_max, due, beside: false });
        }
        let phrases = match &input {
            Input::Failed { .. } => return self.throw_guess_away(now),
            Input::Text { piece, .. } => match &mut guess.reader {
                Some(reader) => guess.phraser.push(&reader.push(piece.reveal())),
                None => guess.phraser.push(piece.reveal()),
            },
            Input::TextDone { cut_off, .. } => match guess.reader.take().map(CallReader::finish) {
                None => guess.finish("", *cut_off),
                Some(Reading::Words(rest)) => guess.finish(&rest, *cut_off),
                // A call is nothing to say; it is read again at the commit.
                Some(_) => Vec::new(),
            },
            _ => Vec::new(),
        };
        guess.results.push(input);
        if guess.spoken
            && guess.first_phrase.is_none()
            && let Some(text) = phrases.into_iter().next()
        {
            guess.first_phrase = Some(text.clone());
            let text = Pii::new(text);
            let due = now + COMMIT_IN;
            self.out.push_back(Output::Speak { response, phrase: 0, text, keep: false, due, beside: false });
        }
    }

    /// The answer that was thought ahead, if it is the one that is wanted now: its name, what was asked for and what is there.
    pub(super) fn take_guess(&mut self, now: Duration) -> Option<(Begun, Vec<Input>)> {
        let guess = self.ahead.guess.as_ref()?;
        let tools = self.offered(&self.history);
        let same_prompt =
            |prompt: &Vec<Message>| *prompt == self.prompt(&self.history, None, &guess.facts, tools.as_ref());
        let holds = guess.question == self.history.asked()
            && guess.spoken == self.settings.spoken
            && guess.tokens_max == self.settings.tokens_max
            && guess.prompt.as_ref().is_none_or(same_prompt);
        if !holds {
            self.throw_guess_away(now);
            return None;
        }
        let guess = self.ahead.guess.take()?;
        let begun = Begun {
            response: guess.response,
            matching: true,
            thinking: guess.prompt.is_some(),
            first_phrase: guess.first_phrase,
        };
        Some((begun, guess.results))
    }

    /// Asks for work of the answer in progress, unless it was asked for ahead.
    pub(super) fn request(&mut self, output: Output) {
        let begun = self.begun.as_mut();
        let done = begun.is_some_and(|begun| match &output {
            Output::Match { response, .. } if *response == begun.response => std::mem::take(&mut begun.matching),
            Output::Generate { response, .. } if *response == begun.response => std::mem::take(&mut begun.thinking),
            Output::Speak { response, phrase: 0, text, .. } if *response == begun.response => {
                begun.first_phrase.take_if(|first| first == text.reveal()).is_some()
            }
            _ => false,
        });
        if !done {
            self.out.push_back(output);
        }
    }

    /// The caller went on, or the turn came to nothing: stops what is done ahead, and counts it.
    pub(super) fn throw_away(&mut self, now: Duration) {
        if let Some(hearing) = self.ahead.hearing.take() {
            self.ahead.wasted += now.saturating_sub(hearing.began);
            if let Some(item) = self.turn_item.clone() {
                self.out.push_back(Output::GiveUpWords { item });
            }
        }
        if let Some(heard) = self.ahead.heard.take() {
            self.ahead.wasted += heard.took;
        }
        self.throw_guess_away(now);
    }

    fn throw_guess_away(&mut self, now: Duration) {
        if let Some(guess) = self.ahead.guess.take() {
            self.ahead.wasted += now.saturating_sub(guess.began);
            self.out.push_back(Output::Cancel { response: guess.response });
        }
    }
}

impl Guess {
    /// The last phrases of a text that is complete.
    fn finish(&mut self, rest: &str, cut_off: bool) -> Vec<String> {
        let mut phrases = self.phraser.push(rest);
        phrases.extend(if cut_off { self.phraser.finish_cut_off() } else { self.phraser.finish() });
        phrases
    }
}

impl Begun {
    /// The answer's name.
    pub fn response(&self) -> &ResponseId {
        &self.response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_two_transcripts_agree_on_is_told_and_never_taken_back() {
        let check = |transcripts: &[&str], whole: &str, told: &[&str]| {
            let mut partial = Partial::default();
            let mut deltas: Vec<String> = transcripts.iter().filter_map(|words| partial.take(words)).collect();
            let rest = partial.rest(whole);
            deltas.extend((!rest.is_empty()).then_some(rest));
            assert_eq!(deltas, told, "{transcripts:?}, {whole}");
        };
        check(&[], "When are you open?", &["When are you open?"]);
        check(&["When.", "When are", "When are you"], "When are you open?", &["When are", " you open?"]);
        check(&["go", "go", "go"], "go", &["go"]);
        check(&["go for", "go forward"], "go forward ten", &["go", " forward ten"]);
        check(&["four ten", "four ten", "forward ten"], "forward ten", &["four ten"]);
        check(&[".", "."], "", &[]);
    }
}
