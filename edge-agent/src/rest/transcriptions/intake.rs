//! Audio of any rate and number of channels, as mono at 16 kHz.

use crate::{media::resample::Resampler, speech::HEARD_HZ};

/// What can be read.
const READABLE: &str = "wav, mp3, flac, ogg (Vorbis, Opus), m4a or mp4 (AAC), webm (Opus, Vorbis)";

/// The longest recording. Two hours are some minutes of work for a node of two cores.
pub const SECONDS_MAX: u64 = 2 * 3_600;

/// Why a recording cannot be heard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordingError {
    /// It is none of the formats, or damaged.
    #[error("the recording cannot be read ({0}); what can be read is {READABLE}")]
    Unreadable(&'static str),
    /// It is too long.
    #[error("the recording is longer than {SECONDS_MAX} s, the most that is taken; cut it into parts")]
    TooLong,
    /// There is nothing in it.
    #[error("the recording holds no audio; send at least a tenth of a second")]
    Empty,
}

/// Converts one recording. Rate and channels are looked at piece by piece; the rate may not change.
#[derive(Default)]
pub(crate) struct Intake {
    /// Made when the rate is known.
    resampler: Option<(u32, Resampler)>,
    /// Samples that came out so far.
    count: u64,
}

impl Intake {
    /// Takes interleaved samples in [-1, 1]; gives those at 16 kHz that are ready.
    pub fn take(&mut self, samples: &[f32], rate_hz: u32, channels: usize) -> Result<Vec<f32>, RecordingError> {
        if channels == 0 || !(1_000..=384_000).contains(&rate_hz) {
            return Err(RecordingError::Unreadable("its rate or its number of channels cannot be"));
        }
        let (rate, resampler) = match &mut self.resampler {
            Some(resampler) => resampler,
            None => {
                let resampler = Resampler::new(rate_hz, HEARD_HZ)
                    .map_err(|_| RecordingError::Unreadable("its rate cannot be converted"))?;
                self.resampler.insert((rate_hz, resampler))
            }
        };
        if *rate != rate_hz {
            return Err(RecordingError::Unreadable("its rate changes in the middle"));
        }
        // What is no number would spoil everything that the filter has in hand.
        let clean = |sample: &f32| if sample.is_finite() { sample.clamp(-1.0, 1.0) } else { 0.0 };
        let mono: Vec<f32> = samples
            .chunks_exact(channels)
            .map(|frame| frame.iter().map(clean).sum::<f32>() / channels as f32)
            .collect();
        let ready = resampler.push(&mono);
        self.count(ready)
    }

    /// The end of the recording: gives what is still inside.
    pub fn rest(&mut self) -> Result<Vec<f32>, RecordingError> {
        match self.resampler.take() {
            Some((_, resampler)) => self.count(resampler.flush()),
            None => Ok(Vec::new()),
        }
    }

    /// Whether there was too little to hear anything in it.
    pub fn is_empty(&self) -> bool {
        self.count < u64::from(HEARD_HZ) / 10
    }

    fn count(&mut self, samples: Vec<f32>) -> Result<Vec<f32>, RecordingError> {
        self.count += samples.len() as u64;
        if self.count > SECONDS_MAX * u64::from(HEARD_HZ) { Err(RecordingError::TooLong) } else { Ok(samples) }
    }
}
