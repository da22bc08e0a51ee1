//! The checks and steps of one activation, up to the swap.

use super::host::{Candidate, HostError, ModelHost, Unsupported};
use crate::{
    artefacts::{ArtefactStore, FetchError, Fetcher, StoreError},
    registry,
};
use nearfield_shared::{
    artefact::{Manifest, Stage},
    desired::{DesiredState, ManifestRefused},
    link::Refusal as BytesRefused,
    wire::message::{Problem, ProblemKind},
};
use std::{collections::BTreeMap, future::Future, sync::Arc, time::Instant};

/// Why a state does not serve: a code with figures for the control plane, and words for this node's log and `status`.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// For the control plane.
    pub problem: Problem,
    /// For people on this node.
    pub words: String,
}

impl Refusal {
    pub(crate) fn new(kind: ProblemKind, words: impl Into<String>) -> Self {
        Self { problem: Problem::new(kind), words: words.into() }
    }

    pub(super) fn failed(words: impl Into<String>) -> Self {
        Self::new(ProblemKind::Failed, words)
    }

    pub(super) fn superseded() -> Self {
        Self::new(ProblemKind::Superseded, "a newer state came first")
    }

    pub(super) fn old(found: u64, wanted: u64) -> Self {
        let mut refusal = Self::new(
            ProblemKind::OldGeneration,
            format!("generation {found} is older than generation {wanted}, which this node has served"),
        );
        refusal.problem.found = Some(found as f64);
        refusal.problem.wanted = Some(wanted as f64);
        refusal
    }

    pub(super) fn about(mut self, manifest: &Manifest) -> Self {
        self.problem.stage = Some(manifest.stage);
        self.problem.artefact = Some(manifest.digest);
        self.words = format!("{} ({} {}): {}", manifest.stage, manifest.name, manifest.version, self.words);
        self
    }
}

impl From<ManifestRefused> for Refusal {
    fn from(ManifestRefused { problem, words }: ManifestRefused) -> Self {
        Self { problem, words }
    }
}

impl From<Unsupported> for Refusal {
    fn from(e: Unsupported) -> Self {
        let words = e.to_string();
        match e {
            Unsupported::Architecture { stage, .. } => {
                Self { problem: Problem::new(ProblemKind::UnknownArchitecture).at(stage), words }
            }
            Unsupported::Interface { stage, found, wanted } => {
                let mut problem = Problem::new(ProblemKind::WrongInterface).at(stage);
                (problem.found, problem.wanted) = (Some(f64::from(found)), Some(f64::from(wanted)));
                Self { problem, words }
            }
        }
    }
}

impl From<HostError> for Refusal {
    fn from(e: HostError) -> Self {
        let words = e.to_string();
        let problem = match e {
            HostError::Memory { wanted, free } => Problem {
                found: Some(free as f64),
                wanted: Some(wanted as f64),
                ..Problem::new(ProblemKind::DeviceMemory)
            },
            HostError::Load(_) => Problem::new(ProblemKind::LoadFailed),
            HostError::Golden { case, found, wanted, .. } => {
                Problem { index: Some(u64::from(case)), found, wanted, ..Problem::new(ProblemKind::GoldenDiffers) }
            }
            HostError::Died | HostError::Failed(_) => Problem::new(ProblemKind::Failed),
        };
        Self { problem, words }
    }
}

impl From<StoreError> for Refusal {
    fn from(e: StoreError) -> Self {
        let words = e.to_string();
        let problem = match e {
            StoreError::DiskFull { free, wanted, .. } => {
                Problem { found: Some(free as f64), wanted: Some(wanted as f64), ..Problem::new(ProblemKind::DiskFull) }
            }
            StoreError::Refused(BytesRefused::WrongChunk { chunk, .. }) => {
                Problem { index: Some(chunk as u64), ..Problem::new(ProblemKind::WrongDigest) }
            }
            StoreError::Refused(_) => Problem::new(ProblemKind::WrongDigest),
            // The next try fetches the file again.
            StoreError::Rotten(_) => Problem::new(ProblemKind::FetchFailed),
            StoreError::Io { .. } => Problem::new(ProblemKind::Failed),
        };
        Self { problem, words }
    }
}

impl From<registry::Refusal> for Refusal {
    fn from(registry::Refusal { problem, words }: registry::Refusal) -> Self {
        Self { problem, words }
    }
}

impl From<FetchError> for Refusal {
    fn from(e: FetchError) -> Self {
        match e {
            FetchError::Store(e) => e.into(),
            e => Self::new(ProblemKind::FetchFailed, e.to_string()),
        }
    }
}

/// Every manifest of a state, after its signature, its place and its interface were checked. No file is touched.
pub(super) fn check_manifests(
    state: &DesiredState,
    signing_key: &[u8],
    host: &dyn ModelHost,
) -> Result<BTreeMap<Stage, Manifest>, Refusal> {
    let manifests = state.verified_models(signing_key)?;
    for manifest in manifests.values() {
        host.supports(manifest).map_err(|e| Refusal::from(e).about(manifest))?;
    }
    Ok(manifests)
}

/// A model that has proven itself, and what that took.
pub(super) struct Loaded {
    pub(super) manifest: Manifest,
    pub(super) candidate: Candidate,
    /// Milliseconds that reproducing its golden cases took.
    pub(super) proven_ms: u64,
}

/// Candidates that have proven themselves and wait for the swap. Dropping them frees them.
pub(super) struct Proven {
    host: Arc<dyn ModelHost>,
    candidates: Vec<Candidate>,
}

impl Proven {
    pub(super) fn none(host: &Arc<dyn ModelHost>) -> Self {
        Self { host: Arc::clone(host), candidates: Vec::new() }
    }

    /// Takes the candidates out for the swap.
    pub(super) fn take(&mut self) -> Vec<Candidate> {
        std::mem::take(&mut self.candidates)
    }

    /// Loads the model beside the live one and has it reproduce its golden results.
    ///
    /// Dropping the future at any moment leaves nothing behind in the host.
    pub(super) async fn load_and_prove(
        &mut self,
        store: &ArtefactStore,
        manifest: &Manifest,
    ) -> Result<Loaded, Refusal> {
        let digest = manifest.digest;
        let store = store.clone();
        let file = tokio::task::spawn_blocking(move || store.verified(digest))
            .await
            .map_err(|_| Refusal::failed("hashing the file failed; see the log"))??;
        let host = Arc::clone(&self.host);
        let stage = manifest.stage;
        let candidate = Discarding::new(&self.host, async move { host.load(stage, file).await }).finish().await?;
        // From here on a drop of `self` frees it.
        self.candidates.push(candidate.clone());
        let begun = Instant::now();
        let (host, proving) = (Arc::clone(&self.host), candidate.clone());
        let reproduced = in_own_task(async move { host.reproduce_golden(&proving).await }).await??;
        if reproduced != manifest.golden_cases {
            let mut refusal = Refusal::new(
                ProblemKind::GoldenDiffers,
                format!("the file holds {reproduced} golden cases, its manifest says {}", manifest.golden_cases),
            );
            refusal.problem.found = Some(f64::from(reproduced));
            refusal.problem.wanted = Some(f64::from(manifest.golden_cases));
            return Err(refusal);
        }
        Ok(Loaded { manifest: manifest.clone(), candidate, proven_ms: begun.elapsed().as_millis() as u64 })
    }
}

impl Drop for Proven {
    fn drop(&mut self) {
        for candidate in self.take() {
            let host = Arc::clone(&self.host);
            // Outside a runtime the process is about to end, and the candidates with it.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { host.discard(candidate).await });
            }
        }
    }
}

/// Fetches and proves every manifest whose model is not live yet. Returns the proven candidates with their manifests.
pub(super) async fn prove(
    host: &Arc<dyn ModelHost>,
    store: &ArtefactStore,
    mut fetcher: Option<Fetcher>,
    needed: Vec<Manifest>,
) -> Result<(Proven, Vec<Loaded>), Refusal> {
    // All files first: a region's nodes should not fill device memory while they wait for a slow link.
    for manifest in &needed {
        match &mut fetcher {
            Some(fetcher) => fetcher.fetch(store, manifest).await.map_err(|e| Refusal::from(e).about(manifest))?,
            None if store.holds(manifest) => {}
            None => {
                let words = "its file is not on this node, and the control plane is not asked at boot";
                return Err(Refusal::new(ProblemKind::FetchFailed, words).about(manifest));
            }
        }
    }
    let mut proven = Proven::none(host);
    let mut loaded = Vec::new();
    for manifest in needed {
        let model = proven.load_and_prove(store, &manifest).await.map_err(|e| e.about(&manifest))?;
        tracing::info!(
            stage = %manifest.stage, model = %manifest.name, version = %manifest.version,
            resident_bytes = model.candidate.resident_bytes, load_ms = model.candidate.load_ms, proven_ms = model.proven_ms,
            golden_cases = manifest.golden_cases, "golden results reproduced"
        );
        loaded.push(model);
    }
    Ok((proven, loaded))
}

/// Runs host work in a task of its own, so that a panic in it is a refusal and not the end of the owner.
pub(super) async fn in_own_task<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::spawn(work).await.map_err(|_| Refusal::failed("the inference host panicked; see the log"))
}

/// A load in its own task whose candidate is discarded if nobody waits for it any more.
struct Discarding {
    host: Arc<dyn ModelHost>,
    task: Option<tokio::task::JoinHandle<Result<Candidate, HostError>>>,
}

impl Discarding {
    fn new(
        host: &Arc<dyn ModelHost>,
        load: impl Future<Output = Result<Candidate, HostError>> + Send + 'static,
    ) -> Self {
        Self { host: Arc::clone(host), task: Some(tokio::spawn(load)) }
    }

    async fn finish(mut self) -> Result<Candidate, Refusal> {
        let task = self.task.as_mut().expect("the task is taken only by this method and by drop");
        let ended = task.await;
        self.task = None;
        Ok(ended.map_err(|_| Refusal::failed("the inference host panicked while loading; see the log"))??)
    }
}

impl Drop for Discarding {
    fn drop(&mut self) {
        let (Some(task), Ok(runtime)) = (self.task.take(), tokio::runtime::Handle::try_current()) else { return };
        let host = Arc::clone(&self.host);
        runtime.spawn(async move {
            if let Ok(Ok(candidate)) = task.await {
                host.discard(candidate).await;
            }
        });
    }
}
