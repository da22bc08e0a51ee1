//! The answer's side: begin, cut into phrases, speak, end. Where its words come from stands in `think`.

use super::{Call, Owed, WORK_MAX};
use crate::{
    events::{About, Called, Ended, Event, Fault, Output, Status, Uttered, Wish},
    history::{Content, Item, Role, Speech, Spoken},
    ids::{ItemId, ResponseId},
    ledger::{AnsweredBy, Moments},
    phrases::{Phrase, Phraser},
    tools::{CallReader, ToolCall, Tools, Wanted},
};
use nearfield_shared::pii::Pii;
use std::{collections::VecDeque, time::Duration};

/// A greeting may come this much later than an answer: nobody has asked for it yet, and it delays the answers of other calls.
const GREETING_PATIENCE: Duration = Duration::from_millis(500);

/// How far speech that goes on may step back to a quiet moment: about a word, so that little is heard twice.
const STEP_BACK_MS: u32 = 300;

/// The length of a quiet moment: the gap of a plosive is shorter, that between two words is not.
const QUIET_MS: u32 = 20;

/// Samples per second of an answer's audio.
const SPOKEN_HZ: u64 = 24_000;

/// An answer in progress.
#[derive(Debug)]
pub(super) struct Answer {
    pub about: About,
    /// The name under which its text still comes, where it goes on with an answer that was interrupted.
    pub thinks_as: Option<ResponseId>,
    pub stage: Stage,
    pub source: Option<AnsweredBy>,
    pub instructions: Option<String>,
    /// Items that it is to instead of the conversation.
    pub input: Option<Vec<Item>>,
    pub facts: Vec<String>,
    pub tools: Tools,
    /// Finds calls in the model's text, where tools were offered.
    pub reader: Option<CallReader>,
    pub calls: Vec<Wanted>,
    pub tokens_max: usize,
    /// The item, once the first word is out.
    pub item: Option<ItemId>,
    /// The item before it.
    pub previous: Option<ItemId>,
    /// Words that were sent.
    pub sent: String,
    pub phraser: Phraser,
    pub waiting: VecDeque<Phrase>,
    pub speaking: Option<u32>,
    pub spoken: u32,
    pub text_bytes: usize,
    /// Characters that were cut into phrases.
    phrased_chars: usize,
    pub pieces: u32,
    /// Whether all text is here, and whether it was cut off.
    pub text_done: Option<bool>,
    pub audio_ms: u32,
    pub moments: Moments,
    pub progress: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// For the words of what the caller said before.
    Waiting,
    /// For what the assistant knows.
    Matching,
    /// Text arrives, or is all here.
    Answering,
}

impl Answer {
    /// When the work in progress has taken too long. Waiting for words has its own limit.
    pub fn deadline(&self) -> Option<Duration> {
        (self.stage != Stage::Waiting).then_some(self.progress + WORK_MAX)
    }

    /// Whether every word of the conversation so far goes into it.
    pub fn covers_conversation(&self) -> bool {
        self.about.in_conversation && self.input.is_none()
    }

    /// Whether it can be interrupted and go on later: then it has, or is about to have, phrases that are spoken.
    pub fn can_go_on(&self) -> bool {
        self.about.in_conversation && self.about.spoken && self.stage == Stage::Answering
    }

    /// Whether it answers to what the caller said; a greeting does not.
    pub fn answers_caller(&self) -> bool {
        !matches!(
            self.source,
            Some(
                AnsweredBy::Greeting
                    | AnsweredBy::Idle
                    | AnsweredBy::Goodbye
                    | AnsweredBy::Filler
                    | AnsweredBy::Notice
                    | AnsweredBy::Language
            )
        )
    }
}

/// What an answer is made from, besides instructions.
#[derive(Debug)]
pub(super) struct Material {
    /// Items instead of the conversation.
    pub input: Option<Vec<Item>>,
    pub tools: Tools,
}

impl Call {
    /// The conversation and its tools. An answer that begins by itself and is about what a function returned is never forced to call
    /// one again, or calls would go round in circles.
    pub(super) fn material(&self) -> Material {
        let tools = &self.settings.tools;
        let tools = if self.history.ends_with_result() { tools.unforced() } else { tools.clone() };
        Material { input: None, tools }
    }

    /// Begins an answer that a client or the end of a turn asks for.
    pub(super) fn begin_answer(&mut self, now: Duration, wish: Wish, material: Material, moments: Moments) {
        let answer = self.answer_to(now, wish, material, moments);
        self.put_in_progress(answer);
    }

    /// An answer of which nothing is known but what it is to.
    pub(super) fn answer_to(&mut self, now: Duration, wish: Wish, material: Material, moments: Moments) -> Answer {
        let begun = self.begun.as_ref().map(|begun| begun.response().clone());
        let about = About {
            response: begun.unwrap_or_else(|| self.ids.response()),
            goes_on_with: None,
            spoken: wish.spoken.unwrap_or(self.settings.spoken),
            in_conversation: !wish.out_of_band,
            tokens_max: wish.tokens_max,
            audio_format: wish.audio_format,
            metadata: wish.metadata,
        };
        Answer {
            about,
            thinks_as: None,
            stage: Stage::Waiting,
            source: None,
            instructions: wish.instructions,
            input: material.input,
            facts: Vec::new(),
            tools: material.tools,
            reader: None,
            calls: Vec::new(),
            tokens_max: wish.tokens_max.unwrap_or(self.settings.tokens_max),
            item: None,
            previous: None,
            sent: String::new(),
            phraser: Phraser::new(),
            waiting: VecDeque::new(),
            speaking: None,
            spoken: 0,
            text_bytes: 0,
            phrased_chars: 0,
            pieces: 0,
            text_done: None,
            audio_ms: 0,
            moments,
            progress: now,
        }
    }

    /// From here on this is the answer. Where it is part of the conversation, one that was interrupted is not wanted any more.
    pub(super) fn put_in_progress(&mut self, answer: Answer) {
        if answer.about.in_conversation {
            self.forget_interrupted();
        }
        self.emit(Event::ResponseCreated(answer.about.clone()));
        self.greeted |= !matches!(answer.source, Some(AnsweredBy::Notice | AnsweredBy::Language));
        self.quiet_since = None;
        self.asked.take_goodbye_back();
        self.answer = Some(answer);
    }

    pub(super) fn begin_greeting(&mut self, now: Duration, greeting: &str) {
        self.begin_answer(now, Wish::default(), self.material(), Moments { owed: now, ..Moments::default() });
        self.say(now, AnsweredBy::Greeting, greeting);
    }

    /// An automatic answer begins when no other is in progress, the caller is silent and does not type, and all their words are known.
    pub(super) fn begin_owed_answer(&mut self, now: Duration) {
        let waits = self.caller_goes_on() || !self.transcribing.is_empty() || !self.functions.are_done();
        if self.answer.is_some() || waits {
            return;
        }
        if self.owed.is_some() && self.notice_goes_first(now) {
            return;
        }
        let Some(Owed { mut moments, fault }) = self.owed.take() else { return };
        if let Some(fault) = fault {
            self.begin_answer(now, Wish::default(), self.material(), moments);
            return self.end_answer(now, Status::Failed(fault));
        }
        let (begun, results) = self.take_guess(now).unzip();
        moments.wasted = self.ahead.take_wasted();
        self.begun = begun;
        self.begin_answer(now, Wish::default(), self.material(), moments);
        self.continue_waiting_answer(now);
        // What was thought ahead happens now, in its order.
        for result in results.into_iter().flatten() {
            self.take(now, result);
            self.speak_next(now);
        }
    }

    /// Whether the caller speaks or types.
    pub(super) fn caller_goes_on(&self) -> bool {
        self.listener.in_turn() || self.keys.whole_at().is_some()
    }

    pub(super) fn take_text(&mut self, now: Duration, response: &ResponseId, piece: &str) {
        let Some(answer) = self.active(response) else { return };
        answer.progress = now;
        if answer.about.spoken {
            let phrases = answer.phraser.push(piece);
            self.take_phrases(now, phrases);
            self.be_brief(now, response);
        } else if !piece.is_empty() {
            answer.moments.first_phrase.get_or_insert(now);
            self.sent_words(piece.to_owned());
        }
    }

    /// Ends the text of a long answer with the sentence that makes it long. That is a whole answer, not one cut off.
    fn be_brief(&mut self, now: Duration, response: &ResponseId) {
        let chars_max = self.settings.spoken_chars_max;
        let Some(answer) = self.active(response) else { return };
        let by_model = answer.source == Some(AnsweredBy::Model);
        if !by_model || answer.text_done.is_some() || answer.phrased_chars < chars_max {
            return;
        }
        if answer.waiting.back().is_some_and(|phrase| phrase.words.reveal().ends_with(['.', '!', '?', '"'])) {
            answer.text_done = Some(false);
            answer.progress = now;
            self.out.push_back(Output::StopGenerating { response: response.clone() });
        }
    }

    pub(super) fn take_phrases(&mut self, now: Duration, phrases: Vec<String>) {
        let Some(answer) = &mut self.answer else { return };
        if !phrases.is_empty() {
            answer.moments.first_phrase.get_or_insert(now);
        }
        answer.phrased_chars += phrases.iter().map(|phrase| phrase.chars().count()).sum::<usize>();
        let own = answer.source != Some(AnsweredBy::Model);
        answer.waiting.extend(phrases.into_iter().map(|text| Phrase::whole(text, own)));
    }

    /// Has the next phrase spoken, one at a time, or ends the answer when there is nothing left to say.
    pub(super) fn speak_next(&mut self, now: Duration) {
        let Some(answer) = &mut self.answer else { return };
        if answer.speaking.is_some() {
            return;
        }
        // It stays at the head of the queue: words count as said only when their audio leaves.
        if let Some(Phrase { text, own: keep, .. }) = answer.waiting.front().cloned() {
            let phrase = answer.spoken;
            answer.spoken += 1;
            answer.speaking = Some(phrase);
            answer.progress = now;
            let response = answer.about.response.clone();
            let patience = if answer.answers_caller() { Duration::ZERO } else { GREETING_PATIENCE };
            let due = self.playback.runs_out(now) + patience;
            self.request(Output::Speak { response, phrase, text, keep, due });
        } else if let Some(cut_off) = answer.text_done {
            self.end_answer(now, if cut_off { Status::CutOff } else { Status::Completed });
            self.go_on_after_notice(now);
            self.begin_owed_answer(now);
            self.go_on(now);
            if self.answer.is_some() {
                self.speak_next(now);
            }
        }
    }

    pub(super) fn rendered(&mut self, now: Duration, response: &ResponseId, phrase: u32, mut samples: Vec<f32>) {
        let wanted = |answer: &&mut Answer| answer.about.response == *response && answer.speaking == Some(phrase);
        let Some(answer) = self.answer.as_mut().filter(wanted) else { return };
        answer.speaking = None;
        answer.progress = now;
        answer.moments.first_audio.get_or_insert(now);
        let Some(mut phrase) = answer.waiting.pop_front() else { return };
        if phrase.from_ms > 0 {
            let from = quiet_before(&samples, phrase.from_ms);
            phrase.from_ms = (from as u64 * 1000 / SPOKEN_HZ) as u32;
            samples.drain(..from);
        }
        let ms = u32::try_from(samples.len() as u64 * 1000 / SPOKEN_HZ).unwrap_or(u32::MAX);
        answer.audio_ms = answer.audio_ms.saturating_add(ms);
        let first = answer.sent.is_empty();
        let words = phrase.words.reveal();
        let item = self.sent_words(if first { words.clone() } else { format!(" {words}") });
        self.listener.answered();
        let starts = self.playback.sent(now, ms);
        if let Some(item) = self.history.get_mut(&item)
            && let Content::Spoken(speech) = &mut item.content
        {
            speech.phrases.push(Spoken { text: phrase.words.clone(), ms, starts, phrase });
        }
        self.out.push_back(Output::Audio { response: response.clone(), item, samples });
    }

    /// Words leave: the first ones make the item.
    fn sent_words(&mut self, words: String) -> ItemId {
        let Some(answer) = &mut self.answer else { return self.ids.item() };
        answer.sent.push_str(&words);
        let about = answer.about.clone();
        let item = match &answer.item {
            Some(item) => item.clone(),
            None => {
                let item = self.ids.item();
                answer.item = Some(item.clone());
                let content =
                    if about.spoken { Content::Spoken(Speech::default()) } else { Content::Text(Pii::default()) };
                let previous = if about.in_conversation {
                    self.history.push(Item { id: item.clone(), role: Role::Assistant, content, complete: false })
                } else {
                    None
                };
                answer.previous = previous.clone();
                self.out.push_back(Output::Event(Event::OutputStarted {
                    about: about.clone(),
                    item: item.clone(),
                    previous,
                }));
                item
            }
        };
        if let Some(item) = self.history.get_mut(&item)
            && let Content::Text(text) = &mut item.content
        {
            *text = std::mem::take(text).map(|text| text + &words);
        }
        self.emit(Event::Said { about, item: item.clone(), words: Pii::new(words) });
        item
    }

    pub(super) fn failed(&mut self, now: Duration, response: &ResponseId, fault: Fault) {
        if self.active(response).is_some() {
            self.end_answer(now, Status::Failed(fault));
        }
    }

    /// The words of a turn could not be found: an answer that waits for them fails aloud. Says whether that was the answer to
    /// the turn.
    pub(super) fn fail_waiting_answer(&mut self, now: Duration, fault: &Fault) -> bool {
        let Some(answer) = self.answer.as_ref().filter(|answer| answer.stage == Stage::Waiting) else { return false };
        let covers = answer.covers_conversation();
        self.end_answer(now, Status::Failed(fault.clone()));
        covers
    }

    /// Ends the answer in progress.
    pub(super) fn end_answer(&mut self, now: Duration, status: Status) {
        let Some(mut answer) = self.answer.take() else { return };
        if status != Status::Completed {
            let names = answer.thinks_as.take().into_iter().chain([answer.about.response.clone()]);
            self.out.extend(names.map(|response| Output::Cancel { response }));
        }
        self.tell_end(now, &mut answer, status);
    }

    /// An answer is not in progress any more. It is told of here alone, so that it ends once.
    pub(super) fn tell_end(&mut self, now: Duration, answer: &mut Answer, status: Status) {
        self.begun = None;
        if matches!(status, Status::Interrupted | Status::Cancelled) && answer.about.in_conversation {
            self.history.cut_playback(now);
            self.playback.stop(now);
        }
        if let Some(item) = answer.item.as_ref().and_then(|item| self.history.get_mut(item)) {
            item.complete = status == Status::Completed;
        }
        if answer.about.in_conversation {
            self.said_last = answer.source;
            // Whoever calls a function goes on by itself.
            let said = answer.calls.is_empty() && matches!(status, Status::Completed | Status::CutOff);
            self.quiet_since = said.then(|| self.playback.runs_out(now));
        }
        if answer.about.in_conversation && status == Status::Completed && answer.calls.is_empty() {
            self.answered(now, answer.source, &answer.sent);
        }
        if answer.source == Some(AnsweredBy::Language) {
            // It is outside of the conversation, but from here on the caller hears nothing.
            self.quiet_since = Some(self.playback.runs_out(now));
        }
        self.may_have_announced(now, &answer.about.response);
        if answer.source == Some(AnsweredBy::Notice) {
            self.notice_ended(now, &status);
        }
        if status == Status::Completed && answer.source == Some(AnsweredBy::Goodbye) {
            self.said_goodbye(now);
        }
        let ledger = answer.moments.ledger(now, answer.source, answer.audio_ms, answer.pieces);
        let (previous, words) = (answer.previous.take(), Pii::new(std::mem::take(&mut answer.sent)));
        let output = answer.item.take().map(|item| Uttered { item, previous, words });
        let calls = if status == Status::Completed { std::mem::take(&mut answer.calls) } else { Vec::new() };
        let in_conversation = answer.about.in_conversation;
        let calls = calls.into_iter().map(|call| self.call_function(call, &answer.tools, in_conversation));
        let calls: Vec<Called> = calls.collect();
        let (response, first) = (answer.about.response.clone(), usize::from(output.is_some()));
        let ended = Ended { about: answer.about.clone(), output, calls: calls.clone(), status, ledger };
        self.emit(Event::ResponseEnded(Box::new(ended)));
        self.do_functions(now, &response, first, calls);
    }

    /// Makes an item of a call.
    fn call_function(&mut self, wanted: Wanted, tools: &Tools, in_conversation: bool) -> Called {
        let Wanted { name, arguments } = wanted;
        let by = tools.done_by(&name);
        let call = ToolCall { by, call_id: self.ids.call(), name, arguments: Pii::new(arguments) };
        let item = self.ids.item();
        let content = Content::Called(call.clone());
        let made = Item { id: item.clone(), role: Role::Assistant, content, complete: true };
        let previous = if in_conversation { self.history.push(made) } else { None };
        Called { item, previous, call }
    }

    pub(super) fn active(&mut self, response: &ResponseId) -> Option<&mut Answer> {
        let named =
            |answer: &&mut Answer| answer.about.response == *response || answer.thinks_as.as_ref() == Some(response);
        self.answer.as_mut().filter(named)
    }
}

/// Where to begin in the audio of a phrase that was heard up to here: the quietest moment shortly before, so that no word begins in
/// its middle.
fn quiet_before(samples: &[f32], heard_ms: u32) -> usize {
    let at = |ms: u32| (u64::from(ms) * SPOKEN_HZ / 1000) as usize;
    let until = at(heard_ms).min(samples.len());
    let window = at(QUIET_MS);
    let starts = (until.saturating_sub(at(STEP_BACK_MS))..(until + 1).saturating_sub(window)).step_by(window / 2);
    let energy = |start: &usize| samples[*start..*start + window].iter().map(|s| s * s).sum::<f32>();
    starts.min_by(|a, b| energy(a).total_cmp(&energy(b))).map_or(until, |start| start + window / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speech_goes_on_from_a_quiet_moment_shortly_before() {
        let mut samples = vec![0.5f32; SPOKEN_HZ as usize];
        let at = |ms: usize| ms * 24;
        samples[at(600)..at(640)].fill(0.0);
        let from = quiet_before(&samples, 800) / 24;
        assert!((600..640).contains(&from), "{from}");
        // A quiet moment long before is another word's.
        let from = quiet_before(&samples, 990) / 24;
        assert!((690..990).contains(&from), "{from}");
        assert_eq!(quiet_before(&samples, 10), at(10));
        assert!(quiet_before(&samples, 5_000) <= samples.len());
        assert_eq!(quiet_before(&[], 500), 0);
    }
}
