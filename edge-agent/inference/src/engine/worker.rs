//! The worker: takes jobs from the door and gives the device one step at a time to whoever runs out of time first.
//!
//! It is synchronous and reads the clock only through the function it was given, so tests drive it turn by turn.
//!
//! FAILURE LADDER, each rung contained by the one above it:
//! 1. A step fails for one slot: that job is told, the others go on.
//! 2. A step panics: every job of that model is told `WorkerDied`, and the model is read and loaded anew.
//! 3. It cannot be loaded anew, or its file is gone or another one: the stage has no model, its jobs are told `NoModel`, and loading is tried again with
//!    growing pauses.
//! 4. The worker itself panics: every running job is told, and every live model is loaded anew ([`Worker::recover`]).
//!
//! A panic's message may quote what a caller said (a string index does), so it is logged only where no caller's
//! content is involved: at loading and proving.

mod chores;
mod reviving;

use super::door::{Command, Door, ModelId};
use super::job::{Job, Reply, StreamId};
use super::limits::SLACK_PER_TOKEN;
use super::memory;
use super::model_file::Origin;
use super::per_stage::PerStage;
use super::snapshot::{LoadedModel, Role};
use super::stepper::{Loader, Output, Progress, StepError, Stepper};
use super::{Cancel, EngineError};
use chores::{Chore, Task};
use nearfield_shared::{artefact::Stage, golden::GoldenCase};
use reviving::Down;
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a turn came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Something was done; there may be more.
    Worked,
    /// There is nothing to do, at the latest until this much time has passed.
    Idle(Option<Duration>),
    /// The engine is being stopped.
    Closed,
}

/// The owner of the device's models.
pub(crate) struct Worker {
    door: Arc<Door>,
    loader: Box<dyn Loader>,
    clock: Box<dyn Fn() -> Instant>,
    models: BTreeMap<ModelId, Model>,
    live: PerStage<Option<ModelId>>,
    /// The model that each VAD slot's stream runs on, since its first frame.
    streams: Vec<Option<(StreamId, ModelId)>>,
    chores: VecDeque<Chore>,
    down: PerStage<Option<Down>>,
    /// Answers of this turn. They go out after the door shows the state they belong to, so that whoever asks again at once
    /// is judged by it.
    answers: Vec<(Reply, Result<Output, EngineError>)>,
    next_id: u64,
}

struct Model {
    stage: Stage,
    role: Role,
    /// Where it is read again if it dies.
    origin: Origin,
    /// What is to be reproduced before it goes live, or why that cannot be read.
    cases: Result<Vec<GoldenCase>, String>,
    stepper: Box<dyn Stepper>,
    running: Vec<Option<Running>>,
    resident_bytes: usize,
    load_ms: u64,
}

/// A job that holds a slot.
struct Running {
    cancel: Cancel,
    reply: Reply,
    is_stream: bool,
    is_background: bool,
    deadline: Instant,
    begun: Instant,
}

/// What has the device's next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Model(ModelId),
    Chore(usize),
}

/// Who is served first: VAD frames, because every call's turn-taking hangs on them and they are the cheapest; then
/// whoever's deadline comes first. A late job keeps its deadline, so it rises until it is served: nobody starves.
fn most_urgent<T>(waiting: impl IntoIterator<Item = (Stage, Instant, T)>) -> Option<T> {
    waiting.into_iter().min_by_key(|(stage, deadline, _)| (*stage != Stage::Vad, *deadline)).map(|(_, _, who)| who)
}

/// Runs a model's code and catches its panic.
fn guarded<R>(step: impl FnOnce() -> R) -> Result<R, Box<dyn Any + Send>> {
    // The model is thrown away after a panic, so a state that it broke is never looked at again.
    catch_unwind(AssertUnwindSafe(step))
}

/// Drops a model whose destructor may panic, too.
fn drop_guarded(model: Model) {
    if guarded(|| drop(model)).is_err() {
        tracing::warn!("a model panicked while it was dropped; its memory may not have been given back");
    }
}

impl From<StepError> for EngineError {
    fn from(error: StepError) -> Self {
        match error {
            StepError::BadInput(what) => EngineError::BadInput(what),
            StepError::Model(what) => EngineError::Model(what),
        }
    }
}

impl Worker {
    pub fn new(door: Arc<Door>, loader: Box<dyn Loader>, clock: Box<dyn Fn() -> Instant>) -> Self {
        let streams = vec![None; door.limits().slots(Stage::Vad)];
        Self {
            door,
            loader,
            clock,
            models: BTreeMap::new(),
            live: PerStage::default(),
            streams,
            chores: VecDeque::new(),
            down: PerStage::default(),
            answers: Vec::new(),
            next_id: 0,
        }
    }

    /// Takes in what waits at the door, then does at most one step.
    pub fn turn(&mut self) -> Turn {
        let now = (self.clock)();
        // Before the intake, so that a slot which a cancelled job leaves is given away in the same turn.
        self.reap();
        let intake = self.door.intake(&self.free_slots(), &self.busy_streams());
        if intake.closed {
            return Turn::Closed;
        }
        let mut worked = !intake.commands.is_empty() || !intake.discards.is_empty() || intake.somebody_left;
        if intake.somebody_left && !self.door.has_callers() {
            self.forget_callers();
        }
        self.answers.extend(intake.cancelled.into_iter().map(|job| (job.reply, Err(EngineError::Cancelled))));
        for id in intake.discards {
            self.discard(id);
        }
        for command in intake.commands {
            self.obey(command, now);
        }
        self.retry_down(now);
        for job in intake.admitted {
            worked = true;
            self.start(job, now);
        }
        // Activations and starts must be seen outside before the step, which takes long.
        self.settle();
        match self.next() {
            Some(Next::Model(id)) => self.step(id),
            Some(Next::Chore(at)) => self.chore(at),
            None if worked => return Turn::Worked,
            None => return Turn::Idle(self.until_retry(now)),
        }
        self.settle();
        Turn::Worked
    }

    fn obey(&mut self, command: Command, now: Instant) {
        match command {
            Command::Load { stage, file, reply } => self.load_later(stage, file, now, reply),
            Command::Prove { id, reply } => self.prove_later(id, now, reply),
            Command::Activate { id, reply } => {
                // The new model must be visible at the door before its owner hears that it is live.
                let result = self.activate(id);
                self.settle();
                drop(reply.send(result));
            }
        }
    }

    fn activate(&mut self, id: ModelId) -> Result<(), EngineError> {
        let model = self.models.get_mut(&id).ok_or_else(gone)?;
        if model.role != Role::Candidate {
            return Err(gone());
        }
        model.role = Role::Live;
        model.cases = Ok(Vec::new());
        let stage = model.stage;
        self.down[stage] = None;
        if let Some(old) = self.live[stage].replace(id).and_then(|old| self.models.get_mut(&old)) {
            old.role = Role::Retiring;
        }
        tracing::info!(%stage, model = id.0, "a model went live");
        Ok(())
    }

    fn discard(&mut self, id: ModelId) {
        let Some(model) = self.models.get_mut(&id).filter(|model| model.role == Role::Candidate) else { return };
        self.chores.retain(|chore| !matches!(&chore.task, Task::Prove(proving) if proving.id == id));
        // Turns may be on it, if it was tried: what has begun ends as on any model that leaves.
        model.role = Role::Retiring;
        model.cases = Ok(Vec::new());
        self.free_unused();
    }

    /// Ends the running jobs and chores that nobody wants any more.
    fn reap(&mut self) {
        let mut dead = Vec::new();
        for (id, model) in &mut self.models {
            for slot in 0..model.running.len() {
                let unwanted = |job: &mut Running| !job.is_stream && (job.cancel.is_cancelled() || job.reply.is_gone());
                if let Some(job) = model.running[slot].take_if(unwanted) {
                    self.answers.push((job.reply, Err(EngineError::Cancelled)));
                    if guarded(|| model.stepper.end(slot)).is_err() {
                        dead.push(*id);
                    }
                }
            }
        }
        for id in dead {
            self.died(id);
        }
        self.chores.retain(|chore| match &chore.task {
            Task::Load { reply, .. } => !reply.is_closed(),
            Task::Prove(proving) => !proving.reply.is_closed(),
        });
    }

    /// The last call has ended, and the last visitor has left: nothing that was said in calls is kept any longer.
    fn forget_callers(&mut self) {
        let forgot = |model: &mut Model| guarded(|| model.stepper.forget_callers()).is_ok();
        let dead: Vec<ModelId> =
            self.models.iter_mut().filter_map(|(id, model)| (!forgot(model)).then_some(*id)).collect();
        for id in dead {
            self.died(id);
        }
        memory::give_back();
    }

    /// Puts an admitted job into a slot.
    fn start(&mut self, job: Job, now: Instant) {
        let stage = job.work.stage();
        let place = match job.stream {
            Some(stream) => self.model_of(stream, job.on).map(|id| (id, stream.slot)),
            None => self.wanted(stage, job.on).and_then(|id| {
                let slot = self.models.get(&id)?.running.iter().position(Option::is_none)?;
                Some((id, slot))
            }),
        };
        let Some((id, slot)) = place else {
            let refused = if job.on.is_some() { gone() } else { EngineError::NoModel(stage) };
            return self.answers.push((job.reply, Err(refused)));
        };
        let model = self.models.get_mut(&id).expect("a place names a model that is loaded");
        let Job { work, deadline, is_background, cancel, reply, stream, on: _ } = job;
        let is_stream = stream.is_some();
        match guarded(|| model.stepper.begin(slot, work)) {
            Ok(Ok(())) => {
                model.running[slot] = Some(Running { cancel, reply, is_stream, is_background, deadline, begun: now })
            }
            Ok(Err(error)) => self.answers.push((reply, Err(error.into()))),
            Err(_) => {
                self.answers.push((reply, Err(EngineError::WorkerDied)));
                self.died(id);
            }
        }
    }

    /// The model that new work of a stage goes to: the live one, or the candidate that is named, while it is there. One that was swapped in since
    /// is that one still.
    fn wanted(&self, stage: Stage, on: Option<ModelId>) -> Option<ModelId> {
        let Some(id) = on else { return self.live[stage] };
        let takes = |model: &Model| model.stage == stage && model.role != Role::Retiring;
        self.models.get(&id).is_some_and(takes).then_some(id)
    }

    /// The model that a stream runs on. A stream keeps the model of its first frame to its end, because the recurrent
    /// state of one version means nothing to the next.
    fn model_of(&mut self, stream: StreamId, on: Option<ModelId>) -> Option<ModelId> {
        if let Some((owner, id)) = self.streams[stream.slot]
            && owner == stream
        {
            return Some(id);
        }
        let id = self.wanted(Stage::Vad, on)?;
        let model = self.models.get_mut(&id)?;
        if guarded(|| model.stepper.reset(stream.slot)).is_err() {
            self.died(id);
            return None;
        }
        self.streams[stream.slot] = Some((stream, id));
        Some(id)
    }

    fn next(&self) -> Option<Next> {
        let jobs = self.models.iter().filter_map(|(id, model)| {
            let deadline = model.running.iter().flatten().map(|job| job.deadline).min()?;
            Some((model.stage, deadline, Next::Model(*id)))
        });
        let chores = self.chores.iter().enumerate().map(|(at, chore)| {
            // A chore is never as urgent as a frame, whatever stage it is about.
            (Stage::Embed, chore.deadline, Next::Chore(at))
        });
        most_urgent(jobs.chain(chores))
    }

    fn step(&mut self, id: ModelId) {
        let model = self.models.get_mut(&id).expect("`next` names a model that is loaded");
        let stage = model.stage;
        let mut due: Vec<(Instant, usize)> =
            model.running.iter().enumerate().filter_map(|(slot, job)| Some((job.as_ref()?.deadline, slot))).collect();
        due.sort_unstable();
        let due: Vec<usize> = due.into_iter().map(|(_, slot)| slot).collect();
        // The most urgent job is the one that the step is done for.
        let is_background =
            due.first().and_then(|&slot| model.running[slot].as_ref()).is_some_and(|job| job.is_background);
        let begun = (self.clock)();
        self.door.step_begins(stage, begun);
        let moves = match guarded(|| model.stepper.step(&due)) {
            Ok(moves) => moves,
            Err(_) => return self.died(id),
        };
        let now = (self.clock)();
        self.door.step_ended(stage, now, now.saturating_duration_since(begun), is_background);
        let mut moved = false;
        for (slot, outcome) in moves {
            let Some(entry) = model.running.get_mut(slot).filter(|entry| entry.is_some()) else { continue };
            moved = true;
            let ended = match outcome {
                Ok(Progress::Moved) => None,
                Ok(Progress::Piece(piece)) => {
                    let job = entry.as_mut().expect("the slot is occupied");
                    job.deadline += SLACK_PER_TOKEN;
                    if job.reply.piece(piece) { None } else { Some(Err(EngineError::Cancelled)) }
                }
                Ok(Progress::Done(output)) => Some(Ok(output)),
                Err(error) => Some(Err(error.into())),
            };
            if let Some(result) = ended
                && let Some(job) = entry.take()
            {
                if guarded(|| model.stepper.end(slot)).is_err() {
                    self.answers.push((job.reply, Err(EngineError::WorkerDied)));
                    return self.died(id);
                }
                self.door.job_ended(stage, now.saturating_duration_since(job.begun));
                self.answers.push((job.reply, result));
            }
        }
        if !moved {
            // A step that moves nobody would be repeated for ever. It is a fault of the model.
            self.died(id);
        }
    }

    /// Restores the invariants after whatever happened: streams that were closed hold no model, a retiring model that
    /// nobody uses is gone, the door shows what is, and then the turn's answers go out.
    fn settle(&mut self) {
        for slot in 0..self.streams.len() {
            if let Some((stream, id)) = self.streams[slot]
                && !self.door.is_stream_open(stream)
                && self.models.get(&id).is_none_or(|model| model.running[slot].is_none())
            {
                self.streams[slot] = None;
            }
        }
        self.free_unused();
        let mut running = PerStage::<usize>::default();
        for model in self.models.values() {
            running[model.stage] += model.running.iter().flatten().count();
        }
        let live = PerStage::from_fn(|stage| self.live[stage].is_some());
        self.door.publish(self.models.iter().map(|(id, model)| model.info(*id)).collect(), live, running);
        for (reply, answer) in self.answers.drain(..) {
            reply.finish(answer);
        }
    }

    /// Lets go of retiring models that nobody uses.
    fn free_unused(&mut self) {
        let streams = &self.streams;
        let unused = |id: &ModelId, model: &mut Model| {
            model.role == Role::Retiring
                && model.running.iter().all(Option::is_none)
                && !streams.iter().flatten().any(|(_, on)| on == id)
        };
        let mut retired = false;
        for (id, model) in self.models.extract_if(.., unused) {
            tracing::info!(stage = %model.stage, model = id.0, "a retired model has finished its last job");
            drop_guarded(model);
            retired = true;
        }
        if retired {
            memory::give_back();
        }
    }

    /// Slots that can take a job now, over all models of a stage: a retiring one's jobs count.
    fn free_slots(&self) -> PerStage<usize> {
        let mut free = PerStage::from_fn(|stage| self.door.limits().slots(stage));
        for model in self.models.values() {
            free[model.stage] = free[model.stage].saturating_sub(model.running.iter().flatten().count());
        }
        free
    }

    fn busy_streams(&self) -> Vec<bool> {
        let busy =
            |slot: usize| self.models.values().any(|model| model.stage == Stage::Vad && model.running[slot].is_some());
        (0..self.streams.len()).map(busy).collect()
    }
}

impl Model {
    fn info(&self, id: ModelId) -> LoadedModel {
        LoadedModel {
            id,
            stage: self.stage,
            role: self.role,
            resident_bytes: self.resident_bytes,
            load_ms: self.load_ms,
        }
    }
}

fn gone() -> EngineError {
    EngineError::BadInput(
        "this candidate is no longer there: it was activated, discarded, or it panicked; load the model again".into(),
    )
}
