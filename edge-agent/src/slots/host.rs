//! What loading and proving a model takes from the inference engine, as a trait, so that activation is tested without burn.

use crate::speech::{BoxFuture, Speech};
use nearfield_shared::artefact::{Manifest, Stage};
use std::{path::PathBuf, sync::Arc};

/// Holds models on a device. Implemented for the engine under the feature `inference`, and by scripted fakes in tests.
pub trait ModelHost: Send + Sync + 'static {
    /// Whether this build runs such a model at all. Answers at once, without the file.
    fn supports(&self, manifest: &Manifest) -> Result<(), Unsupported>;

    /// Loads a model file beside the live model of its stage.
    fn load(&self, stage: Stage, file: PathBuf) -> BoxFuture<'_, Result<Candidate, HostError>>;

    /// Runs the golden cases inside the file on this device and returns how many were reproduced; the first that is not is
    /// an error.
    fn reproduce_golden<'a>(&'a self, candidate: &'a Candidate) -> BoxFuture<'a, Result<u32, HostError>>;

    /// The models as calls use them, with these candidates in the place of the live ones of their stages. What goes to a candidate that is gone fails;
    /// one that went live meanwhile goes on.
    fn speech_on(&self, candidates: &[Candidate]) -> Arc<dyn Speech>;

    /// Whether a candidate is still there: one that panicked is not.
    fn is_there(&self, candidate: &Candidate) -> bool;

    /// Makes the candidates live, between turns; the models they replace are freed once their last turn is over.
    fn activate(&self, candidates: Vec<Candidate>) -> BoxFuture<'_, Result<(), HostError>>;

    /// Frees a candidate that will not be used; jobs that run on it come to their end first.
    fn discard(&self, candidate: Candidate) -> BoxFuture<'_, ()>;

    /// Share of the device's time in use lately, 0.0 to 1.0.
    fn load_share(&self) -> f32;
}

/// A model beside the live one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The host's own number for it.
    pub id: u64,
    /// Its stage.
    pub stage: Stage,
    /// Bytes of weights as they stand in memory.
    pub resident_bytes: u64,
    /// How long loading took, in milliseconds.
    pub load_ms: u64,
}

/// Why a model cannot be run by this build.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// The architecture is not known.
    #[error(
        "architecture `{architecture}` is not one that this agent runs for stage {stage} ({known}); upgrade the agent"
    )]
    Architecture {
        /// The stage.
        stage: Stage,
        /// What the manifest says.
        architecture: String,
        /// What this build runs there.
        known: String,
    },
    /// The file was converted for another version of the stage's interface.
    #[error(
        "the model was converted for interface {found} of stage {stage}, this agent has {wanted}; import the model again, or upgrade the older side"
    )]
    Interface {
        /// The stage.
        stage: Stage,
        /// What the manifest says.
        found: u32,
        /// What this build has.
        wanted: u32,
    },
}

/// Why the host did not do what was asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum HostError {
    /// The device has not enough memory.
    #[error(
        "the device has not enough memory: {wanted} bytes are needed, {free} are free; free some, or choose smaller models for this region"
    )]
    Memory {
        /// Bytes needed.
        wanted: u64,
        /// Bytes free.
        free: u64,
    },
    /// The file cannot be loaded.
    #[error("the model cannot be loaded: {0}")]
    Load(String),
    /// A golden result was not reproduced.
    #[error("golden case {case} was not reproduced on this device: {detail}")]
    Golden {
        /// Number of the case, from 0.
        case: u32,
        /// What was measured, where it is one figure.
        found: Option<f64>,
        /// What would have been right, where it is one figure.
        wanted: Option<f64>,
        /// In words.
        detail: String,
    },
    /// The worker died.
    #[error("the inference worker died; it is being restarted")]
    Died,
    /// Something else.
    #[error("{0}")]
    Failed(String),
}
