//! The commands that ask the running server.

use super::{MistakesPrinted, tables};
use crate::{
    admin_client::AdminClient,
    api::views::{LabelsWanted, NewToken, PlanView},
    config::{Config, ConfigErrors},
    definition,
    state_dir::StateDir,
};
use serde::Serialize;
use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use zeroize::Zeroizing;

/// Which server is asked, and as whom.
pub(super) struct Access {
    /// The state folder, where no server is named.
    pub root: PathBuf,
    /// The server's admin address on this machine.
    pub server: Option<SocketAddr>,
    /// The token of an account; the owner of the folder needs none.
    pub token: Option<Zeroizing<String>>,
    /// The store, where it is not the one of the settings.
    pub store: Option<String>,
}

impl Access {
    /// The settings of a state folder, with what was said on the command line.
    pub(super) fn config(&self, dir: &StateDir) -> anyhow::Result<Config> {
        self.config_at(&dir.config_path())
    }

    /// The same from a file.
    pub(super) fn config_at(&self, path: &Path) -> anyhow::Result<Config> {
        let mut config = Config::load(path)?;
        if let Some(store) = &self.store {
            config.store = Some(store.clone());
            config.check().map_err(ConfigErrors)?;
        }
        Ok(config)
    }

    pub(super) fn client(&self) -> anyhow::Result<AdminClient> {
        Ok(match (self.server, &self.token) {
            (Some(server), Some(token)) => AdminClient::at(server, token.clone())?,
            (Some(_), None) => anyhow::bail!("--server wants the token of an account in NEARFIELD_ADMIN_TOKEN"),
            (None, Some(token)) => AdminClient::connect_as(&StateDir::open(&self.root)?, token.clone())?,
            (None, None) => AdminClient::connect(&StateDir::open(&self.root)?)?,
        })
    }
}

/// Asks on a small runtime of its own.
pub(super) fn ask<A>(
    access: &Access,
    asked: impl AsyncFnOnce(&AdminClient) -> Result<A, crate::admin_client::AdminError>,
) -> anyhow::Result<A> {
    let client = access.client()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { Ok(asked(&client).await?) })
}

pub(super) fn print_json(value: &impl Serialize, out: &mut dyn Write) -> anyhow::Result<()> {
    Ok(writeln!(out, "{}", serde_json::to_string_pretty(value)?)?)
}

pub(super) fn status(access: &Access, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let status = ask(access, async |client| client.status().await)?;
    if json { print_json(&status, out) } else { Ok(tables::status(&status, out)?) }
}

pub(super) fn create_token(
    access: &Access,
    region: &str,
    node: Option<&str>,
    ttl: Duration,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let token = NewToken {
        region: region.parse().map_err(anyhow::Error::msg)?,
        node: node.map(str::parse).transpose().map_err(anyhow::Error::msg)?,
        ttl_s: i64::try_from(ttl.as_secs())?,
    };
    let made = ask(access, async |client| client.create_token(&token).await)?;
    if json {
        return print_json(&made, out);
    }
    // The token alone on the standard output, so that it can be piped; the rest is for the eye.
    writeln!(out, "{}", made.token)?;
    eprintln!(
        "One node can enrol into {} with this, until {}. It is shown only now:\n  edge-agent enroll --plane HOST:PORT --token TOKEN",
        made.region,
        crate::api::views::time(made.expires_unix_s)
    );
    Ok(())
}

pub(super) fn list_nodes(access: &Access, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let nodes = ask(access, async |client| client.nodes().await)?;
    if json { print_json(&nodes, out) } else { Ok(tables::nodes(&nodes, out)?) }
}

pub(super) fn show_node(access: &Access, name: &str, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let node = ask(access, async |client| client.node(name).await)?;
    if json { print_json(&node, out) } else { Ok(tables::node(&node, out)?) }
}

pub(super) fn revoke_node(
    access: &Access,
    name: &str,
    reason: Option<String>,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let node = ask(access, async |client| client.revoke(name, reason).await)?;
    if json {
        return print_json(&node, out);
    }
    Ok(writeln!(
        out,
        "Node {} is shut out. To let it back in: control-plane token create --region {} --node {}",
        node.node, node.region, node.node
    )?)
}

pub(super) fn cordon_node(
    access: &Access,
    name: &str,
    drain: bool,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let node = ask(access, async |client| client.cordon(name, drain).await)?;
    if json {
        return print_json(&node, out);
    }
    let (name, calls) = (&node.node, node.calls.map_or(0, |(now, _)| now));
    let done = match (drain, calls) {
        (false, _) => format!("No callers are sent to {name}, and rollouts pass it over."),
        (true, 0) => format!("{name} takes no new calls, and has none."),
        (true, 1) => format!("{name} takes no new calls; one is in progress and goes on."),
        (true, calls) => format!("{name} takes no new calls; {calls} are in progress and go on."),
    };
    Ok(writeln!(out, "{done} To end that: control-plane node uncordon {name}")?)
}

pub(super) fn uncordon_node(access: &Access, name: &str, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let node = ask(access, async |client| client.uncordon(name).await)?;
    if json { print_json(&node, out) } else { Ok(writeln!(out, "{} takes part again.", node.node)?) }
}

pub(super) fn label_node(
    access: &Access,
    name: &str,
    labels: &LabelsWanted,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let node = ask(access, async |client| client.label(name, labels).await)?;
    if json {
        return print_json(&node, out);
    }
    if node.labels.is_empty() {
        return Ok(writeln!(out, "{} has no labels.", node.node)?);
    }
    let labels: Vec<&str> = node.labels.iter().map(|label| label.as_str()).collect();
    Ok(writeln!(out, "{} is labelled {}.", node.node, labels.join(", "))?)
}

/// Prints a plan, or the mistakes; the latter as an error with nothing more to say.
fn print_plan(view: &PlanView, done: bool, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    if json {
        print_json(view, out)?;
    } else {
        tables::plan(view, done, out)?;
    }
    match view {
        PlanView::Mistakes(_) => Err(MistakesPrinted.into()),
        PlanView::Plan(plan) if !plan.refused.is_empty() => Err(MistakesPrinted.into()),
        PlanView::Plan(_) => Ok(()),
    }
}

pub(super) fn plan(access: &Access, folder: &Path, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let files = definition::read_folder(folder)?;
    let view = ask(access, async |client| client.plan(files).await)?;
    print_plan(&view, false, json, out)
}

pub(super) fn apply(access: &Access, folder: &Path, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let files = definition::read_folder(folder)?;
    if json {
        let view = ask(access, async |client| client.apply(files).await)?;
        return print_plan(&view, true, true, out);
    }
    // The same files go into both, so what was shown is what is done, unless another admin comes between.
    let planned = ask(access, async |client| client.plan(files.clone()).await)?;
    print_plan(&planned, false, false, out)?;
    let PlanView::Plan(plan) = &planned else { return Ok(()) };
    if !plan.changes() {
        return Ok(());
    }
    let done = ask(access, async |client| client.apply(files).await)?;
    if done == planned {
        writeln!(out, "Applied.")?;
        for region in plan.regions.iter().filter(|region| !region.waves.is_empty()) {
            writeln!(out, "Follow it with: control-plane rollout watch {}", region.region)?;
        }
        return Ok(());
    }
    writeln!(out, "Applied; what changed differs from what was shown, because the state changed in between:")?;
    print_plan(&done, true, false, out)
}

/// Has the running server add what was imported to the audit. One that does not run does so when it starts.
pub(super) fn note_imports(access: &Access) {
    let running = StateDir::open(&access.root).is_ok_and(|dir| dir.running().is_some());
    if !running {
        return;
    }
    if let Err(error) = ask(access, async |client| client.note_models().await) {
        eprintln!(
            "The control plane adds this to its audit when it starts or applies next; now it could not: {error:#}"
        );
    }
}

pub(super) fn metrics(access: &Access, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let figures = ask(access, async |client| client.metrics().await)?;
    if json { print_json(&figures, out) } else { Ok(tables::figures(&figures, out)?) }
}
