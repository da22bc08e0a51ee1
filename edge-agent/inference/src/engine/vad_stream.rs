//! One call's voice activity detection: a fixed slot with recurrent state, fed in pieces of any length.

use super::door::{Door, ModelId};
use super::job::{Job, Reply, StreamId};
use super::limits::{VAD_FRAME_SAMPLES, VAD_FRAMES_PER_JOB};
use super::stepper::{Output, Work};
use super::{Cancel, EngineError, check_audio, mismatch};
use nearfield_shared::artefact::Stage;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// An open VAD slot. Dropping it frees the slot.
pub struct VadStream {
    door: Arc<Door>,
    id: StreamId,
    /// The candidate that its first frame goes to.
    on: Option<ModelId>,
    /// Samples that do not fill a frame yet.
    rest: Vec<f32>,
}

impl VadStream {
    pub(super) fn open(door: Arc<Door>, on: Option<ModelId>) -> Result<Self, EngineError> {
        let id = door.open_stream(on)?;
        Ok(Self { door, id, on, rest: Vec::with_capacity(VAD_FRAME_SAMPLES) })
    }

    /// Takes samples at 16 kHz, any number, and gives one speech probability for every frame of 512 that they complete.
    ///
    /// If the future is dropped, the frames handed over still reach the stream's state; only their probabilities are
    /// lost. A push that is refused (`Overloaded`, `NoModel`) is lost, too. After `WorkerDied` the stream goes on with
    /// a fresh state.
    pub async fn push(&mut self, pcm16k: &[f32]) -> Result<Vec<f32>, EngineError> {
        if pcm16k.is_empty() {
            return Ok(Vec::new());
        }
        check_audio(pcm16k)?;
        self.rest.extend_from_slice(pcm16k);
        let mut probabilities = Vec::with_capacity(self.rest.len() / VAD_FRAME_SAMPLES);
        while self.rest.len() >= VAD_FRAME_SAMPLES {
            let count = (self.rest.len() / VAD_FRAME_SAMPLES).min(VAD_FRAMES_PER_JOB);
            let frames: VecDeque<[f32; VAD_FRAME_SAMPLES]> =
                self.rest.as_chunks::<VAD_FRAME_SAMPLES>().0.iter().take(count).copied().collect();
            let (reply, answer) = Reply::whole();
            let job = Job {
                work: Work::Frames(frames),
                deadline: Instant::now(),
                is_background: false,
                cancel: Cancel::new(),
                reply,
                on: self.on,
                stream: Some(self.id),
            };
            if let Err(refused) = self.door.submit(job) {
                // Speech that was refused is old by the time the door opens again; keeping it would grow without bound.
                self.rest.clear();
                return Err(refused);
            }
            self.rest.drain(..count * VAD_FRAME_SAMPLES);
            match answer.await.unwrap_or(Err(EngineError::WorkerDied))? {
                Output::Probabilities(found) if found.len() == count => probabilities.extend(found),
                _ => return Err(mismatch(Stage::Vad)),
            }
        }
        Ok(probabilities)
    }
}

impl Drop for VadStream {
    fn drop(&mut self) {
        self.door.close_stream(self.id);
    }
}
