//! The inference engine as the slots see it.

use super::host::{Candidate, HostError, ModelHost, Unsupported};
use crate::speech::{BoxFuture, Speech};
use nearfield_inference::engine::{self, EngineError, EngineHandle, ModelFile, ModelId, Role};
use nearfield_shared::artefact::{Manifest, Stage};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What this build runs: the architectures and the interface version of each stage. It stands here and not in the engine because
/// it must be answered from a manifest alone, before a byte is fetched.
const RUNS: [(Stage, &[&str], u32); 6] = [
    (Stage::Vad, &["silero-vad"], 1),
    (Stage::Turn, &["smart-turn"], 1),
    (Stage::Asr, &["moonshine"], 1),
    (Stage::Llm, &["llama"], 1),
    (Stage::Tts, &["hibari"], 1),
    (Stage::Embed, &["minilm"], 1),
];

/// The engine of this node.
pub struct EngineHost {
    engine: EngineHandle,
    /// Loaded and not live yet. Dropping one frees it.
    candidates: Mutex<BTreeMap<u64, engine::Candidate>>,
}

impl EngineHost {
    /// Hosts models on this engine.
    pub fn new(engine: EngineHandle) -> Self {
        Self { engine, candidates: Mutex::default() }
    }

    fn candidates(&self) -> MutexGuard<'_, BTreeMap<u64, engine::Candidate>> {
        self.candidates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, candidate: &Candidate) -> Result<engine::Candidate, HostError> {
        self.candidates().remove(&candidate.id).ok_or_else(|| {
            HostError::Failed(format!("candidate {} of stage {} is gone", candidate.id, candidate.stage))
        })
    }
}

fn host_error(e: EngineError) -> HostError {
    match e {
        EngineError::WorkerDied => HostError::Died,
        EngineError::BadInput(reason) | EngineError::Model(reason) => HostError::Load(reason),
        e @ (EngineError::Overloaded { .. } | EngineError::NoModel(_) | EngineError::Cancelled) => {
            HostError::Failed(e.to_string())
        }
    }
}

impl ModelHost for EngineHost {
    fn supports(&self, manifest: &Manifest) -> Result<(), Unsupported> {
        supported(manifest)
    }

    fn load(&self, stage: Stage, file: PathBuf) -> BoxFuture<'_, Result<Candidate, HostError>> {
        Box::pin(async move {
            let file = tokio::task::spawn_blocking(move || ModelFile::open(file))
                .await
                .map_err(|_| HostError::Failed("opening the file panicked; see the log".into()))?
                .map_err(host_error)?;
            let loaded = self.engine.load(file, stage).await.map_err(host_error)?;
            let candidate = Candidate {
                id: loaded.id.0,
                stage,
                resident_bytes: loaded.resident_bytes as u64,
                load_ms: loaded.load_ms,
            };
            self.candidates().insert(candidate.id, loaded);
            Ok(candidate)
        })
    }

    fn reproduce_golden<'a>(&'a self, candidate: &'a Candidate) -> BoxFuture<'a, Result<u32, HostError>> {
        Box::pin(async move {
            // Taken out while it proves itself, since the lock must not be held over an await. It goes back either way:
            // whoever asked decides about it.
            let loaded = self.take(candidate)?;
            let report = self.engine.reproduce_golden(&loaded).await;
            self.candidates().insert(candidate.id, loaded);
            let report = report.map_err(host_error)?;
            match report.cases.iter().position(|case| !case.passed) {
                Some(case) => {
                    Err(HostError::Golden { case: case as u32, found: None, wanted: None, detail: report.summary() })
                }
                None => Ok(report.cases.len() as u32),
            }
        })
    }

    fn speech_on(&self, candidates: &[Candidate]) -> Arc<dyn Speech> {
        let on = candidates.iter().map(|candidate| (candidate.stage, ModelId(candidate.id)));
        Arc::new(self.engine.on(on))
    }

    fn is_there(&self, candidate: &Candidate) -> bool {
        let models = self.engine.snapshot().models;
        models.iter().any(|model| model.id.0 == candidate.id && model.role == Role::Candidate)
    }

    fn activate(&self, candidates: Vec<Candidate>) -> BoxFuture<'_, Result<(), HostError>> {
        Box::pin(async move {
            let loaded: Vec<_> = candidates.iter().map(|candidate| self.take(candidate)).collect::<Result<_, _>>()?;
            // Each is a swap of a pointer between two steps. Should the worker die in between, the slots step back.
            for candidate in loaded {
                self.engine.activate(candidate).await.map_err(host_error)?;
            }
            Ok(())
        })
    }

    fn discard(&self, candidate: Candidate) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Ok(loaded) = self.take(&candidate) {
                self.engine.discard(loaded).await;
            }
        })
    }

    fn load_share(&self) -> f32 {
        self.engine.snapshot().busy_share as f32
    }
}

fn supported(manifest: &Manifest) -> Result<(), Unsupported> {
    let stage = manifest.stage;
    let (_, architectures, interface) =
        RUNS.into_iter().find(|(runs, ..)| *runs == stage).expect("the table has every stage; a test holds it to that");
    if !architectures.contains(&manifest.architecture.as_str()) {
        let known = architectures.join(", ");
        return Err(Unsupported::Architecture { stage, architecture: manifest.architecture.clone(), known });
    }
    if manifest.interface != interface {
        return Err(Unsupported::Interface { stage, found: manifest.interface, wanted: interface });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_runs_something() {
        assert_eq!(RUNS.map(|(stage, ..)| stage), Stage::ALL);
    }
}
