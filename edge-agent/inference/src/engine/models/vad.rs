//! Voice activity: one frame of every call that has one, in one batch. A slot's recurrent state outlives its jobs.

use super::{audio, foreign, model_error, not_ours, steps};
use crate::Device;
use crate::engine::golden;
use crate::engine::limits::VAD_FRAME_SAMPLES;
use crate::engine::stepper::{Moves, Output, Progress, Proof, StepError, Stepper, Work};
use crate::nn::Resident;
use crate::vad::{SileroVad, VadState};
use nearfield_shared::{artefact::Stage, gguf::Gguf, golden::GoldenCase};
use std::collections::VecDeque;
use std::rc::Rc;

/// Frames of a golden case at a step: few enough that a live frame does not wait for long.
const FRAMES_PER_PROOF_STEP: usize = 16;

pub(super) struct VadStepper {
    model: Rc<SileroVad>,
    slots: Vec<Slot>,
}

#[derive(Default)]
struct Slot {
    state: VadState,
    job: Option<Job>,
}

struct Job {
    frames: VecDeque<[f32; VAD_FRAME_SAMPLES]>,
    found: Vec<f32>,
}

impl VadStepper {
    pub fn load(gguf: &Gguf, device: &Device, slots: usize) -> Result<Self, StepError> {
        let model = SileroVad::load(gguf, device).map_err(model_error)?;
        Ok(Self { model: Rc::new(model), slots: (0..slots).map(|_| Slot::default()).collect() })
    }
}

impl Stepper for VadStepper {
    fn resident_bytes(&self) -> usize {
        self.model.resident_bytes()
    }

    fn begin(&mut self, slot: usize, work: Work) -> Result<(), StepError> {
        let Work::Frames(frames) = work else { return Err(foreign(Stage::Vad)) };
        self.slots[slot].job = Some(Job { found: Vec::with_capacity(frames.len()), frames });
        Ok(())
    }

    fn step(&mut self, due: &[usize]) -> Moves {
        let mut frames = Vec::with_capacity(due.len());
        let mut states = Vec::with_capacity(due.len());
        let mut jobs = Vec::with_capacity(due.len());
        for (number, slot) in self.slots.iter_mut().enumerate().filter(|(number, _)| due.contains(number)) {
            let Some(job) = &mut slot.job else { continue };
            let Some(frame) = job.frames.pop_front() else { continue };
            frames.push(frame);
            states.push(&mut slot.state);
            jobs.push((number, job));
        }
        let probabilities = self.model.step(&frames, &mut states);
        jobs.into_iter()
            .zip(probabilities)
            .map(|((number, job), probability)| {
                job.found.push(probability);
                let progress = if job.frames.is_empty() {
                    Progress::Done(Output::Probabilities(std::mem::take(&mut job.found)))
                } else {
                    Progress::Moved
                };
                (number, Ok(progress))
            })
            .collect()
    }

    fn end(&mut self, slot: usize) {
        self.slots[slot].job = None;
    }

    fn reset(&mut self, slot: usize) {
        self.slots[slot].state = VadState::new();
    }

    fn prove(&mut self, case: &GoldenCase) -> Result<Box<dyn Proof>, StepError> {
        let GoldenCase::Vad { pcm, probabilities, tolerance } = case else { return Err(not_ours(Stage::Vad, case)) };
        let (model, expected, tolerance) = (self.model.clone(), probabilities.clone(), *tolerance);
        let frames = audio(pcm)?.as_chunks::<VAD_FRAME_SAMPLES>().0.to_vec();
        let (mut state, mut found) = (VadState::new(), Vec::new());
        Ok(steps(move || {
            for frame in frames[found.len()..].iter().take(FRAMES_PER_PROOF_STEP) {
                found.extend(model.step(std::slice::from_ref(frame), &mut [&mut state]));
            }
            Ok((found.len() == frames.len()).then(|| golden::close(Stage::Vad, &expected, &found, tolerance)))
        }))
    }
}
