//! The engine as calls use it.

use super::{BoxFuture, ChatMessage, Pieces, Speech, SpeechError, Transcript, VadSlot, Wish, WordTime};
use nearfield_inference::engine::{
    Cancel, ChatMessage as EngineMessage, EngineError, EngineHandle, StageSnapshot, Transcript as EngineTranscript,
    VadStream, Wish as EngineWish,
};
use nearfield_shared::artefact::Stage;
use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

/// The most that one job counts as being in the way. A longer one (an answer, a long phrase) is done in steps between which others
/// go first.
const JOB_MS_MAX: f64 = 150.0;

/// Up to this share of its time the device counts as free. What it works beyond it counts as work of a second that waits, so that
/// a device that never rests does nothing that can be left out.
const BUSY_SHARE_FREE: f64 = 0.4;

/// Raises a job's cancel flag when the future that waits for it is dropped. After the job has ended it does nothing.
struct StopOnDrop(Cancel);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Speech for EngineHandle {
    fn admit(&self) -> Result<Box<dyn Any + Send>, SpeechError> {
        Ok(Box::new(EngineHandle::admit(self)?))
    }

    fn visit(&self) -> Result<Box<dyn Any + Send>, SpeechError> {
        Ok(Box::new(EngineHandle::visit(self)?))
    }

    fn due(self: Arc<Self>, by: Instant) -> Arc<dyn Speech> {
        Arc::new(EngineHandle::due(&self, by))
    }

    fn backlog(&self) -> Duration {
        let ms = |stage: &StageSnapshot| (stage.queued + stage.running) as f64 * stage.mean_job_ms.min(JOB_MS_MAX);
        let engine = EngineHandle::snapshot(self);
        let waiting: f64 = engine.stages.iter().filter(|stage| stage.stage != Stage::Vad).map(ms).sum();
        // Between the jobs of a moment nothing may wait on a device that has no time to spare.
        let out_of_breath = (engine.busy_share - BUSY_SHARE_FREE).max(0.0) * 1e3;
        Duration::from_micros(((waiting + out_of_breath) * 1e3) as u64)
    }

    fn open_vad(&self) -> Result<Box<dyn VadSlot>, SpeechError> {
        Ok(Box::new(EngineHandle::open_vad(self)?))
    }

    fn turn_probability(&self, audio: Vec<f32>) -> BoxFuture<'_, Result<f32, SpeechError>> {
        Box::pin(async move { Ok(EngineHandle::turn_probability(self, audio).await?) })
    }

    fn transcribe(&self, audio: Vec<f32>) -> BoxFuture<'_, Result<String, SpeechError>> {
        Box::pin(async move {
            let stop = StopOnDrop(Cancel::new());
            Ok(EngineHandle::transcribe(self, audio, &stop.0).await?)
        })
    }

    fn transcribe_timed(&self, audio: Vec<f32>) -> BoxFuture<'_, Result<(String, Vec<WordTime>), SpeechError>> {
        Box::pin(async move {
            let stop = StopOnDrop(Cancel::new());
            let heard = EngineHandle::transcribe_timed(self, audio, &stop.0).await?;
            let times = heard.words.iter().map(|word| WordTime { start_ms: word.start_ms, end_ms: word.end_ms });
            Ok((heard.text, times.collect()))
        })
    }

    fn transcribe_after(&self, audio: Vec<f32>, draft: Transcript) -> BoxFuture<'_, Result<Transcript, SpeechError>> {
        Speech::transcribe_with(self, audio, draft, Arc::default())
    }

    fn transcribe_with(
        &self,
        audio: Vec<f32>,
        draft: Transcript,
        words: Arc<[String]>,
    ) -> BoxFuture<'_, Result<Transcript, SpeechError>> {
        Box::pin(async move {
            let stop = StopOnDrop(Cancel::new());
            let draft = EngineTranscript { text: draft.text, tokens: draft.tokens, words: Vec::new() };
            let heard = EngineHandle::transcribe_with(self, audio, draft, words, &stop.0).await?;
            Ok(Transcript { text: heard.text, tokens: heard.tokens })
        })
    }

    fn generate(&self, messages: Vec<ChatMessage>, tokens_max: usize) -> Result<Pieces, SpeechError> {
        Speech::generate_as(self, messages, tokens_max, Wish::default())
    }

    fn generate_as(&self, messages: Vec<ChatMessage>, tokens_max: usize, wish: Wish) -> Result<Pieces, SpeechError> {
        let stop = StopOnDrop(Cancel::new());
        let messages = messages
            .into_iter()
            .map(|m| EngineMessage { role: m.role.to_owned(), content: m.content, is_shared: m.is_shared })
            .collect();
        let Wish { temperature, top_p, seed, begins } = wish;
        let wish = EngineWish { temperature, top_p, seed, begins };
        let pieces = EngineHandle::generate_as(self, messages, tokens_max, wish, &stop.0)?;
        Ok(Pieces::new(pieces, stop))
    }

    fn speak(&self, phrase: String, speed: f32) -> BoxFuture<'_, Result<Vec<f32>, SpeechError>> {
        Box::pin(async move {
            let stop = StopOnDrop(Cancel::new());
            Ok(EngineHandle::speak(self, phrase, speed, &stop.0).await?)
        })
    }

    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Vec<f32>>, SpeechError>> {
        Box::pin(async move { Ok(EngineHandle::embed(self, texts).await?) })
    }
}

impl VadSlot for VadStream {
    fn push<'a>(&'a mut self, samples: &'a [f32]) -> BoxFuture<'a, Result<Vec<f32>, SpeechError>> {
        Box::pin(async move { Ok(VadStream::push(self, samples).await?) })
    }
}

impl From<EngineError> for SpeechError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Overloaded { retry_after_ms } => SpeechError::Overloaded { retry_after_ms },
            EngineError::NoModel(stage) => SpeechError::NoModel(stage),
            EngineError::Cancelled => SpeechError::Cancelled,
            EngineError::WorkerDied => SpeechError::WorkerDied,
            EngineError::BadInput(reason) => SpeechError::BadInput(reason),
            EngineError::Model(reason) => SpeechError::Model(reason),
        }
    }
}
