//! What came of a load test: tables for a person, JSON for a program, a picture of the curves.

use super::{
    Curve, P95_MS_MAX,
    level::{Level, Times},
    memory::MEMORY_MAX,
    plot::svg,
};
use crate::machine::Machine;
use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table as Grid, presets};
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// The whole load test.
#[derive(Debug)]
pub struct Report {
    /// What it ran on.
    pub machine: Machine,
    /// How turns ended, in words.
    pub turns: String,
    /// Every server that was loaded.
    pub curves: Vec<Curve>,
}

fn ms(time: Option<f64>) -> String {
    time.map_or_else(|| "–".to_owned(), |t| format!("{t:.0}"))
}

fn both(times: &Times) -> String {
    format!("{} / {}", ms(times.p50), ms(times.p95))
}

fn mb(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / 1e6)
}

impl Report {
    /// For a person.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.machine.describe(), self.turns);
        for curve in &self.curves {
            let _ = writeln!(
                text,
                "\n{}: {} calls held with p95 commit → first audio ≤ {P95_MS_MAX:.0} ms and no gap\n\n{}\n",
                curve.name,
                curve.held(),
                memory(curve)
            );
            if let Some(alone) = &curve.alone {
                let line = |times: &Times| format!("{} / {} ms ({})", ms(times.p50), ms(times.p99), times.n);
                let _ = writeln!(
                    text,
                    "alone, committing itself without a pause, p50 / p99: commit → final transcript {}; commit → first audio of a \
                     known question {}, of the language model {}\n",
                    line(&alone.transcript_ms),
                    line(&alone.known_ms),
                    line(&alone.model_ms)
                );
            }
            let _ = writeln!(text, "{}", levels(&curve.levels));
        }
        text
    }

    /// For a program.
    pub fn json(&self) -> Value {
        let curves: Vec<Value> = self
            .curves
            .iter()
            .map(|c| {
                json!({
                    "name": c.name,
                    "held": c.held(),
                    "start_peak_bytes": c.start_peak_bytes,
                    "peak_bytes": c.peak_bytes,
                    "alone": c.alone,
                    "levels": c.levels,
                })
            })
            .collect();
        json!({ "machine": self.machine, "turns": self.turns, "curves": curves })
    }

    /// Writes `calls.json`, `calls.txt` and `calls.svg` into a folder and returns them.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let title = format!("p95 of commit → first audio; {}, {} cores", self.machine.cpu, self.machine.cores);
        let files = [
            ("calls.json", format!("{:#}\n", self.json())),
            ("calls.txt", self.text()),
            ("calls.svg", svg(&title, &self.curves)),
        ];
        let mut written = Vec::new();
        for (name, content) in files {
            let file = folder.join(name);
            fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
            written.push(file);
        }
        Ok(written)
    }
}

/// Whether a server keeps to its memory, in words.
fn memory(curve: &Curve) -> String {
    if curve.peak_bytes == 0 {
        return "its memory was not watched".to_owned();
    }
    let within = if curve.start_peak_bytes.max(curve.peak_bytes) <= MEMORY_MAX { "within" } else { "beyond" };
    let those = |grew: bool| -> Vec<String> {
        curve.levels.iter().filter(|l| l.memory.grew == Some(grew)).map(|l| l.calls.to_string()).collect()
    };
    let growth = match (those(true), those(false)) {
        (grew, _) if !grew.is_empty() => format!("it grows with {} calls", grew.join(", ")),
        (_, did_not) if !did_not.is_empty() => format!("it does not grow with {} calls", did_not.join(", ")),
        _ => "no level was long enough to tell whether it grows".to_owned(),
    };
    format!(
        "memory: {} MB at most while it started, {} MB while it was called: {within} {} MB; {growth}",
        mb(curve.start_peak_bytes),
        mb(curve.peak_bytes),
        mb(MEMORY_MAX)
    )
}

fn levels(levels: &[Level]) -> Grid {
    let mut grid = Grid::new();
    grid.load_style(presets::ASCII_MARKDOWN);
    grid.set_header([
        "calls",
        "held",
        "commit → audio p50 / p95 ms",
        "known p50 / p95",
        "model p50 / p95",
        "end of speech → audio p50 / p95",
        "gaps (ms)",
        "interrupted: still spoke p95",
        "from first sound p50 / p95",
        "let in, refusals",
        "answers, failures",
        "memory MB start, most, end; slope MB/min",
        "cores: server, callers",
    ]);
    for l in levels {
        let failures: usize = l.failures.values().sum();
        let reasons: Vec<String> = l.failures.iter().map(|(why, n)| format!("{n} {why}")).collect();
        let [start, most, end] = [l.memory.start, l.memory.most, l.memory.end].map(mb);
        let slope = l.memory.slope_per_minute / 1e6;
        grid.add_row([
            l.calls.to_string(),
            if l.is_held() { "yes" } else { "no" }.to_owned(),
            both(&l.commit_ms),
            both(&l.known_ms),
            both(&l.model_ms),
            both(&l.speech_end_ms),
            format!("{} ({:.0})", l.gaps, l.gaps_ms),
            ms(l.still_spoke_ms.p95),
            format!("{} ({})", both(&l.barge_in_ms), l.barge_in_ms.n),
            format!("{}, {}", l.admitted, l.refusals),
            if failures == 0 {
                format!("{}, 0", l.answered)
            } else {
                format!("{}, {}", l.answered, reasons.join(", "))
            },
            format!("{start}, {most}, {end}; {slope:+.2}"),
            format!("{:.2}, {:.2}", l.server_cores, l.callers_cores),
        ]);
    }
    for column in [0, 2, 3, 4, 5, 6, 7, 8] {
        if let Some(column) = grid.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    grid
}
