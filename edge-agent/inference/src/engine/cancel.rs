//! A flag that a caller raises to stop a job. The engine looks at it before every step.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Stops the jobs it was given to, at their next step. Clones share one flag, and a raised flag stays raised.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the flag. The job answers [`EngineError::Cancelled`](super::EngineError::Cancelled) within one step.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the flag is raised.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
