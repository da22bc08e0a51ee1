//! Embeddings: a few sentences at a step, so that an assistant's whole list does not hold up a call; those of several calls go
//! together.

use super::{Slots, foreign, model_error, not_ours, once};
use crate::Device;
use crate::embed::MiniLm;
use crate::engine::golden;
use crate::engine::stepper::{Moves, Output, Progress, Proof, StepError, Stepper, Work};
use crate::nn::Resident;
use nearfield_shared::{artefact::Stage, gguf::Gguf, golden::GoldenCase};
use std::rc::Rc;

/// Sentences at a step.
const SENTENCES_PER_STEP: usize = 4;

/// Bytes at a step, unless one sentence alone has more: what callers say in four short sentences.
const BYTES_PER_STEP: usize = 400;

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
        // The most urgent job's sentences first, then those of the others, as long as there is room.
        let waiting =
            due.iter().filter_map(|&slot| Some((slot, self.slots.0[slot].as_ref()?))).flat_map(|(slot, task)| {
                task.sentences[task.found.len()..].iter().map(move |sentence| (slot, sentence.as_str()))
            });
        let (mut owners, mut sentences, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (slot, sentence) in waiting.take(SENTENCES_PER_STEP) {
            bytes += sentence.len();
            if bytes > BYTES_PER_STEP && !sentences.is_empty() {
                break;
            }
            owners.push(slot);
            sentences.push(sentence);
        }
        for (slot, vector) in owners.iter().zip(self.model.embed(&sentences)) {
            self.slots.task(*slot).found.push(vector);
        }
        owners.dedup();
        let moved = owners.into_iter().map(|slot| {
            let task = self.slots.task(slot);
            if task.found.len() < task.sentences.len() {
                return (slot, Ok(Progress::Moved));
            }
            (slot, Ok(Progress::Done(Output::Vectors(std::mem::take(&mut task.found)))))
        });
        moved.collect()
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
