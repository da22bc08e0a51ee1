//! The answer's side: begin, cut into phrases, speak, end. Where its words come from stands in `think`.

use super::{Call, Owed, WORK_MAX};
use crate::{
    events::{About, Called, Ended, Event, Fault, Output, Status, Uttered, Wish},
    history::{Content, Item, Role},
    ids::{ItemId, ResponseId},
    ledger::{AnsweredBy, Moments},
    phrases::{Phrase, Phraser},
    tools::{CallReader, ToolCall, Tools, Wanted},
};
use nearfield_shared::pii::Pii;
use std::{collections::VecDeque, time::Duration};

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
    pub phrased_chars: usize,
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
        let of_its_own = matches!(self.source, Some(AnsweredBy::Idle | AnsweredBy::Goodbye | AnsweredBy::Filler));
        !of_its_own && !self.opens_call()
    }

    /// Whether a call opens with it, before anybody asked for anything.
    pub fn opens_call(&self) -> bool {
        matches!(self.source, Some(AnsweredBy::Greeting | AnsweredBy::Notice | AnsweredBy::Language))
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

    /// Begins an answer that a client or the end of a turn asks for; gives its name, which is that of one that was begun ahead.
    pub(super) fn begin_answer(
        &mut self,
        now: Duration,
        wish: Wish,
        material: Material,
        moments: Moments,
    ) -> ResponseId {
        let mut answer = self.answer_to(now, wish, material, moments);
        if let Some(begun) = &self.begun {
            answer.about.response = begun.response().clone();
        }
        let response = answer.about.response.clone();
        self.put_in_progress(answer);
        response
    }

    /// Begins to say words of our own to the caller, which are whole already; gives the name of the answer that says them.
    pub(super) fn begin_to_say(&mut self, now: Duration, source: AnsweredBy, words: &str) -> ResponseId {
        let moments = Moments { owed: now, ..Moments::default() };
        let response = self.begin_answer(now, Wish::default(), self.material(), moments);
        self.say(now, &response, source, words);
        response
    }

    /// An answer of which nothing is known but what it is to.
    pub(super) fn answer_to(&mut self, now: Duration, wish: Wish, material: Material, moments: Moments) -> Answer {
        let about = About {
            response: self.ids.response(),
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
        self.continue_waiting_answers(now);
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

    pub(super) fn failed(&mut self, now: Duration, response: &ResponseId, fault: Fault) {
        if self.active(response).is_some() {
            self.end(now, response, Status::Failed(fault));
        }
    }

    /// The words of a turn could not be found: answers that wait for them fail aloud. Says whether one of them was the answer to the
    /// turn.
    pub(super) fn fail_waiting_answers(&mut self, now: Duration, fault: &Fault) -> bool {
        let covers = self.answer.as_ref().is_some_and(|a| a.stage == Stage::Waiting && a.covers_conversation());
        for response in self.waiting_answers() {
            self.end(now, &response, Status::Failed(fault.clone()));
        }
        covers
    }

    /// Answers that wait for the words of what the caller said before.
    pub(super) fn waiting_answers(&self) -> Vec<ResponseId> {
        let waiting = self.answer.iter().chain(&self.beside).filter(|answer| answer.stage == Stage::Waiting);
        waiting.map(|answer| answer.about.response.clone()).collect()
    }

    /// Ends an answer that is in progress.
    pub(super) fn end(&mut self, now: Duration, response: &ResponseId, status: Status) {
        let beside = self.beside.iter().position(|answer| answer.about.response == *response);
        let Some(mut answer) = beside.map(|at| self.beside.remove(at)) else { return self.end_answer(now, status) };
        if status != Status::Completed {
            self.out.push_back(Output::Cancel { response: response.clone() });
        }
        self.tell_end(now, &mut answer, status);
    }

    /// Ends the answer of the conversation that is in progress.
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
        self.begun.take_if(|begun| *begun.response() == answer.about.response);
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
        self.answer.iter_mut().chain(&mut self.beside).find(named)
    }
}
