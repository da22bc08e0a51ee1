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
    /// Answers that waited for the caller's words go on once they are all known.
    pub(super) fn continue_waiting_answers(&mut self, now: Duration) {
        if self.transcribing.is_empty() && self.functions.are_done() {
            for response in self.waiting_answers() {
                self.continue_answer(now, &response);
            }
        }
    }

    fn continue_answer(&mut self, now: Duration, response: &ResponseId) {
        let Some(answer) = self.active(response) else { return };
        answer.progress = now;
        let covers = answer.covers_conversation();
        let directed = answer.input.is_some() || answer.instructions.is_some() || answer.tools.are_forced();
        let asked_for = answer.moments.committed.is_none();
        if asked_for && self.history.items().any(|item| matches!(item.content, Content::Heard { .. })) {
            self.active(response).into_iter().for_each(|answer| answer.moments.transcribed = Some(now));
        }
        if covers {
            // Every word up to here goes into this answer.
            self.owed = None;
        }
        if directed || self.history.ends_with_result() {
            return self.think(now, response, Vec::new());
        }
        let asked = self.history.asked();
        let last = self.history.items().next_back();
        let greeting = self.settings.greeting.clone().filter(|_| self.history.is_empty());
        if let Some(greeting) = greeting {
            return self.say(now, response, AnsweredBy::Greeting, &greeting);
        }
        if !asked.reveal().is_empty() {
            self.active(response).into_iter().for_each(|answer| answer.stage = Stage::Matching);
            let (due, beside) = self.wanted(now, response);
            self.request(Output::Match { response: response.clone(), question: asked, due, beside });
        } else if last.is_some_and(|item| matches!(item.content, Content::Heard { .. })) {
            let unheard = self.settings.unheard.clone();
            self.say(now, response, AnsweredBy::Unheard, &unheard);
        } else {
            self.think(now, response, Vec::new());
        }
    }

    pub(super) fn matched(&mut self, now: Duration, response: &ResponseId, found: Found) {
        let Some(answer) = self.active(response).filter(|answer| answer.stage == Stage::Matching) else { return };
        answer.progress = now;
        answer.moments.matched = Some(now);
        // What is said beside the conversation, the caller does not hear.
        let hands_over = answer.about.in_conversation;
        match found {
            Found::Nothing { facts } => self.think(now, response, facts),
            Found::Answer(text) => self.say(now, response, AnsweredBy::KnownQuestion, &text),
            Found::Forbidden { say, hand_over } => {
                if hand_over && hands_over {
                    self.begin_hand_over(now, response, HandOverReason::ForbiddenTopic);
                }
                self.say(now, response, AnsweredBy::ForbiddenTopic, &say);
            }
            Found::HandOver(text) => {
                if hands_over {
                    self.begin_hand_over(now, response, HandOverReason::Asked);
                }
                self.say(now, response, AnsweredBy::HandOver, &text);
            }
        }
    }

    fn think(&mut self, now: Duration, response: &ResponseId, facts: Vec<String>) {
        let conversation_does = self.history.ends_with_result();
        let Some(answer) = self.active(response) else { return };
        answer.source = Some(AnsweredBy::Model);
        answer.facts = facts;
        let ends_with_result = match &answer.input {
            Some(input) => input.last().is_some_and(|item| matches!(item.content, Content::Returned(_))),
            None => conversation_does,
        };
        let tools = offered(&answer.tools, ends_with_result);
        self.ask_model(now, response, tools);
    }

    fn ask_model(&mut self, now: Duration, response: &ResponseId, tools: Option<Tools>) {
        let (due, beside) = self.wanted(now, response);
        let Some(answer) = self.active(response) else { return };
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
        self.request(Output::Generate { response, prompt, tokens_max, due, beside });
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
    pub(super) fn say(&mut self, now: Duration, response: &ResponseId, source: AnsweredBy, text: &str) {
        let Some(answer) = self.active(response) else { return };
        answer.stage = Stage::Answering;
        answer.source = Some(source);
        self.take_text(now, response, text);
        self.text_done(now, response, false);
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
                Reading::NoCall if forced => {
                    return self.end(now, response, Status::Failed(no_call("it makes no call")));
                }
                Reading::Invalid(reason) if forced => {
                    return self.end(now, response, Status::Failed(no_call(reason)));
                }
                // FAILURE LADDER: what begins like a call and is none is not read to anybody. The model answers once more, without
                // tools.
                Reading::NoCall | Reading::Invalid(_) if !said => return self.ask_model(now, response, None),
                Reading::NoCall | Reading::Invalid(_) => {}
            }
        }
        let Some(answer) = self.active(response).filter(|answer| answer.text_done.is_none()) else { return };
        answer.text_done = Some(cut_off);
        if answer.about.spoken {
            let phrases = if cut_off { answer.phraser.finish_cut_off() } else { answer.phraser.finish() };
            self.take_phrases(now, response, phrases);
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
