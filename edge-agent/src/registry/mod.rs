//! Which models the control plane's registry lists now, by its signed metadata (TUF): asked before a new model is installed, and never about one
//! that serves or stands in the last-known-good state.
//!
//! The first root metadata comes with the enrolment, or, on a node that was enrolled before there was any, over the first link that carries some: both
//! rest on the authority that the node has pinned. From then on it is the registry's own signatures that count: whoever has the authority's key and not
//! the registry's cannot bring this node a model.
//!
//! `tough` verifies ([`update`]); what is trusted stands in one file of ours ([`trusted`]), because its own store is written without a sync and takes
//! damage for nothing; and when metadata has ended is judged here ([`judge`]), by the plane's time, because it would ask this machine's clock alone.
//!
//! # FAILURE LADDER
//! Metadata that is not as it should be is refused, and what was trusted before counts on. A new model is refused while that has ended or does not list
//! it. A damaged file refuses every new model until a person removes it. Nothing here touches what serves.

mod judge;
pub mod trusted;
mod update;

pub use judge::Refusal;
pub use trusted::Trusted;

use crate::{control::LinkState, state_dir::StateDir};
use judge::Judged;
use nearfield_shared::{
    artefact::{Digest, Manifest},
    clock::Clock,
    wire::message::Registry as Told,
};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// What is known of the registry, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RegistryState {
    /// The number of the trusted timestamp; 0 where there is none.
    pub version: u64,
    /// When new models are refused unless newer metadata comes, seconds since 1970; 0 where there is none.
    pub ends_unix_s: i64,
    /// Why the metadata that was told last is not used.
    pub problem: Option<String>,
}

/// What the node holds.
#[derive(Debug)]
enum Held {
    /// Nothing was ever told or pinned.
    Nothing,
    /// What is trusted.
    Trusted(Box<Trusted>),
    /// The file is damaged.
    Damaged(String),
}

#[derive(Debug)]
struct Known {
    held: Held,
    /// Why the metadata that was told last is not used.
    refused: Option<Refusal>,
}

/// The registry as this node knows it.
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    scratch: PathBuf,
    clock: Arc<dyn Clock>,
    link: watch::Receiver<LinkState>,
    known: tokio::sync::Mutex<Known>,
    /// What was told and is not looked at yet: at most one, because a later one replaces it.
    pending: Mutex<Option<Told>>,
    shown: Mutex<Option<RegistryState>>,
}

impl Registry {
    /// With what this folder holds.
    pub fn open(dir: &StateDir, clock: Arc<dyn Clock>, link: watch::Receiver<LinkState>) -> Self {
        let held = match trusted::load(&dir.registry()) {
            Ok(None) => Held::Nothing,
            Ok(Some(trusted)) => Held::Trusted(Box::new(trusted)),
            Err(error) => {
                tracing::error!(%error, "new models are refused; what serves goes on");
                Held::Damaged(error.to_string())
            }
        };
        let known = Known { held, refused: None };
        let shown = Mutex::new(known.shown());
        Self {
            path: dir.registry(),
            scratch: dir.registry_scratch(),
            clock,
            link,
            known: tokio::sync::Mutex::new(known),
            pending: Mutex::default(),
            shown,
        }
    }

    /// What is known of it; `None` where nothing is.
    pub fn shown(&self) -> Option<RegistryState> {
        locked(&self.shown).clone()
    }

    /// Notes metadata that the plane has told; whoever asks next has it looked at first.
    pub fn tell(&self, told: &Told) {
        let mut pending = locked(&self.pending);
        let earlier = pending.take().unwrap_or_default();
        // A connection carries roots and targets once, so those of a message that was not looked at yet count on.
        *pending = Some(Told {
            roots: if told.roots.is_empty() { earlier.roots } else { told.roots.clone() },
            targets: told.targets.clone().or(earlier.targets),
            timestamp: told.timestamp.clone(),
            snapshot: told.snapshot.clone(),
        });
    }

    /// Looks at what was told. Writes to the disk.
    pub async fn take_told(&self) {
        drop(self.up_to_date().await);
    }

    /// Whether these models, each with the digest of its signed manifest, may be installed now.
    ///
    /// # Errors
    /// Why not, for the first that may not.
    pub async fn permits(&self, models: &[(Manifest, Digest)]) -> Result<(), Refusal> {
        if models.is_empty() {
            return Ok(());
        }
        let known = self.up_to_date().await;
        let judged = match (&known.held, &known.refused) {
            (Held::Nothing, None) => return Ok(()),
            (Held::Nothing, Some(refused)) => return Err(refused.clone()),
            (Held::Damaged(words), _) => return Err(Refusal::damaged(words)),
            (Held::Trusted(trusted), _) => Judged::of(trusted)?,
        };
        let now = self.now_unix_s();
        models.iter().try_for_each(|(manifest, signed)| judged.permits(manifest, *signed, now)).map_err(|why| {
            // Newer metadata was there and could not be trusted: that is what has to be mended.
            known.refused.clone().map_or(why.clone(), |refused| refused.about(why))
        })
    }

    /// The plane's time in seconds since 1970, as told with its last welcome; `None` before the first.
    fn now_unix_s(&self) -> Option<i64> {
        let (unix_s, at) = self.link.borrow().plane_time?;
        Some(unix_s.saturating_add(self.clock.elapsed().saturating_sub(at).as_secs() as i64))
    }

    /// What is known, after what was told was looked at.
    async fn up_to_date(&self) -> tokio::sync::MutexGuard<'_, Known> {
        let mut known = self.known.lock().await;
        let Some(told) = locked(&self.pending).take() else { return known };
        let before = match &known.held {
            Held::Nothing => None,
            Held::Trusted(trusted) => Some((**trusted).clone()),
            Held::Damaged(_) => return known,
        };
        let (now_trusted, outcome) = update::update(before.as_ref(), &told, &self.scratch).await;
        let stored = match &now_trusted {
            Some(trusted) if before.as_ref() != Some(trusted) => {
                let (trusted, path) = (trusted.clone(), self.path.clone());
                let stored = tokio::task::spawn_blocking(move || trusted.store(&path)).await;
                stored.unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
            }
            _ => Ok(()),
        };
        match stored {
            Ok(()) => known.held = now_trusted.map_or(Held::Nothing, |trusted| Held::Trusted(Box::new(trusted))),
            // What the disk does not have would be forgotten by a power cut, and an older one taken after it.
            Err(error) => {
                let why = format!("{}: {error}", self.path.display());
                known.refused = Some(Refusal::failed(why));
                *locked(&self.shown) = known.shown();
                return known;
            }
        }
        known.refused = outcome.err();
        if let Some(refused) = &known.refused {
            tracing::error!(reason = %refused.words, "metadata of the registry was refused; what was trusted before counts on");
        }
        *locked(&self.shown) = known.shown();
        known
    }
}

impl Known {
    fn shown(&self) -> Option<RegistryState> {
        let problem = self.refused.as_ref().map(|refused| refused.words.clone());
        match &self.held {
            Held::Nothing => problem.map(|problem| RegistryState { problem: Some(problem), ..Default::default() }),
            Held::Damaged(words) => Some(RegistryState { problem: Some(words.clone()), ..Default::default() }),
            Held::Trusted(trusted) => {
                let (version, ends_unix_s) = Judged::of(trusted).map_or((0, 0), |judged| judged.shown());
                Some(RegistryState { version, ends_unix_s, problem })
            }
        }
    }
}

/// A lock whose holder panicked is taken all the same: what it guards is replaced whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
