//! When a program that is being tried is healthy: it has made the last-known-good state serve, its listeners are bound, and the control plane has
//! welcomed it.
//!
//! The control plane is asked for, although a node serves without it: a program that cannot talk to it would be out of reach for good, while one that
//! goes back because the control plane was away at that moment costs a second try. What was healthy on this node before need not make
//! the state serve: that may be one that only its successor understands, and it came back in order to be told another.

use super::Updates;
use crate::control::LinkState;
use tokio::sync::watch;

impl Updates {
    /// Waits until what runs may take a new state. `booted` says whether the last-known-good state serves, as far as there is one. False where
    /// it never may; the daemon goes then.
    pub(crate) async fn come_up(&self, booted: bool, mut link: watch::Receiver<LinkState>) -> bool {
        let Some(proven) = self.trial() else { return true };
        if !booted && !proven {
            tracing::error!("this program does not serve the last-known-good state; the one before comes back");
            self.give_up();
            return false;
        }
        if link.wait_for(|link| link.connected).await.is_err() {
            return false;
        }
        match self.say_healthy().await {
            Ok(()) => {
                tracing::info!(version = %self.version(), "this program is healthy and stays");
                true
            }
            Err(reason) => {
                tracing::error!(%reason, "this program cannot stay; the one before comes back");
                self.give_up();
                false
            }
        }
    }
}
