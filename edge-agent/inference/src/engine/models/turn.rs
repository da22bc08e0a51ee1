//! Has the caller finished? The spectrum is one step, and each layer of the network another.

use super::{Slots, audio, foreign, model_error, not_ours, steps};
use crate::Device;
use crate::engine::golden;
use crate::engine::stepper::{Moves, Output, Progress, Proof, StepError, Stepper, Work};
use crate::nn::Resident;
use crate::turn::{Listening, SmartTurn};
use nearfield_shared::{artefact::Stage, gguf::Gguf, golden::GoldenCase};
use std::rc::Rc;

pub(super) struct TurnStepper {
    model: Rc<SmartTurn>,
    slots: Slots<Task>,
}

enum Task {
    Audio(Vec<f32>),
    Network(Box<Listening>),
}

impl Task {
    fn advance(&mut self, model: &SmartTurn) -> Option<f32> {
        match self {
            Task::Audio(pcm) => {
                *self = Task::Network(Box::new(model.listen(pcm)));
                None
            }
            Task::Network(listening) => model.step(listening),
        }
    }
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
        self.slots.fill(slot, Task::Audio(pcm));
        Ok(())
    }

    fn step(&mut self, due: &[usize]) -> Moves {
        let slot = due[0];
        let progress = match self.slots.task(slot).advance(&self.model) {
            Some(probability) => Progress::Done(Output::Probabilities(vec![probability])),
            None => Progress::Moved,
        };
        vec![(slot, Ok(progress))]
    }

    fn end(&mut self, slot: usize) {
        self.slots.empty(slot);
    }

    fn prove(&mut self, case: &GoldenCase) -> Result<Box<dyn Proof>, StepError> {
        let GoldenCase::Turn { pcm, probability, tolerance } = case else { return Err(not_ours(Stage::Turn, case)) };
        let (model, probability, tolerance) = (self.model.clone(), *probability, *tolerance);
        let mut task = Task::Audio(audio(pcm)?);
        Ok(steps(move || {
            Ok(task.advance(&model).map(|found| golden::close(Stage::Turn, &[probability], &[found], tolerance)))
        }))
    }
}
