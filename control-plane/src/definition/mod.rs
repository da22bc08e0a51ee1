//! The definition of the fleet: `regions/*.toml` and `regions/assistants/*.toml`, read with every mistake of every file at once.

mod assistant_file;
mod region_file;
mod rollout_table;
mod section;

use nearfield_shared::{
    artefact::SignedManifest,
    assistant::{Assistant, matching},
    region::{Region, RegionId},
    release::Release,
    wire::VersionName,
};
use section::Document;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, fs, io, path::Path};

/// Bytes of all files together, at most. A region takes 1 KiB, an assistant perhaps 10.
pub const FILES_BYTES_MAX: usize = 4 << 20;

/// Files at most.
pub const FILES_MAX: usize = 2_000;

/// One file as it lies in the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Its path, for messages.
    pub path: String,
    /// File name without `.toml`.
    pub stem: String,
    /// Whether it is an assistant; a region otherwise.
    pub assistant: bool,
    /// Its text.
    pub text: String,
}

/// Something that is wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mistake {
    /// The file.
    pub file: String,
    /// The line, from 1; `None` where the file as a whole is meant.
    pub line: Option<usize>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

/// What the files say, without mistakes, with each model's manifest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Definition {
    /// Each region with what it runs.
    pub regions: BTreeMap<RegionId, DefinedRegion>,
}

/// One region with everything that its names mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DefinedRegion {
    /// The file.
    pub region: Region,
    /// The signed manifest of the model of each stage.
    pub models: BTreeMap<nearfield_shared::artefact::Stage, SignedManifest>,
    /// The assistants, in the order of the region's file.
    pub assistants: Vec<Assistant>,
    /// The release of the agent, where the region names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Release>,
}

impl DefinedRegion {
    /// Whether a node would be told the same: all but how changes are made.
    pub fn runs_the_same_as(&self, other: &Self) -> bool {
        let without = |defined: &Self| Region { rollout: None, ..defined.region.clone() };
        self.models == other.models
            && self.assistants == other.assistants
            && self.agent == other.agent
            && without(self) == without(other)
    }
}

/// What can be named.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    /// Models, by name.
    pub models: BTreeMap<String, KnownModel>,
    /// Releases of the agent.
    pub releases: BTreeMap<VersionName, Release>,
}

/// A model that can be named: its stage and its manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownModel {
    /// The stage it serves.
    pub stage: nearfield_shared::artefact::Stage,
    /// Its manifest, signed by this plane.
    pub manifest: SignedManifest,
}

/// Reads the files of a folder. Errors are about the folder itself; what stands in the files is for [`parse`].
pub fn read_folder(folder: &Path) -> io::Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    let mut bytes = 0;
    for (dir, assistant) in [(folder.to_owned(), false), (folder.join("assistants"), true)] {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if assistant && error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", dir.display()))),
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let shown = path.display().to_string();
            let text = fs::read_to_string(&path).map_err(|e| io::Error::new(e.kind(), format!("{shown}: {e}")))?;
            bytes += text.len();
            if files.len() >= FILES_MAX || bytes > FILES_BYTES_MAX {
                let what = format!(
                    "{}: more than {FILES_MAX} files or {FILES_BYTES_MAX} bytes; is this the right folder?",
                    folder.display()
                );
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
            }
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            files.push(SourceFile { path: shown, stem, assistant, text });
        }
    }
    files.sort_by(|a, b| (a.assistant, &a.path).cmp(&(b.assistant, &b.path)));
    if files.iter().all(|file| file.assistant) {
        let what = format!("{} holds no region (NAME.toml); is this the right folder?", folder.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, what));
    }
    Ok(files)
}

/// Understands the files, or says everything that is wrong with them.
pub fn parse(files: &[SourceFile], known: &Known) -> Result<Definition, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mut assistants = BTreeMap::new();
    // Regions may name an assistant whose own file has mistakes: that it exists is known from the file's name.
    let assistant_names: Vec<&str> = files.iter().filter(|f| f.assistant).map(|f| f.stem.as_str()).collect();
    let mut regions = Vec::new();
    for file in files {
        let (document, table) = Document::parse(&file.path, &file.text);
        let before = mistakes.len();
        if file.assistant {
            assistant_file::check(&document, &table, &file.stem);
            mistakes.extend(document.into_mistakes());
            if mistakes.len() == before
                && let Some(assistant) = typed::<Assistant>(file, &mut mistakes)
            {
                assistants.insert(assistant.name.clone(), assistant);
            }
        } else {
            region_file::check(&document, &table, &file.stem, known, &assistant_names);
            mistakes.extend(document.into_mistakes());
            if mistakes.len() == before
                && let Some(region) = typed::<Region>(file, &mut mistakes)
            {
                regions.push((file, region));
            }
        }
    }
    if !mistakes.is_empty() {
        mistakes.sort();
        return Err(mistakes);
    }
    let mut definition = Definition::default();
    for (file, region) in regions {
        let assistants: Vec<Assistant> =
            region.assistants.iter().filter_map(|name| assistants.get(name).cloned()).collect();
        let asks = assistants.iter().any(|assistant| !matching::asks(assistant).is_empty());
        if asks && !region.models.contains_key(&nearfield_shared::artefact::Stage::Embed) {
            mistakes.push(Mistake {
                file: file.path.clone(),
                line: None,
                message: "its assistants have questions, so [models] needs `embed`".into(),
            });
        }
        let models = region
            .models
            .iter()
            .filter_map(|(stage, name)| Some((*stage, known.models.get(name)?.manifest.clone())))
            .collect();
        let agent = region.agent.as_ref().and_then(|wanted| known.releases.get(&wanted.version).cloned());
        definition.regions.insert(region.id.clone(), DefinedRegion { region, models, assistants, agent });
    }
    if mistakes.is_empty() { Ok(definition) } else { Err(mistakes) }
}

/// What is wrong with one assistant's file, and what would disappoint callers although it is right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AssistantReport {
    /// What is wrong.
    pub mistakes: Vec<Mistake>,
    /// What could be better; looked for only where nothing is wrong.
    pub advice: Vec<Mistake>,
}

/// Reads one assistant's file alone, as `apply` would; the assistant where nothing is wrong.
pub fn check_assistant(file: &SourceFile) -> (AssistantReport, Option<Assistant>) {
    let (document, table) = Document::parse(&file.path, &file.text);
    assistant_file::check(&document, &table, &file.stem);
    let mut mistakes = document.into_mistakes();
    let assistant = if mistakes.is_empty() { typed::<Assistant>(file, &mut mistakes) } else { None };
    mistakes.sort();
    let mut advice = Vec::new();
    if mistakes.is_empty() {
        let (document, table) = Document::parse(&file.path, &file.text);
        assistant_file::advise(&document, &table);
        advice = document.into_mistakes();
        advice.sort();
    }
    (AssistantReport { mistakes, advice }, assistant)
}

/// The file as its type. The checks before have found what people get wrong; whatever serde still finds is reported too.
fn typed<T: serde::de::DeserializeOwned>(file: &SourceFile, mistakes: &mut Vec<Mistake>) -> Option<T> {
    toml::from_str(&file.text)
        .map_err(|e| {
            mistakes.push(Mistake {
                file: file.path.clone(),
                line: e.span().map(|span| section::line_of(&file.text, span.start)),
                message: e.message().to_owned(),
            });
        })
        .ok()
}

#[cfg(test)]
mod tests;
