//! Many calls at once, over the real protocol with real recorded speech, beside a naive server.
//!
//! [`node`] starts a control plane and an agent as real processes, [`naive`] a Python server with the same models behind the same
//! events. [`caller`] is one caller, [`script`] what it says; [`level`] runs so many at once and [`report`] says what came of it.
//!
//! Callers run in this process on the same cores as the node, as they would not in life; what they take is told beside.

pub mod caller;
pub mod level;
pub mod memory;
pub mod naive;
pub mod node;
pub mod playback;
mod plot;
pub mod process;
pub mod report;
pub mod script;

use caller::TurnDetection;
use level::{Level, run_level};
use process::Process;
use script::Script;
use std::{sync::Arc, time::Duration};

/// 95 of 100 answers must begin so soon after the commit for a number of calls to count as held.
pub const P95_MS_MAX: f64 = 800.0;

/// A server under load.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its name in tables.
    pub name: String,
    /// WebSocket address of its calls, query and all.
    pub url: String,
    /// Its process.
    pub process: u32,
}

/// How it is loaded.
#[derive(Debug, Clone)]
pub struct Load {
    /// Calls at once, rising.
    pub levels: Vec<usize>,
    /// How long each level lasts.
    pub lasts: Duration,
    /// Who finds the end of a turn.
    pub detection: TurnDetection,
    /// Turns of one caller alone that commits by itself, before the levels.
    pub turns_alone: usize,
}

/// What came of one server.
#[derive(Debug)]
pub struct Curve {
    /// Its name.
    pub name: String,
    /// One caller that commits by itself.
    pub alone: Option<Level>,
    /// The levels that were run.
    pub levels: Vec<Level>,
    /// Peak memory of its process while it started, in bytes.
    pub start_peak_bytes: u64,
    /// Peak memory of its process while it was loaded, in bytes.
    pub peak_bytes: u64,
}

/// Runs all levels against a server. Levels after one that is hopelessly late are left out.
pub async fn measure(target: &Target, load: &Load, script: &Arc<Script>, mut progress: impl FnMut(&str)) -> Curve {
    let process = Process::of(target.process);
    let start_peak_bytes = process.peak_bytes();
    process.forget_peak();
    let mut alone = None;
    if load.turns_alone > 0 {
        progress(&format!("{}: one caller, {} turns", target.name, load.turns_alone));
        let limit = Duration::from_secs(30 * load.turns_alone as u64);
        alone = Some(run_level(&target.url, 1, limit, load.turns_alone, TurnDetection::Commit, script, &process).await);
    }
    let mut levels = Vec::new();
    for &calls in &load.levels {
        progress(&format!("{}: {calls} calls for {} s", target.name, load.lasts.as_secs()));
        let level = run_level(&target.url, calls, load.lasts, usize::MAX, load.detection, script, &process).await;
        // Three times over the limit nothing new is learnt.
        let hopeless = level.commit_ms.p95.is_none_or(|p95| p95 > 3.0 * P95_MS_MAX);
        progress(&level.line());
        levels.push(level);
        if hopeless {
            break;
        }
    }
    Curve { name: target.name.clone(), alone, levels, start_peak_bytes, peak_bytes: process.peak_bytes() }
}

impl Curve {
    /// The most calls of those tried that were held: all before it too.
    pub fn held(&self) -> usize {
        self.levels.iter().take_while(|l| l.is_held()).map(|l| l.calls).last().unwrap_or(0)
    }
}
