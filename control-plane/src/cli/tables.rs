//! What people see.

use super::rollout_tables;
use crate::{
    api::views::{AccountView, AuditView, FiguresView, NodeView, PlanView, StatusView, ago, time},
    fleet::{accounts::OWNER, change::Action},
    store::etcd::Leader,
};
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use nearfield_shared::trial::Trying;
use std::io::{self, Write};

pub(super) fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(head);
    table
}

pub(super) fn right(table: &mut Table, columns: impl IntoIterator<Item = usize>) {
    for index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

pub(super) fn status(status: &StatusView, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "control-plane {}, pid {}, up {}", status.version, status.pid, ago(status.uptime_s))?;
    writeln!(out, "agents  {} (QUIC)", status.agents)?;
    writeln!(out, "callers {}/v1/route", status.api)?;
    writeln!(out, "state   {}", status.state_dir)?;
    let leads =
        |leader: &Leader| format!("{} (agents {}), since {}", leader.name, leader.agents, time(leader.since_unix_s));
    match (status.stands_by, &status.leader) {
        (true, Some(leader)) => return writeln!(out, "stands by; leading is {}", leads(leader)),
        (true, None) => {
            return writeln!(out, "stands by; nobody leads at the moment, or etcd does not answer: see the log");
        }
        (false, Some(leader)) => writeln!(out, "leads   as {}", leads(leader))?,
        (false, None) => {}
    }
    writeln!(out, "links   {} open", status.connections)?;
    for lacking in &status.lacking {
        writeln!(out, "MODEL   {lacking}")?;
    }
    if !status.store_works {
        writeln!(out, "STORE   the last change did not reach the disk; see the log")?;
    }
    if status.regions.is_empty() {
        return writeln!(out, "No regions yet; run `control-plane apply regions/`.");
    }
    let mut table = table(["region", "law", "generation", "since", "nodes", "up", "current", "refused it"]);
    for region in &status.regions {
        table.add_row([
            region.region.to_string(),
            region.jurisdiction.clone(),
            region.generation.to_string(),
            time(region.changed_unix_s),
            region.nodes.to_string(),
            region.up.to_string(),
            region.current.to_string(),
            region.refused.to_string(),
        ]);
    }
    right(&mut table, [2, 4, 5, 6, 7]);
    writeln!(out, "{table}")
}

fn generation(node: &NodeView) -> String {
    match node.desired {
        Some(desired) if desired != node.serving => format!("{} of {desired}", node.serving),
        _ => node.serving.to_string(),
    }
}

/// A node's state, with what else is to be known at a glance.
fn state(node: &NodeView) -> String {
    let refuses = node.refusal.as_ref().map(|_| "refuses");
    let words = [Some(node.state.as_str()), node.cordon.as_deref(), refuses];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn calls(node: &NodeView) -> String {
    or_dash(node.calls.map(|(now, max)| format!("{now}/{max}")))
}

/// How far a trial has come.
fn trying(trial: &Trying) -> String {
    let Trying { turns, live_turns, turns_min, share_percent, left_s } = trial;
    format!(
        "on {share_percent} % of the turns: {turns} of {turns_min}, {live_turns} on the live ones, {} left",
        ago((*left_s).into())
    )
}

fn load(node: &NodeView) -> String {
    or_dash(node.load.map(|load| format!("{:.0} %", load * 100.0)))
}

pub(super) fn top(nodes: &[&NodeView], out: &mut dyn Write) -> io::Result<()> {
    if nodes.is_empty() {
        return writeln!(out, "No nodes; see `control-plane node list`.");
    }
    let head = ["node", "region", "state", "generation", "calls", "load", "version", "turns", "errors", "p95"];
    let mut table = table(head);
    for node in nodes {
        let figures = node.figures.as_ref();
        table.add_row([
            node.node.to_string(),
            node.region.to_string(),
            state(node),
            generation(node),
            calls(node),
            load(node),
            or_dash(node.agent_version.as_ref()),
            or_dash(figures.map(|figures| figures.turns)),
            or_dash(figures.and_then(|figures| figures.errors_percent).map(|percent| format!("{percent:.1} %"))),
            or_dash(figures.and_then(|figures| figures.p95_ms).map(|ms| format!("{ms:.0} ms"))),
        ]);
    }
    right(&mut table, [3, 4, 5, 7, 8, 9]);
    writeln!(out, "{table}")
}

pub(super) fn nodes(nodes: &[NodeView], out: &mut dyn Write) -> io::Result<()> {
    if nodes.is_empty() {
        return writeln!(out, "No nodes yet; run `control-plane token create --region REGION`.");
    }
    let head =
        ["node", "region", "state", "generation", "calls", "load", "version", "device", "certificate", "address"];
    let mut table = table(head);
    for node in nodes {
        let state = state(node);
        table.add_row([
            node.node.to_string(),
            node.region.to_string(),
            state,
            generation(node),
            calls(node),
            load(node),
            or_dash(node.agent_version.as_ref()),
            or_dash(node.device.as_ref().map(|device| &device.name)),
            node.certificate.clone(),
            or_dash(node.public_url.as_ref()),
        ]);
    }
    right(&mut table, [3, 4, 5]);
    writeln!(out, "{table}")
}

pub(super) fn node(node: &NodeView, out: &mut dyn Write) -> io::Result<()> {
    let mut table = table(["", node.node.as_str()]);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    row("region", node.region.to_string());
    row("state", format!("{} since {}", node.state, time(node.since_unix_s)));
    row("cordon", or_dash(node.cordon.as_ref()));
    let labels: Vec<&str> = node.labels.iter().map(|label| label.as_str()).collect();
    row("labels", or_dash(Some(labels.join(", ")).filter(|labels| !labels.is_empty())));
    row("generation", generation(node));
    row("refuses", or_dash(node.refusal.as_ref()));
    row("calls", or_dash(node.calls.map(|(now, max)| format!("{now} of {max}"))));
    row("load", load(node));
    if let Some(trial) = &node.trial {
        row("tries new models", trying(trial));
    }
    row("address", or_dash(node.public_url.as_ref()));
    row("version", or_dash(node.agent_version.as_ref()));
    let device = node.device.as_ref().map(|device| match device.memory_bytes {
        0 => device.name.to_string(),
        bytes => format!("{}, {}", device.name, megabytes(bytes)),
    });
    row("device", or_dash(device));
    row("weights in memory", or_dash(node.resident_bytes.map(megabytes)));
    for model in &node.models {
        row(&format!("model {}", model.stage), model.digest.to_hex()[..16].to_owned());
    }
    row("enrolled", time(node.enrolled_unix_s));
    row("certificate", format!("{}, until {}", node.certificate, time(node.certificate_expires_unix_s)));
    row(
        "certificate signed",
        or_dash((node.certificate_issued_unix_s > 0).then(|| time(node.certificate_issued_unix_s))),
    );
    if let Some(reason) = &node.revoked_reason {
        row("revoked because", reason.clone());
    }
    writeln!(out, "{table}")
}

pub(super) fn audit(view: &AuditView, out: &mut dyn Write) -> io::Result<()> {
    let mut table = table(["", "when", "who", "what", "to", "detail"]);
    for entry in &view.entries {
        // Hashes are as long as a line; their beginning tells them apart.
        let object = match entry.object.split_once('/') {
            Some(("token", hash)) => format!("token/{}", hash.get(..12).unwrap_or(hash)),
            _ => entry.object.clone(),
        };
        let row = [entry.n.to_string(), time(entry.unix_s), entry.who.clone(), entry.what.clone(), object];
        table.add_row(row.into_iter().chain([entry.detail.clone()]));
    }
    right(&mut table, [0]);
    writeln!(out, "{table}")?;
    view.problems.iter().try_for_each(|problem| writeln!(out, "{problem}"))
}

pub(super) fn accounts(accounts: &[AccountView], out: &mut dyn Write) -> io::Result<()> {
    let mut table = table(["account", "role", "since", "token of"]);
    table.add_row([OWNER, "admin", "-", "the file admin.token"]);
    for account in accounts {
        table.add_row([
            account.name.to_string(),
            account.role.to_string(),
            time(account.created_unix_s),
            time(account.token_unix_s),
        ]);
    }
    writeln!(out, "{table}")
}

pub(super) fn plan(view: &PlanView, done: bool, out: &mut dyn Write) -> io::Result<()> {
    let plan = match view {
        PlanView::Mistakes(mistakes) => {
            for mistake in mistakes {
                writeln!(out, "{mistake}")?;
            }
            let (count, s) = (mistakes.len(), if mistakes.len() == 1 { "" } else { "s" });
            return writeln!(out, "{count} mistake{s}; nothing was changed.");
        }
        PlanView::Plan(plan) => plan,
    };
    for region in &plan.regions {
        let (sign, word) = match (region.action, done) {
            (Action::Keep, _) => (' ', "stays"),
            (Action::Add, false) => ('+', "will be added"),
            (Action::Add, true) => ('+', "was added"),
            (Action::Change, false) => ('~', "will change"),
            (Action::Change, true) => ('~', "has changed"),
            (Action::Remove, false) => ('-', "will be taken out"),
            (Action::Remove, true) => ('-', "was taken out"),
        };
        let nodes = if region.nodes == 1 { "1 node".to_owned() } else { format!("{} nodes", region.nodes) };
        writeln!(out, "{sign} region {} {word} (generation {}, {nodes})", region.region, region.generation)?;
        for difference in &region.differences {
            match (&difference.from, &difference.to) {
                (Some(from), Some(to)) => writeln!(out, "    ~ {}: {from} -> {to}", difference.what)?,
                (None, Some(to)) => writeln!(out, "    + {}: {to}", difference.what)?,
                (Some(from), None) => writeln!(out, "    - {}: {from}", difference.what)?,
                (None, None) => {}
            }
        }
        rollout_tables::waves(region, out)?;
    }
    if !plan.refused.is_empty() {
        for reason in &plan.refused {
            writeln!(out, "refused: {reason}")?;
        }
        return writeln!(out, "Nothing was changed.");
    }
    if plan.changes() { Ok(()) } else { writeln!(out, "Nothing to change.") }
}

pub(super) fn figures(rows: &[FiguresView], out: &mut dyn Write) -> io::Result<()> {
    if rows.is_empty() {
        return writeln!(
            out,
            "No figures yet. Nodes report only groups of calls that are large enough to hide each of them."
        );
    }
    let head = [
        "region",
        "day",
        "calls",
        "from cache",
        "by model",
        "failed",
        "handed over",
        "left early",
        "barge-ins",
        "first audio p50",
        "p95",
    ];
    let mut table = table(head);
    let bound = |ms: Option<u32>, row: &FiguresView| match (ms, row.first_audio_bounds_ms.last()) {
        (Some(ms), _) => format!("≤ {ms} ms"),
        (None, Some(last)) if row.first_audio.iter().any(|count| *count > 0) => format!("> {last} ms"),
        _ => "-".to_owned(),
    };
    for row in rows {
        table.add_row([
            row.region.to_string(),
            row.day.clone(),
            row.calls.to_string(),
            row.turns_from_cache.to_string(),
            row.turns_by_model.to_string(),
            row.turns_failed.to_string(),
            row.handed_over.to_string(),
            row.dropped.to_string(),
            row.barge_ins.to_string(),
            bound(row.first_audio_p50_ms_max, row),
            bound(row.first_audio_p95_ms_max, row),
        ]);
    }
    right(&mut table, 2..11);
    writeln!(out, "{table}")
}
