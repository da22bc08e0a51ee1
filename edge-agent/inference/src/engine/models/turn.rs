//! Has the caller finished? One step.

use super::{Slots, audio, foreign, model_error, not_ours, once};
use crate::Device;
use crate::engine::golden;
use crate::engine::stepper::{Moves, Output, Progress, Proof, StepError, Stepper, Work};
use crate::nn::Resident;
use crate::turn::SmartTurn;
use nearfield_shared::{artefact::Stage, gguf::Gguf, golden::GoldenCase};
use std::rc::Rc;

pub(super) struct TurnStepper {
    model: Rc<SmartTurn>,
    slots: Slots<Vec<f32>>,
}

impl TurnStepper {
    pub fn load(gguf: &Gguf, device: &Device, slots: usize) -> Result<Self, StepError> {
        let model = SmartTurn::load(gguf, device).map_err(model_error)?;
        Ok(Self { model: Rc::new(model), slots: Slots::new(slots) })
    }
}

impl Stepper for TurnStepper {
    fn resident_bytes(&self) -> usize {
        self.model.resident_bytes()
    }

    fn begin(&mut self, slot: usize, work: Work) -> Result<(), StepError> {
        let Work::Turn(pcm) = work else { return Err(foreign(Stage::Turn)) };
        self.slots.fill(slot, pcm);
        Ok(())
    }

    fn step(&mut self, due: &[usize]) -> Moves {
        let slot = due[0];
        let probability = self.model.probability(self.slots.task(slot));
        vec![(slot, Ok(Progress::Done(Output::Probabilities(vec![probability]))))]
    }

    fn end(&mut self, slot: usize) {
        self.slots.empty(slot);
    }

    fn prove(&mut self, case: &GoldenCase) -> Result<Box<dyn Proof>, StepError> {
        let GoldenCase::Turn { pcm, probability, tolerance } = case else { return Err(not_ours(Stage::Turn, case)) };
        let (model, pcm, probability, tolerance) = (self.model.clone(), audio(pcm)?, *probability, *tolerance);
        Ok(once(move || Ok(golden::close(Stage::Turn, &[probability], &[model.probability(&pcm)], tolerance))))
    }
}
