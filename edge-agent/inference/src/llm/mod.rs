//! The language model: a Llama-shaped decoder straight from its GGUF file (SmolLM2 and its kin).
//!
//! [`Llama`] holds the weights, a [`Sequence`] one conversation's keys and values. [`Llama::prefill`] feeds a prompt,
//! [`Llama::decode`] takes one step of several sequences at once: their linear layers run as one product over the same
//! weights, which is what a decoder spends its time on, and each attends to its own cache. A batched step gives exactly
//! what single steps give (on the CPU, bit for bit).
//!
//! Neither knows a queue, a clock or a text stream: the engine decides who steps when, and [`TextStream`] turns tokens into
//! text that never ends inside a character.

mod config;
mod model;
mod prefix;
mod sampling;
mod sequence;
mod tokenizer;

use crate::nn::LoadError;

pub use config::Config;
pub use model::{DECODE_BATCH_MAX, Feeding, Llama, PREFILL_CHUNK};
pub use prefix::{Prefix, PrefixCache, Segment};
pub use sampling::{Sampler, Sampling};
pub use sequence::{PENDING_MAX, Sequence};
pub use tokenizer::{TextStream, Tokenizer};

/// Why a conversation cannot go on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LlmError {
    /// The sequence's cache has no place for what comes next.
    #[error("the conversation needs {needed} tokens and {places} are provided for; shorten the prompt or start anew")]
    Full {
        /// Places that would be needed.
        needed: usize,
        /// Places of the sequence.
        places: usize,
    },
    /// A step without a token to continue from.
    #[error("a sequence cannot be continued before it has a prompt")]
    Empty,
    /// A role that the chat template does not have.
    #[error("role {0:?} is not known; use system, user or assistant")]
    Role(String),
    /// A token id beyond the vocabulary.
    #[error("token {token} is beyond the vocabulary of {vocabulary}")]
    Token {
        /// The id.
        token: u32,
        /// Entries of the vocabulary.
        vocabulary: usize,
    },
    /// The text cannot be tokenised.
    #[error("the text cannot be tokenised: {0}")]
    Tokenise(String),
    /// The device failed, or computed something that is no number.
    #[error("the device failed: {0}")]
    Device(String),
}

/// A [`LoadError`] for numbers and vocabularies that cannot be.
fn bad(why: impl Into<String>) -> LoadError {
    LoadError::Config(why.into())
}
