//! Speech: phonemes first, then each phrase of them in the synthesiser's own steps.

use super::{Slots, foreign, model_error, not_ours, once};
use crate::Device;
use crate::engine::golden;
use crate::engine::stepper::{Moves, Output, Progress, Proof, StepError, Stepper, Work};
use crate::nn::Resident;
use crate::tts::g2p::Phonemizer;
use crate::tts::{Hibari, RenderError, Rendering};
use nearfield_shared::{artefact::Stage, gguf::Gguf, golden::GoldenCase};
use std::collections::VecDeque;
use std::rc::Rc;

/// Seed of the noise in the voice: the same phrase always sounds the same, so that a cached phrase and a fresh one agree.
const SEED: u64 = 1;

pub(super) struct TtsStepper {
    voice: Rc<Hibari>,
    phonemizer: Phonemizer,
    slots: Slots<Task>,
}

struct Task {
    /// The text, until it was read.
    text: Option<String>,
    speed: f32,
    phrases: VecDeque<Vec<u32>>,
    rendering: Option<Rendering>,
    samples: Vec<f32>,
}

impl TtsStepper {
    pub fn load(gguf: &Gguf, device: &Device, slots: usize) -> Result<Self, StepError> {
        let voice = Hibari::load(gguf, device).map_err(model_error)?;
        // The network for unknown words is so small that a GPU's round trips would cost more than its arithmetic.
        let phonemizer = Phonemizer::load(gguf, &Device::flex()).map_err(model_error)?;
        Ok(Self { voice: Rc::new(voice), phonemizer, slots: Slots::new(slots) })
    }
}

/// The phonemizer and the door have bounded what comes here, so whatever the voice refuses is a fault of the file.
impl From<RenderError> for StepError {
    fn from(error: RenderError) -> Self {
        match error {
            RenderError::TooLong { .. } | RenderError::Speed(_) => StepError::BadInput(error.to_string()),
            _ => StepError::Model(error.to_string()),
        }
    }
}

impl Task {
    /// One step; `true` when all of it is spoken.
    fn advance(&mut self, voice: &Hibari, phonemizer: &Phonemizer) -> Result<bool, RenderError> {
        if let Some(text) = self.text.take() {
            self.phrases = phonemizer.phonemes(&text).iter().map(|phrase| phonemizer.ids(phrase)).collect();
            return Ok(self.phrases.is_empty());
        }
        let rendering = match &mut self.rendering {
            Some(rendering) => rendering,
            None => {
                let Some(ids) = self.phrases.pop_front() else { return Ok(true) };
                self.rendering.insert(voice.begin(&ids, self.speed, SEED)?)
            }
        };
        if let Some(samples) = voice.step(rendering)? {
            self.samples.extend(samples);
            self.rendering = None;
            return Ok(self.phrases.is_empty());
        }
        Ok(false)
    }
}

impl Stepper for TtsStepper {
    fn resident_bytes(&self) -> usize {
        self.voice.resident_bytes() + self.phonemizer.resident_bytes()
    }

    fn begin(&mut self, slot: usize, work: Work) -> Result<(), StepError> {
        let Work::Tts { text, speed } = work else { return Err(foreign(Stage::Tts)) };
        let task = Task { text: Some(text), speed, phrases: VecDeque::new(), rendering: None, samples: Vec::new() };
        self.slots.fill(slot, task);
        Ok(())
    }

    fn step(&mut self, due: &[usize]) -> Moves {
        let slot = due[0];
        let task = self.slots.task(slot);
        let moved = match task.advance(&self.voice, &self.phonemizer) {
            Ok(true) => Ok(Progress::Done(Output::Audio(std::mem::take(&mut task.samples)))),
            Ok(false) => Ok(Progress::Moved),
            Err(error) => Err(error.into()),
        };
        vec![(slot, moved)]
    }

    fn end(&mut self, slot: usize) {
        self.slots.empty(slot);
    }

    fn prove(&mut self, case: &GoldenCase) -> Result<Box<dyn Proof>, StepError> {
        let GoldenCase::Tts { phoneme_ids, durations, f0, f0_correlation_min } = case else {
            return Err(not_ours(Stage::Tts, case));
        };
        let (voice, ids, durations, f0) = (self.voice.clone(), phoneme_ids.clone(), durations.clone(), f0.clone());
        let correlation_min = *f0_correlation_min;
        Ok(once(move || {
            let found = voice.predict(&ids, 1.0)?;
            Ok(golden::prosody((&durations, &f0), (&found.durations, &found.f0), correlation_min))
        }))
    }
}
