//! The catalogue: which models there are, where their files come from, and by which digests they are recognised.
//!
//! One TOML file describes one model. The files in `control-plane/catalogue/` are part of the binary; a folder given with
//! `--catalogue` adds to them, and replaces those of the same name. A file's mistakes are reported all at once, with their lines.
//!
//! ```toml
//! name = "silero-vad"            # the file is called the same
//! version = "6.2.3"
//! stage = "vad"                  # vad, turn, asr, llm, tts or embed
//! architecture = "silero-vad"    # which converter reads it, and which network an agent runs
//! interface = 1                  # version of the stage's inputs and outputs
//! licence = "MIT"                # SPDX expression of the weights
//! languages = []                 # BCP 47; empty where language does not matter
//! sample_rate_hz = 16000         # 0 where there is no audio
//! quantise = "f32"               # keep, f32, f16, q8_0, q5_0, q4_1 or q4_0
//!
//! [[sources]]
//! role = "model"                 # what the converter calls this file
//! kind = "pypi"                  # or hf { repo, revision, file }, or file { path }
//! package = "silero-vad"
//! version = "6.2.3"
//! archive = "silero_vad-6.2.3-py3-none-any.whl"   # a wheel, or a source archive .tar.gz
//! file = "silero_vad/data/silero_vad_16k_sequence.onnx"
//! bytes = 1246165
//! sha256 = "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"
//! ```

pub(in crate::registry) mod fields;

use super::{convert::Quantise, pin::Pin, speech::Speech};
use fields::Fields;
use nearfield_shared::artefact::{Digest, Stage};
use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// The catalogue files of this build: name, TOML, golden results.
static BUILTIN: &[(&str, &str, Option<&str>)] = include!(concat!(env!("OUT_DIR"), "/catalogue.rs"));

/// Name of the catalogue file that lists recordings instead of a model; see [`speech`](super::speech).
pub(super) const SPEECH: &str = "test-speech";

/// Largest catalogue or golden file that is read, in bytes: a hundred times what any of ours has.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// One model of the catalogue.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name, for example `moonshine-tiny`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The stage it serves.
    pub stage: Stage,
    /// The network, which names the converter too.
    pub architecture: String,
    /// Version of the stage's interface.
    pub interface: u32,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// BCP 47 tags; empty where language does not matter.
    pub languages: Vec<String>,
    /// Sample rate in hertz of its audio; 0 where there is none.
    pub sample_rate_hz: u32,
    /// How its weights are stored unless the import is told otherwise.
    pub quantise: Quantise,
    /// Its files.
    pub sources: Vec<Source>,
    /// The text of its golden file, if it has one.
    pub golden: Option<String>,
    /// Digest of the TOML and the golden file: changes whenever either does.
    pub digest: Digest,
}

/// A file of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// What the converter calls it.
    pub role: String,
    /// Where it is and how it is recognised.
    pub pin: Pin,
}

impl Entry {
    /// Parses one catalogue file. `file` names it in errors and is what a `file` source's path is relative to.
    pub fn parse(file: &Path, text: &str, golden: Option<&str>) -> Result<Self, CatalogueError> {
        let mut fields = Fields::parse(text);
        let name = fields.name("name");
        let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        if let Some(name) = name.as_deref()
            && name != stem
        {
            fields.wrong("name", format!("is `{name}`, but the file is called `{stem}.toml`; both must be the same"));
        }
        let version = fields.text("version");
        let stage = fields.parsed::<Stage>("stage");
        let architecture = fields.name("architecture");
        let interface = fields.number("interface", 1, u64::from(u32::MAX));
        let licence = fields.text("licence");
        let languages = fields.texts("languages");
        let sample_rate_hz = fields.number("sample_rate_hz", 0, 192_000);
        let quantise = fields.parsed::<Quantise>("quantise");
        let folder = file.parent().unwrap_or(Path::new("."));
        let mut sources: Vec<Source> = Vec::new();
        for mut table in fields.tables("sources") {
            let role = table.name("role");
            let pin = Pin::read(&mut table, folder);
            table.finish();
            fields.take_mistakes(table);
            if let (Some(role), Some(pin)) = (role, pin) {
                if sources.iter().any(|s| s.role == role) {
                    fields.wrong("sources", format!("role `{role}` appears twice"));
                }
                sources.push(Source { role, pin });
            }
        }
        fields.finish();
        let digest = Digest::of([text.as_bytes(), &[0], golden.unwrap_or_default().as_bytes()].concat().as_slice());
        let entry = (|| {
            Some(Entry {
                name: name?,
                version: version?,
                stage: stage?,
                architecture: architecture?,
                interface: interface? as u32,
                licence: licence?,
                languages: languages?,
                sample_rate_hz: sample_rate_hz? as u32,
                quantise: quantise?,
                sources,
                golden: golden.map(str::to_owned),
                digest,
            })
        })();
        fields.into_result(file, entry)
    }
}

/// Every model that this control plane can import.
#[derive(Debug, Clone)]
pub struct Catalogue {
    entries: BTreeMap<String, Entry>,
    speech: (PathBuf, String),
}

impl Catalogue {
    /// The models that come with this build.
    pub fn builtin() -> Result<Self, CatalogueError> {
        let mut catalogue = Self { entries: BTreeMap::new(), speech: Default::default() };
        for (name, toml, golden) in BUILTIN {
            catalogue.add(&PathBuf::from(format!("{name}.toml")), toml, *golden)?;
        }
        Ok(catalogue)
    }

    /// The models that come with this build, and those of a folder: `NAME.toml`, with `golden/NAME.json` where there are golden
    /// results. The mistakes of all files are reported together.
    pub fn with_folder(folder: &Path) -> Result<Self, CatalogueError> {
        let mut catalogue = Self::builtin()?;
        let io = |path: &Path, error: io::Error| CatalogueError::Read { path: path.to_owned(), error };
        let mut files: Vec<PathBuf> = fs::read_dir(folder)
            .map_err(|e| io(folder, e))?
            .map(|e| e.map(|e| e.path()))
            .collect::<Result<_, _>>()
            .map_err(|e| io(folder, e))?;
        files.retain(|f| f.extension().is_some_and(|e| e == "toml"));
        files.sort();
        let mut mistakes = Vec::new();
        for file in files {
            let text = read_bounded(&file).map_err(|e| io(&file, e))?;
            let golden = folder.join("golden").join(file.file_name().unwrap_or_default()).with_extension("json");
            let golden = match read_bounded(&golden) {
                Ok(text) => Some(text),
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                Err(e) => return Err(io(&golden, e)),
            };
            match catalogue.add(&file, &text, golden.as_deref()) {
                Err(CatalogueError::Mistakes(more)) => mistakes.extend(more),
                other => other?,
            }
        }
        if mistakes.is_empty() { Ok(catalogue) } else { Err(CatalogueError::Mistakes(mistakes)) }
    }

    fn add(&mut self, file: &Path, text: &str, golden: Option<&str>) -> Result<(), CatalogueError> {
        if file.file_stem().is_some_and(|s| s == SPEECH) {
            self.speech = (file.to_owned(), text.to_owned());
            return Ok(());
        }
        let entry = Entry::parse(file, text, golden)?;
        self.entries.insert(entry.name.clone(), entry);
        Ok(())
    }

    /// The model of this name.
    pub fn get(&self, name: &str) -> Result<&Entry, CatalogueError> {
        self.entries.get(name).ok_or_else(|| CatalogueError::Unknown {
            name: name.to_owned(),
            known: self.entries.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }

    /// Every model, by name.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The list of recordings.
    pub fn speech(&self) -> Result<Speech, CatalogueError> {
        Speech::parse(&self.speech.0, &self.speech.1)
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let bytes = fs::metadata(path)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has {bytes} bytes; at most {FILE_BYTES_MAX} are read")));
    }
    fs::read_to_string(path)
}

/// One mistake in a catalogue file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong and what is right.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// Why the catalogue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// Files have mistakes: all of them.
    #[error("{} in the catalogue:\n{}", count(.0), lines(.0))]
    Mistakes(Vec<Mistake>),
    /// A file or folder cannot be read.
    #[error("cannot read the catalogue at {}: {error}; check the path given with --catalogue", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// No model has this name.
    #[error("no model `{name}` in the catalogue; it has {known} (a folder given with --catalogue adds more)")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
}

fn count(mistakes: &[Mistake]) -> String {
    if mistakes.len() == 1 { "1 mistake".into() } else { format!("{} mistakes", mistakes.len()) }
}

fn lines(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|m| format!("  {m}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests;
