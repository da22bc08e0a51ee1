//! An answer while it is thought: words and calls, one after the other, and why it ended.

use super::{calling::Demand, request::Request, stops::Stops};
use crate::{
    assistants::{Desk, Nearest},
    refusal::Refusal,
    rest::Visit,
    speech::{ChatMessage, Pieces, Wish},
};
use nearfield_dialogue::{
    events::Found,
    tools::{CallReader, Reading, Tools, Wanted},
};
use nearfield_shared::assistant::matching::with_facts;
use std::sync::Arc;

/// Something of an answer.
#[derive(Debug, PartialEq)]
pub enum Said {
    /// Words.
    Words(String),
    /// Calls of functions, with which the answer ends.
    Calls(Vec<Wanted>),
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It is complete, or came to a text at which it was to stop.
    Stop,
    /// It has as many tokens as were asked for.
    Length,
    /// Functions are called.
    ToolCalls,
}

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnsweredBy {
    /// The language model.
    Model,
    /// A known question of the assistant.
    KnownQuestion,
    /// The assistant's words about what it does not speak about.
    ForbiddenTopic,
    /// The assistant's words for a hand-over.
    HandOver,
}

/// An answer on its way. Dropping it stops the thinking.
pub struct Thinking {
    visit: Visit,
    /// What is known already; it is the whole answer.
    known: Option<Said>,
    pieces: Option<Pieces>,
    /// Finds calls in the text, where tools are offered.
    reader: Option<CallReader>,
    /// The prompt without tools, for a model that finds none of them fitting.
    without_tools: Option<Vec<ChatMessage>>,
    one_call: bool,
    wish: Wish,
    stops: Stops,
    tokens_max: usize,
    said: bool,
    /// Who answers.
    pub by: AnsweredBy,
    /// The way of asking that the question came nearest to.
    pub nearest: Option<Nearest>,
    /// Why the answer ended, once it has.
    pub finish: Finish,
    /// Characters of the prompt.
    pub prompt_chars: usize,
    /// Tokens so far.
    pub tokens: usize,
}

impl Thinking {
    /// Begins to answer, as an assistant where one was asked for.
    pub async fn begin(visit: Visit, desk: Option<Arc<Desk>>, request: Request) -> Result<Self, Refusal> {
        let Request { system, messages, question, tools, one_call, wish, tokens_max, stops, .. } = request;
        let (found, nearest) = match (&desk, question) {
            (Some(desk), Some(question)) if !tools.are_forced() => {
                match desk.compare(&visit.speech(), &question).await {
                    Ok(found) => found,
                    Err(error) => {
                        // FAILURE LADDER: without the comparison the language model answers everything.
                        tracing::warn!(%error, "a question could not be compared with the known ones");
                        (Found::Nothing { facts: Vec::new() }, None)
                    }
                }
            }
            _ => (Found::Nothing { facts: Vec::new() }, None),
        };
        let mut thinking = Self {
            visit,
            known: None,
            pieces: None,
            reader: None,
            without_tools: None,
            one_call,
            wish,
            stops,
            tokens_max,
            said: false,
            by: AnsweredBy::Model,
            nearest,
            finish: Finish::Stop,
            prompt_chars: 0,
            tokens: 0,
        };
        let facts = match found {
            Found::Nothing { facts } => facts,
            Found::Answer(text) => return Ok(thinking.known(AnsweredBy::KnownQuestion, text)),
            Found::Forbidden { say, .. } => return Ok(thinking.known(AnsweredBy::ForbiddenTopic, say)),
            Found::HandOver(text) => return Ok(thinking.known(AnsweredBy::HandOver, text)),
        };
        let instructions = desk.map(|desk| with_facts(&desk.assistant.instructions, &facts));
        let system: Vec<String> = instructions.into_iter().chain(system).collect();
        let plain = prompt(&system, None, &messages);
        if !tools.are_offered() {
            thinking.think(plain, None)?;
            return Ok(thinking);
        }
        let offering = prompt(&system, tools.instructions(), &messages);
        if tools.are_forced() {
            thinking.prompt_chars = chars(&offering);
            let (speech, wish) = (thinking.visit.speech(), &thinking.wish);
            let (calls, tokens) = Demand { speech, prompt: &offering, tools: &tools, wish }.call().await?;
            (thinking.tokens, thinking.finish) = (tokens, Finish::ToolCalls);
            thinking.known = Some(Said::Calls(calls));
            return Ok(thinking);
        }
        thinking.without_tools = Some(plain);
        thinking.think(offering, Some(tools))?;
        Ok(thinking)
    }

    fn known(mut self, by: AnsweredBy, text: String) -> Self {
        self.by = by;
        self.tokens = text.chars().count().div_ceil(4);
        self.known = Some(Said::Words(text));
        self
    }

    fn think(&mut self, prompt: Vec<ChatMessage>, tools: Option<Tools>) -> Result<(), Refusal> {
        self.prompt_chars = chars(&prompt);
        self.reader = tools.map(CallReader::new);
        self.pieces = Some(self.visit.speech().generate_as(prompt, self.tokens_max, self.wish.clone())?);
        Ok(())
    }

    /// What comes next; nothing when the answer has ended.
    pub async fn next(&mut self) -> Result<Option<Said>, Refusal> {
        if let Some(known) = self.known.take() {
            return Ok(Some(known));
        }
        loop {
            // What follows a call does not count.
            let said = if self.is_called() {
                self.end()?
            } else {
                let Some(pieces) = &mut self.pieces else { return Ok(None) };
                match pieces.next().await.transpose()? {
                    Some(piece) => {
                        self.tokens += 1;
                        self.take(piece)
                    }
                    None => {
                        self.finish = if self.tokens >= self.tokens_max { Finish::Length } else { Finish::Stop };
                        self.end()?
                    }
                }
            };
            if said.is_some() {
                return Ok(said);
            }
        }
    }

    /// Whether a call is complete.
    fn is_called(&self) -> bool {
        self.reader.as_ref().is_some_and(CallReader::has_called)
    }

    fn take(&mut self, piece: String) -> Option<Said> {
        let words = match &mut self.reader {
            Some(reader) => reader.push(&piece),
            None => piece,
        };
        let words = self.stops.push(&words);
        self.said |= !words.is_empty();
        if self.stops.is_found() {
            (self.pieces, self.reader) = (None, None);
        }
        some_words(words)
    }

    /// The model has said all it will.
    fn end(&mut self) -> Result<Option<Said>, Refusal> {
        self.pieces = None;
        let rest = match self.reader.take().map(CallReader::finish) {
            None => String::new(),
            Some(Reading::Words(rest)) => rest,
            Some(Reading::Calls(mut calls)) => {
                if self.one_call {
                    calls.truncate(1);
                }
                self.finish = Finish::ToolCalls;
                return Ok(Some(Said::Calls(calls)));
            }
            Some(Reading::NoCall | Reading::Invalid(_)) => {
                // No function fits, or what was to be a call is none: then words are the answer.
                if !self.said
                    && let Some(prompt) = self.without_tools.take()
                {
                    self.tokens = 0;
                    self.think(prompt, None)?;
                }
                String::new()
            }
        };
        if self.pieces.is_some() {
            return Ok(None);
        }
        let mut words = self.stops.push(&rest);
        if self.stops.is_found() {
            self.finish = Finish::Stop;
        } else {
            words.push_str(&self.stops.finish());
        }
        Ok(some_words(words))
    }
}

fn chars(prompt: &[ChatMessage]) -> usize {
    prompt.iter().map(|message| message.content.chars().count()).sum()
}

fn some_words(words: String) -> Option<Said> {
    Some(words).filter(|words| !words.is_empty()).map(Said::Words)
}

/// The whole prompt: one system message, and the conversation behind it.
fn prompt(system: &[String], tools: Option<String>, messages: &[ChatMessage]) -> Vec<ChatMessage> {
    let system: Vec<&str> =
        system.iter().chain(&tools).map(|text| text.trim()).filter(|text| !text.is_empty()).collect();
    let system = system.join("\n\n");
    let first = Some(ChatMessage { role: "system", content: system, is_shared: false })
        .filter(|first| !first.content.is_empty());
    first.into_iter().chain(messages.iter().cloned()).collect()
}
