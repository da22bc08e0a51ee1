//! Transcripts: one step encodes, each further step writes one token, always for the most urgent job.

use super::{Slots, audio, foreign, model_error, not_ours, steps};
use crate::Device;
use crate::asr::{AsrError, Decoding, Moonshine};
use crate::engine::golden;
use crate::engine::stepper::{Moves, Output, Progress, Proof, StepError, Stepper, Work};
use crate::nn::Resident;
use nearfield_shared::{artefact::Stage, gguf::Gguf, golden::GoldenCase};
use std::rc::Rc;

pub(super) struct AsrStepper {
    model: Rc<Moonshine>,
    slots: Slots<Task>,
}

enum Task {
    Audio(Vec<f32>),
    Writing(Decoding),
}

impl AsrStepper {
    pub fn load(gguf: &Gguf, device: &Device, slots: usize) -> Result<Self, StepError> {
        let model = Moonshine::load(gguf, device).map_err(model_error)?;
        Ok(Self { model: Rc::new(model), slots: Slots::new(slots) })
    }
}

/// One step of a transcript; `true` when it is complete.
fn advance(model: &Moonshine, task: &mut Task) -> Result<bool, AsrError> {
    match task {
        Task::Audio(pcm) => {
            *task = Task::Writing(model.begin(model.encode(pcm)?));
            Ok(false)
        }
        Task::Writing(decoding) => Ok(model.step(decoding)?.is_none()),
    }
}

impl From<AsrError> for StepError {
    fn from(error: AsrError) -> Self {
        match error {
            AsrError::TooLong { .. } => StepError::BadInput(error.to_string()),
            AsrError::Device(_) => StepError::Model(error.to_string()),
        }
    }
}

impl Stepper for AsrStepper {
    fn resident_bytes(&self) -> usize {
        self.model.resident_bytes()
    }

    fn begin(&mut self, slot: usize, work: Work) -> Result<(), StepError> {
        let Work::Asr(pcm) = work else { return Err(foreign(Stage::Asr)) };
        self.slots.fill(slot, Task::Audio(pcm));
        Ok(())
    }

    fn step(&mut self, due: &[usize]) -> Moves {
        let slot = due[0];
        let task = self.slots.task(slot);
        let moved = match (advance(&self.model, task), &*task) {
            (Ok(true), Task::Writing(decoding)) => Ok(Progress::Done(Output::Text(self.model.text(decoding.tokens())))),
            (Ok(_), _) => Ok(Progress::Moved),
            (Err(error), _) => Err(error.into()),
        };
        vec![(slot, moved)]
    }

    fn end(&mut self, slot: usize) {
        self.slots.empty(slot);
    }

    fn prove(&mut self, case: &GoldenCase) -> Result<Box<dyn Proof>, StepError> {
        let GoldenCase::Asr { pcm, tokens, edits_max } = case else { return Err(not_ours(Stage::Asr, case)) };
        let (model, tokens, edits_max) = (self.model.clone(), tokens.clone(), *edits_max);
        let mut task = Task::Audio(audio(pcm)?);
        Ok(steps(move || {
            Ok(match (advance(&model, &mut task)?, &task) {
                (true, Task::Writing(decoding)) => {
                    Some(golden::tokens(Stage::Asr, &tokens, decoding.tokens(), edits_max))
                }
                _ => None,
            })
        }))
    }
}
