//! The engine's bounds: slots, queues, sizes, memory. Every one is named here and nowhere else.

use nearfield_shared::artefact::Stage;
use std::time::Duration;

/// Samples per second at every audio input of the engine.
pub const SAMPLE_RATE_HZ: usize = 16_000;

/// Samples in one VAD frame: 32 ms, what Silero was trained on.
pub const VAD_FRAME_SAMPLES: usize = 512;

/// Frames of one VAD job. A longer push is cut into several, so that a queue entry stays below 64 KiB.
pub const VAD_FRAMES_PER_JOB: usize = 32;

/// Audio that one transcription may cover. Beyond 30 s Moonshine adds stray words; the dialogue cuts at pauses long before.
pub const ASR_SECONDS_MAX: usize = 30;

/// Audio that the turn model looks at: the last 8 s. What is older is dropped at the door.
pub const TURN_SECONDS_MAX: usize = 8;

/// Characters of one phrase to speak. A phrase is a clause or a sentence; 500 characters are about half a minute of speech.
pub const TTS_CHARS_MAX: usize = 500;

/// Sentences of one embedding job.
pub const EMBED_SENTENCES_MAX: usize = 64;

/// Embedding jobs begun and not done: their sentences share steps.
const EMBED_JOBS: usize = 8;

/// Turns begun and not done: on a GPU they share steps. What is kept of one between steps is 600 KB.
const TURN_JOBS: usize = 8;

/// Characters of one sentence to embed. MiniLM reads 256 word pieces; what is beyond would be cut silently.
pub const EMBED_CHARS_MAX: usize = 2_000;

/// Bytes of all messages of one prompt. SmolLM2's context of 8,192 tokens is about 30 kB of English.
pub const PROMPT_BYTES_MAX: usize = 64 * 1024;

/// How much work the engine takes on. Beyond it the door sheds with [`Overloaded`](super::EngineError::Overloaded).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Open VAD streams, one per call. Default 32: a frame of 32 streams takes a few milliseconds on one core.
    pub vad_streams: usize,
    /// Transcriptions begun and not done. Default 8: as many as write a token in one step.
    pub asr_decodings: usize,
    /// Sequences that decode together in one batch. Default 6: more hardly add to a step, but each holds a KV cache.
    pub llm_sequences: usize,
    /// Bytes of keys and values of conversations' beginnings that are kept to be used again. Default 32 MiB: some 1,400 tokens
    /// of SmolLM2, so the instructions of several assistants and the latest turns of a dozen calls.
    pub llm_prefix_bytes: usize,
    /// Phrases begun and not done. Default 8, so that a caller's first phrase can pass later ones of other callers, and that on a
    /// GPU many share their steps.
    pub tts_phrases: usize,
    /// Jobs that may wait for a slot, per stage. Default 32: one for each call of a busy node.
    pub queue: usize,
    /// The longest projected wait at which a job is still admitted. Default 5 s: nobody waits longer in a conversation.
    pub patience: Duration,
    /// Tokens one answer may have at most. Default 512: more than two minutes of speech.
    pub llm_tokens_max: usize,
    /// Bytes of weights that live models, candidates and retiring models may take together. Default 8 GiB.
    pub resident_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            vad_streams: 32,
            asr_decodings: 8,
            llm_sequences: 6,
            llm_prefix_bytes: 32 << 20,
            tts_phrases: 8,
            queue: 32,
            patience: Duration::from_secs(5),
            llm_tokens_max: 512,
            resident_bytes_max: 8 << 30,
        }
    }
}

impl Limits {
    /// Slots of a stage.
    pub(crate) fn slots(&self, stage: Stage) -> usize {
        match stage {
            Stage::Vad => self.vad_streams,
            Stage::Asr => self.asr_decodings,
            Stage::Llm => self.llm_sequences,
            Stage::Tts => self.tts_phrases,
            Stage::Turn => TURN_JOBS,
            Stage::Embed => EMBED_JOBS,
        }
        .max(1)
    }

    /// Jobs that may wait. A VAD stream has at most one job running and one waiting.
    pub(crate) fn queue(&self, stage: Stage) -> usize {
        if stage == Stage::Vad { self.slots(stage) } else { self.queue.max(1) }
    }
}

/// When a job is wanted, counted from its arrival, if the caller did not say.
/// Chosen so that the sum on the way to the first audio (turn, transcript, first token, first phrase) stays below a second.
pub(crate) fn patience_of(stage: Stage) -> Duration {
    Duration::from_millis(match stage {
        Stage::Vad => 0,
        Stage::Turn => 50,
        Stage::Embed => 100,
        Stage::Asr | Stage::Tts => 200,
        Stage::Llm => 300,
    })
}

/// Work that is wanted no sooner than this belongs to no call: an assistant's phrases that are rendered ahead. It is done in the
/// time that calls leave, so it says nothing about how many calls there is room for.
pub(crate) const BACKGROUND: Duration = Duration::from_secs(9);

/// Playback slack that one more token gives: English is spoken at three to four tokens a second, and 200 ms a token
/// leaves the synthesiser its share.
pub(crate) const SLACK_PER_TOKEN: Duration = Duration::from_millis(200);
