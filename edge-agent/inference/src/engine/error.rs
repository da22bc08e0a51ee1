//! What the engine answers when it cannot do what was asked. Retry, refuse and broken are different variants.

use nearfield_shared::artefact::Stage;

/// Why the engine did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The queue is full, or what is ahead would take longer than a caller waits. Retry later or go elsewhere.
    #[error("this node is busy; try again in {retry_after_ms} ms or route the call to another node")]
    Overloaded {
        /// When a place is likely to be free, in milliseconds, from measured times.
        retry_after_ms: u64,
    },
    /// No model serves the stage.
    #[error(
        "no {0} model is live on this node; import one on the control plane and name it in the region's desired state"
    )]
    NoModel(Stage),
    /// The job's [`Cancel`](super::Cancel) was pulled before the job was done.
    #[error("the job was cancelled")]
    Cancelled,
    /// The worker died or stopped under the job. It is being restarted: the job may be sent again.
    #[error("the inference worker died under this job and is being restarted; send the job again")]
    WorkerDied,
    /// The input cannot be processed, now or later.
    #[error("{0}")]
    BadInput(String),
    /// The model could not be loaded or failed at a step.
    #[error("{0}")]
    Model(String),
}
