//! The models that the regions name, imported into the control plane's store with progress bars.

use anyhow::{Context, Result};
use control_plane::{
    registry::{
        self, Quantise,
        cli::{ImportArgs, SourceArgs},
    },
    state_dir::StateDir,
};
use nearfield_shared::region::Region;
use std::{collections::BTreeSet, fs, path::Path};

/// Imports every model that a region file names and that the store does not have yet.
///
/// # Errors
/// What the import said: no network, a wrong hash, a full disk, each with its remedy.
pub async fn import(plane_dir: &Path, regions: &Path, offline: bool) -> Result<()> {
    let wanted = wanted(regions)?;
    let plane_dir = plane_dir.to_owned();
    tokio::task::spawn_blocking(move || {
        let state = StateDir::open(&plane_dir)?;
        let missing = registry::stale(&state, wanted.iter().map(String::as_str))?;
        if missing.is_empty() {
            return Ok(());
        }
        let import = ImportArgs {
            names: missing,
            quantise: None::<Quantise>,
            signing_key: None,
            sources: SourceArgs { offline, ..SourceArgs::default() },
            json: false,
        };
        // The server, which starts after this, lists them in the registry's metadata.
        registry::cli::run_import(&import, &state, &mut std::io::sink()).map(drop)
    })
    .await
    .context("the import ended unexpectedly")?
}

/// Names of the models in the region files. Mistakes in the files are the control plane's to report, all at once, so a file
/// that cannot be read here is passed over.
fn wanted(regions: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(regions).with_context(|| format!("cannot list {}", regions.display()))? {
        let path = entry.context("cannot list the regions")?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            if let Ok(region) = toml::from_str::<Region>(&text) {
                names.extend(region.models.into_values());
            }
        }
    }
    Ok(names)
}
