//! Backups: everything that a control plane cannot be made anew without, in one folder, as it was at one moment.
//!
//! ```text
//! backup.json      what is here: BLAKE3 and size of each file
//! snapshot.json    the store, exported between two of its batches
//! audit.log        the lines that this store knows
//! config.toml  ca.pem  ca.key  signing.pub  [signing.key]  admin.token  [caller.key]
//! models/          manifests and recipes of the imported models
//! agents/          manifests of the imported programs of the agent
//! artefacts/       the files of these models and programs, and of those that a region still names
//! ```
//! The names are those of the state folder ([`crate::state_dir`]), and so are the modes: a backup holds the plane's keys.
//!
//! # FAILURE LADDER
//! [`take()`] and [`restore()`] write into a hidden folder beside the one that is asked for and rename it when it is whole and synced, so one
//! that was killed leaves nothing that counts. What does not hold is found before anything is written, and named: all of it at once.

mod check;
mod restore;
mod take;

pub use check::{check, check_state};
pub use restore::{Restored, restore};
pub use take::{Source, take};

use crate::{
    audit::Stored,
    fleet::Fleet,
    registry::shelf::copying::elsewhere_name,
    secret_file,
    state_dir::{StateDir, StateDirError},
    store::StoreError,
};
use nearfield_shared::{
    artefact::{Digest, ManifestError, SignedManifest},
    release::ProgramManifest,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// Version of `backup.json`. 1 is the first.
const VERSION: u32 = 1;

/// Files that a backup holds at most: a thousand models with what regions still name, several times over.
pub const FILES_MAX: usize = 10_000;

/// Largest `backup.json` that is read: [`FILES_MAX`] files with room.
const CONTENTS_BYTES_MAX: u64 = 4 << 20;

/// Problems that are told at once, at most.
const PROBLEMS_MAX: usize = 20;

/// Bytes copied at once.
const COPY_BYTES: usize = 1 << 20;

const CONTENTS: &str = "backup.json";
const SNAPSHOT: &str = "snapshot.json";
const AUDIT: &str = "audit.log";
const CONFIG: &str = "config.toml";
const MODELS: &str = "models";
const AGENTS: &str = "agents";

/// Files of the state folder that are kept as they are, where they are there.
const KEPT: [&str; 11] = [
    CONFIG,
    "ca.pem",
    "ca.key",
    "signing.pub",
    "signing.key",
    "admin.token",
    "caller.key",
    "registry.json",
    "root.key",
    "snapshot.key",
    "timestamp.key",
];

/// Why there is no backup, or none is restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something is there already.
    #[error("{path} is not empty; name a folder that is not there yet. Nothing is ever replaced", path = .0.display())]
    NotEmpty(PathBuf),
    /// No backup.
    #[error("{path} is not a backup (it has no {CONTENTS}); name a folder that `control-plane backup` has made", path = .0.display())]
    NotABackup(PathBuf),
    /// Made by a later version.
    #[error(
        "the backup has format {found}, this control plane reads {VERSION}; restore it with the version that made it"
    )]
    Newer {
        /// Its format.
        found: u32,
    },
    /// What is there does not hold.
    #[error("{path} does not hold:\n  {problems}\nNothing was changed", path = path.display(), problems = problems.join("\n  "))]
    DoesNotHold {
        /// The folder.
        path: PathBuf,
        /// What is wrong, each with what to do.
        problems: Vec<String>,
    },
    /// The disk says no.
    #[error("{path}: {error}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk says.
        error: io::Error,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state folder cannot be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// A secret cannot be used.
    #[error(transparent)]
    Secret(#[from] secret_file::SecretFileError),
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> BackupError + '_ {
    move |error| BackupError::Io { path: path.to_owned(), error }
}

/// One file of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct KeptFile {
    bytes: u64,
    digest: Digest,
}

/// `backup.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    version: u32,
    /// By which version of this program.
    program: String,
    /// The moment that it shows, seconds since 1970.
    unix_s: i64,
    /// Path below the folder, with `/`.
    files: BTreeMap<String, KeptFile>,
}

/// What a backup or a state folder holds, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The moment that it shows, seconds since 1970.
    pub unix_s: i64,
    /// Regions.
    pub regions: usize,
    /// Nodes.
    pub nodes: usize,
    /// Imported models.
    pub models: usize,
    /// Bytes of all model files.
    pub artefact_bytes: u64,
    /// Lines of the audit that hold.
    pub audit_lines: u64,
    /// What is wrong with the audit, if something is. It is kept as it is, as evidence.
    pub audit_problem: Option<String>,
    /// Whether the key that signs models is in it.
    pub signing_key: bool,
}

/// Whether a path is one that a backup can have, so that none leads out of the folder.
fn is_ours(path: &str) -> bool {
    let model = |name: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !name.starts_with('.') && name.chars().all(plain) && [".json", ".recipe"].iter().any(|end| name.ends_with(end))
    };
    let program = |name: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
        !name.starts_with('.') && name.chars().all(plain) && name.ends_with(".json")
    };
    match path.split_once('/') {
        None => KEPT.contains(&path) || [SNAPSHOT, AUDIT].contains(&path),
        Some(("models", name)) => model(name),
        Some(("agents", name)) => program(name),
        Some(("artefacts", name)) => {
            name.parse::<Digest>().is_ok_and(|digest| digest.to_hex() == name) || elsewhere_name(name).is_some()
        }
        Some(_) => false,
    }
}

/// Copies a file whole, with mode 0600, syncs it, and says what it is.
fn copy(from: &Path, to: &Path) -> Result<KeptFile, BackupError> {
    write_new(to, |out| pass(from, out)).map_err(io_error(from))
}

/// What a file is.
fn hash(path: &Path) -> io::Result<KeptFile> {
    pass(path, &mut io::sink())
}

/// Hands a file on, and says what it is.
fn pass(from: &Path, out: &mut impl io::Write) -> io::Result<KeptFile> {
    let (mut file, mut buffer) = (File::open(from)?, vec![0; COPY_BYTES]);
    let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(KeptFile { bytes, digest: Digest(*hasher.finalize().as_bytes()) });
        }
        out.write_all(&buffer[..n])?;
        hasher.update(&buffer[..n]);
        bytes += n as u64;
    }
}

fn write_new<T>(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<T>) -> io::Result<T> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let mut file = options.open(path)?;
    let filled = fill(&mut file)?;
    file.sync_all()?;
    Ok(filled)
}

/// A folder that is made beside the one that is wanted and takes its name when it is whole.
struct Coming {
    folder: tempfile::TempDir,
    wanted: PathBuf,
}

impl Coming {
    /// Refuses where anything is there already.
    fn new(wanted: &Path) -> Result<Self, BackupError> {
        let wanted = std::path::absolute(wanted).map_err(io_error(wanted))?;
        match fs::read_dir(&wanted).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(false) => return Err(BackupError::NotEmpty(wanted)),
            Err(error) => return Err(BackupError::Io { path: wanted, error }),
        }
        let parent = wanted.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(io_error(parent))?;
        let name = wanted.file_name().map_or_else(Default::default, |name| name.to_string_lossy());
        let folder = tempfile::Builder::new().prefix(&format!(".{name}.unfinished-")).tempdir_in(parent);
        let folder = folder.map_err(io_error(parent))?;
        secret_file::private_dir(folder.path())?;
        for below in ["models", "agents", "artefacts"] {
            secret_file::private_dir(&folder.path().join(below))?;
        }
        Ok(Self { folder, wanted })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Gives it its name; what is in it is synced.
    fn finish(self) -> Result<PathBuf, BackupError> {
        let Self { folder, wanted } = self;
        for below in ["models", "agents", "artefacts", ""] {
            let path = folder.path().join(below);
            File::open(&path).and_then(|folder| folder.sync_all()).map_err(io_error(&path))?;
        }
        fs::rename(folder.path(), &wanted).map_err(io_error(&wanted))?;
        // It is no temporary folder any more.
        let _ = folder.keep();
        let parent = wanted.parent().unwrap_or(Path::new("/"));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(io_error(parent))?;
        Ok(wanted)
    }
}

/// What stands in a store: the fleet, and where the audit ends.
struct Known {
    unix_s: i64,
    fleet: Fleet,
    audit: Stored,
}

impl Known {
    fn of(unix_s: i64, entries: &[(String, String)]) -> Result<Self, StoreError> {
        let audit = Stored::find(entries)
            .map_err(|e| StoreError::Damaged { key: "audit/head".into(), detail: e.to_string() })?;
        Ok(Self { unix_s, fleet: Fleet::load(entries, unix_s)?, audit })
    }

    /// Digests of the files that these manifests and the regions name; with those that cannot be read.
    fn artefacts(&self, manifests: &Manifests, key: &[u8]) -> (BTreeSet<Digest>, Vec<ManifestError>) {
        let models = manifests.models.iter().chain(self.fleet.named_models());
        let models = models.map(|signed| signed.verify(key).map(|manifest| manifest.digest));
        let programs = manifests.programs.iter().chain(self.fleet.named_programs());
        let programs = programs.map(|signed| ProgramManifest::verify(signed, key).map(|manifest| manifest.digest));
        let (mut found, mut wrong) = (BTreeSet::new(), Vec::new());
        for digest in models.chain(programs) {
            match digest {
                Ok(digest) => {
                    found.insert(digest);
                }
                Err(error) => wrong.push(error),
            }
        }
        (found, wrong)
    }
}

/// Signed manifests of a folder.
#[derive(Default)]
struct Manifests {
    models: Vec<SignedManifest>,
    programs: Vec<SignedManifest>,
}

impl Manifests {
    /// The ones that belong below this folder.
    fn of(&mut self, folder: &str) -> &mut Vec<SignedManifest> {
        if folder == MODELS { &mut self.models } else { &mut self.programs }
    }
}

/// Paths of the files in `models/` and `agents/`, each with the folder that it is below.
fn manifest_files(dir: &StateDir) -> Result<Vec<(&'static str, String)>, BackupError> {
    let mut paths = Vec::new();
    for below in [MODELS, AGENTS] {
        let folder = dir.root().join(below);
        let entries = match fs::read_dir(&folder) {
            // Folders of a time before there were releases.
            Err(error) if below == AGENTS && error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(io_error(&folder))?,
        };
        for entry in entries {
            let name = entry.map_err(io_error(&folder))?.file_name();
            // What an import that was cut has left has a name of another kind.
            let path = name.to_str().map(|name| format!("{below}/{name}")).filter(|path| is_ours(path));
            paths.extend(path.map(|path| (below, path)));
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests;
