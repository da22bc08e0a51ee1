//! `control-plane registry copy` and `registry check`, and where `model import` leaves files.

use super::{Json, admin::print_json, registry::settings};
use crate::{
    registry::shelf::{
        Shelf, ShelfError,
        copying::{Copier, Place},
    },
    state_dir::StateDir,
};
use anyhow::Context as _;
use clap::Args;
use std::{collections::BTreeSet, io::Write};

/// The state folder, as a place that is named.
const HERE: &str = "here";

#[derive(Debug, Args)]
pub(super) struct CopyArgs {
    /// Where they are: `here`, s3://BUCKET/PREFIX, or the absolute path of a folder. [s3] in config.toml says how a store is reached.
    #[arg(long, value_name = "PLACE", default_value = HERE)]
    from: String,
    /// Where they go.
    #[arg(long, value_name = "PLACE")]
    to: String,
    /// Remove the state folder's own files once they are there. Their manifests stay, and `artefacts` in config.toml has to name the place.
    #[arg(long = "move")]
    and_remove: bool,
    #[command(flatten)]
    json: Json,
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// Brings models that were imported to where `artefacts` says that files stand; without it they stay in the state folder.
pub(super) fn shelve(dir: &StateDir, digests: &BTreeSet<String>) -> anyhow::Result<()> {
    let config = settings(dir)?;
    let Some(place) = &config.artefacts else { return Ok(()) };
    let shelf = Shelf::open(place, &config.s3)?;
    let copier = Copier { dir, public_key: &dir.signing_public_key()? };
    let shelved = async {
        let copied = copier.copy(&Place::Here, &Place::Shelf(shelf.clone()), Some(digests)).await?;
        copier.move_to(&shelf, &copied).await
    };
    Ok(runtime()?.block_on(shelved)?)
}

/// `registry copy`.
pub(super) fn copy(dir: &StateDir, args: &CopyArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let config = settings(dir)?;
    let place = |name: &str| match name {
        HERE => Ok(Place::Here),
        name => Shelf::open(name, &config.s3).map(Place::Shelf),
    };
    anyhow::ensure!(args.from != args.to, "both places are {}; name two", args.to);
    let (from, to) = (place(&args.from)?, place(&args.to)?);
    let copier = Copier { dir, public_key: &dir.signing_public_key()? };
    let copied = runtime()?.block_on(async {
        let copied = copier.copy(&from, &to, None).await?;
        if let (Place::Here, Place::Shelf(shelf), true) = (&from, &to, args.and_remove) {
            copier.move_to(shelf, &copied).await?;
        }
        Ok::<_, ShelfError>(copied)
    })?;
    if args.json.json {
        let copied: Vec<_> =
            copied.iter().map(|m| serde_json::json!({ "model": m.name, "digest": m.digest })).collect();
        return print_json(&copied, out);
    }
    copied.iter().try_for_each(|m| writeln!(out, "{} {} is at {}", m.name, m.version, args.to))?;
    if args.and_remove && config.artefacts.as_ref() != Some(&args.to) {
        let settings = dir.config_path();
        writeln!(out, "Now set artefacts = {:?} in {}, and start the server anew.", args.to, settings.display())?;
    }
    Ok(())
}

/// `registry check`.
pub(super) fn check(dir: &StateDir, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let config = settings(dir)?;
    let place = config
        .artefacts
        .as_ref()
        .context("config.toml names no place for model files, so they stand in the state folder; `control-plane verify` checks them")?;
    let shelf = Shelf::open(place, &config.s3)?;
    let copier = Copier { dir, public_key: &dir.signing_public_key()? };
    let (models, problems) = runtime()?.block_on(copier.check(&shelf))?;
    if json {
        print_json(&serde_json::json!({ "models": models, "problems": problems }), out)?;
    } else {
        problems.iter().try_for_each(|problem| writeln!(out, "{problem}"))?;
    }
    anyhow::ensure!(problems.is_empty(), "{} of {models} models are not whole at {place}", problems.len());
    if json { Ok(()) } else { Ok(writeln!(out, "{models} models are whole at {place}.")?) }
}
