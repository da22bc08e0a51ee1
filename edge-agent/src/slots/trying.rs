//! What candidates go through between their golden results and the swap: a spoken call on this device, and a share of the live turns where the state
//! asks for that. Dropping either at any moment leaves nothing behind: turns that are on a candidate go on with the live model.

use super::{
    activation::{Loaded, Refusal},
    host::{Candidate, ModelHost},
};
use crate::{
    node::ServedModel,
    trial::{
        Begin, Ended, TRIED, Trials,
        spoken_call::{
            self, Outcome,
            judge::{self, Trouble, TroubleKind},
        },
        verdict::Breach,
    },
};
use nearfield_shared::{
    artefact::{Digest, Stage},
    trial::TrialSettings,
    wire::message::{Problem, ProblemKind},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::task::JoinSet;
use uuid::Uuid;

/// How often the call is made where it seems to take too long. The least time of each side counts, so that a burst of live calls decides nothing.
const ROUNDS_MAX: usize = 3;

/// The candidates of one activation, and what they stand beside.
pub(super) struct Trying<'a> {
    pub host: &'a Arc<dyn ModelHost>,
    pub trials: &'a Trials,
    pub live: &'a BTreeMap<Stage, ServedModel>,
    /// The stages that the state has a model for.
    pub wanted: BTreeSet<Stage>,
}

impl Trying<'_> {
    /// Makes the spoken call with the candidates, and with the live models for comparison.
    pub async fn place_call(&self, loaded: &[Loaded]) -> Result<(), Refusal> {
        let candidates: BTreeSet<Stage> = loaded.iter().map(|loaded| loaded.manifest.stage).collect();
        if candidates.is_empty() {
            return Ok(());
        }
        let live: BTreeSet<Stage> = self.wanted.iter().copied().filter(|stage| self.live.contains_key(stage)).collect();
        let beside: Vec<Candidate> = loaded.iter().map(|loaded| loaded.candidate.clone()).collect();
        let mut least: Option<(Outcome, Outcome)> = None;
        for round in 1.. {
            let before = if live.is_empty() { None } else { Some(self.call(&[], &live).await?) };
            let tried = match self.call(&beside, &self.wanted).await? {
                Ok(tried) => tried,
                Err(trouble) => {
                    return spoiled(loaded, &candidates, &trouble, before.as_ref().and_then(|b| b.as_ref().err()));
                }
            };
            let Some(Ok(before)) = before.filter(|_| live == self.wanted) else {
                tracing::info!(
                    took_ms = tried.took.as_millis() as u64,
                    "the spoken call went well, with nothing to compare it with"
                );
                return Ok(());
            };
            let (tried, before) = least.map_or((tried, before), |(t, b)| (quicker(t, tried), quicker(b, before)));
            match judge::compare(&candidates, &tried, &before) {
                Ok(()) => {
                    let [took_ms, live_ms] = [tried, before].map(|outcome| outcome.took.as_millis() as u64);
                    tracing::info!(took_ms, live_ms, "the spoken call went well");
                    return Ok(());
                }
                Err(trouble) if round >= ROUNDS_MAX => return Err(refusal(loaded, &trouble, trouble.stage)),
                Err(_) => least = Some((tried, before)),
            }
        }
        Ok(())
    }

    /// One call, in a task that ends with this future: a panic in it is a refusal and not the end of the owner.
    async fn call(&self, beside: &[Candidate], stages: &BTreeSet<Stage>) -> Result<Result<Outcome, Trouble>, Refusal> {
        let (speech, stages) = (self.host.speech_on(beside), stages.clone());
        let mut task = JoinSet::new();
        task.spawn(async move { spoken_call::place(&speech, &stages).await });
        match task.join_next().await {
            Some(Ok(ended)) => Ok(ended),
            _ => Err(Refusal::failed("the inference host panicked in a spoken call; see the log")),
        }
    }

    /// Gives the candidates a share of the live turns until there is a verdict.
    pub async fn on_turns(&self, loaded: &[Loaded], settings: Option<&TrialSettings>) -> Result<(), Refusal> {
        let Some(settings) = settings else { return Ok(()) };
        let tried: Vec<&Loaded> = loaded.iter().filter(|loaded| TRIED.contains(&loaded.manifest.stage)).collect();
        // Without a model for each stage no call comes, and there is nothing to hold a candidate against.
        if tried.is_empty() || Stage::ALL.iter().any(|stage| !self.live.contains_key(stage)) {
            return Ok(());
        }
        let candidates: BTreeMap<Stage, Digest> =
            tried.iter().map(|loaded| (loaded.manifest.stage, loaded.manifest.digest)).collect();
        let beside: Vec<Candidate> = tried.iter().map(|loaded| loaded.candidate.clone()).collect();
        tracing::info!(
            share_percent = settings.share_percent,
            turns_min = settings.turns_min,
            time_s_max = settings.time_s_max,
            "candidates are tried on live turns"
        );
        let under_way = self.trials.begin(Begin {
            speech: self.host.speech_on(&beside),
            candidates,
            settings: settings.clone(),
            seed: Uuid::new_v4().as_u128() as u64,
        });
        let gone = || loaded.iter().find(|loaded| !self.host.is_there(&loaded.candidate));
        let ended = under_way.verdict(|| gone().is_none()).await;
        drop(under_way);
        let (kind, found, wanted, words) = match ended {
            Ended::Holds { judged, turns } => {
                tracing::info!(judged, turns, "the candidates hold");
                return Ok(());
            }
            Ended::Died => {
                let refusal = Refusal::new(ProblemKind::TrialDied, "it died while it was tried on live turns");
                return Err(gone().map_or(refusal.clone(), |gone| refusal.about(&gone.manifest)));
            }
            Ended::Breached(breach @ Breach::Errors { failed, turns, percent_max, .. }) => {
                let percent = f64::from(failed) * 100.0 / f64::from(turns.max(1));
                (ProblemKind::TrialErrors, tenth(percent), tenth(percent_max), breach.to_string())
            }
            Ended::Breached(breach @ Breach::Latency { p95_ms, p95_ms_max, .. }) => {
                (ProblemKind::TrialLatency, p95_ms.into(), p95_ms_max.into(), breach.to_string())
            }
        };
        let mut refusal = Refusal::new(kind, words);
        (refusal.problem.found, refusal.problem.wanted) = (Some(found), Some(wanted));
        // Of several candidates it is not known which one it was.
        Err(if let [only] = tried[..] { refusal.about(&only.manifest) } else { refusal })
    }
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn quicker(a: Outcome, b: Outcome) -> Outcome {
    if a.took <= b.took { a } else { b }
}

/// A call that went wrong: the fault of a candidate, or of nobody who could be refused.
fn spoiled(
    loaded: &[Loaded],
    candidates: &BTreeSet<Stage>,
    trouble: &Trouble,
    live: Option<&Trouble>,
) -> Result<(), Refusal> {
    match judge::blame(candidates, trouble, live) {
        Some(stage) => Err(refusal(loaded, trouble, stage)),
        None => {
            tracing::warn!(stage = %trouble.stage, what = trouble.words, "a spoken call goes wrong on a live model; the candidates are not blamed");
            Ok(())
        }
    }
}

fn refusal(loaded: &[Loaded], trouble: &Trouble, blamed: Stage) -> Refusal {
    let words = format!("a spoken call went wrong at stage {}: {}", trouble.stage, trouble.words);
    let (kind, found, wanted) = match trouble.kind {
        TroubleKind::Busy => (ProblemKind::Failed, None, None),
        TroubleKind::Failed => (ProblemKind::SpokenCallFailed, None, None),
        TroubleKind::Misheard { wrong } => {
            (ProblemKind::SpokenCallFailed, Some((wrong * 100.0).round() / 100.0), Some(judge::WORDS_WRONG_MAX))
        }
        TroubleKind::Slow { took_ms, most_ms } => {
            (ProblemKind::SpokenCallSlow, Some(took_ms as f64), Some(most_ms as f64))
        }
    };
    let refusal = Refusal { problem: Problem { found, wanted, ..Problem::new(kind) }, words };
    match loaded.iter().find(|loaded| loaded.manifest.stage == blamed) {
        Some(loaded) => refusal.about(&loaded.manifest),
        None => refusal,
    }
}
