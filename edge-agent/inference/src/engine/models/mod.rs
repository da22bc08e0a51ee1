//! The steppers over the real networks: a file per stage. They cut each stage's work into bounded steps and keep what a slot
//! remembers between them; what a network computes stands in the stage's own folder.

mod asr;
mod embed;
mod llm;
mod tts;
mod turn;
mod vad;

use super::Limits;
use super::golden::CaseOutcome;
use super::stepper::{Loader, Proof, StepError, Stepper};
use crate::Device;
use nearfield_shared::artefact::Stage;
use nearfield_shared::gguf::Gguf;
use nearfield_shared::golden::{GoldenCase, Pcm16};

/// Puts models on one device.
pub(super) struct DeviceLoader {
    device: Device,
    llm_prefix_bytes: usize,
}

impl DeviceLoader {
    pub fn new(device: Device, limits: &Limits) -> Self {
        Self { device, llm_prefix_bytes: limits.llm_prefix_bytes }
    }
}

impl Loader for DeviceLoader {
    fn load(&mut self, stage: Stage, gguf: &Gguf, slots: usize) -> Result<Box<dyn Stepper>, StepError> {
        let device = &self.device;
        Ok(match stage {
            Stage::Vad => Box::new(vad::VadStepper::load(gguf, device, slots)?),
            Stage::Turn => Box::new(turn::TurnStepper::load(gguf, device, slots)?),
            Stage::Asr => Box::new(asr::AsrStepper::load(gguf, device, slots)?),
            Stage::Llm => Box::new(llm::LlmStepper::load(gguf, device, slots, self.llm_prefix_bytes)?),
            Stage::Tts => Box::new(tts::TtsStepper::load(gguf, device, slots)?),
            Stage::Embed => Box::new(embed::EmbedStepper::load(gguf, device, slots)?),
        })
    }
}

/// An error of a network as one of its stage.
fn model_error(error: impl std::fmt::Display) -> StepError {
    StepError::Model(error.to_string())
}

/// Work or a case that belongs to another stage. The door and the golden reader sort them, so this is a fault of ours.
fn foreign(stage: Stage) -> StepError {
    StepError::Model(format!("work of another stage was handed to the {stage} model"))
}

/// The audio of a golden case, which must have the rate that the stages take.
fn audio(pcm: &Pcm16) -> Result<Vec<f32>, StepError> {
    if pcm.rate_hz as usize != super::SAMPLE_RATE_HZ {
        return Err(StepError::BadInput(format!("the case's audio has {} Hz, 16000 are expected", pcm.rate_hz)));
    }
    pcm.samples().map_err(|what| StepError::BadInput(format!("the case's audio cannot be read: {what}")))
}

/// Slots by number; `begin` fills one, `end` empties it.
struct Slots<T>(Vec<Option<T>>);

impl<T> Slots<T> {
    fn new(count: usize) -> Self {
        Self((0..count).map(|_| None).collect())
    }

    fn fill(&mut self, slot: usize, task: T) {
        self.0[slot] = Some(task);
    }

    fn empty(&mut self, slot: usize) {
        self.0[slot] = None;
    }

    /// The task in a slot that the worker says is occupied.
    fn task(&mut self, slot: usize) -> &mut T {
        self.0[slot].as_mut().expect("the worker steps occupied slots only")
    }
}

/// A proof of one step.
struct Once<F>(Option<F>);

impl<F: FnOnce() -> Result<CaseOutcome, StepError>> Proof for Once<F> {
    fn step(&mut self) -> Result<Option<CaseOutcome>, StepError> {
        match self.0.take() {
            Some(run) => run().map(Some),
            None => Err(StepError::Model("a case that was decided is run again".into())),
        }
    }
}

/// A proof that takes several steps.
struct Steps<F>(F);

impl<F: FnMut() -> Result<Option<CaseOutcome>, StepError>> Proof for Steps<F> {
    fn step(&mut self) -> Result<Option<CaseOutcome>, StepError> {
        (self.0)()
    }
}

fn once(run: impl FnOnce() -> Result<CaseOutcome, StepError> + 'static) -> Box<dyn Proof> {
    Box::new(Once(Some(run)))
}

fn steps(run: impl FnMut() -> Result<Option<CaseOutcome>, StepError> + 'static) -> Box<dyn Proof> {
    Box::new(Steps(run))
}

/// The stage of a case, for the message that it is not ours.
fn not_ours(stage: Stage, case: &GoldenCase) -> StepError {
    debug_assert_ne!(super::golden::stage_of(case), stage);
    foreign(stage)
}
