//! What the engine shows of itself, for `status`, `doctor` and metrics. Never anything that a caller said.

use super::ModelId;
use nearfield_shared::artefact::Stage;
use std::time::Duration;

/// Where a loaded model stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Loaded beside the live model, to be proven and tried: it gets the jobs that name it, and no others.
    Candidate,
    /// Serves new jobs.
    Live,
    /// Finishes the jobs and streams it has; then its memory is freed.
    Retiring,
}

/// A model on the device.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedModel {
    /// Its name within this engine.
    pub id: ModelId,
    /// The stage it was loaded for.
    pub stage: Stage,
    /// Where it stands.
    pub role: Role,
    /// Bytes of its weights as they stand in memory.
    pub resident_bytes: usize,
    /// How long loading took, in milliseconds.
    pub load_ms: u64,
}

/// One stage at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct StageSnapshot {
    /// The stage.
    pub stage: Stage,
    /// Whether a model serves it.
    pub live: bool,
    /// Jobs that wait for a slot.
    pub queued: usize,
    /// Jobs that hold a slot.
    pub running: usize,
    /// Slots there are.
    pub slots: usize,
    /// Steps done since the start.
    pub steps: u64,
    /// Running mean of a step, in milliseconds.
    pub mean_step_ms: f64,
    /// The longest step since the start, in milliseconds: what a frame of voice activity may have to wait for.
    pub longest_step_ms: f64,
    /// Jobs done since the start.
    pub jobs: u64,
    /// Running mean of a job from its first step to its end, in milliseconds; other jobs' steps in between included.
    pub mean_job_ms: f64,
    /// Jobs refused at the door because of load.
    pub shed: u64,
    /// Times that a step of this stage panicked.
    pub deaths: u64,
}

/// The engine at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineSnapshot {
    /// The device, in words.
    pub device: String,
    /// Whether the engine has stopped.
    pub closed: bool,
    /// Every model on the device: live ones, candidates, retiring ones.
    pub models: Vec<LoadedModel>,
    /// Their weights together, in bytes.
    pub resident_bytes: usize,
    /// The step that is running and for how long: a step that hangs shows here.
    pub stepping: Option<(Stage, Duration)>,
    /// Calls that were admitted and have not ended.
    pub calls: usize,
    /// The measured share of the device that one call takes.
    pub call_share: f64,
    /// The share of the last seconds in which the device worked for calls.
    pub busy_share: f64,
    /// VAD streams that are open, one per call.
    pub vad_streams_open: usize,
    /// Each stage, in pipeline order.
    pub stages: Vec<StageSnapshot>,
}

impl EngineSnapshot {
    /// One stage's line.
    pub fn stage(&self, stage: Stage) -> &StageSnapshot {
        &self.stages[stage as usize]
    }

    /// The live model of a stage.
    pub fn live(&self, stage: Stage) -> Option<&LoadedModel> {
        self.models.iter().find(|model| model.stage == stage && model.role == Role::Live)
    }
}
