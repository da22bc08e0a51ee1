//! Audio while it is heard: the detector says where somebody speaks, and the audio is cut into parts there.

use super::cutter::{Cutter, FRAME, Part};
use crate::speech::{Speech, SpeechError, VadSlot};

/// One stream of audio.
pub(crate) struct Hearing {
    detector: Box<dyn VadSlot>,
    cutter: Cutter,
    /// Samples that have no probability yet.
    waiting: Vec<f32>,
}

/// What some more audio brought.
#[derive(Default)]
pub(crate) struct Found {
    /// The probability of speech in each frame.
    pub frames: Vec<f32>,
    /// Parts with speech in them that are complete.
    pub parts: Vec<Part>,
}

impl Hearing {
    /// Takes a slot of the detector.
    pub fn begin(speech: &dyn Speech) -> Result<Self, SpeechError> {
        Ok(Self { detector: speech.open_vad()?, cutter: Cutter::default(), waiting: Vec::new() })
    }

    /// Takes the next samples, any number of them.
    pub async fn hear(&mut self, samples: Vec<f32>) -> Result<Found, SpeechError> {
        let frames = self.detector.push(&samples).await?;
        self.waiting.extend(samples);
        let whole = (frames.len() * FRAME).min(self.waiting.len());
        let cut = self.waiting[..whole].chunks_exact(FRAME).zip(&frames);
        let parts = cut.filter_map(|(samples, p)| self.cutter.push(samples, *p)).collect();
        self.waiting.drain(..whole);
        Ok(Found { frames, parts })
    }

    /// The end of the audio.
    pub async fn finish(mut self) -> Result<Found, SpeechError> {
        // Silence to the end of the last frame.
        let missing = self.waiting.len().next_multiple_of(FRAME) - self.waiting.len();
        let mut found = self.hear(vec![0.0; missing]).await?;
        found.parts.extend(self.cutter.finish());
        Ok(found)
    }
}
