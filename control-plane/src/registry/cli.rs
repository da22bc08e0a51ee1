//! `control-plane model import` and `control-plane model list`: arguments, what they print, and progress bars.

use super::{
    Cache, Catalogue, Fetcher, ImportError, Imported, Options, Quantise, Store,
    fetch::{Event, FetchError, Progress},
    import, list,
};
use crate::state_dir::StateDir;
use anyhow::Context as _;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::{
    collections::{BTreeSet, HashMap},
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// `model import`.
#[derive(Debug, Clone, clap::Args)]
pub struct ImportArgs {
    /// Names in the catalogue; see `model list --available`.
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Store the weights in another way than the catalogue says: keep, f32, f16, q8_0, q5_0, q4_1 or q4_0.
    #[arg(long, value_name = "TYPE")]
    pub quantise: Option<Quantise>,
    /// The key that signs them, where it is not kept in the state folder (mode 0600).
    #[arg(long, value_name = "FILE")]
    pub signing_key: Option<PathBuf>,
    /// Where they come from.
    #[command(flatten)]
    pub sources: SourceArgs,
    /// Print JSON for programs.
    #[arg(long)]
    pub json: bool,
}

/// `model list`.
#[derive(Debug, Clone, clap::Args)]
pub struct ListArgs {
    /// List what can be imported, instead of what is.
    #[arg(long)]
    pub available: bool,
    /// A folder of catalogue files, in addition to those of this build.
    #[arg(long, value_name = "DIR")]
    pub catalogue: Option<PathBuf>,
    /// Print JSON for programs.
    #[arg(long)]
    pub json: bool,
}

/// Where models come from.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SourceArgs {
    /// A folder of catalogue files, in addition to those of this build; a file of the same name replaces theirs.
    #[arg(long, value_name = "DIR")]
    pub catalogue: Option<PathBuf>,
    /// Keep fetched files here.
    #[arg(long, value_name = "DIR", env = "NEARFIELD_CACHE")]
    pub cache: Option<PathBuf>,
    /// Use only what is in the cache.
    #[arg(long)]
    pub offline: bool,
}

impl SourceArgs {
    /// The catalogue these arguments name.
    pub fn catalogue(&self) -> Result<Catalogue, ImportError> {
        Ok(self.catalogue.as_deref().map_or_else(Catalogue::builtin, Catalogue::with_folder)?)
    }

    /// A fetcher for these arguments.
    pub fn fetcher(&self, progress: Arc<dyn Progress>) -> Result<Fetcher, FetchError> {
        let cache = self.cache.clone().map_or_else(Cache::of_user, Cache::at)?;
        Ok(Fetcher { offline: self.offline, progress, ..Fetcher::new(cache) })
    }
}

/// Runs `model import`: one model after the other, stopping at the first that fails. Returns the digests of their files, hex.
pub fn run_import(args: &ImportArgs, state: &StateDir, out: &mut dyn Write) -> anyhow::Result<BTreeSet<String>> {
    let key = match &args.signing_key {
        Some(path) => state.signing_key_from(path)?,
        None => state.signing_key()?,
    };
    let store = Store::from(state);
    let catalogue = args.sources.catalogue()?;
    // All names are checked before the first download.
    for name in &args.names {
        catalogue.get(name)?;
    }
    let fetcher = args.sources.fetcher(Arc::new(Bars::new()))?;
    let mut imported = Vec::new();
    for name in &args.names {
        let options =
            Options { catalogue: &catalogue, store: &store, key: &key, fetcher: &fetcher, quantise: args.quantise };
        imported.push(import(name, &options)?);
    }
    print_imported(&imported, args.json, out)?;
    Ok(imported.iter().map(|i| i.manifest.digest.to_hex()).collect())
}

/// Runs `model list`.
pub fn run_list(args: &ListArgs, state: &StateDir, out: &mut dyn Write) -> anyhow::Result<()> {
    if args.available {
        let sources = SourceArgs { catalogue: args.catalogue.clone(), ..SourceArgs::default() };
        return print_available(&sources.catalogue()?, args.json, out);
    }
    let key = state.signing_public_key()?;
    let store = Store::from(state);
    let imported = list(&store, &key).with_context(|| format!("cannot read {}", store.manifests.display()))?;
    print_imported(&imported, args.json, out)
}

fn print_imported(imported: &[Imported], json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    if json {
        let models: Vec<Value> = imported
            .iter()
            .map(|i| {
                let m = &i.manifest;
                json!({
                    "name": m.name, "version": m.version, "stage": m.stage, "architecture": m.architecture,
                    "quantisation": m.quantisation, "licence": m.licence, "languages": m.languages,
                    "sample_rate_hz": m.sample_rate_hz, "bytes": m.bytes, "digest": m.digest,
                    "golden_cases": m.golden_cases, "path": i.path,
                })
            })
            .collect();
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&models)?)?);
    }
    if imported.is_empty() {
        return Ok(writeln!(
            out,
            "No model is imported yet; `control-plane model list --available` shows which can be."
        )?);
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["model", "version", "stage", "weights", "size", "golden", "licence", "digest"]);
    for i in imported {
        let m = &i.manifest;
        let size = mebibytes(m.bytes);
        let (golden, digest) = (m.golden_cases.to_string(), m.digest.to_hex()[..12].to_owned());
        let stage = m.stage.to_string();
        table.add_row([&m.name, &m.version, &stage, &m.quantisation, &size, &golden, &m.licence, &digest]);
    }
    Ok(writeln!(out, "{table}")?)
}

fn print_available(catalogue: &Catalogue, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    if json {
        let models: Vec<Value> = catalogue
            .entries()
            .map(|e| {
                json!({
                    "name": e.name, "version": e.version, "stage": e.stage, "architecture": e.architecture,
                    "quantise": e.quantise, "licence": e.licence, "languages": e.languages,
                    "sample_rate_hz": e.sample_rate_hz,
                    "sources": e.sources.iter().map(|s| json!({
                        "role": s.role, "place": s.pin.place.to_string(), "bytes": s.pin.bytes,
                        "sha256": s.pin.sha256.to_string(),
                    })).collect::<Vec<_>>(),
                })
            })
            .collect();
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&models)?)?);
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["model", "version", "stage", "weights", "files", "licence", "languages"]);
    for e in catalogue.entries() {
        let files = mebibytes(e.sources.iter().map(|s| s.pin.bytes).sum());
        let languages = if e.languages.is_empty() { "any".to_owned() } else { e.languages.join(" ") };
        table.add_row([
            &e.name,
            &e.version,
            &e.stage.to_string(),
            &e.quantise.to_string(),
            &files,
            &e.licence,
            &languages,
        ]);
    }
    Ok(writeln!(out, "{table}")?)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Progress bars on stderr, one for each download. Where stderr is no terminal, one line for each step.
pub struct Bars {
    all: MultiProgress,
    terminal: bool,
    bars: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    /// No bars yet.
    pub fn new() -> Self {
        let all = MultiProgress::new();
        let terminal = !all.is_hidden();
        Self { all, terminal, bars: Mutex::new(HashMap::new()) }
    }

    fn line(&self, text: String) {
        if self.terminal {
            let _ = self.all.println(text);
        } else {
            eprintln!("{text}");
        }
    }

    fn style(known: bool) -> ProgressStyle {
        let template = if known {
            "{msg:42!} {bar:28} {bytes:>10} of {total_bytes:>10} {bytes_per_sec:>12}"
        } else {
            "{msg:42!} {spinner} {bytes:>10} {bytes_per_sec:>12}"
        };
        ProgressStyle::with_template(template).expect("the templates above are valid")
    }
}

impl Default for Bars {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for Bars {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Locating { what } => self.line(format!("fetching {what}")),
            Event::Downloading { what, done_bytes, total_bytes } => {
                let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
                let bar = bars.entry(what.to_owned()).or_insert_with(|| {
                    let bar = self.all.add(ProgressBar::new(total_bytes.unwrap_or(0)));
                    bar.set_style(Self::style(total_bytes.is_some()));
                    bar.set_message(what.to_owned());
                    // The speed is that of this attempt, not of what an earlier one brought.
                    bar.set_position(done_bytes);
                    bar.reset_eta();
                    bar.enable_steady_tick(Duration::from_millis(200));
                    bar
                });
                if let Some(total) = total_bytes {
                    bar.set_length(total);
                }
                bar.set_position(done_bytes);
            }
            Event::Downloaded { what } => {
                let bar = self.bars.lock().unwrap_or_else(PoisonError::into_inner).remove(what);
                if let Some(bar) = bar {
                    bar.finish();
                }
            }
            Event::Converting { name } => self.line(format!("converting {name}")),
            Event::Ready { name } => self.line(format!("{name} is ready")),
        }
    }
}
