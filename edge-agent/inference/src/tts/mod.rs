//! Speech synthesis: from phonemes to 24 kHz samples, and in [`g2p`] from text to phonemes.
//!
//! The voice is Hibari: one small network of its own for durations and pitch, another for the sound, and a vocoder that is signal
//! processing and no network ([`vocoder`]). A phrase is rendered in steps, each a fraction of the work ([`Rendering`]), so that the
//! engine can let other calls in between and stop at any of them when the caller interrupts:
//!
//! text encoders → durations and pitch → decoder, block after block → vocoder
//!
//! Phrases of several calls that stand at the same place take a step together ([`Hibari::step_together`]). The same phonemes, speed
//! and seed give the same samples, whatever ran in between or beside.

pub mod g2p;
mod net;
mod noise;
mod rendering;
mod vocoder;

use crate::{
    Device,
    nn::{LoadError, Resident},
};
use nearfield_shared::gguf::Gguf;
use net::Net;
pub use rendering::{Place, Rendering};
use std::ops::RangeInclusive;
use vocoder::Vocoder;

/// Samples per second of what is rendered.
pub const SAMPLE_RATE_HZ: u32 = 24_000;

/// Phonemes that one rendering takes, the pads at both ends included. The network was trained on sentences of up to 400; longer ones
/// are to be split at clause punctuation.
pub const PHONEMES_MAX: usize = 512;

/// Speeds the network was made for; 1 is the voice's own pace.
pub const SPEEDS: RangeInclusive<f32> = 0.5..=2.0;

/// Frames of 25 ms that one rendering may come to: two minutes.
const FRAMES_MAX: usize = 4_800;

/// Seed of [`Hibari::render`].
const SEED: u64 = 0x6e65_6172_6669_656c;

/// Why a phrase cannot be rendered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RenderError {
    /// More phonemes than the network takes.
    #[error(
        "{found} phonemes in one phrase, at most {PHONEMES_MAX} are possible; split the text at clause punctuation"
    )]
    TooManyPhonemes {
        /// How many there are.
        found: usize,
    },
    /// A phoneme that the voice does not have.
    #[error("phoneme {id} does not exist in this voice, which has {known}; use the phonemes of the voice's own file")]
    UnknownPhoneme {
        /// Its number.
        id: u32,
        /// How many the voice has.
        known: usize,
    },
    /// A speed outside of what the network was made for.
    #[error("speed {0} is outside of {start} to {end}", start = SPEEDS.start(), end = SPEEDS.end())]
    Speed(f32),
    /// The predicted durations add up to more than anyone listens to.
    #[error("the phrase would take {seconds} s; split it")]
    TooLong {
        /// Its length.
        seconds: usize,
    },
}

/// How a phrase is going to be said.
#[derive(Debug, Clone, PartialEq)]
pub struct Prosody {
    /// Frames of 25 ms for each phoneme.
    pub durations: Vec<u32>,
    /// Fundamental frequency in hertz, one value each 12.5 ms; below 40 the sound is unvoiced.
    pub f0: Vec<f32>,
}

/// A Hibari voice on a device.
pub struct Hibari {
    net: Net,
    vocoder: Vocoder,
}

impl Hibari {
    /// Loads the weights.
    pub fn load(gguf: &Gguf, device: &Device) -> Result<Self, LoadError> {
        Ok(Self { net: Net::load(gguf, device)?, vocoder: Vocoder::new() })
    }

    /// Starts a phrase. `ids` are phonemes with a pad (0) at either end; fewer than three are silence of no length. `seed` chooses
    /// the noise of breath and consonants. Nothing is computed yet.
    pub fn begin(&self, ids: &[u32], speed: f32, seed: u64) -> Result<Rendering, RenderError> {
        if ids.len() > PHONEMES_MAX {
            return Err(RenderError::TooManyPhonemes { found: ids.len() });
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.net.phonemes()) {
            return Err(RenderError::UnknownPhoneme { id: *id, known: self.net.phonemes() });
        }
        if !SPEEDS.contains(&speed) {
            return Err(RenderError::Speed(speed));
        }
        Ok(Rendering::new(ids, speed, seed))
    }

    /// One step: `None` while there is more to do, the samples (in [-1, 1], 24 kHz) at the end, and after it no samples.
    pub fn step(&self, rendering: &mut Rendering) -> Result<Option<Vec<f32>>, RenderError> {
        self.step_together(&mut [rendering]).remove(0)
    }

    /// Durations and pitch alone, which is what golden results compare.
    pub fn predict(&self, ids: &[u32], speed: f32) -> Result<Prosody, RenderError> {
        let mut rendering = self.begin(ids, speed, SEED)?;
        while self.step(&mut rendering)?.is_none() {
            if let Some(prosody) = rendering.prosody() {
                return Ok(prosody);
            }
        }
        Ok(Prosody { durations: Vec::new(), f0: Vec::new() })
    }

    /// All steps at once, with a fixed seed: 24 kHz samples in [-1, 1].
    pub fn render(&self, ids: &[u32], speed: f32) -> Result<Vec<f32>, RenderError> {
        let mut rendering = self.begin(ids, speed, SEED)?;
        loop {
            if let Some(samples) = self.step(&mut rendering)? {
                return Ok(samples);
            }
        }
    }
}

impl Resident for Hibari {
    fn resident_bytes(&self) -> usize {
        self.net.resident_bytes()
    }
}
