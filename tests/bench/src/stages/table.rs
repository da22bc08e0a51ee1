//! What was measured, as a table for a person and as JSON for a program. Ratios come first: they hold on the next machine too.

use super::{
    Streams, Verdict, Work,
    streams::{TOKENS_PER_SPOKEN_SECOND, in_real_time},
};
use crate::{
    machine::Machine,
    measure::{Ratio, Spread},
};
use comfy_table::{CellAlignment, ContentArrangement, Table as Grid, presets};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// One row, measured.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Its name for `--only`.
    pub id: &'static str,
    /// What was measured.
    pub title: &'static str,
    /// The other side.
    pub against: &'static str,
    /// What one run was.
    pub work: Work,
    /// Ours over theirs; `None` where ours ran alone.
    pub ratio: Option<Ratio>,
    /// Our times.
    pub ours_ms: Spread,
    /// Theirs.
    pub theirs_ms: Option<Spread>,
    /// Whether both found the same.
    pub verdict: Option<Verdict>,
    /// Bytes that one token reads.
    pub bytes_per_token: Option<usize>,
}

/// The whole measurement.
#[derive(Debug, Clone)]
pub struct Table {
    /// What it ran on.
    pub machine: Machine,
    /// Versions of the other engines, where they took part.
    pub peers: Option<String>,
    /// Measured runs of each side.
    pub runs: usize,
    /// Memory bandwidth of the device, where the operator stated it.
    pub bandwidth_gb_s: Option<f64>,
    /// The rows.
    pub rows: Vec<Measured>,
    /// What batching gives, where it was asked for.
    pub streams: Option<Streams>,
}

impl Measured {
    fn rate(&self, wall_ms: f64) -> String {
        let streams = in_real_time(self.work, wall_ms);
        match self.work {
            Work::Tokens(n) | Work::Prompt(n) => format!("{:.0} tok/s", n as f64 / wall_ms * 1e3),
            Work::Audio(_) => format!("{:.0}× real time", streams.unwrap_or(0.0)),
            Work::Sentences(n) => format!("{:.0}/s", n as f64 / wall_ms * 1e3),
        }
    }

    /// Gigabytes a second that decoding reads.
    fn read_gb_s(&self) -> Option<f64> {
        let Work::Tokens(tokens) = self.work else { return None };
        Some(self.bytes_per_token? as f64 * tokens as f64 / self.ours_ms.median / 1e6)
    }
}

impl Table {
    /// For a person.
    pub fn text(&self) -> String {
        let mut grid = Grid::new();
        grid.load_style(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
        grid.set_header([
            "ours / theirs (least–most)",
            "best / best",
            "computing",
            "stage",
            "against",
            "ours",
            "theirs",
            "our rate",
            "the same?",
        ]);
        for row in &self.rows {
            let two = |x: f64| format!("{x:.2}");
            let ratio = |f: fn(&Ratio) -> String| row.ratio.as_ref().map_or_else(|| "–".to_owned(), f);
            grid.add_row([
                ratio(|r| format!("{:.2} ({:.2}–{:.2})", r.wall.median, r.wall.min, r.wall.max)),
                row.ratio.as_ref().map_or_else(|| "–".to_owned(), |r| two(r.best)),
                row.ratio.as_ref().map_or_else(|| "–".to_owned(), |r| two(r.cpu.median)),
                format!("{} [{}]", row.title, row.id),
                row.against.to_owned(),
                format!("{} ms", significant(row.ours_ms.median)),
                row.theirs_ms.map_or_else(|| "–".to_owned(), |t| format!("{} ms", significant(t.median))),
                row.rate(row.ours_ms.median),
                row.verdict.as_ref().map_or_else(
                    || "–".to_owned(),
                    |v| if v.same { v.said.clone() } else { format!("NOT THE SAME: {}", v.said) },
                ),
            ]);
        }
        for column in [0, 1, 2, 5, 6, 7] {
            if let Some(column) = grid.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let mut text = format!("{}\n", self.machine.describe());
        if let Some(peers) = &self.peers {
            let _ = writeln!(text, "{peers}; median of {} runs in turns, one unmeasured before", self.runs);
        }
        let _ = writeln!(text, "\n{grid}");
        for row in &self.rows {
            if let (Some(bytes), Some(read)) = (row.bytes_per_token, row.read_gb_s()) {
                let share = self.bandwidth_gb_s.map(|all| format!(" = {:.0} % of {all} GB/s", 100.0 * read / all));
                let share = share.unwrap_or_else(|| " (--bandwidth GB/s prints the share)".to_owned());
                let _ = writeln!(
                    text,
                    "\n{}: a token reads {:.1} MB of weights and cache; {read:.1} GB/s{share}",
                    row.id,
                    bytes as f64 / 1e6
                );
            }
        }
        if let Some(streams) = &self.streams {
            let _ = write!(text, "\n{}", self.streams_text(streams));
        }
        text
    }

    fn streams_text(&self, streams: &Streams) -> String {
        let mut grid = Grid::new();
        grid.load_style(presets::ASCII_MARKDOWN);
        grid.set_header([
            "callers in a step",
            "LLM tok/s, all",
            "callers spoken to in real time",
            "VAD, × real time, all",
            "TTS, × real time, all",
            "turns judged /s, all",
        ]);
        for b in &streams.batches {
            grid.add_row([
                b.callers.to_string(),
                format!("{:.0}", b.llm_tokens_per_second),
                format!("{:.0}", b.llm_tokens_per_second / TOKENS_PER_SPOKEN_SECOND),
                format!("{:.0}", b.vad_times_real_time),
                format!("{:.0}", b.tts_times_real_time),
                format!("{:.0}", b.turns_per_second),
            ]);
        }
        let mut text = format!("{grid}\n");
        for row in &self.rows {
            if let Some(n) = in_real_time(row.work, row.ours_ms.median) {
                let _ = writeln!(text, "{}: {n:.0} streams in real time, one after the other", row.id);
            }
        }
        text
    }

    /// For a program.
    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "id": row.id,
                    "title": row.title,
                    "against": row.against,
                    "ratio": row.ratio,
                    "ours_ms": row.ours_ms,
                    "theirs_ms": row.theirs_ms,
                    "rate": row.rate(row.ours_ms.median),
                    "streams_in_real_time": in_real_time(row.work, row.ours_ms.median),
                    "same": row.verdict.as_ref().map(|v| v.same),
                    "compared": row.verdict.as_ref().map(|v| &v.said),
                    "bytes_per_token": row.bytes_per_token,
                    "read_gb_s": row.read_gb_s(),
                })
            })
            .collect();
        json!({
            "machine": self.machine,
            "peers": self.peers,
            "runs": self.runs,
            "bandwidth_gb_s": self.bandwidth_gb_s,
            "rows": rows,
            "streams": self.streams,
        })
    }
}

/// Three digits, which is what a measurement is good for.
fn significant(ms: f64) -> String {
    if ms >= 100.0 {
        format!("{ms:.0}")
    } else if ms >= 10.0 {
        format!("{ms:.1}")
    } else {
        format!("{ms:.2}")
    }
}
