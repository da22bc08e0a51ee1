//! The engine as calls use it.

use super::{BoxFuture, ChatMessage, Pieces, Speech, SpeechError, VadSlot};
use nearfield_inference::engine::{Cancel, ChatMessage as EngineMessage, EngineError, EngineHandle, VadStream};
use std::{sync::Arc, time::Instant};

/// Raises a job's cancel flag when the future that waits for it is dropped. After the job has ended it does nothing.
struct StopOnDrop(Cancel);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Speech for EngineHandle {
    fn due(self: Arc<Self>, by: Instant) -> Arc<dyn Speech> {
        Arc::new(EngineHandle::due(&self, by))
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

    fn generate(&self, messages: Vec<ChatMessage>, tokens_max: usize) -> Result<Pieces, SpeechError> {
        let stop = StopOnDrop(Cancel::new());
        let messages = messages.into_iter().map(|m| EngineMessage::new(m.role, m.content)).collect();
        let pieces = EngineHandle::generate(self, messages, tokens_max, &stop.0)?;
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
