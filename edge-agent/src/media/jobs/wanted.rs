//! When work for an answer is wanted, and whether it stands back behind the work of callers.

use super::Jobs;
use crate::rest::Place;
use nearfield_dialogue::events::Fault;
use nearfield_shared::artefact::Stage;
use std::time::Instant;
use tokio::sync::OwnedSemaphorePermit;

/// When work for an answer is wanted, and by whom.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// By when.
    pub due: Instant,
    /// Whether the answer is beside the conversation, so that no caller waits for it.
    pub beside: bool,
}

/// A place in the line of a stage, and the turn in it.
type Held = (Place, OwnedSemaphorePermit);

impl Jobs {
    /// Waits for a place, where work is for an answer beside the conversation: it gets the places of those who are in no call, because a
    /// job keeps its slot of the engine to its end.
    pub(super) fn place(
        &self,
        stage: Stage,
        wanted: Wanted,
    ) -> impl Future<Output = Result<Option<Held>, Fault>> + use<> {
        let place = wanted.beside.then(|| self.places.enter(stage));
        async move {
            match place {
                None => Ok(None),
                Some(Ok(place)) => {
                    let turn = place.turn().await;
                    Ok(Some((place, turn)))
                }
                Some(Err(refusal)) => Err(Fault { code: refusal.code.into(), message: refusal.message }),
            }
        }
    }
}
