//! `registry.json`: all of the registry's metadata in one file, so that there is only old and new.

use super::{TufError, roles};
use crate::state_dir::StateDir;
use nearfield_shared::{artefact::Digest, wire::message::Registry};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write as _},
};
use tough::schema::{Root, Signed, Snapshot, Targets, Timestamp};

/// Version of the file. 1 is the first.
const FILE_VERSION: u32 = 1;

/// The registry's metadata, each role's as the text that was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Root metadata by version.
    pub roots: BTreeMap<u64, String>,
    /// Targets metadata.
    pub targets: String,
    /// Snapshot metadata.
    pub snapshot: String,
    /// Timestamp metadata.
    pub timestamp: String,
    /// Digests, in hex, of models that were taken out, which only an import puts back.
    #[serde(default)]
    pub withdrawn: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
struct FileForm {
    version: u32,
    /// BLAKE3 of `body`.
    checksum: Digest,
    /// JSON of the metadata, as text, so that the checksum covers exactly what is parsed.
    body: String,
}

/// Holds the metadata for one process at a time; released when dropped, or by the system when the process dies.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

pub(super) fn lock(dir: &StateDir) -> Result<Lock, TufError> {
    let path = dir.registry_lock();
    let io = |error| TufError::Io { path: path.clone(), error };
    let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(io)?;
    file.lock().map_err(io)?;
    Ok(Lock { _file: file })
}

impl Metadata {
    /// What stands in the folder; `None` where none was made yet.
    pub fn load(dir: &StateDir) -> Result<Option<Self>, TufError> {
        let path = dir.registry();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(TufError::Io { path, error }),
        };
        Self::parse(&bytes).map(Some).map_err(|reason| TufError::Damaged { path, reason })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let form: FileForm = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if form.version != FILE_VERSION {
            return Err(format!("its version is {}, this control plane reads {FILE_VERSION}", form.version));
        }
        if Digest::of(form.body.as_bytes()) != form.checksum {
            return Err("its checksum does not match".into());
        }
        let metadata: Self = serde_json::from_str(&form.body).map_err(|e| e.to_string())?;
        if metadata.roots.is_empty() { Err("it has no root metadata".into()) } else { Ok(metadata) }
    }

    /// Replaces the file, durably.
    pub(super) fn store(&self, dir: &StateDir) -> Result<(), TufError> {
        let path = dir.registry();
        let body = serde_json::to_string(self).map_err(|e| TufError::Schema(e.to_string()))?;
        let form = FileForm { version: FILE_VERSION, checksum: Digest::of(body.as_bytes()), body };
        let bytes = serde_json::to_vec(&form).map_err(|e| TufError::Schema(e.to_string()))?;
        let written = || {
            let mut file = tempfile::NamedTempFile::new_in(dir.root())?;
            file.write_all(&bytes)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|e| e.error)?;
            File::open(dir.root())?.sync_all()
        };
        written().map_err(|error| TufError::Io { path: path.clone(), error })
    }

    /// The newest root metadata.
    pub(super) fn root(&self) -> Result<Signed<Root>, TufError> {
        let newest = self.roots.values().next_back().ok_or_else(|| TufError::Schema("no root metadata".into()))?;
        roles::read(newest)
    }

    /// The newest root metadata's text.
    pub fn root_text(&self) -> Option<&str> {
        self.roots.values().next_back().map(String::as_str)
    }

    /// As nodes are told it.
    pub fn told(&self) -> Registry {
        Registry {
            roots: self.roots.clone(),
            timestamp: self.timestamp.clone(),
            snapshot: self.snapshot.clone(),
            targets: Some(self.targets.clone()),
        }
    }

    /// Whether every part is signed by the newest root metadata's keys and they belong together; says what of it is not so. Time is not asked.
    pub fn check(&self) -> Result<(), TufError> {
        let mut before: Option<Signed<Root>> = None;
        for text in self.roots.values() {
            let root: Signed<Root> = roles::read(text)?;
            for signer in before.iter().chain([&root]) {
                signer.signed.verify_role(&root).map_err(|e| TufError::Schema(e.to_string()))?;
            }
            before = Some(root);
        }
        let root = self.root()?.signed;
        roles::stands::<Targets>(&root, &self.targets)?;
        roles::stands::<Snapshot>(&root, &self.snapshot)?;
        roles::stands::<Timestamp>(&root, &self.timestamp)?;
        if roles::belong_together(self)? {
            Ok(())
        } else {
            Err(TufError::Schema("its parts do not belong together".into()))
        }
    }
}
