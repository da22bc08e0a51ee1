//! `control-plane peer export`, `init --join` and `migrate`: more than one control plane.

use super::admin::Access;
use crate::{
    config::Config,
    peer::Bundle,
    state_dir::StateDir,
    store::{
        etcd::EtcdSettings,
        migrate::{self, Moved},
        open::lock,
    },
};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use nearfield_shared::clock::{Clock as _, SystemClock};
use std::{io::Write, path::PathBuf};

/// Where [`MigrateArgs::to`] names the state folder.
const SLED: &str = "sled";

#[derive(Debug, Subcommand)]
pub(super) enum PeerCommand {
    /// Write the keys of this control plane into one file, mode 0600, for `init --join` on another machine. Whoever reads it is this control plane.
    Export {
        /// The file; it must not be there yet.
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    /// Where to: etcd://HOST:2379,HOST:2379,HOST:2379[/PREFIX], or `sled` for back into the state folder.
    #[arg(long, value_name = "STORE")]
    to: String,
}

pub(super) fn peer(access: &Access, command: &PeerCommand, out: &mut dyn Write) -> anyhow::Result<()> {
    let PeerCommand::Export { file } = command;
    let dir = StateDir::open(&access.root)?;
    let Config { store, planes, .. } = access.config(&dir)?;
    if store.is_none() {
        anyhow::bail!(
            "this control plane keeps its store to itself; move it with `control-plane migrate --to etcd://…` and set `store` in {} first",
            dir.config_path().display()
        );
    }
    Bundle::of(&dir, store, planes)?.write(file)?;
    writeln!(
        out,
        "Wrote {}: it holds this control plane's keys. Copy it as you would them, and remove it afterwards.",
        file.display()
    )?;
    Ok(writeln!(
        out,
        "Next, on the other machine: `control-plane init --join FILE`, [etcd] in its config.toml, its models, `serve`."
    )?)
}

pub(super) fn migrate(access: &Access, args: &MigrateArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let dir = StateDir::open(&access.root)?;
    let config = access.config(&dir)?;
    let _held = lock(dir.root()).context("the store can be moved while no control plane runs on it")?;
    let now = SystemClock::default().unix_s();
    let back = args.to == SLED;
    let url = match (&config.store, back) {
        (Some(url), true) => url.clone(),
        (None, true) => anyhow::bail!(
            "the store is in the state folder already; there is no `store` in {}",
            dir.config_path().display()
        ),
        (Some(from), false) if *from == args.to => String::from(&args.to),
        (Some(from), false) => anyhow::bail!("the store is {from}; move it back first with `migrate --to sled`"),
        (None, false) => args.to.clone(),
    };
    let settings = EtcdSettings::new(&url, &config.etcd).map_err(anyhow::Error::msg)?;
    let moved = if back {
        migrate::to_sled(&dir, &settings, &url, now)?
    } else {
        migrate::to_etcd(&dir, &settings, &url, now)?
    };
    let Moved { values, audit_lines, audit_problem } = &moved;
    let target = if back { dir.store().display().to_string() } else { url.clone() };
    writeln!(
        out,
        "Moved {values} values and {audit_lines} lines of the audit to {target}; they were read back and are the same."
    )?;
    if let Some(problem) = audit_problem {
        writeln!(out, "The audit was moved as it is, and that is not as it was written: {problem}")?;
    }
    let config = dir.config_path();
    if back {
        writeln!(out, "Next: remove `store` from {}, then `control-plane serve`.", config.display())?;
    } else {
        writeln!(out, "What was in {} stays there, marked as moved.", dir.store().display())?;
        writeln!(
            out,
            "Next: set `store = \"{url}\"` in {} (above its first [table]), then `control-plane serve`.",
            config.display()
        )?;
    }
    Ok(())
}
