//! `control-plane registry …`: the registry's signed metadata and its keys.

use super::{
    Json,
    admin::{self, Access, print_json},
    shelves::{self, CopyArgs},
};
use crate::{
    api::views::time,
    config::Config,
    registry::{
        self, Store,
        tuf::{Brought, Keeper, Lifetimes, Metadata, TufError, rotation::Rotation, view::View},
    },
    state_dir::StateDir,
};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use nearfield_shared::{
    artefact::{Manifest, SignedManifest},
    clock::{Clock as _, SystemClock},
};
use std::{io::Write, path::PathBuf};

#[derive(Debug, Subcommand)]
pub(super) enum RegistryCommand {
    /// Show who signs what, until when, and which models are listed.
    Show(Json),
    /// List what was imported, and sign the list anew with the key that signs models; sign root metadata that ends soon.
    Sign(SignArgs),
    /// Take a model out of the list: nodes that do not serve it yet will not take it any more.
    Withdraw(WithdrawArgs),
    /// Copy every model between this state folder and another place for model files, each whole, its manifest last.
    Copy(CopyArgs),
    /// Read every model from the place that config.toml names, and say what is wrong.
    Check(Json),
    /// Change the root key, or the daemon's keys. Nodes follow by themselves, from any older root key.
    RotateRoot(RotateArgs),
}

#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    /// The key that signs models, where it is not kept in the state folder (mode 0600).
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
    /// The root key, where it is not kept in the state folder (mode 0600).
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct SignArgs {
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(super) struct WithdrawArgs {
    /// A model's name, for all of its versions, or the beginning of a file's BLAKE3.
    what: String,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
pub(super) struct RotateArgs {
    /// The root key until now, where it is not kept in the state folder (mode 0600).
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
    /// The root key from now on; made where there is no such file. Without it, one in the place of the old.
    #[arg(long, value_name = "FILE", conflicts_with = "keep_root")]
    new_root_key: Option<PathBuf>,
    /// Change the daemon's keys for snapshots and timestamps, too: after a stranger may have read the state folder.
    #[arg(long)]
    online: bool,
    /// Leave the root key as it is.
    #[arg(long, requires = "online")]
    keep_root: bool,
    #[command(flatten)]
    json: Json,
}

/// The state folder's settings; the defaults where they stand elsewhere.
pub(super) fn settings(dir: &StateDir) -> anyhow::Result<Config> {
    let path = dir.config_path();
    if path.exists() { Ok(Config::load(&path)?) } else { Ok(Config::default()) }
}

/// `[registry]` of them.
pub(super) fn lifetimes(dir: &StateDir) -> anyhow::Result<Lifetimes> {
    Ok(settings(dir)?.registry)
}

/// Every imported model.
pub(super) fn imported(dir: &StateDir) -> anyhow::Result<Vec<(Manifest, SignedManifest)>> {
    let store = Store::from(dir);
    let imported = registry::list(&store, &dir.signing_public_key()?)
        .with_context(|| format!("cannot read {}", store.manifests.display()))?;
    Ok(imported.into_iter().map(|model| (model.manifest, model.signed)).collect())
}

fn keeper(dir: &StateDir, keys: KeyArgs) -> anyhow::Result<Keeper<'_>> {
    let KeyArgs { signing_key, root_key } = keys;
    let keeper = Keeper::new(dir, lifetimes(dir)?, SystemClock::default().unix_s());
    Ok(Keeper { signing_key, root_key, ..keeper })
}

pub(super) fn run(access: &Access, command: RegistryCommand, out: &mut dyn Write) -> anyhow::Result<()> {
    let dir = &StateDir::open(&access.root)?;
    match command {
        RegistryCommand::Show(json) => {
            let metadata = Metadata::load(dir)?.ok_or(TufError::NotMade)?;
            show(&View::of(&metadata)?, json.json, out)
        }
        RegistryCommand::Sign(args) => {
            let keeper = keeper(dir, args.keys)?;
            told(access, &keeper.sign_again(&imported(dir)?)?, args.json.json, out)
        }
        RegistryCommand::Withdraw(args) => {
            let (brought, gone) = keeper(dir, args.keys)?.withdraw(&args.what)?;
            if !args.json.json {
                gone.iter().try_for_each(|digest| writeln!(out, "{digest} is not listed any more."))?;
            }
            told(access, &brought, args.json.json, out)
        }
        RegistryCommand::Copy(args) => {
            shelves::copy(dir, &args, out)?;
            admin::note_imports(access);
            Ok(())
        }
        RegistryCommand::Check(json) => shelves::check(dir, json.json, out),
        RegistryCommand::RotateRoot(args) => {
            let RotateArgs { root_key, new_root_key, online, keep_root, json } = args;
            let keeper = keeper(dir, KeyArgs { signing_key: None, root_key })?;
            told(access, &keeper.rotate_root(&Rotation { new_root_key, online, keep_root })?, json.json, out)
        }
    }
}

/// Tells the running server and the person.
fn told(access: &Access, brought: &Brought, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    admin::note_imports(access);
    for what in &brought.to_do {
        eprintln!("{what}");
    }
    show(&View::of(&brought.metadata)?, json, out)
}

fn show(view: &View, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    if json {
        return print_json(view, out);
    }
    let mut roles = Table::new();
    roles.load_style(UTF8_FULL_CONDENSED);
    roles.set_header(["role", "number", "good until", "key"]);
    for role in &view.roles {
        roles.add_row([&role.role, &role.version.to_string(), &time(role.expires_unix_s), &role.key[..12].to_owned()]);
    }
    writeln!(out, "{roles}")?;
    let mut targets = Table::new();
    targets.load_style(UTF8_FULL_CONDENSED);
    targets.set_header(["model", "version", "bytes", "digest"]);
    for target in &view.targets {
        targets.add_row([&target.model, &target.version, &target.bytes.to_string(), &target.digest[..12].to_owned()]);
    }
    Ok(writeln!(out, "{targets}")?)
}
