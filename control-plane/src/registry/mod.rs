//! Models: which there are, where they come from, and how they become signed artefacts.
//!
//! An import runs: [`catalogue`] entry → [`fetch`] its pinned files → [`convert`] them to GGUF, quantised → attach [`golden`]
//! results → write the file under its BLAKE3 → sign its manifest ([`store`]). Each step either succeeds whole or leaves
//! nothing behind. [`ensure`] stops before signing and keeps the file in the user's cache, for tests and tools.
//!
//! Everything here blocks, for seconds to minutes; async callers use `spawn_blocking`.

pub mod catalogue;
pub mod cli;
pub mod convert;
pub mod fetch;
pub mod golden;
pub mod pin;
pub mod programs;
pub mod shelf;
pub mod speech;
pub mod store;
pub mod tuf;

pub use catalogue::Catalogue;
pub use convert::Quantise;
pub use fetch::{Cache, Fetcher};
pub use store::Store;

use crate::state_dir::{StateDir, StateDirError};
use aws_lc_rs::signature::Ed25519KeyPair;
use catalogue::{CatalogueError, Entry};
use convert::{ConvertError, Sources};
use fetch::{Event, FetchError};
use golden::GoldenError;
use nearfield_shared::{
    artefact::{Manifest, ManifestError, SignedManifest},
    gguf::{Gguf, GgufWriter},
    golden::{GOLDEN_KEY, GoldenCase},
};
use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Digest over the sources of all converters; see `build.rs`.
const CONVERTERS: &str = env!("NEARFIELD_CONVERTERS");

/// How long a cached conversion that nothing asks for any more is kept: other builds on the machine may still want it.
const STALE_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// What an import needs.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Which models there are.
    pub catalogue: &'a Catalogue,
    /// Where models are stored.
    pub store: &'a Store,
    /// The plane's signing key.
    pub key: &'a Ed25519KeyPair,
    /// Brings files here.
    pub fetcher: &'a Fetcher,
    /// Another quantisation than the catalogue's.
    pub quantise: Option<Quantise>,
}

/// A model that was imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// What it is.
    pub manifest: Manifest,
    /// The same, signed.
    pub signed: SignedManifest,
    /// Its GGUF file.
    pub path: PathBuf,
}

/// Everything that was imported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imports {
    /// Models.
    pub models: Vec<Imported>,
    /// Programs of the agent.
    pub programs: Vec<programs::ImportedProgram>,
}

/// Why a model could not be imported. Nothing of it was stored.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The catalogue has mistakes, or does not have the model.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// A file could not be brought here.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A file could not be converted.
    #[error("cannot convert {name}: {error}")]
    Convert {
        /// Which model.
        name: String,
        /// Why.
        error: ConvertError,
    },
    /// Golden results could not be attached.
    #[error(transparent)]
    Golden(#[from] GoldenError),
    /// The manifest could not be signed.
    #[error("cannot sign the manifest: {0}")]
    Sign(#[from] ManifestError),
    /// The plane's folder cannot be used.
    #[error(transparent)]
    State(#[from] StateDirError),
}

/// Imports a model: fetches, checks, converts, signs and stores it.
pub fn import(name: &str, options: &Options<'_>) -> Result<Imported, ImportError> {
    let entry = options.catalogue.get(name)?;
    let (writer, golden_cases) = build(entry, options.catalogue, options.quantise, options.fetcher)?;
    let folder = &options.store.artefacts;
    let disk = |e| FetchError::disk(folder, e);
    let written = store::write(folder, |out| writer.write_to(&mut { out })).map_err(disk)?;
    drop(writer);
    let manifest = Manifest {
        name: entry.name.clone(),
        version: entry.version.clone(),
        stage: entry.stage,
        architecture: entry.architecture.clone(),
        interface: entry.interface,
        quantisation: quantisation(entry, written.path())?,
        licence: entry.licence.clone(),
        languages: entry.languages.clone(),
        sample_rate_hz: entry.sample_rate_hz,
        bytes: written.bytes,
        digest: written.digest,
        chunks: written.chunks.clone(),
        golden_cases,
    };
    let signed = SignedManifest::sign(&manifest, options.key)?;
    let path = options.store.artefact(written.digest);
    written.publish(&path).map_err(disk)?;
    options
        .store
        .write_manifest(&entry.name, &signed, &recipe(entry))
        .map_err(|e| FetchError::disk(&options.store.manifests, e))?;
    options.fetcher.progress.event(Event::Ready { name });
    Ok(Imported { manifest, signed, path })
}

/// Which of these models are not in the plane's store, or were imported from another catalogue entry or by other converters than
/// those of this build. A model that was imported and that this build's catalogue does not have counts as current.
///
/// # Errors
/// A name that is neither in the store nor in the catalogue; a store that cannot be read.
pub fn stale<'a>(state: &StateDir, names: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>, ImportError> {
    let catalogue = Catalogue::builtin()?;
    let store = Store::from(state);
    let public_key = state.signing_public_key()?;
    let imported = list(&store, &public_key).map_err(|e| FetchError::disk(&store.manifests, e))?;
    let mut stale = Vec::new();
    for name in names {
        let there = imported.iter().any(|i| i.manifest.name == name);
        match catalogue.get(name) {
            Ok(entry) if there && store.recipe(name).is_some_and(|r| r == recipe(entry)) => {}
            Err(_) if there => {}
            entry => stale.push(entry?.name.clone()),
        }
    }
    Ok(stale)
}

/// A digest of everything that shapes a model's file but its sources, which are pinned, and its quantisation.
fn recipe(entry: &Entry) -> String {
    blake3::hash(format!("{}{CONVERTERS}", entry.digest).as_bytes()).to_hex()[..16].to_owned()
}

/// GGUF files of these models, quantised as the catalogue says: from the user's cache, or fetched and converted into it.
///
/// The folder is `$NEARFIELD_MODELS`, or `models` in the user's cache. A file's name carries a digest of its catalogue entry and of the
/// converters' sources, so a change of either makes it anew.
pub fn ensure(names: &[&str]) -> Result<Vec<PathBuf>, ImportError> {
    let catalogue = Catalogue::builtin()?;
    let fetcher = Fetcher::new(Cache::of_user()?);
    names.iter().map(|name| ensure_with(name, &catalogue, None, &fetcher)).collect()
}

/// Like [`ensure`], for one model with weights in another quantisation, for example the float32 reference.
pub fn ensure_as(name: &str, quantise: Quantise) -> Result<PathBuf, ImportError> {
    ensure_with(name, &Catalogue::builtin()?, Some(quantise), &Fetcher::new(Cache::of_user()?))
}

/// Like [`ensure`], with everything given.
pub fn ensure_with(
    name: &str,
    catalogue: &Catalogue,
    quantise: Option<Quantise>,
    fetcher: &Fetcher,
) -> Result<PathBuf, ImportError> {
    let entry = catalogue.get(name)?;
    let folder = env::var_os("NEARFIELD_MODELS").map_or_else(|| fetcher.cache.models(), PathBuf::from);
    let stem = format!("{name}-{}-", quantise.unwrap_or(entry.quantise));
    let path = folder.join(format!("{stem}{}.gguf", recipe(entry)));
    let _lock = fetcher.cache.lock(&format!("{name}.model"))?;
    if !path.is_file() {
        let disk = |e| FetchError::disk(&folder, e);
        fs::create_dir_all(&folder).map_err(disk)?;
        let (writer, _) = build(entry, catalogue, quantise, fetcher)?;
        let written = store::write(&folder, |out| writer.write_to(&mut { out })).map_err(disk)?;
        written.publish(&path).map_err(disk)?;
        remove_stale(&folder, &stem, &path);
        fetcher.progress.event(Event::Ready { name });
    }
    Ok(path)
}

/// Removes conversions of the same model that no build has made for a while. What cannot be removed stays.
fn remove_stale(folder: &Path, stem: &str, keep: &Path) {
    let now = SystemTime::now();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|n| n.starts_with(stem) && n.ends_with(".gguf"));
        let age = entry.metadata().and_then(|m| m.modified()).map(|t| now.duration_since(t).unwrap_or_default());
        if ours && entry.path() != keep && age.is_ok_and(|a| a > STALE_AFTER) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Fetches and converts a model and attaches its golden cases, whose number is given too.
fn build(
    entry: &Entry,
    catalogue: &Catalogue,
    quantise: Option<Quantise>,
    fetcher: &Fetcher,
) -> Result<(GgufWriter, u32), ImportError> {
    let name = entry.name.as_str();
    let convert_error = |error| ImportError::Convert { name: name.to_owned(), error };
    // Before anything is fetched: a model that nobody can convert should not cost a download.
    let converter = convert::converter(&entry.architecture).map_err(convert_error)?;
    let quantise = quantise.unwrap_or(entry.quantise);
    let files = fetcher.fetch(&entry.sources.iter().map(|s| &s.pin).collect::<Vec<_>>())?;
    let sources: Sources = entry.sources.iter().map(|s| s.role.clone()).zip(files).collect();
    let cases: Vec<GoldenCase> = golden::cases(entry, &catalogue.speech()?, quantise, fetcher)?;
    fetcher.progress.event(Event::Converting { name });
    let mut writer = (converter.convert)(&sources, quantise).map_err(convert_error)?;
    let json =
        serde_json::to_string(&cases).map_err(|e| convert_error(ConvertError::malformed("golden results", e)))?;
    writer
        .meta(GOLDEN_KEY, json)
        .meta("general.license", entry.licence.as_str())
        .meta("nearfield.name", name)
        .meta("nearfield.version", entry.version.as_str())
        .meta("nearfield.stage", entry.stage.as_str())
        .meta("nearfield.interface", entry.interface)
        .meta("nearfield.quantise", quantise.as_str());
    Ok((writer, cases.len() as u32))
}

/// Reads a file that was just written back, which shows that it can be, and names the block type that most weights have.
fn quantisation(entry: &Entry, path: &Path) -> Result<String, ImportError> {
    let gguf = Gguf::open(path).map_err(|e| ImportError::Convert {
        name: entry.name.clone(),
        error: ConvertError::Gguf(format!("the converted file cannot be read back: {e}")),
    })?;
    let mut weights: BTreeMap<String, usize> = BTreeMap::new();
    for tensor in gguf.tensors() {
        *weights.entry(tensor.block.to_string()).or_default() += tensor.elems();
    }
    Ok(weights.into_iter().max_by_key(|(_, n)| *n).map_or_else(|| "none".to_owned(), |(block, _)| block))
}

/// Every imported model; see [`Store::imported`].
pub fn list(store: &Store, public_key: &[u8]) -> io::Result<Vec<Imported>> {
    store.imported(public_key)
}

#[cfg(test)]
mod tests;
