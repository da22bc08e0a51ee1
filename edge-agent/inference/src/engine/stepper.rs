//! What the engine asks of a model: begin, one bounded step, end. A stepper knows no queue, no clock and no IO, so
//! the scheduler is tested with scripted fakes, and the models without a scheduler.

use super::golden::CaseOutcome;
use super::limits::VAD_FRAME_SAMPLES;
use super::{Transcript, Wish};
use nearfield_shared::{artefact::Stage, gguf::Gguf, golden::GoldenCase};
use std::{collections::VecDeque, sync::Arc};

/// One message of a conversation, as the chat template takes it.
#[derive(Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
    /// Whether it belongs to no call: an assistant's own instructions. What was computed of it outlives the calls.
    pub is_shared: bool,
}

impl ChatMessage {
    /// A message of a call.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), is_shared: false }
    }
}

/// The content belongs to a caller, so only its size is shown.
impl std::fmt::Debug for ChatMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChatMessage({}, {} bytes)", self.role, self.content.len())
    }
}

/// What one job is to do.
pub(crate) enum Work {
    /// Consecutive frames of one VAD stream.
    Frames(VecDeque<[f32; VAD_FRAME_SAMPLES]>),
    /// Has the caller finished? 16 kHz.
    Turn(Vec<f32>),
    /// A transcript of 16 kHz audio; `draft` are the tokens that it is expected to begin with, `words` those that are boosted.
    /// With `times`, when its words were said is found, too.
    Asr { pcm: Vec<f32>, draft: Vec<u32>, words: Arc<[String]>, times: bool },
    /// An answer.
    Llm { messages: Vec<ChatMessage>, max_tokens: usize, wish: Wish },
    /// A spoken phrase.
    Tts { text: String, speed: f32 },
    /// Embeddings of sentences.
    Embed(Vec<String>),
}

impl Work {
    pub(crate) fn stage(&self) -> Stage {
        match self {
            Work::Frames(_) => Stage::Vad,
            Work::Turn(_) => Stage::Turn,
            Work::Asr { .. } => Stage::Asr,
            Work::Llm { .. } => Stage::Llm,
            Work::Tts { .. } => Stage::Tts,
            Work::Embed(_) => Stage::Embed,
        }
    }
}

/// What a finished job has produced.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Output {
    /// One probability per frame, or the turn probability alone.
    Probabilities(Vec<f32>),
    Transcript(Transcript),
    /// 24 kHz.
    Audio(Vec<f32>),
    Vectors(Vec<Vec<f32>>),
    /// The answer is complete; its pieces went out one by one. The last piece may be empty.
    End(String),
}

/// What a step has done for one slot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Progress {
    /// It moved; more steps are needed.
    Moved,
    /// It moved and has a piece of the answer; more steps are needed. A piece may be empty (half a character).
    Piece(String),
    /// It is done; the slot is free.
    Done(Output),
}

/// Why a step failed for one slot. The other slots go on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum StepError {
    /// The input is at fault.
    #[error("{0}")]
    BadInput(String),
    /// The model is.
    #[error("{0}")]
    Model(String),
}

/// The answer of a step: which slots moved, and how.
pub(crate) type Moves = Vec<(usize, Result<Progress, StepError>)>;

/// A loaded model with its slots. Created, used and dropped on the worker thread.
pub(crate) trait Stepper {
    /// Bytes of weights as they stand in memory.
    fn resident_bytes(&self) -> usize;

    /// Puts work into a free slot. Cheap: the heavy part belongs into [`Stepper::step`].
    fn begin(&mut self, slot: usize, work: Work) -> Result<(), StepError>;

    /// Does one bounded step for at least one of the `due` slots (occupied, most urgent first), batching where the
    /// model can. It reports every slot that moved.
    fn step(&mut self, due: &[usize]) -> Moves;

    /// Frees a slot whose job is done, failed or cancelled.
    fn end(&mut self, slot: usize);

    /// Forgets what a slot remembers beyond its jobs: the recurrent state of a VAD stream.
    fn reset(&mut self, _slot: usize) {}

    /// No call is left: forgets what callers said, where something was kept to be used again.
    fn forget_callers(&mut self) {}

    /// Starts the proof of one golden case.
    fn prove(&mut self, case: &GoldenCase) -> Result<Box<dyn Proof>, StepError>;
}

/// A golden case on its way. It borrows nothing, so live work can run between its steps.
pub(crate) trait Proof {
    /// One bounded step; `Some` when the case is decided.
    fn step(&mut self) -> Result<Option<CaseOutcome>, StepError>;
}

/// Makes steppers. Lives on the worker thread, which owns the device.
pub(crate) trait Loader: Send {
    /// Puts a model on the device, with `slots` slots.
    fn load(&mut self, stage: Stage, gguf: &Gguf, slots: usize) -> Result<Box<dyn Stepper>, StepError>;
}
