//! The daemon's side of an update: whether a state wants another program, getting it here, and making way for it.

use super::{
    Book, Failure, Program, Shelf, Terms,
    cord::{Cord, ToSupervisor},
};
use crate::{
    artefacts::{ArtefactStore, Fetcher},
    calls::{CallDoor, KeptOut},
    enrol,
    slots::Refusal,
};
use nearfield_shared::{
    artefact::{Digest, ManifestError},
    desired::{DesiredState, Generation},
    release::{PROGRAM_BYTES_MAX, ProgramManifest, own_target},
    wire::{TargetName, VersionName, message::ProblemKind},
};
use serde::{Deserialize, Serialize};
use std::{io, time::Duration};
use tokio::sync::watch;

/// Why a daemon goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// Another program is to be tried.
    HandOver,
    /// It is being tried, and cannot become healthy.
    GiveUp,
}

/// How a daemon makes way.
#[derive(Debug)]
pub enum Way {
    /// It cannot: it is part of a test or of another program.
    None,
    /// It is the installed program and becomes a supervisor.
    Alone,
    /// It has a supervisor.
    Supervised(Cord),
}

/// What a daemon knows of its program, and how it gets another one.
#[derive(Debug)]
pub struct Updates {
    program: Program,
    shelf: Option<Shelf>,
    way: Way,
    terms: Terms,
    target: Option<TargetName>,
    leave: watch::Sender<Option<Leave>>,
}

/// A program that is here, verified, and waits for its trial; new calls are kept out meanwhile.
#[derive(Debug)]
pub struct Ready {
    program: Program,
    generation: Generation,
    kept_out: KeptOut,
}

/// Which program runs, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProgramReport {
    /// What runs.
    pub running: Program,
    /// Whether it is being tried.
    pub trial: bool,
    /// What is gone back to.
    pub previous: Program,
    /// What was given up, the newest first.
    pub failures: Vec<Failure>,
}

impl Updates {
    /// Of a daemon that cannot make way.
    pub fn none() -> Self {
        Self::new(Way::None, None, Terms { healthy_s: 0, grace_s: 0 })
    }

    /// Of a daemon that makes way like this. `healthy` is how long a trial may take, `grace` how long calls get to end.
    pub fn of(way: Way, shelf: Shelf, healthy: Duration, grace: Duration) -> Self {
        Self::new(way, Some(shelf), Terms { healthy_s: healthy.as_secs(), grace_s: grace.as_secs() })
    }

    fn new(way: Way, shelf: Option<Shelf>, terms: Terms) -> Self {
        let program = match &way {
            Way::Supervised(cord) => cord.handed.program.clone(),
            Way::None | Way::Alone => Program::Installed,
        };
        Self { program, shelf, way, terms, target: own_target(), leave: watch::Sender::new(None) }
    }

    /// The version of what runs: that of its release, else this build's own.
    pub fn version(&self) -> VersionName {
        match &self.program {
            Program::Release { version, .. } => version.clone(),
            Program::Installed => enrol::agent_version(),
        }
    }

    /// The digest of what runs, where it is a release.
    pub fn digest(&self) -> Option<Digest> {
        self.program.digest()
    }

    /// Whether what runs is being tried, and then whether it was healthy here before.
    pub fn trial(&self) -> Option<bool> {
        match &self.way {
            Way::Supervised(cord) if cord.handed.trial => Some(cord.handed.proven),
            _ => None,
        }
    }

    /// How long calls get to end before an update.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.terms.grace_s)
    }

    /// Which program runs, and what was given up.
    pub fn report(&self) -> ProgramReport {
        let book = self.book();
        ProgramReport {
            running: self.program.clone(),
            trial: book.trial().is_some_and(|trial| trial.begun),
            previous: book.previous().clone(),
            failures: book.failures().to_vec(),
        }
    }

    fn book(&self) -> Book {
        self.shelf.as_ref().and_then(|shelf| shelf.book().read().ok()).unwrap_or_default()
    }

    /// Follows whether the daemon has to go.
    pub fn follow(&self) -> watch::Receiver<Option<Leave>> {
        self.leave.subscribe()
    }

    /// Fires where the second signal was sent to the supervisor.
    pub async fn stop_at_once(&self) {
        match &self.way {
            Way::Supervised(cord) => cord.stop_at_once().cancelled().await,
            Way::None | Way::Alone => std::future::pending().await,
        }
    }

    /// Whether this daemon has a supervisor, which counts signals for it.
    pub fn is_supervised(&self) -> bool {
        matches!(self.way, Way::Supervised(_))
    }

    /// The manifest of the program that a state wants instead of this one; `Ok(None)` with [`Program::Installed`] where it wants that.
    fn wanted(&self, state: &DesiredState, key: &[u8]) -> Result<Option<(Program, Option<ProgramManifest>)>, Refusal> {
        let Some(release) = &state.agent else {
            let installed = self.program == Program::Installed;
            return Ok((!installed).then_some((Program::Installed, None)));
        };
        if self.program == Program::Installed && release.version == enrol::agent_version() {
            return Ok(None);
        }
        let signed = self.target.as_ref().and_then(|target| release.programs.get(target)).ok_or_else(|| {
            let target = self.target.as_ref().map_or("a system without releases", TargetName::as_str);
            let words =
                format!("agent {} has no program for {target}; import it for that target, too", release.version);
            Refusal::new(ProblemKind::AgentNotForTarget, words)
        })?;
        let manifest = ProgramManifest::verify(signed, key).map_err(|e| {
            let kind = match e {
                ManifestError::BadSignature => ProblemKind::BadSignature,
                ManifestError::Malformed(_) | ManifestError::ChunkCount { .. } => ProblemKind::BadManifest,
            };
            Refusal::new(kind, format!("agent {}: {e}", release.version))
        })?;
        if Some(&manifest.target) != self.target.as_ref() || manifest.version != release.version {
            let words = format!(
                "a program of version {} for {} stands in the place of another",
                manifest.version, manifest.target
            );
            return Err(Refusal::new(ProblemKind::BadManifest, words));
        }
        if manifest.bytes == 0 || manifest.bytes > PROGRAM_BYTES_MAX {
            let words = format!("a program of {} bytes is none; it has 1 to {PROGRAM_BYTES_MAX}", manifest.bytes);
            return Err(Refusal::new(ProblemKind::BadManifest, words));
        }
        if self.digest() == Some(manifest.digest) {
            return Ok(None);
        }
        let program = Program::Release { digest: manifest.digest, version: manifest.version.clone() };
        Ok(Some((program, Some(manifest))))
    }

    /// Gets the program that a state wants, and waits until calls have ended; `None` where this one is wanted. Can be dropped at any moment: new
    /// calls are let in again then, and what was fetched stays on the disk.
    pub(crate) async fn prepare(
        &self,
        state: &DesiredState,
        key: &[u8],
        (store, mut fetcher): (&ArtefactStore, Fetcher),
        calls: &CallDoor,
    ) -> Result<Option<Ready>, Refusal> {
        let Some((program, manifest)) = self.wanted(state, key)? else { return Ok(None) };
        let failed = |words: String| Refusal::new(ProblemKind::AgentUpdateFailed, words);
        if matches!(self.way, Way::None) {
            return Err(failed(format!("{program} is wanted, and this process cannot make way for it")));
        }
        if let Some(failure) = self.book().given_up(&program, state.generation) {
            return Err(failed(format!("{program} was tried and given up: {}", failure.why)));
        }
        if let (Some(manifest), Some(shelf)) = (manifest, self.shelf.clone()) {
            tracing::info!(%program, "the control plane wants another program; fetching it");
            fetcher.fetch(store, &manifest).await?;
            let (store, digest) = (store.clone(), manifest.digest);
            let installed = tokio::task::spawn_blocking(move || {
                let file = store.verified(digest)?;
                shelf.install(digest, &file).map_err(|source| store.failed(digest, source))
            });
            installed
                .await
                .map_err(|_| Refusal::new(ProblemKind::Failed, "storing the program failed; see the log"))??;
        }
        let kept_out = calls.keep_out();
        tracing::info!(%program, calls = calls.inside(), "the program is here; waiting for calls to end");
        // Those that last longer get what calls get at every stop: the answer in progress is finished.
        let _ = tokio::time::timeout(self.grace(), calls.emptied()).await;
        Ok(Some(Ready { program, generation: state.generation, kept_out }))
    }

    /// Has the program tried next, which is on the disk when this returns, and the daemon go.
    pub(crate) async fn hand_over(&self, ready: Ready) -> Result<(), Refusal> {
        let Ready { program, generation, kept_out } = ready;
        let terms = self.terms;
        let asked = match (&self.way, &self.shelf) {
            (Way::Supervised(cord), _) => {
                let said = ToSupervisor::Try { program: program.clone(), generation, terms };
                cord.say(&said).await.map_err(|e| e.to_string())
            }
            (Way::Alone, Some(shelf)) => {
                let (file, program) = (shelf.book(), program.clone());
                let saved = tokio::task::spawn_blocking(move || {
                    let mut book = file.load();
                    book.ask(program, generation, terms);
                    file.save(&book)
                });
                saved.await.unwrap_or_else(|panic| Err(io::Error::other(panic))).map_err(|e| e.to_string())
            }
            _ => Err("this process cannot make way".into()),
        };
        if let Err(words) = asked {
            return Err(Refusal::new(ProblemKind::Failed, format!("{program} could not be asked for: {words}")));
        }
        tracing::info!(%program, "making way");
        // The door stays closed until this process has gone.
        kept_out.for_good();
        self.leave.send_replace(Some(Leave::HandOver));
        Ok(())
    }

    /// Tells the supervisor that the trial is healthy.
    pub(super) async fn say_healthy(&self) -> Result<(), String> {
        match &self.way {
            Way::Supervised(cord) => cord.say(&ToSupervisor::Healthy).await.map_err(|e| e.to_string()),
            Way::None | Way::Alone => Ok(()),
        }
    }

    /// The trial cannot become healthy: the daemon goes, and what was before comes back.
    pub(super) fn give_up(&self) {
        self.leave.send_replace(Some(Leave::GiveUp));
    }
}
