//! What a client is told about an answer as a whole: how it began, and how it ended.

use crate::{
    events::Fault,
    ids::{ItemId, ResponseId},
    ledger::Ledger,
    tools::ToolCall,
};
use nearfield_shared::pii::Pii;
use std::collections::BTreeMap;

/// What is known about an answer from its beginning.
#[derive(Debug, Clone, PartialEq)]
pub struct About {
    /// Its name.
    pub response: ResponseId,
    /// The item that it goes on with, where it says the rest of an answer that was interrupted by mistake.
    pub goes_on_with: Option<ItemId>,
    /// Whether it is spoken.
    pub spoken: bool,
    /// Whether it is part of the conversation.
    pub in_conversation: bool,
    /// Its own limit of tokens, where the client set one for it.
    pub tokens_max: Option<usize>,
    /// The name of its own audio format, where the client set one for it.
    pub audio_format: Option<&'static str>,
    /// The client's own marks.
    pub metadata: BTreeMap<String, String>,
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// The answer.
    pub about: About,
    /// Its item, where it had begun.
    pub output: Option<Uttered>,
    /// Functions that it calls. Only an answer that was completed calls any.
    pub calls: Vec<Called>,
    /// How.
    pub status: Status,
    /// Where its time went.
    pub ledger: Ledger,
}

/// The item of an answer's words.
#[derive(Debug, Clone, PartialEq)]
pub struct Uttered {
    /// The item.
    pub item: ItemId,
    /// The item before it, where the answer is part of the conversation.
    pub previous: Option<ItemId>,
    /// All words that were sent.
    pub words: Pii<String>,
}

/// A function that an answer calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Called {
    /// Its item.
    pub item: ItemId,
    /// The item before it, where the answer is part of the conversation.
    pub previous: Option<ItemId>,
    /// The call.
    pub call: ToolCall,
}

/// How an answer ended, in one word and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// All of it was said.
    Completed,
    /// The caller spoke over it.
    Interrupted,
    /// The client cancelled it.
    Cancelled,
    /// The limit of tokens was reached.
    CutOff,
    /// Something failed.
    Failed(Fault),
}
