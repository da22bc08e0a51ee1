//! `control-plane agent import` and `control-plane agent list`.

use super::{ImportedProgram, import, imported};
use crate::state_dir::StateDir;
use anyhow::Context as _;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use nearfield_shared::wire::{TargetName, VersionName};
use serde_json::{Value, json};
use std::{io::Write, path::PathBuf};

/// `agent import`.
#[derive(Debug, Clone, clap::Args)]
pub struct ImportArgs {
    /// The edge-agent that nodes should run, for one target; a release may have several.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The release's version, as regions name it.
    #[arg(long, value_name = "X.Y.Z")]
    pub version: VersionName,
    /// What it was built for, where its header does not say it, for example x86_64-unknown-linux-musl.
    #[arg(long, value_name = "TRIPLE")]
    pub target: Option<TargetName>,
    /// The key that signs it, where it is not kept in the state folder (mode 0600).
    #[arg(long, value_name = "FILE")]
    pub signing_key: Option<PathBuf>,
    /// Print JSON for programs.
    #[arg(long)]
    pub json: bool,
}

/// `agent list`.
#[derive(Debug, Clone, clap::Args)]
pub struct ListArgs {
    /// Print JSON for programs.
    #[arg(long)]
    pub json: bool,
}

/// Runs `agent import`.
///
/// # Errors
/// A file that is no program for a node, a key or a disk that cannot be used.
pub fn run_import(args: &ImportArgs, state: &StateDir, out: &mut dyn Write) -> anyhow::Result<()> {
    let key = match &args.signing_key {
        Some(path) => state.signing_key_from(path)?,
        None => state.signing_key()?,
    };
    let program = import(state, &key, &args.file, &args.version, args.target.as_ref())?;
    print(&[program], args.json, out)?;
    if !args.json {
        writeln!(
            out,
            "Nodes of a region run it after `control-plane apply` of its file with:\n\n[agent]\nversion = \"{}\"",
            args.version
        )?;
    }
    Ok(())
}

/// Runs `agent list`.
///
/// # Errors
/// A folder that cannot be read.
pub fn run_list(args: &ListArgs, state: &StateDir, out: &mut dyn Write) -> anyhow::Result<()> {
    let programs = imported(state, &state.signing_public_key()?)
        .with_context(|| format!("cannot read {}", state.agents().display()))?;
    print(&programs, args.json, out)
}

fn print(programs: &[ImportedProgram], json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    if json {
        let programs: Vec<Value> = programs
            .iter()
            .map(|ImportedProgram { manifest: m, .. }| {
                json!({"version": m.version, "target": m.target, "bytes": m.bytes, "digest": m.digest})
            })
            .collect();
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&programs)?)?);
    }
    if programs.is_empty() {
        return Ok(writeln!(
            out,
            "No agent is imported yet, so nodes run what is installed on them; see `control-plane agent import --help`."
        )?);
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["version", "target", "size", "digest"]);
    for ImportedProgram { manifest: m, .. } in programs {
        let size = format!("{:.1} MiB", m.bytes as f64 / f64::from(1 << 20));
        table.add_row([m.version.as_str(), m.target.as_str(), &size, &m.digest.to_hex()[..12]]);
    }
    Ok(writeln!(out, "{table}")?)
}
