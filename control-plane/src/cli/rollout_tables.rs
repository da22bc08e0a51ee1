//! What people see of rollouts.

use super::tables::{or_dash, right, table};
use crate::{
    api::{
        rollout_view::{LogView, RolloutView, SampleView, WaveView},
        views::{ago, time},
    },
    fleet::change::RegionPlan,
    rollout::WavePlan,
};
use nearfield_shared::rollout::Label;
use std::io::{self, Write};

/// Width of a bar of progress, in characters.
const BAR: usize = 20;

impl RolloutView {
    /// Whether nothing more happens.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "done" | "undone")
    }

    /// A bar, and where it stands.
    pub(super) fn progress(&self) -> String {
        let full = (self.serving * BAR).checked_div(self.nodes).unwrap_or(0).min(BAR);
        format!(
            "[{}{}] {}/{} nodes  {}",
            "#".repeat(full),
            ".".repeat(BAR - full),
            self.serving,
            self.nodes,
            self.stands
        )
    }
}

pub(super) fn list(rollouts: &[RolloutView], out: &mut dyn Write) -> io::Result<()> {
    if rollouts.is_empty() {
        return writeln!(
            out,
            "No rollouts yet. A change of a region whose file has [rollout] goes out in waves; without it, all nodes are told at once."
        );
    }
    let mut table = table(["region", "generation", "began", "serve it", "stands"]);
    for rollout in rollouts {
        table.add_row([
            rollout.region.to_string(),
            format!("{} -> {}", rollout.from, rollout.to),
            time(rollout.began_unix_s),
            format!("{} of {}", rollout.serving, rollout.nodes),
            rollout.stands.clone(),
        ]);
    }
    right(&mut table, [3]);
    writeln!(out, "{table}")
}

/// One line: what an order has led to.
pub(super) fn line(view: &RolloutView, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "Rollout of generation {} in {}: {}.", view.to, view.region, view.stands)
}

fn names(wave: &WaveView) -> String {
    let names: Vec<&str> = wave.names.iter().take(4).map(|name| name.as_str()).collect();
    let more = if wave.nodes > names.len() { ", …" } else { "" };
    format!("{}{more}", names.join(", "))
}

/// Which nodes a wave has, in words.
fn share(label: Option<&Label>, percent: f64) -> String {
    match (label, percent) {
        (None, 100.0) => "all nodes".into(),
        (None, percent) => format!("up to {percent} %"),
        (Some(label), 100.0) => format!("nodes labelled {label}"),
        (Some(label), percent) => format!("up to {percent} % of nodes labelled {label}"),
    }
}

fn figures(sample: &SampleView) -> String {
    let errors = or_dash(sample.errors_percent.map(|percent| format!("{percent:.1} %")));
    let p95 = or_dash(sample.p95_ms.map(|ms| format!("{ms:.0} ms")));
    format!("{} turns, {errors} failed, first audio p95 {p95}", sample.turns)
}

pub(super) fn show(view: &RolloutView, out: &mut dyn Write) -> io::Result<()> {
    line(view, out)?;
    writeln!(out, "  with the change  {}", figures(&view.new))?;
    match (&view.reference, &view.reference_is) {
        (Some(sample), Some(which)) => writeln!(out, "  {which:<16} {}", figures(sample))?,
        _ => writeln!(out, "  held against     nothing yet: too few turns on other nodes, and before")?,
    }
    let mut table = table(["wave", "who", "approval", "watched for", "state", "serve it", "nodes"]);
    for (i, wave) in view.waves.iter().enumerate() {
        table.add_row([
            (i + 1).to_string(),
            share(wave.label.as_ref(), wave.percent),
            if wave.approval { "asked".into() } else { "-".to_owned() },
            ago(wave.bake_s.unsigned_abs()),
            wave.state.clone(),
            format!("{} of {}", wave.serving, wave.nodes),
            names(wave),
        ]);
    }
    right(&mut table, [0, 5]);
    writeln!(out, "{table}")?;
    log(&view.log, out)
}

pub(super) fn log(entries: &[LogView], out: &mut dyn Write) -> io::Result<()> {
    entries.iter().try_for_each(|entry| writeln!(out, "{}  {}", time(entry.unix_s), entry.text))
}

/// The waves of a plan.
pub(super) fn waves(region: &RegionPlan, out: &mut dyn Write) -> io::Result<()> {
    if let Some(generation) = region.preempts {
        writeln!(out, "    ends the rollout of generation {generation}; its nodes go back first")?;
    }
    for (i, wave) in region.waves.iter().enumerate() {
        let WavePlan { label, percent, nodes, approval, bake_s, .. } = wave;
        let who = share(label.as_ref(), *percent);
        if *nodes == 0 {
            writeln!(out, "    wave {}: no node ({who}), passed over", i + 1)?;
            continue;
        }
        let nodes = if *nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") };
        let approval = if *approval { ", once approved" } else { "" };
        writeln!(out, "    wave {}: {nodes} ({who}){approval}, watched for {}", i + 1, ago((*bake_s).into()))?;
    }
    Ok(())
}
