//! So many calls at once, for a while.

use super::{
    P95_MS_MAX,
    caller::{AnsweredBy, Outcome, Plan, Turn, TurnDetection, call},
    memory::Course,
    process::Process,
    script::Script,
};
use crate::measure::{cpu_ms, percentile};
use futures_util::future::join_all;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often the process's memory is looked at.
const MEMORY_EVERY: Duration = Duration::from_millis(500);

/// Times of many turns, in milliseconds. `None` where there was none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Times {
    /// How many.
    pub n: usize,
    /// The middle.
    pub p50: Option<f64>,
    /// Nineteen of twenty.
    pub p95: Option<f64>,
    /// Ninety-nine of a hundred; of fewer turns, the latest.
    pub p99: Option<f64>,
}

impl Times {
    fn of(times: impl IntoIterator<Item = Duration>) -> Self {
        let ms: Vec<f64> = times.into_iter().map(|t| t.as_secs_f64() * 1e3).collect();
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| percentile(&ms, share));
        Self { n: ms.len(), p50, p95, p99 }
    }
}

/// What came of one level.
#[derive(Debug, Clone, Serialize)]
pub struct Level {
    /// Callers that wanted to talk at once.
    pub calls: usize,
    /// Of them, those that were let in.
    pub admitted: usize,
    /// How often a call was refused.
    pub refusals: usize,
    /// Turns that were answered.
    pub answered: usize,
    /// Commit to the final transcript.
    pub transcript_ms: Times,
    /// Commit to first audio, of all answers.
    pub commit_ms: Times,
    /// Of known questions.
    pub known_ms: Times,
    /// Of the language model.
    pub model_ms: Times,
    /// True end of speech to first audio.
    pub speech_end_ms: Times,
    /// Answers with a silence inside.
    pub gaps: usize,
    /// All those silences together.
    pub gaps_ms: f64,
    /// Of interrupted answers: speech heard by the node, to the last audio it still sent.
    pub still_spoke_ms: Times,
    /// Of interrupted answers: the caller's first sound, to when the node had stopped and had said so.
    pub barge_in_ms: Times,
    /// Turns without an answer, by reason.
    pub failures: BTreeMap<String, usize>,
    /// Memory of the server.
    pub memory: Course,
    /// Cores that the server computed with, on average.
    pub server_cores: f64,
    /// Cores that the callers themselves took.
    pub callers_cores: f64,
}

impl Level {
    /// All were let in at once, answered in time and without a gap.
    pub fn is_held(&self) -> bool {
        self.admitted == self.calls
            && self.refusals == 0
            && self.gaps == 0
            && self.failures.is_empty()
            && self.commit_ms.p95.is_some_and(|p95| p95 <= P95_MS_MAX)
    }

    /// One line for a person who waits.
    pub fn line(&self) -> String {
        let ms = |t: Option<f64>| t.map_or_else(|| "–".to_owned(), |t| format!("{t:.0}"));
        let verdict = if self.is_held() { "held" } else { "not held" };
        format!(
            "  {} calls: {} answers, commit → first audio p50 {} p95 {} ms, {} gaps, {} refusals, {} failures: {verdict}",
            self.calls,
            self.answered,
            ms(self.commit_ms.p50),
            ms(self.commit_ms.p95),
            self.gaps,
            self.refusals,
            self.failures.values().sum::<usize>()
        )
    }
}

pub(super) async fn run_level(
    url: &str,
    calls: usize,
    lasts: Duration,
    turns_max: usize,
    detection: TurnDetection,
    script: &Arc<Script>,
    process: &Process,
) -> Level {
    let (began, cpu, server_cpu) = (Instant::now(), cpu_ms(), process.cpu_seconds());
    let until = began + lasts;
    let plan = |i: usize| Plan {
        url: url.to_owned(),
        until,
        turns_max,
        seed: i as u64,
        detection,
        interrupts: detection != TurnDetection::Commit,
    };
    // Tasks of their own: one caller's decoding must not make another's clock late.
    let callers: Vec<_> = (0..calls).map(|i| tokio::spawn(call(plan(i), Arc::clone(script)))).collect();
    let mut memory = vec![(began.elapsed(), process.resident_bytes())];
    let all = join_all(callers);
    tokio::pin!(all);
    let outcomes = loop {
        tokio::select! {
            done = &mut all => break done,
            () = tokio::time::sleep(MEMORY_EVERY) => memory.push((began.elapsed(), process.resident_bytes())),
        }
    };
    let outcomes: Vec<Outcome> = outcomes.into_iter().map(|o| o.unwrap_or_else(|e| lost(&e.to_string()))).collect();
    memory.push((began.elapsed(), process.resident_bytes()));
    let mut level = summarise(calls, &outcomes);
    level.memory = Course::of(&memory);
    let seconds = began.elapsed().as_secs_f64();
    level.callers_cores = (cpu_ms() - cpu) / seconds / 1e3;
    level.server_cores = (process.cpu_seconds() - server_cpu) / seconds;
    level
}

fn lost(why: &str) -> Outcome {
    Outcome { cut_off: Some(why.to_owned()), ..Outcome::default() }
}

fn summarise(calls: usize, outcomes: &[Outcome]) -> Level {
    let turns: Vec<&Turn> = outcomes.iter().flat_map(|o| &o.turns).collect();
    let of = |by: Option<AnsweredBy>, what: fn(&Turn) -> Option<Duration>| {
        Times::of(turns.iter().filter(|t| by.is_none() || t.answered_by == by).filter_map(|t| what(t)))
    };
    let commit: fn(&Turn) -> Option<Duration> = |t| t.commit_to_audio;
    let mut failures = BTreeMap::new();
    let reasons =
        turns.iter().filter_map(|t| t.failed.clone()).chain(outcomes.iter().filter_map(|o| o.cut_off.clone()));
    reasons.for_each(|reason| *failures.entry(reason).or_default() += 1);
    Level {
        calls,
        admitted: outcomes.iter().filter(|o| o.admitted).count(),
        refusals: outcomes.iter().map(|o| o.refusals).sum(),
        answered: turns.iter().filter(|t| t.commit_to_audio.is_some()).count(),
        transcript_ms: of(None, |t| t.commit_to_transcript),
        commit_ms: of(None, commit),
        known_ms: of(Some(AnsweredBy::KnownQuestion), commit),
        model_ms: of(Some(AnsweredBy::Model), commit),
        speech_end_ms: of(None, |t| t.speech_end_to_audio),
        gaps: turns.iter().filter(|t| !t.gaps.is_empty()).count(),
        gaps_ms: turns.iter().flat_map(|t| &t.gaps).map(|g| g.as_secs_f64() * 1e3).sum::<f64>() + 0.0,
        still_spoke_ms: of(None, |t| t.still_spoke),
        barge_in_ms: of(None, |t| t.barge_in),
        failures,
        memory: Course::default(),
        server_cores: 0.0,
        callers_cores: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(ms: u64, by: AnsweredBy) -> Turn {
        let commit_to_audio = Some(Duration::from_millis(ms));
        Turn { answered_by: Some(by), commit_to_audio, ..Turn::default() }
    }

    #[test]
    fn a_level_is_held_only_without_gaps_refusals_or_failures() {
        let outcome = |turns: Vec<Turn>| Outcome { turns, admitted: true, ..Outcome::default() };
        let good = || vec![turn(100, AnsweredBy::KnownQuestion), turn(400, AnsweredBy::Model)];
        let level = summarise(1, &[outcome(good())]);
        assert!(level.is_held());
        assert_eq!((level.known_ms.p50, level.model_ms.p50, level.commit_ms.n), (Some(100.0), Some(400.0), 2));
        assert!(!summarise(2, &[outcome(good()), Outcome::default()]).is_held(), "one was not let in");
        let mut gap = good();
        gap[0].gaps.push(Duration::from_millis(50));
        assert!(!summarise(1, &[outcome(gap)]).is_held());
        let mut failed = good();
        failed.push(Turn { failed: Some("no answer came".into()), ..Turn::default() });
        assert!(!summarise(1, &[outcome(failed)]).is_held());
        let late = (0..20).map(|i| turn(if i < 2 { 900 } else { 100 }, AnsweredBy::Model)).collect();
        assert!(!summarise(1, &[outcome(late)]).is_held());
    }
}
