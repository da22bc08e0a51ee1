//! Speech: phonemes first, then each phrase of them in the synthesiser's own steps. Phrases of several calls that stand at the same
//! place take a step together, as many as the device has use for.

use super::{Slots, company, foreign, model_error, not_ours, once, rows_at_once};
use crate::Device;
use crate::engine::golden;
use crate::engine::stepper::{Moves, Output, Progress, Proof, StepError, Stepper, Work};
use crate::nn::Resident;
use crate::tts::g2p::Phonemizer;
use crate::tts::{Hibari, Place, RenderError, Rendering};
use nearfield_shared::{artefact::Stage, gguf::Gguf, golden::GoldenCase};
use std::collections::VecDeque;
use std::rc::Rc;

/// Seed of the noise in the voice: the same phrase always sounds the same, so that a cached phrase and a fresh one agree.
const SEED: u64 = 1;

pub(super) struct TtsStepper {
    voice: Rc<Hibari>,
    phonemizer: Phonemizer,
    slots: Slots<Task>,
    rows_max: usize,
}

struct Task {
    speed: f32,
    at: At,
    samples: Vec<f32>,
}

#[allow(clippy::large_enum_variant, reason = "there are as many as slots")]
enum At {
    Text(String),
    Phrase { rendering: Rendering, rest: VecDeque<Vec<u32>> },
}

impl TtsStepper {
    pub fn load(gguf: &Gguf, device: &Device, slots: usize) -> Result<Self, StepError> {
        let voice = Hibari::load(gguf, device).map_err(model_error)?;
        // The network for unknown words is so small that a GPU's round trips would cost more than its arithmetic.
        let phonemizer = Phonemizer::load(gguf, &Device::flex()).map_err(model_error)?;
        Ok(Self { voice: Rc::new(voice), phonemizer, slots: Slots::new(slots), rows_max: rows_at_once(device) })
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
    /// Where it stands (`None`: its text is not read yet), and the rows of its next step; a text has its bytes.
    fn next(&self) -> (Option<Place>, usize) {
        match &self.at {
            At::Text(text) => (None, text.len()),
            At::Phrase { rendering, .. } => (Some(rendering.place()), rendering.rows()),
        }
    }

    /// Begins the first of these phrases.
    fn begin(&mut self, voice: &Hibari, mut phrases: VecDeque<Vec<u32>>) -> Result<Progress, StepError> {
        let Some(ids) = phrases.pop_front() else {
            return Ok(Progress::Done(Output::Audio(std::mem::take(&mut self.samples))));
        };
        self.at = At::Phrase { rendering: voice.begin(&ids, self.speed, SEED)?, rest: phrases };
        Ok(Progress::Moved)
    }

    /// Reads the text.
    fn read(&mut self, voice: &Hibari, phonemizer: &Phonemizer) -> Result<Progress, StepError> {
        let At::Text(text) = &self.at else { return Err(foreign(Stage::Tts)) };
        let phrases = phonemizer.phonemes(text).iter().map(|phrase| phonemizer.ids(phrase)).collect();
        self.begin(voice, phrases)
    }

    /// After a step of its phrase.
    fn stepped(&mut self, voice: &Hibari, found: Result<Option<Vec<f32>>, RenderError>) -> Result<Progress, StepError> {
        let (Some(samples), At::Phrase { rest, .. }) = (found?, &mut self.at) else { return Ok(Progress::Moved) };
        self.samples.extend(samples);
        let rest = std::mem::take(rest);
        self.begin(voice, rest)
    }
}

impl Stepper for TtsStepper {
    fn resident_bytes(&self) -> usize {
        self.voice.resident_bytes() + self.phonemizer.resident_bytes()
    }

    fn begin(&mut self, slot: usize, work: Work) -> Result<(), StepError> {
        let Work::Tts { text, speed } = work else { return Err(foreign(Stage::Tts)) };
        self.slots.fill(slot, Task { speed, at: At::Text(text), samples: Vec::new() });
        Ok(())
    }

    fn step(&mut self, due: &[usize]) -> Moves {
        let going = company(due, self.rows_max, |slot| self.slots.peek(slot).next());
        let mut tasks = self.slots.tasks(&going);
        let mut renderings: Vec<&mut Rendering> = Vec::new();
        for task in &mut tasks {
            if let At::Phrase { rendering, .. } = &mut task.at {
                renderings.push(rendering);
            }
        }
        let voice = &*self.voice;
        if renderings.is_empty() {
            let read = tasks.into_iter().map(|task| task.read(voice, &self.phonemizer));
            return going.iter().copied().zip(read).collect();
        }
        let found = voice.step_together(&mut renderings);
        let moved = tasks.into_iter().zip(found).map(|(task, found)| task.stepped(voice, found));
        going.into_iter().zip(moved).collect()
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
