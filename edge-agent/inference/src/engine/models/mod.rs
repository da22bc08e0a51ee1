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
use crate::{Device, nn, ops::team};
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

/// Rows of activations that are worth a thread. On a CPU a phrase of usual length has more than two threads need, so a second one in
/// its step would save next to nothing and hold up the first; what is short, or meets many threads, goes together.
const ROWS_PER_THREAD: usize = 32;

/// Rows that a GPU takes at a step: four turns, or twenty seconds of speech. A step of few rows is all launches there.
const ROWS_ON_GPU: usize = 1_600;

/// Rows of all jobs of a step together, unless one alone has more.
fn rows_at_once(device: &Device) -> usize {
    if nn::is_cpu(device) { ROWS_PER_THREAD * team::threads() } else { ROWS_ON_GPU }
}

/// Who takes a step: the most urgent of the `due` slots, and with it those that stand where it does, as far as there is room for
/// their rows. `job` gives where a slot's job stands, and its rows.
fn company<P: PartialEq>(due: &[usize], rows_max: usize, job: impl Fn(usize) -> (P, usize)) -> Vec<usize> {
    let Some((&first, others)) = due.split_first() else { return Vec::new() };
    let (place, mut rows) = job(first);
    let mut going = vec![first];
    for &slot in others {
        let (at, more) = job(slot);
        if at == place && rows + more <= rows_max {
            rows += more;
            going.push(slot);
        }
    }
    going
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

    /// The same to look at.
    fn peek(&self, slot: usize) -> &T {
        self.0[slot].as_ref().expect("the worker steps occupied slots only")
    }

    /// The tasks in these slots, in their order.
    fn tasks(&mut self, slots: &[usize]) -> Vec<&mut T> {
        let place = |slot| slots.iter().position(|s| *s == slot);
        let occupied = self.0.iter_mut().enumerate().filter_map(|(slot, task)| Some((place(slot)?, task.as_mut()?)));
        let mut found: Vec<(usize, &mut T)> = occupied.collect();
        found.sort_by_key(|(place, _)| *place);
        found.into_iter().map(|(_, task)| task).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_urgent_goes_and_takes_along_who_stands_beside_it_and_fits() {
        // By slot: where the job stands, and its rows.
        let jobs = [('a', 30), ('b', 5), ('a', 40), ('a', 20), ('a', 500)];
        let go = |due: &[usize], rows_max| company(due, rows_max, |slot| jobs[slot]);
        assert_eq!(go(&[0, 1, 2, 3], 64), [0, 3], "another place, and too many rows");
        assert_eq!(go(&[3, 2, 1, 0], 64), [3, 2], "in the order of urgency");
        assert_eq!(go(&[4, 0, 3], 64), [4], "who is too long for any company goes alone");
        assert_eq!(go(&[1, 0, 2], 64), [1]);
        assert_eq!(go(&[2, 0, 3, 4], 1_600), [2, 0, 3, 4]);
        assert!(go(&[], 64).is_empty());
    }

    #[test]
    fn tasks_come_in_the_order_they_are_asked_for() {
        let mut slots = Slots::new(4);
        (0..4).for_each(|slot| slots.fill(slot, slot * 10));
        slots.empty(2);
        assert_eq!(slots.tasks(&[3, 0]), [&mut 30, &mut 0]);
        assert_eq!((*slots.task(1), *slots.peek(1)), (10, 10));
    }
}
