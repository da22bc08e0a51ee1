//! The door of the engine: what waits outside the worker thread.
//!
//! BACKPRESSURE: every stage has a bounded queue. A job is refused here, synchronously, when the queue is full or when
//! what is ahead of it would take longer than [`Limits::patience`], judged by measured times; the refusal says when to
//! come back. Nothing behind the door waits for a reader. Downside: the projection knows jobs, not their sizes; a run of
//! unusually long ones is underestimated until the mean has followed.

use super::job::{Job, StreamId};
use super::load::Load;
use super::model_file::ModelFile;
use super::per_stage::PerStage;
use super::snapshot::{EngineSnapshot, LoadedModel, StageSnapshot};
use super::{EngineError, GoldenReport, Limits};
use nearfield_shared::artefact::Stage;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Loads, proofs and activations that may wait: a node loads six stages, each with one version in flight.
const COMMANDS_MAX: usize = 16;

/// The least and greatest pause that a refusal asks for, in milliseconds.
const RETRY_MS: (u64, u64) = (10, 10_000);

/// Weight of a new measurement in the running means. An eighth follows a change of load within a second of steps and
/// forgets a single outlier.
const MEAN_WEIGHT: f64 = 0.125;

/// Names a loaded model within this engine; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelId(pub u64);

/// Orders of the operator's side: they change which models there are.
pub(crate) enum Command {
    Load { stage: Stage, file: ModelFile, reply: oneshot::Sender<Result<LoadedModel, EngineError>> },
    Prove { id: ModelId, reply: oneshot::Sender<Result<GoldenReport, EngineError>> },
    Activate { id: ModelId, reply: oneshot::Sender<Result<(), EngineError>> },
}

/// What the worker takes in at the start of a turn.
#[derive(Default)]
pub(crate) struct Intake {
    pub closed: bool,
    pub commands: Vec<Command>,
    pub discards: Vec<ModelId>,
    /// Whether a stream was closed or a visitor has left.
    pub somebody_left: bool,
    /// Jobs that were cancelled while they waited.
    pub cancelled: Vec<Job>,
    /// Jobs for which there is a slot now, most urgent first.
    pub admitted: Vec<Job>,
}

/// The meeting point of handles and worker.
pub(crate) struct Door {
    limits: Limits,
    device: String,
    state: Mutex<State>,
    bell: Condvar,
}

struct State {
    closed: bool,
    queues: PerStage<Vec<Job>>,
    commands: VecDeque<Command>,
    discards: Vec<ModelId>,
    streams: Vec<Stream>,
    /// Visitors inside: work that is no call.
    visitors: usize,
    /// A stream was closed, or a visitor left, since the worker last looked.
    somebody_left: bool,
    stages: PerStage<StageState>,
    models: Vec<LoadedModel>,
    stepping: Option<(Stage, Instant)>,
    load: Load,
}

#[derive(Clone, Default)]
struct Stream {
    open: bool,
    generation: u64,
}

#[derive(Default)]
struct StageState {
    live: bool,
    running: usize,
    step_ms: Mean,
    longest_step: Duration,
    job_ms: Mean,
    shed: u64,
    deaths: u64,
}

/// An exponential running mean that starts at its first value.
#[derive(Default)]
struct Mean {
    value: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, took: Duration) {
        let ms = took.as_secs_f64() * 1e3;
        self.value = if self.count == 0 { ms } else { self.value + MEAN_WEIGHT * (ms - self.value) };
        self.count += 1;
    }
}

impl Door {
    pub fn new(limits: Limits, device: String) -> Self {
        let streams = vec![Stream::default(); limits.slots(Stage::Vad)];
        Self {
            limits,
            device,
            state: Mutex::new(State {
                closed: false,
                queues: PerStage::from_fn(|_| Vec::new()),
                commands: VecDeque::new(),
                discards: Vec::new(),
                streams,
                visitors: 0,
                somebody_left: false,
                stages: PerStage::from_fn(|_| StageState::default()),
                models: Vec::new(),
                stepping: None,
                load: Load::new(Instant::now()),
            }),
            bell: Condvar::new(),
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Admits a job or refuses it.
    pub fn submit(&self, job: Job) -> Result<(), EngineError> {
        let mut state = self.lock();
        let stage = job.work.stage();
        state.check_open(stage, job.on)?;
        let refused = state.refusal(stage, &self.limits);
        if let Some(retry_after_ms) = refused {
            state.stages[stage].shed += 1;
            return Err(EngineError::Overloaded { retry_after_ms });
        }
        state.queues[stage].push(job);
        self.bell.notify_one();
        Ok(())
    }

    /// Lets a call in, by what calls are measured to take of the device.
    pub fn admit(&self, now: Instant) -> Result<(), EngineError> {
        self.by_load(|load| load.admit(now)).map(drop)
    }

    /// Lets a visitor in, where a call would be let in.
    pub fn visit(&self, now: Instant) -> Result<(), EngineError> {
        let mut state = self.by_load(|load| load.room(now))?;
        state.visitors += 1;
        Ok(())
    }

    /// A visitor has left.
    pub fn visit_ended(&self) {
        let mut state = self.lock();
        state.visitors = state.visitors.saturating_sub(1);
        state.somebody_left = true;
        self.bell.notify_one();
    }

    fn by_load(
        &self,
        ask: impl FnOnce(&mut Load) -> Result<(), Duration>,
    ) -> Result<MutexGuard<'_, State>, EngineError> {
        let mut state = self.lock();
        if state.closed {
            return Err(EngineError::WorkerDied);
        }
        let retry_after_ms = |pause: Duration| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        ask(&mut state.load).map_err(|pause| EngineError::Overloaded { retry_after_ms: retry_after_ms(pause) })?;
        Ok(state)
    }

    /// A call that was let in at `since` has ended.
    pub fn leave(&self, now: Instant, since: Instant) {
        self.lock().load.left(now, since);
    }

    /// Hands an order to the worker.
    pub fn command(&self, command: Command) -> Result<(), EngineError> {
        let mut state = self.lock();
        if state.closed {
            return Err(EngineError::WorkerDied);
        }
        if state.commands.len() >= COMMANDS_MAX {
            return Err(EngineError::Overloaded { retry_after_ms: 1_000 });
        }
        state.commands.push_back(command);
        self.bell.notify_one();
        Ok(())
    }

    /// Lets a candidate go. Never refused: there are at most as many as were loaded.
    pub fn discard(&self, id: ModelId) {
        let mut state = self.lock();
        if !state.closed {
            state.discards.push(id);
            self.bell.notify_one();
        }
    }

    /// Takes a free VAD slot, for the live model or a candidate.
    pub fn open_stream(&self, on: Option<ModelId>) -> Result<StreamId, EngineError> {
        let mut state = self.lock();
        state.check_open(Stage::Vad, on)?;
        match state.streams.iter().position(|stream| !stream.open) {
            Some(slot) => {
                let stream = &mut state.streams[slot];
                stream.open = true;
                stream.generation += 1;
                Ok(StreamId { slot, generation: stream.generation })
            }
            None => {
                state.stages[Stage::Vad].shed += 1;
                // A slot is free when a call ends; a call lasts minutes, so the longest pause is honest.
                Err(EngineError::Overloaded { retry_after_ms: RETRY_MS.1 })
            }
        }
    }

    /// Gives a VAD slot back.
    pub fn close_stream(&self, stream: StreamId) {
        let mut state = self.lock();
        let slot = &mut state.streams[stream.slot];
        if slot.generation == stream.generation {
            slot.open = false;
            state.somebody_left = true;
            self.bell.notify_one();
        }
    }

    /// Whether any call listens, or any visitor is inside.
    pub fn has_callers(&self) -> bool {
        let state = self.lock();
        state.visitors > 0 || state.streams.iter().any(|stream| stream.open)
    }

    /// Whether this opening of the slot still stands.
    pub fn is_stream_open(&self, stream: StreamId) -> bool {
        let state = self.lock();
        let slot = &state.streams[stream.slot];
        slot.open && slot.generation == stream.generation
    }

    /// What the worker may take now: `free` slots per stage, and the VAD slots that are `busy`.
    pub fn intake(&self, free: &PerStage<usize>, busy: &[bool]) -> Intake {
        let mut state = self.lock();
        let mut intake = Intake {
            closed: state.closed,
            commands: state.commands.drain(..).collect(),
            discards: std::mem::take(&mut state.discards),
            somebody_left: std::mem::take(&mut state.somebody_left),
            ..Intake::default()
        };
        for stage in Stage::ALL {
            let queue = &mut state.queues[stage];
            intake.cancelled.extend(queue.extract_if(.., |job| job.is_cancelled()));
            // A stable sort: jobs that are wanted at the same time are served in the order of their arrival.
            queue.sort_by_key(|job| job.deadline);
            let mut places = free[stage];
            let mut busy = busy.to_vec();
            intake.admitted.extend(queue.extract_if(.., |job| match job.stream {
                Some(stream) => !std::mem::replace(&mut busy[stream.slot], true),
                None => {
                    let room = places > 0;
                    places = places.saturating_sub(1);
                    room
                }
            }));
        }
        for job in &intake.admitted {
            state.stages[job.work.stage()].running += 1;
        }
        intake
    }

    /// Sleeps until there is something to take in, at most for `longest`.
    pub fn wait(&self, longest: Option<Duration>) {
        let state = self.lock();
        let idle = |state: &mut State| {
            !state.closed
                && state.commands.is_empty()
                && state.discards.is_empty()
                && !state.somebody_left
                && state.queues.iter().all(|(_, queue)| queue.is_empty())
        };
        match longest {
            Some(longest) => drop(self.bell.wait_timeout_while(state, longest, idle)),
            None => drop(self.bell.wait_while(state, idle)),
        }
    }

    /// Refuses everything from now on and tells those who wait. Replies say `WorkerDied` as they are dropped.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let queues = std::mem::replace(&mut state.queues, PerStage::from_fn(|_| Vec::new()));
        let commands = std::mem::take(&mut state.commands);
        state.models.clear();
        for stage in Stage::ALL {
            state.stages[stage].live = false;
        }
        self.bell.notify_all();
        drop(state);
        drop((queues, commands));
    }

    /// What the worker wants others to see: the models there are, and how many jobs run.
    pub fn publish(&self, models: Vec<LoadedModel>, live: PerStage<bool>, running: PerStage<usize>) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        state.models = models;
        for stage in Stage::ALL {
            state.stages[stage].live = live[stage];
            state.stages[stage].running = running[stage];
        }
    }

    pub fn step_begins(&self, stage: Stage, now: Instant) {
        self.lock().stepping = Some((stage, now));
    }

    /// A step of jobs has ended; one that no call waits for is no call's share.
    pub fn step_ended(&self, stage: Stage, now: Instant, took: Duration, is_background: bool) {
        let mut state = self.lock();
        state.stepping = None;
        state.stages[stage].step_ms.add(took);
        state.stages[stage].longest_step = state.stages[stage].longest_step.max(took);
        state.load.stepped(now, took, is_background);
    }

    /// A step of a proof has ended, which is no call's work.
    pub fn proof_step_ended(&self) {
        self.lock().stepping = None;
    }

    pub fn job_ended(&self, stage: Stage, took: Duration) {
        self.lock().stages[stage].job_ms.add(took);
    }

    pub fn died(&self, stage: Stage) {
        let mut state = self.lock();
        state.stepping = None;
        state.stages[stage].deaths += 1;
    }

    pub fn snapshot(&self, now: Instant) -> EngineSnapshot {
        let state = self.lock();
        EngineSnapshot {
            device: self.device.clone(),
            closed: state.closed,
            models: state.models.clone(),
            resident_bytes: state.models.iter().map(|model| model.resident_bytes).sum(),
            stepping: state.stepping.map(|(stage, since)| (stage, now.saturating_duration_since(since))),
            calls: state.load.calls(),
            call_share: state.load.call_share(),
            busy_share: state.load.busy(),
            vad_streams_open: state.streams.iter().filter(|stream| stream.open).count(),
            stages: Stage::ALL
                .into_iter()
                .map(|stage| {
                    let entry = &state.stages[stage];
                    StageSnapshot {
                        stage,
                        live: entry.live,
                        queued: state.queues[stage].len(),
                        running: entry.running,
                        slots: self.limits.slots(stage),
                        steps: entry.step_ms.count,
                        mean_step_ms: entry.step_ms.value,
                        longest_step_ms: entry.longest_step.as_secs_f64() * 1e3,
                        jobs: entry.job_ms.count,
                        mean_job_ms: entry.job_ms.value,
                        shed: entry.shed,
                        deaths: entry.deaths,
                    }
                })
                .collect(),
        }
    }

    /// No code that holds the lock can leave the state half-changed, so a poisoned lock is taken over.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether the stage has what a job wants: its live model, or this candidate, of which the worker knows.
    fn check_open(&self, stage: Stage, on: Option<ModelId>) -> Result<(), EngineError> {
        if self.closed {
            Err(EngineError::WorkerDied)
        } else if on.is_none() && !self.stages[stage].live {
            Err(EngineError::NoModel(stage))
        } else {
            Ok(())
        }
    }

    /// After how many milliseconds to come back, if a job cannot be taken now.
    fn refusal(&self, stage: Stage, limits: &Limits) -> Option<u64> {
        let entry = &self.stages[stage];
        let queued = self.queues[stage].len();
        let slots = limits.slots(stage);
        let clamp = |ms: f64| (ms.ceil() as u64).clamp(RETRY_MS.0, RETRY_MS.1);
        if queued >= limits.queue(stage) {
            return Some(clamp(entry.job_ms.value / slots as f64));
        }
        // VAD is bounded by its streams and comes first: its wait needs no projection.
        if stage == Stage::Vad || entry.running + queued < slots {
            return None;
        }
        let ahead = (entry.running + queued + 1 - slots) as f64;
        let wait_ms = ahead * entry.job_ms.value / slots as f64;
        let patience_ms = limits.patience.as_secs_f64() * 1e3;
        (wait_ms > patience_ms).then(|| clamp(wait_ms - patience_ms))
    }
}
