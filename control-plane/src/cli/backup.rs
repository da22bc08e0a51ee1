//! `control-plane backup`, `restore` and `verify`.

use super::{
    admin::{Access, ask, print_json},
    registry,
};
use crate::{
    admin_client::AdminError,
    api::{NOT_LEADING, views::time},
    backup::{self, Source, Summary},
    registry::tuf::Keeper,
    state_dir::StateDir,
    store::{
        Contents, StoreError, etcd,
        open::{attempt, lock},
        snapshot,
    },
};
use anyhow::Context as _;
use clap::Args;
use nearfield_shared::clock::{Clock as _, SystemClock};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The folder to make; it must not be there yet, and it will hold this control plane's keys.
    folder: PathBuf,
    #[command(flatten)]
    json: super::Json,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The backup.
    folder: PathBuf,
    #[command(flatten)]
    json: super::Json,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// A backup; the state folder if none is named.
    folder: Option<PathBuf>,
    #[command(flatten)]
    json: super::Json,
}

/// What is in the store of a folder on which no server runs or leads, for as long as the lock is held; or nothing, and a running server has exported it.
fn still(access: &Access, dir: &StateDir) -> anyhow::Result<Option<(Option<File>, Contents)>> {
    if access.server.is_some() {
        anyhow::bail!("this reads the state folder itself; run it on that machine, without --server");
    }
    let shared = access.config(dir)?.shared_store().map_err(anyhow::Error::msg)?;
    match lock(dir.root()) {
        Ok(held) => {
            let contents = match &shared {
                Some(etcd) => etcd::contents(etcd)?,
                None if dir.moved().exists() => {
                    let to = fs::read_to_string(dir.moved()).unwrap_or_default();
                    return Err(StoreError::Moved(to.trim().to_owned()).into());
                }
                None => attempt(&dir.store()).and_then(|store| Contents::of(&store)).context(
                    "the store cannot be read as it is; `control-plane serve` sets a damaged one aside and restores its last export. Then try again",
                )?,
            };
            Ok(Some((Some(held), contents)))
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            match (ask(access, async |client| client.export().await), &shared) {
                (Ok(_), _) => Ok(None),
                // It stands by: what the leader has is in etcd, at one moment, whoever reads it.
                (Err(error), Some(etcd)) if not_leading(&error) => Ok(Some((None, etcd::contents(etcd)?))),
                (Err(error), _) => Err(error).context(
                    "a control plane runs on this folder and has to export its store first; see its log, or stop it and try again",
                ),
            }
        }
        Err(error) => Err(error).with_context(|| format!("{} cannot be locked", dir.root().display())),
    }
}

fn not_leading(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<AdminError>(), Some(AdminError::Refused { code, .. }) if code == NOT_LEADING)
}

/// What a folder holds, in a line or two for people.
fn tell(summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
    let Summary { regions, nodes, models, artefact_bytes, audit_lines, signing_key, .. } = summary;
    let mib = *artefact_bytes as f64 / f64::from(1 << 20);
    writeln!(
        out,
        "{regions} regions, {nodes} nodes, {models} models with {mib:.1} MiB of files, {audit_lines} lines of audit, as of {}.",
        time(summary.unix_s)
    )?;
    if !signing_key {
        writeln!(out, "The key that signs models is kept elsewhere: back that up, too.")?;
    }
    Ok(())
}

fn audit_holds(summary: &Summary) -> anyhow::Result<()> {
    match &summary.audit_problem {
        None => Ok(()),
        Some(problem) => anyhow::bail!("everything else holds, but audit.log is not as it was written: {problem}"),
    }
}

pub(super) fn backup(access: &Access, args: &BackupArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let dir = StateDir::open(&access.root)?;
    let summary = match still(access, &dir)? {
        Some((_held, contents)) => {
            backup::take(&dir, Source::Read(&contents, SystemClock::default().unix_s()), &args.folder)?
        }
        None => backup::take(&dir, Source::Exported, &args.folder)?,
    };
    if args.json.json {
        return print_json(&summary, out);
    }
    writeln!(out, "Backed up to {}:", args.folder.display())?;
    tell(&summary, out)?;
    if let Some(problem) = &summary.audit_problem {
        writeln!(out, "audit.log is kept as it is, and that is not as it was written: {problem}")?;
    }
    Ok(writeln!(out, "It holds this control plane's keys: whoever reads it is this control plane.")?)
}

pub(super) fn restore(root: &Path, args: &RestoreArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let restored = backup::restore(&args.folder, root, SystemClock::default().unix_s())?;
    let signed = sign_registry(&restored.dir);
    if args.json.json {
        signed?;
        return print_json(&restored.summary, out);
    }
    writeln!(out, "Restored {}:", root.display())?;
    tell(&restored.summary, out)?;
    writeln!(
        out,
        "What was changed after that is not in it: revoke again whoever was revoked since, and apply your regions. Nodes that were enrolled or renewed their \
         certificates since are let in when they come."
    )?;
    if restored.shared {
        writeln!(
            out,
            "Where it came from, several control planes shared an etcd. This folder has a store of its own; `control-plane migrate --to etcd://…/NEW-PREFIX` \
             moves it there, and the others are told the new `store` in their config.toml."
        )?;
    }
    signed?;
    Ok(writeln!(out, "Next: `control-plane --state {} serve`.", root.display())?)
}

/// Nodes may have seen a newer list of models than that of the backup, and take nothing older: so it is signed anew.
fn sign_registry(dir: &StateDir) -> anyhow::Result<()> {
    let keeper = Keeper::new(dir, registry::lifetimes(dir)?, SystemClock::default().unix_s());
    keeper.sign_again(&registry::imported(dir)?).map(drop).context(
        "everything is restored, but nodes may have seen a newer list of models and take no new one until it is signed anew; run \
         `control-plane registry sign --signing-key FILE`",
    )
}

pub(super) fn verify(access: &Access, args: &VerifyArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let summary = match &args.folder {
        Some(folder) => backup::check(folder)?,
        None => {
            let dir = StateDir::open(&access.root)?;
            match still(access, &dir)? {
                Some((_held, contents)) => {
                    backup::check_state(&dir, SystemClock::default().unix_s(), &contents.entries, false)?
                }
                None => {
                    let (unix_s, entries) = snapshot::entries(&dir.snapshot())?;
                    backup::check_state(&dir, unix_s, &entries, true)?
                }
            }
        }
    };
    if args.json.json {
        print_json(&summary, out)?;
        return audit_holds(&summary);
    }
    audit_holds(&summary)?;
    writeln!(out, "Everything holds:")?;
    Ok(tell(&summary, out)?)
}
