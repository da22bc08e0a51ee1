//! Places at the models for requests that are no calls.
//!
//! The engine works in slots, and a job keeps its slot to its end, however late its turn is. So requests get fewer places than there
//! are slots: a call never waits for the end of a request's long answer.

use crate::refusal::Refusal;
use axum::http::StatusCode;
use nearfield_shared::artefact::Stage;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Jobs of requests that a stage works on at once. The stages that requests use have four slots or more.
pub const WORKING_MAX: usize = 2;

/// Requests of a stage that wait for a place. A recording waits with all its bytes, so only a few of them may: six that are heard or
/// wait take 150 MB at most.
pub const fn waiting_max(stage: Stage) -> usize {
    match stage {
        Stage::Asr => 4,
        _ => 14,
    }
}

/// When a line that is full is likely to have moved on: a request takes some seconds.
const RETRY_MS: u64 = 2_000;

/// The lines of all stages. Clones share them.
#[derive(Clone)]
pub struct Places {
    lines: Arc<[Line; Stage::ALL.len()]>,
}

#[derive(Clone)]
struct Line {
    inside: Arc<Semaphore>,
    working: Arc<Semaphore>,
}

/// A place in a line. Dropping it leaves the line.
pub struct Place {
    line: Line,
    _inside: OwnedSemaphorePermit,
}

impl Default for Places {
    fn default() -> Self {
        let line = |stage| Line {
            inside: Arc::new(Semaphore::new(WORKING_MAX + waiting_max(stage))),
            working: Arc::new(Semaphore::new(WORKING_MAX)),
        };
        Self { lines: Arc::new(Stage::ALL.map(line)) }
    }
}

impl Places {
    /// Joins the line of a stage, or says that it is full.
    pub fn enter(&self, stage: Stage) -> Result<Place, Refusal> {
        let at = Stage::ALL.iter().position(|other| *other == stage).expect("ALL has every stage");
        let line = self.lines[at].clone();
        match Arc::clone(&line.inside).try_acquire_owned() {
            Ok(inside) => Ok(Place { line, _inside: inside }),
            Err(_) => {
                let message = format!(
                    "{} requests are at this node's {stage} model, as many as it takes beside calls; try again in {} s",
                    WORKING_MAX + waiting_max(stage),
                    RETRY_MS / 1_000
                );
                let busy = Refusal::busy("rate_limit_exceeded", message, RETRY_MS);
                Err(Refusal { status: StatusCode::TOO_MANY_REQUESTS, ..busy })
            }
        }
    }
}

impl Place {
    /// Waits for its turn; what is given is held while the work lasts.
    pub async fn turn(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.line.working).acquire_owned().await.expect("nobody closes the line")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_line_sends_away_and_a_place_that_is_left_is_given_on() {
        let places = Places::default();
        let mut inside: Vec<Place> =
            (0..WORKING_MAX + waiting_max(Stage::Asr)).map(|_| places.enter(Stage::Asr).expect("room")).collect();
        let refused = places.enter(Stage::Asr).err().expect("full");
        assert_eq!((refused.status, refused.retry_after_s), (StatusCode::TOO_MANY_REQUESTS, Some(2)));
        places.enter(Stage::Llm).map(drop).expect("another line");
        let (first, second) = (inside[0].turn().await, inside[1].turn().await);
        {
            let third = inside[2].turn();
            tokio::pin!(third);
            assert!(futures_util::poll!(third.as_mut()).is_pending(), "two work at once");
            drop(first);
            drop(third.await);
        }
        drop(second);
        inside.pop();
        places.enter(Stage::Asr).map(drop).expect("room again");
    }
}
