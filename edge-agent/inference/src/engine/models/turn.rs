//! Has the caller finished? The spectrum is one step, and each layer of the network another. Turns of several calls take it together
//! where the device gains by it.

use super::{Slots, audio, company, foreign, model_error, not_ours, rows_at_once, steps};
use crate::Device;
use crate::engine::golden;
use crate::engine::stepper::{Moves, Output, Progress, Proof, StepError, Stepper, Work};
use crate::nn::Resident;
use crate::turn::{Listening, POSITIONS, SmartTurn};
use nearfield_shared::{artefact::Stage, gguf::Gguf, golden::GoldenCase};
use std::rc::Rc;

pub(super) struct TurnStepper {
    model: Rc<SmartTurn>,
    slots: Slots<Task>,
    rows_max: usize,
}

enum Task {
    Audio(Vec<f32>),
    Network(Box<Listening>),
}

/// A step of tasks that stand at the same place; probabilities where they are done.
fn advance(model: &SmartTurn, mut tasks: Vec<&mut Task>) -> Vec<Option<f32>> {
    let mut turns: Vec<&mut Listening> = Vec::new();
    let mut audio: Vec<&[f32]> = Vec::new();
    for task in &mut tasks {
        match &mut **task {
            Task::Network(listening) => turns.push(listening),
            Task::Audio(pcm) => audio.push(pcm),
        }
    }
    if audio.is_empty() {
        return model.step_together(&mut turns);
    }
    let begun = model.listen_together(&audio);
    tasks
        .into_iter()
        .zip(begun)
        .map(|(task, begun)| {
            *task = Task::Network(Box::new(begun));
            None
        })
        .collect()
}

impl TurnStepper {
    pub fn load(gguf: &Gguf, device: &Device, slots: usize) -> Result<Self, StepError> {
        let model = SmartTurn::load(gguf, device).map_err(model_error)?;
        Ok(Self { model: Rc::new(model), slots: Slots::new(slots), rows_max: rows_at_once(device) })
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
        let place = |slot| match self.slots.peek(slot) {
            Task::Audio(_) => (None, POSITIONS),
            Task::Network(listening) => (Some(listening.done()), POSITIONS),
        };
        let going = company(due, self.rows_max, place);
        let found = advance(&self.model, self.slots.tasks(&going));
        let progress = |found| match found {
            Some(probability) => Progress::Done(Output::Probabilities(vec![probability])),
            None => Progress::Moved,
        };
        going.into_iter().zip(found).map(|(slot, found)| (slot, Ok(progress(found)))).collect()
    }

    fn end(&mut self, slot: usize) {
        self.slots.empty(slot);
    }

    fn prove(&mut self, case: &GoldenCase) -> Result<Box<dyn Proof>, StepError> {
        let GoldenCase::Turn { pcm, probability, tolerance } = case else { return Err(not_ours(Stage::Turn, case)) };
        let (model, probability, tolerance) = (self.model.clone(), *probability, *tolerance);
        let mut task = Task::Audio(audio(pcm)?);
        Ok(steps(move || {
            let found = advance(&model, vec![&mut task]).pop().flatten();
            Ok(found.map(|found| golden::close(Stage::Turn, &[probability], &[found], tolerance)))
        }))
    }
}
