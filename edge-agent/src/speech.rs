//! What a call needs from the models, as one object-safe trait: hear, decide, transcribe, think, speak, compare.
//!
//! The engine of `nearfield-inference` is one implementation; tests use a scripted fake. Calls never see burn, so everything
//! here builds without it.
//!
//! Cancelling is dropping: a future that is dropped, or a [`Pieces`] that is dropped, stops its job at the engine's
//! next step. A call that hangs up therefore leaves nothing running behind it, however it ends.

#[cfg(feature = "inference")]
mod engine;

use nearfield_shared::artefact::Stage;
use std::{
    any::Any,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// A future that can be held in an object-safe trait.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Samples per second of everything that is heard.
pub const HEARD_HZ: u32 = 16_000;

/// Samples per second of everything that is spoken.
pub const SPOKEN_HZ: u32 = 24_000;

/// The models of a node, as calls use them.
///
/// Jobs are done in the order in which they are wanted, across stages and calls; [`Speech::due`] says when that is. Without it a
/// job is wanted a short time after it comes, depending on its stage.
pub trait Speech: Send + Sync + 'static {
    /// The same models, for jobs that are wanted by this time. A late job is still done.
    fn due(self: Arc<Self>, by: Instant) -> Arc<dyn Speech>;

    /// How much work waits for the device, as far as it is in the way of more: a measure of load, for work that can be left out.
    fn backlog(&self) -> Duration {
        Duration::ZERO
    }

    /// Lets a call in, or refuses it before the calls in progress suffer; what is given is held until the call ends. Models
    /// that do not measure themselves take every call.
    fn admit(&self) -> Result<Box<dyn Any + Send>, SpeechError> {
        Ok(Box::new(()))
    }

    /// Lets work in that is no call, or refuses it where a call would be refused; what is given is held until the work ends. It takes
    /// no call its place.
    fn visit(&self) -> Result<Box<dyn Any + Send>, SpeechError> {
        self.admit()
    }

    /// Takes one of the fixed slots for voice activity detection; dropping the slot frees it.
    fn open_vad(&self) -> Result<Box<dyn VadSlot>, SpeechError>;

    /// How likely it is that the caller has finished, from 16 kHz audio in [-1, 1] of the turn so far.
    fn turn_probability(&self, audio: Vec<f32>) -> BoxFuture<'_, Result<f32, SpeechError>>;

    /// The words in 16 kHz audio in [-1, 1] of at most 30 s.
    fn transcribe(&self, audio: Vec<f32>) -> BoxFuture<'_, Result<String, SpeechError>>;

    /// As [`Speech::transcribe`], with the times of the words where the model can tell them: one for each word of the text, or none.
    fn transcribe_timed(&self, audio: Vec<f32>) -> BoxFuture<'_, Result<(String, Vec<WordTime>), SpeechError>> {
        Box::pin(async move { Ok((self.transcribe(audio).await?, Vec::new())) })
    }

    /// As [`Speech::transcribe`], and sooner where `draft`, an earlier transcript of the beginning of the same audio, holds. What is
    /// found is the same with any draft.
    fn transcribe_after(&self, audio: Vec<f32>, draft: Transcript) -> BoxFuture<'_, Result<Transcript, SpeechError>> {
        drop(draft);
        Box::pin(async move { Ok(Transcript { text: self.transcribe(audio).await?, tokens: Vec::new() }) })
    }

    /// As [`Speech::transcribe_after`], and these words and phrases are likelier to be heard; models that cannot do that do not know
    /// them.
    fn transcribe_with(
        &self,
        audio: Vec<f32>,
        draft: Transcript,
        words: Arc<[String]>,
    ) -> BoxFuture<'_, Result<Transcript, SpeechError>> {
        drop(words);
        self.transcribe_after(audio, draft)
    }

    /// Begins an answer of at most `tokens_max` tokens. Pieces of text arrive as they are thought.
    fn generate(&self, messages: Vec<ChatMessage>, tokens_max: usize) -> Result<Pieces, SpeechError>;

    /// As [`Speech::generate`], with wishes; models that choose in one way only do not know them.
    fn generate_as(&self, messages: Vec<ChatMessage>, tokens_max: usize, wish: Wish) -> Result<Pieces, SpeechError> {
        drop(wish);
        self.generate(messages, tokens_max)
    }

    /// One phrase as 24 kHz audio in [-1, 1]. `speed` is a factor, 1.0 is the voice's own pace.
    fn speak(&self, phrase: String, speed: f32) -> BoxFuture<'_, Result<Vec<f32>, SpeechError>>;

    /// Sentence embeddings of unit length, one for each text.
    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Vec<f32>>, SpeechError>>;
}

/// A slot of the voice activity detector: the state of one call.
pub trait VadSlot: Send {
    /// Takes 16 kHz samples in [-1, 1], any number of them; returns one probability for each full frame of 512.
    fn push<'a>(&'a mut self, samples: &'a [f32]) -> BoxFuture<'a, Result<Vec<f32>, SpeechError>>;
}

/// When a word was said, in milliseconds from the beginning of the audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WordTime {
    /// Its beginning, a pause before it perhaps included.
    pub start_ms: u32,
    /// Its end, a pause behind it perhaps included.
    pub end_ms: u32,
}

/// What was heard.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Transcript {
    /// The words.
    pub text: String,
    /// The same as the model's tokens, from which a transcript of more audio can start.
    pub tokens: Vec<u32>,
}

impl std::fmt::Debug for Transcript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transcript({} bytes)", self.text.len())
    }
}

/// A message of a prompt.
#[derive(Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// The text; what a caller said may be in it, so it never prints.
    pub content: String,
    /// Whether it belongs to no call: an assistant's own instructions.
    pub is_shared: bool,
}

impl std::fmt::Debug for ChatMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChatMessage({}, {} bytes)", self.role, self.content.len())
    }
}

/// Wishes about an answer beyond its length. What is not wished is as in a call: the likeliest words.
#[derive(Clone, Default, PartialEq)]
pub struct Wish {
    /// 0 takes the likeliest words always, 1 draws from the model's own distribution; at most 2.
    pub temperature: Option<f32>,
    /// Only the likeliest tokens that together reach this probability are drawn from; above 0, at most 1.
    pub top_p: Option<f32>,
    /// The same seed gives the same answer.
    pub seed: Option<u64>,
    /// How the answer begins. The model goes on from there; the pieces do not repeat it.
    pub begins: String,
}

impl std::fmt::Debug for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { temperature, top_p, seed, begins } = self;
        write!(f, "Wish({temperature:?}, {top_p:?}, {seed:?}, begins with {} bytes)", begins.len())
    }
}

/// The text of an answer while it is being thought. Dropping it stops the thinking.
pub struct Pieces {
    next: Box<dyn NextPiece>,
    // Held for its Drop alone: it raises the engine's cancel flag.
    _stop: Box<dyn Any + Send>,
}

/// A channel of pieces, whatever its error is.
trait NextPiece: Send {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<String, SpeechError>>>;
}

impl<E: Into<SpeechError> + Send> NextPiece for mpsc::Receiver<Result<String, E>> {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<String, SpeechError>>> {
        Box::pin(async { self.recv().await.map(|piece| piece.map_err(Into::into)) })
    }
}

/// Says what to go on with after an error: it gets the error and whether a piece came before it.
type OrElse = Box<dyn FnOnce(&SpeechError, bool) -> Option<Result<Pieces, SpeechError>> + Send>;

/// Pieces that other pieces may take the place of.
struct Replaceable {
    pieces: Pieces,
    begun: bool,
    or_else: Option<OrElse>,
}

impl NextPiece for Replaceable {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<String, SpeechError>>> {
        Box::pin(async {
            let error = match self.pieces.next().await {
                Some(Err(error)) => error,
                piece => {
                    self.begun |= piece.is_some();
                    return piece;
                }
            };
            match self.or_else.take().and_then(|or_else| or_else(&error, self.begun)) {
                None => Some(Err(error)),
                Some(Err(error)) => Some(Err(error)),
                Some(Ok(others)) => {
                    self.pieces = others;
                    self.pieces.next().await
                }
            }
        })
    }
}

impl Pieces {
    /// The same, and where an error comes, `or_else` is asked once for others to go on with.
    #[must_use]
    pub fn or_else(
        self,
        or_else: impl FnOnce(&SpeechError, bool) -> Option<Result<Pieces, SpeechError>> + Send + 'static,
    ) -> Self {
        let next = Replaceable { pieces: self, begun: false, or_else: Some(Box::new(or_else)) };
        Self { next: Box::new(next), _stop: Box::new(()) }
    }

    /// Pieces from a channel; `stop` is dropped with them.
    pub fn new<E>(pieces: mpsc::Receiver<Result<String, E>>, stop: impl Any + Send) -> Self
    where
        E: Into<SpeechError> + Send + 'static,
    {
        Self { next: Box::new(pieces), _stop: Box::new(stop) }
    }

    /// The next piece; `None` when the answer is complete.
    pub async fn next(&mut self) -> Option<Result<String, SpeechError>> {
        self.next.next().await
    }
}

/// Why the models did not do what was asked. Retry, refuse and broken are different variants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpeechError {
    /// The node has more work than it can do in time.
    #[error("this node is busy; try again in {retry_after_ms} ms or ask for another node at /v1/route")]
    Overloaded {
        /// When another attempt is likely to succeed, in milliseconds.
        retry_after_ms: u64,
    },
    /// No model serves the stage.
    #[error("no {0} model is live on this node; name one in the region's desired state and wait until it is activated")]
    NoModel(Stage),
    /// The work was cancelled.
    #[error("the work was cancelled")]
    Cancelled,
    /// The worker died under the work; it is being restarted, the work can be sent again.
    #[error("the inference worker died under this work and is being restarted; try again")]
    WorkerDied,
    /// The input cannot be processed.
    #[error("{0}")]
    BadInput(String),
    /// A model failed.
    #[error("{0}")]
    Model(String),
}

impl SpeechError {
    /// A short code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            SpeechError::Overloaded { .. } => "overloaded",
            SpeechError::NoModel(_) => "no_model",
            SpeechError::Cancelled => "cancelled",
            SpeechError::WorkerDied => "worker_died",
            SpeechError::BadInput(_) => "bad_input",
            SpeechError::Model(_) => "model_failed",
        }
    }
}
