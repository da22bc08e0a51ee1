//! Loading and proving: work of the operator's side, done between the steps of live work.

use super::super::EngineError;
use super::super::door::ModelId;
use super::super::golden::{self, CaseOutcome, GoldenReport};
use super::super::memory;
use super::super::model_file::{ModelFile, Origin};
use super::super::snapshot::{LoadedModel, Role};
use super::super::stepper::{Proof, StepError};
use super::{Model, Worker, gone, guarded};
use nearfield_shared::{artefact::Stage, gguf::Gguf, golden::GoldenCase};
use std::any::Any;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Models that may stand beside the live ones: two versions in flight for each of three stages is more than a node does.
const CANDIDATES_MAX: usize = 6;

/// How long a load or the next step of a proof may be passed by live work. Long enough for a first token and its
/// phrase to go first, short enough that a busy node still takes a new model within its deadline.
const CHORE_PATIENCE: Duration = Duration::from_millis(500);

/// Work that changes or proves models. It yields to live work for a while, then takes its turn.
pub(super) struct Chore {
    pub deadline: Instant,
    pub task: Task,
}

pub(super) enum Task {
    Load { stage: Stage, file: ModelFile, reply: oneshot::Sender<Result<LoadedModel, EngineError>> },
    Prove(Proving),
}

pub(super) struct Proving {
    pub id: ModelId,
    stage: Stage,
    cases: VecDeque<GoldenCase>,
    current: Option<Box<dyn Proof>>,
    outcomes: Vec<CaseOutcome>,
    begun: Instant,
    pub reply: oneshot::Sender<Result<GoldenReport, EngineError>>,
}

fn message_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

impl Worker {
    /// Queues a load, or refuses it at once.
    pub(super) fn load_later(
        &mut self,
        stage: Stage,
        file: ModelFile,
        now: Instant,
        reply: oneshot::Sender<Result<LoadedModel, EngineError>>,
    ) {
        match self.room_for(&file.gguf) {
            Ok(()) => self.queue(now, Task::Load { stage, file, reply }),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Queues a proof, or refuses it at once.
    pub(super) fn prove_later(
        &mut self,
        id: ModelId,
        now: Instant,
        reply: oneshot::Sender<Result<GoldenReport, EngineError>>,
    ) {
        let found = match self.models.get(&id) {
            Some(model) => model.cases.clone().map(|cases| (model.stage, cases)).map_err(EngineError::Model),
            None => Err(gone()),
        };
        match found {
            Ok((stage, cases)) => {
                let (cases, outcomes) = (cases.into(), Vec::new());
                self.queue(now, Task::Prove(Proving { id, stage, cases, current: None, outcomes, begun: now, reply }))
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn queue(&mut self, now: Instant, task: Task) {
        self.chores.push_back(Chore { deadline: now + CHORE_PATIENCE, task });
    }

    /// Whether one more model may be loaded.
    fn room_for(&self, gguf: &Gguf) -> Result<(), EngineError> {
        let waiting = self.chores.iter().filter(|chore| matches!(chore.task, Task::Load { .. })).count();
        let candidates = self.models.values().filter(|model| model.role == Role::Candidate).count();
        if candidates + waiting >= CANDIDATES_MAX {
            return Err(EngineError::Overloaded { retry_after_ms: 1_000 });
        }
        let present: usize = self.models.values().map(|model| model.resident_bytes).sum();
        let needed: usize = gguf.tensors().map(|tensor| tensor.data.len()).sum();
        let limit = self.door.limits().resident_bytes_max;
        if present.saturating_add(needed) > limit {
            return Err(EngineError::Model(format!(
                "the model needs {needed} bytes beside the {present} that are loaded, more than the limit of {limit}; \
                 choose a smaller quantisation or raise the engine's memory limit"
            )));
        }
        Ok(())
    }

    /// Does one step of a chore.
    pub(super) fn chore(&mut self, at: usize) {
        let Some(mut chore) = self.chores.remove(at) else { return };
        match chore.task {
            Task::Load { stage, file, reply } => {
                let ModelFile { gguf, origin } = file;
                let result = self.load(stage, gguf, origin, Role::Candidate);
                let info = result.map(|id| self.models[&id].info(id));
                self.settle();
                if let Err(Ok(info)) = reply.send(info) {
                    self.discard(info.id);
                }
            }
            Task::Prove(proving) => {
                if let Some(proving) = self.prove(proving) {
                    chore.deadline = (self.clock)() + CHORE_PATIENCE;
                    chore.task = Task::Prove(proving);
                    self.chores.push_back(chore);
                }
            }
        }
    }

    /// One step of a proof; the proof comes back while there is more to do.
    fn prove(&mut self, mut proving: Proving) -> Option<Proving> {
        let id = proving.id;
        let Some(model) = self.models.get_mut(&id) else {
            drop(proving.reply.send(Err(gone())));
            return None;
        };
        let begun = (self.clock)();
        self.door.step_begins(proving.stage, begun);
        let step = guarded(|| {
            if proving.current.is_none() {
                let Some(case) = proving.cases.front() else { return Ok(None) };
                proving.current = Some(model.stepper.prove(case)?);
                return Ok(None);
            }
            proving.current.as_mut().expect("just looked").step()
        });
        self.door.proof_step_ended();
        let outcome = match step {
            Ok(Ok(None)) => None,
            Ok(Ok(Some(outcome))) => Some(outcome),
            Ok(Err(error)) => Some(CaseOutcome {
                stage: proving.stage,
                passed: false,
                expected: "the case to run".to_owned(),
                found: error.to_string(),
            }),
            Err(panic) => {
                let what = message_of(&*panic);
                tracing::error!(stage = %proving.stage, "a model panicked while it was proven: {what}");
                let error = EngineError::Model(format!("the model panicked while it was proven: {what}"));
                drop(proving.reply.send(Err(error)));
                self.died(id);
                return None;
            }
        };
        if let Some(outcome) = outcome {
            proving.outcomes.push(outcome);
            proving.cases.pop_front();
            proving.current = None;
        }
        if proving.cases.is_empty() {
            let elapsed = (self.clock)().saturating_duration_since(proving.begun);
            let report =
                GoldenReport { stage: proving.stage, cases: proving.outcomes, elapsed_ms: elapsed.as_millis() as u64 };
            drop(proving.reply.send(Ok(report)));
            return None;
        }
        Some(proving)
    }

    /// Puts a model on the device. The file's bytes are let go of: what must be known of it later is taken out now.
    pub(super) fn load(
        &mut self,
        stage: Stage,
        gguf: Gguf,
        origin: Origin,
        role: Role,
    ) -> Result<ModelId, EngineError> {
        let slots = self.door.limits().slots(stage);
        let begun = (self.clock)();
        let loaded = guarded(|| {
            let stepper = self.loader.load(stage, &gguf, slots)?;
            let resident_bytes = stepper.resident_bytes();
            Ok::<_, StepError>((stepper, resident_bytes))
        });
        // Only a candidate is ever proven.
        let cases = if role == Role::Candidate { golden::cases(&gguf, stage) } else { Ok(Vec::new()) };
        drop(gguf);
        memory::give_back();
        let (stepper, resident_bytes) = match loaded {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(error)) => return Err(error.into()),
            Err(panic) => {
                let what = message_of(&*panic);
                tracing::error!(%stage, "a model panicked while it was loaded: {what}");
                return Err(EngineError::Model(format!("the model panicked while it was loaded: {what}")));
            }
        };
        let load_ms = (self.clock)().saturating_duration_since(begun).as_millis() as u64;
        self.next_id += 1;
        let id = ModelId(self.next_id);
        let running = (0..slots).map(|_| None).collect();
        self.models.insert(id, Model { stage, role, origin, cases, stepper, running, resident_bytes, load_ms });
        Ok(id)
    }
}
