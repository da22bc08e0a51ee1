//! The door for calls: how many may run at once, who is inside, and how they are asked to leave.
//!
//! BACKPRESSURE: [`CallDoor::admit`] answers at once; a full or closing door refuses with a reason the caller can act on.
//! A call once admitted is finished: draining closes the door, asks the calls inside to end at their next turn, and only
//! after the grace period cuts what is left.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The door of one node. Clones share it.
#[derive(Debug, Clone)]
pub struct CallDoor {
    inner: Arc<Door>,
}

#[derive(Debug)]
struct Door {
    calls_max: usize,
    inside: AtomicUsize,
    admitted: AtomicU64,
    refused: AtomicU64,
    /// The control plane wants no new calls here for now.
    held: AtomicBool,
    /// New calls are kept out until those inside have ended.
    kept_out: AtomicBool,
    draining: CancellationToken,
    cut: CancellationToken,
    left: Notify,
}

/// Why a caller was not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many calls as this node takes are in progress.
    #[error(
        "this node is taking {calls_max} calls, as many as it can; try again in {retry_after_ms} ms or another node"
    )]
    Full {
        /// The bound.
        calls_max: usize,
        /// When another attempt may succeed.
        retry_after_ms: u64,
    },
    /// The control plane has drained the node, or it waits for its calls to end before an update.
    #[error("this node takes no new calls for now; ask for another node at /v1/route")]
    Held,
    /// The node is about to stop.
    #[error("this node is going down; ask for another node at /v1/route")]
    Draining,
}

/// A call inside. Dropping it is the end of the call.
#[derive(Debug)]
pub struct CallPermit {
    door: Arc<Door>,
    /// The call's place at the models.
    _place: Option<Box<dyn Any + Send>>,
}

impl CallDoor {
    /// A door for at most `calls_max` calls.
    pub fn new(calls_max: usize) -> Self {
        Self {
            inner: Arc::new(Door {
                calls_max,
                inside: AtomicUsize::new(0),
                admitted: AtomicU64::new(0),
                refused: AtomicU64::new(0),
                held: AtomicBool::new(false),
                kept_out: AtomicBool::new(false),
                draining: CancellationToken::new(),
                cut: CancellationToken::new(),
                left: Notify::new(),
            }),
        }
    }

    /// Lets a call in, or says at once why not.
    pub fn admit(&self) -> Result<CallPermit, Refused> {
        let door = &self.inner;
        let refuse = |refused| {
            door.refused.fetch_add(1, Ordering::Relaxed);
            Err(refused)
        };
        // The count goes up before the look at `draining`, so that a drain that begins in between still sees this call.
        let entered = door
            .inside
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n < door.calls_max).then_some(n + 1))
            .is_ok();
        if !entered {
            return refuse(door.full());
        }
        let permit = CallPermit { door: Arc::clone(door), _place: None };
        if door.draining.is_cancelled() {
            drop(permit);
            return refuse(Refused::Draining);
        }
        if self.keeps_out() {
            drop(permit);
            return refuse(Refused::Held);
        }
        door.admitted.fetch_add(1, Ordering::Relaxed);
        Ok(permit)
    }

    /// Whether [`CallDoor::admit`] would let a call in now.
    pub fn has_room(&self) -> Result<(), Refused> {
        match (self.is_draining(), self.inside() < self.calls_max()) {
            (true, _) => Err(Refused::Draining),
            _ if self.keeps_out() => Err(Refused::Held),
            (false, true) => Ok(()),
            (false, false) => Err(self.inner.full()),
        }
    }

    /// Counts a call that another bound than this door's kept out.
    pub fn count_refused(&self) {
        self.inner.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Calls in progress.
    pub fn inside(&self) -> usize {
        self.inner.inside.load(Ordering::SeqCst)
    }

    /// The bound on calls in progress.
    pub fn calls_max(&self) -> usize {
        self.inner.calls_max
    }

    /// Calls let in since the start.
    pub fn admitted(&self) -> u64 {
        self.inner.admitted.load(Ordering::Relaxed)
    }

    /// Calls refused since the start.
    pub fn refused(&self) -> u64 {
        self.inner.refused.load(Ordering::Relaxed)
    }

    /// Whether new calls are kept out for whichever reason but a stop; those inside go on.
    pub fn keeps_out(&self) -> bool {
        self.is_held() || self.inner.kept_out.load(Ordering::SeqCst)
    }

    /// Keeps new calls out until the guard is dropped.
    pub fn keep_out(&self) -> KeptOut {
        self.inner.kept_out.store(true, Ordering::SeqCst);
        KeptOut { door: Some(Arc::clone(&self.inner)) }
    }

    /// Returns when no call is inside.
    pub async fn emptied(&self) {
        loop {
            let left = self.inner.left.notified();
            tokio::pin!(left);
            // Registered before the look at the count, so that a call that leaves in between is not missed.
            left.as_mut().enable();
            if self.inside() == 0 {
                return;
            }
            left.await;
        }
    }

    /// Whether the control plane has new calls kept out until further notice; those inside go on.
    pub fn is_held(&self) -> bool {
        self.inner.held.load(Ordering::Relaxed)
    }

    /// Keeps new calls out, or lets them in again.
    pub fn hold(&self, held: bool) {
        self.inner.held.store(held, Ordering::Relaxed);
    }

    /// Whether the door is closed for good.
    pub fn is_draining(&self) -> bool {
        self.inner.draining.is_cancelled()
    }

    /// Closes the door, waits up to `grace` for the calls inside to end well, then cuts the rest.
    ///
    /// Returns how many were cut.
    pub async fn drain(&self, grace: Duration) -> usize {
        self.inner.draining.cancel();
        if tokio::time::timeout(grace, self.emptied()).await.is_ok() {
            return 0;
        }
        let cut = self.inside();
        self.inner.cut.cancel();
        cut
    }
}

/// New calls are kept out while this lives.
#[derive(Debug)]
pub struct KeptOut {
    door: Option<Arc<Door>>,
}

impl KeptOut {
    /// Keeps them out until the process ends.
    pub fn for_good(mut self) {
        self.door = None;
    }
}

impl Drop for KeptOut {
    fn drop(&mut self) {
        if let Some(door) = &self.door {
            door.kept_out.store(false, Ordering::SeqCst);
        }
    }
}

impl Door {
    fn full(&self) -> Refused {
        // A turn of a few seconds is how soon a place usually becomes free.
        Refused::Full { calls_max: self.calls_max, retry_after_ms: 5_000 }
    }
}

impl CallPermit {
    /// Lets the call give back its place at the models, too, when it ends.
    #[must_use]
    pub fn holding(mut self, place: Box<dyn Any + Send>) -> Self {
        self._place = Some(place);
        self
    }

    /// Fires when the node wants to stop: finish the answer in progress, then end the call.
    pub fn draining(&self) -> &CancellationToken {
        &self.door.draining
    }

    /// Fires when the grace period is over: end the call now.
    pub fn cut(&self) -> &CancellationToken {
        &self.door.cut
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.door.inside.fetch_sub(1, Ordering::SeqCst);
        self.door.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_door_refuses_and_a_leaving_call_makes_room() {
        let door = CallDoor::new(2);
        let first = door.admit().expect("first");
        let _second = door.admit().expect("second");
        assert!(matches!(door.admit(), Err(Refused::Full { calls_max: 2, .. })));
        drop(first);
        door.admit().expect("room again");
        assert_eq!((door.admitted(), door.refused()), (3, 1));
    }

    #[tokio::test]
    async fn a_door_that_is_held_lets_nobody_in_and_opens_again() {
        let door = CallDoor::new(2);
        let stays = door.admit().expect("in");
        door.hold(true);
        assert_eq!((door.admit().expect_err("held"), door.has_room()), (Refused::Held, Err(Refused::Held)));
        assert!(!stays.draining().is_cancelled(), "calls go on");
        door.hold(false);
        assert_eq!(door.inside(), 1);
        door.admit().expect("open");
    }

    #[tokio::test]
    async fn whoever_waits_for_calls_to_end_keeps_new_ones_out_and_may_think_better_of_it() {
        let door = CallDoor::new(2);
        let stays = door.admit().expect("in");
        let kept_out = door.keep_out();
        door.hold(true);
        door.hold(false);
        assert_eq!(door.admit().expect_err("kept out"), Refused::Held, "the control plane's word is another matter");
        let emptied = tokio::spawn({
            let door = door.clone();
            async move { door.emptied().await }
        });
        tokio::task::yield_now().await;
        assert!(!emptied.is_finished() && !stays.draining().is_cancelled(), "the call goes on as if nothing were");
        drop(stays);
        emptied.await.expect("no call is inside");
        drop(kept_out);
        door.admit().expect("open");
        door.keep_out().for_good();
        assert!(door.keeps_out());
    }

    #[tokio::test]
    async fn draining_waits_for_calls_that_end_and_cuts_those_that_do_not() {
        let door = CallDoor::new(3);
        let ends = door.admit().expect("in");
        let stays = door.admit().expect("in");
        let well = tokio::spawn(async move {
            ends.draining().clone().cancelled().await;
            drop(ends);
        });
        let cut = tokio::spawn(async move {
            stays.cut().clone().cancelled().await;
            drop(stays);
        });
        assert_eq!(door.drain(Duration::from_millis(50)).await, 1);
        well.await.expect("ended well");
        cut.await.expect("was told");
        assert_eq!(door.inside(), 0);
        assert_eq!(door.admit().expect_err("closed"), Refused::Draining);
    }
}
