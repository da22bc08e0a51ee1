//! Embeddings: a few sentences at a step, so that an assistant's whole list does not hold up a call.

use super::{Slots, foreign, model_error, not_ours, once};
use crate::Device;
use crate::embed::MiniLm;
use crate::engine::golden;
use crate::engine::stepper::{Moves, Output, Progress, Proof, StepError, Stepper, Work};
use crate::nn::Resident;
use nearfield_shared::{artefact::Stage, gguf::Gguf, golden::GoldenCase};
use std::rc::Rc;

/// Sentences at a step: about 30 ms of short ones on one core.
const SENTENCES_PER_STEP: usize = 4;

pub(super) struct EmbedStepper {
    model: Rc<MiniLm>,
    slots: Slots<Task>,
}

struct Task {
    sentences: Vec<String>,
    found: Vec<Vec<f32>>,
}

impl EmbedStepper {
    pub fn load(gguf: &Gguf, device: &Device, slots: usize) -> Result<Self, StepError> {
        let model = MiniLm::load(gguf, device).map_err(model_error)?;
        Ok(Self { model: Rc::new(model), slots: Slots::new(slots) })
    }
}

impl Stepper for EmbedStepper {
    fn resident_bytes(&self) -> usize {
        self.model.resident_bytes()
    }

    fn begin(&mut self, slot: usize, work: Work) -> Result<(), StepError> {
        let Work::Embed(sentences) = work else { return Err(foreign(Stage::Embed)) };
        self.slots.fill(slot, Task { sentences, found: Vec::new() });
        Ok(())
    }

    fn step(&mut self, due: &[usize]) -> Moves {
        let slot = due[0];
        let task = self.slots.task(slot);
        let next: Vec<&str> =
            task.sentences[task.found.len()..].iter().take(SENTENCES_PER_STEP).map(String::as_str).collect();
        task.found.extend(self.model.embed(&next));
        let progress = if task.found.len() < task.sentences.len() {
            Progress::Moved
        } else {
            Progress::Done(Output::Vectors(std::mem::take(&mut task.found)))
        };
        vec![(slot, Ok(progress))]
    }

    fn end(&mut self, slot: usize) {
        self.slots.empty(slot);
    }

    fn prove(&mut self, case: &GoldenCase) -> Result<Box<dyn Proof>, StepError> {
        let GoldenCase::Embed { text, embedding, cosine_min } = case else { return Err(not_ours(Stage::Embed, case)) };
        let (model, text, embedding, cosine_min) = (self.model.clone(), text.clone(), embedding.clone(), *cosine_min);
        Ok(once(move || {
            let found = model.embed(&[&text]).pop().unwrap_or_default();
            Ok(golden::same_direction(&embedding, &found, cosine_min))
        }))
    }
}
