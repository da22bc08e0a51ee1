//! Where the words of an answer come from: what the assistant knows, or the model, which may call functions instead.
//!
//! Functions are offered until what one of them returned is the newest item: then the caller waits for words about it, and a
//! small model that still sees its tools would call one again. Where calls are demanded, they are offered always.

use super::{Call, answer::Stage};
use crate::{
    events::{Fault, Found, HandOverReason, Output, Status},
    history::{Content, History, Item, Message, Role},
    ids::ResponseId,
    ledger::AnsweredBy,
    tools::{CallReader, Reading, Tools},
};
use nearfield_shared::{assistant::matching::with_facts, pii::Pii};
use std::time::Duration;

/// Bytes of text of the longest answer; thinking stops there. Far beyond what the token limit allows a sane model.
pub const TEXT_BYTES_MAX: usize = 8 * 1024;

impl Call {
    /// An answer that waited for the caller's words goes on once they are all known.
    pub(super) fn continue_waiting_answer(&mut self, now: Duration) {
        let known = self.transcribing.is_empty() && self.functions.are_done();
        let Some(answer) = self.answer.as_mut().filter(|answer| answer.stage == Stage::Waiting && known) else {
            return;
        };
        answer.progress = now;
        if answer.covers_conversation() {
            // Every word up to here goes into this answer.
            self.owed = None;
        }
        if answer.moments.committed.is_none()
            && self.history.items().any(|item| matches!(item.content, Content::Heard { .. }))
        {
            answer.moments.transcribed = Some(now);
        }
        let directed = answer.input.is_some() || answer.instructions.is_some() || answer.tools.are_forced();
        if directed || self.history.ends_with_result() {
            return self.think(now, Vec::new());
        }
        let asked = self.history.asked();
        let last = self.history.items().next_back();
        let greeting = self.settings.greeting.clone().filter(|_| self.history.is_empty());
        if let Some(greeting) = greeting {
            return self.say(now, AnsweredBy::Greeting, &greeting);
        }
        if !asked.reveal().is_empty() {
            answer.stage = Stage::Matching;
            let response = answer.about.response.clone();
            self.request(Output::Match { response, question: asked });
        } else if last.is_some_and(|item| matches!(item.content, Content::Heard { .. })) {
            let unheard = self.settings.unheard.clone();
            self.say(now, AnsweredBy::Unheard, &unheard);
        } else {
            self.think(now, Vec::new());
        }
    }

    pub(super) fn matched(&mut self, now: Duration, response: &ResponseId, found: Found) {
        let Some(answer) = self.active(response).filter(|answer| answer.stage == Stage::Matching) else { return };
        answer.progress = now;
        answer.moments.matched = Some(now);
        match found {
            Found::Nothing { facts } => self.think(now, facts),
            Found::Answer(text) => self.say(now, AnsweredBy::KnownQuestion, &text),
            Found::Forbidden { say, hand_over } => {
                if hand_over {
                    self.begin_hand_over(now, response, HandOverReason::ForbiddenTopic);
                }
                self.say(now, AnsweredBy::ForbiddenTopic, &say);
            }
            Found::HandOver(text) => {
                self.begin_hand_over(now, response, HandOverReason::Asked);
                self.say(now, AnsweredBy::HandOver, &text);
            }
        }
    }

    fn think(&mut self, now: Duration, facts: Vec<String>) {
        let Some(answer) = &mut self.answer else { return };
        answer.source = Some(AnsweredBy::Model);
        answer.facts = facts;
        let ends_with_result = match &answer.input {
            Some(input) => input.last().is_some_and(|item| matches!(item.content, Content::Returned(_))),
            None => self.history.ends_with_result(),
        };
        let tools = offered(&answer.tools, ends_with_result);
        self.ask_model(now, tools);
    }

    fn ask_model(&mut self, now: Duration, tools: Option<Tools>) {
        let Some(answer) = &mut self.answer else { return };
        answer.stage = Stage::Answering;
        answer.thinks_as = None;
        answer.progress = now;
        answer.reader = tools.clone().map(CallReader::new);
        let (response, tokens_max) = (answer.about.response.clone(), answer.tokens_max);
        let (instead, facts, input) = (answer.instructions.clone(), answer.facts.clone(), answer.input.clone());
        let prompt = match input {
            None => self.prompt(&self.history, instead.as_deref(), &facts, tools.as_ref()),
            Some(input) => {
                let instructions = self.instructions(instead.as_deref(), &facts, tools.as_ref());
                let mut prompt: Vec<Message> = input.iter().filter_map(Item::message).collect();
                if !instructions.trim().is_empty() {
                    prompt.insert(0, Message { role: Role::System, text: Pii::new(instructions) });
                }
                prompt
            }
        };
        self.request(Output::Generate { response, prompt, tokens_max, due: now });
    }

    /// The prompt for an answer to this conversation; `instead` replaces the settings' own instructions.
    pub(super) fn prompt(
        &self,
        history: &History,
        instead: Option<&str>,
        facts: &[String],
        tools: Option<&Tools>,
    ) -> Vec<Message> {
        history.prompt(&self.instructions(instead, facts, tools), self.settings.context_chars_max)
    }

    /// The tools that the model is told of for an answer to this conversation.
    pub(super) fn offered(&self, history: &History) -> Option<Tools> {
        offered(&self.settings.tools, history.ends_with_result())
    }

    fn instructions(&self, instead: Option<&str>, facts: &[String], tools: Option<&Tools>) -> String {
        let mut instructions = with_facts(instead.unwrap_or(&self.settings.instructions), facts);
        if let Some(about_tools) = tools.and_then(Tools::instructions) {
            instructions.push_str(if instructions.is_empty() { "" } else { "\n\n" });
            instructions.push_str(&about_tools);
        }
        instructions
    }

    /// Says a text that is already whole.
    pub(super) fn say(&mut self, now: Duration, source: AnsweredBy, text: &str) {
        let Some(answer) = &mut self.answer else { return };
        answer.stage = Stage::Answering;
        answer.source = Some(source);
        let response = answer.about.response.clone();
        self.take_text(now, &response, text);
        self.text_done(now, &response, false);
    }

    pub(super) fn text(&mut self, now: Duration, response: &ResponseId, piece: &str) {
        let Some(answer) = self.active(response) else { return };
        if answer.source != Some(AnsweredBy::Model) || answer.text_done.is_some() {
            return;
        }
        answer.pieces += 1;
        answer.moments.first_text.get_or_insert(now);
        answer.text_bytes += piece.len();
        let too_long = answer.text_bytes > TEXT_BYTES_MAX;
        let words = answer.reader.as_mut().map(|reader| reader.push(piece));
        let called = answer.reader.as_ref().is_some_and(CallReader::has_called);
        self.take_text(now, response, words.as_deref().unwrap_or(piece));
        if called || too_long {
            self.out.push_back(Output::StopGenerating { response: response.clone() });
            self.text_done(now, response, !called);
        }
    }

    pub(super) fn text_done(&mut self, now: Duration, response: &ResponseId, cut_off: bool) {
        let Some(answer) = self.active(response).filter(|answer| answer.text_done.is_none()) else { return };
        if answer.stage != Stage::Answering {
            return;
        }
        answer.progress = now;
        if let Some(reader) = answer.reader.take() {
            let (forced, said) = (answer.tools.are_forced(), reader.has_words());
            match reader.finish() {
                Reading::Words(rest) => self.take_text(now, response, &rest),
                Reading::Calls(calls) => answer.calls = calls,
                // The limit of tokens is the reason, and is told as such.
                Reading::NoCall | Reading::Invalid(_) if cut_off => {}
                Reading::NoCall if forced => return self.end_answer(now, Status::Failed(no_call("it makes no call"))),
                Reading::Invalid(reason) if forced => return self.end_answer(now, Status::Failed(no_call(reason))),
                // FAILURE LADDER: what begins like a call and is none is not read to anybody. The model answers once more, without
                // tools.
                Reading::NoCall | Reading::Invalid(_) if !said => return self.ask_model(now, None),
                Reading::NoCall | Reading::Invalid(_) => {}
            }
        }
        let Some(answer) = self.active(response).filter(|answer| answer.text_done.is_none()) else { return };
        answer.text_done = Some(cut_off);
        if answer.about.spoken {
            let phrases = if cut_off { answer.phraser.finish_cut_off() } else { answer.phraser.finish() };
            self.take_phrases(now, phrases);
        }
    }
}

fn offered(tools: &Tools, ends_with_result: bool) -> Option<Tools> {
    (tools.are_offered() && (tools.are_forced() || !ends_with_result)).then(|| tools.clone())
}

fn no_call(reason: &str) -> Fault {
    Fault {
        code: "invalid_tool_call".into(),
        message: format!(
            "a call of a function was demanded, and what the model wrote is none: {reason}; ask again, or let tool_choice be auto"
        ),
    }
}
