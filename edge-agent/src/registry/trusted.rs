//! The metadata that this node trusts, in one file: old or new after a power cut, and damage is told from nothing.

use crate::durable;
use nearfield_shared::artefact::Digest;
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
};
use tough::schema::{Root, Signed};

/// Version of the file. 1 is the first.
const FILE_VERSION: u32 = 1;

/// Most bytes of the file: all that one message holds, quoted twice.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Metadata that was verified, each role's as the text that was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trusted {
    /// The newest root metadata.
    pub root: String,
    /// What it vouches for; `None` before any was told.
    #[serde(default)]
    pub parts: Option<Parts>,
}

/// Metadata of the other roles, which belongs together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Timestamp metadata.
    pub timestamp: String,
    /// Snapshot metadata.
    pub snapshot: String,
    /// Targets metadata.
    pub targets: String,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustedError {
    /// It was changed or cut.
    #[error(
        "{path} is damaged ({reason}); stop this node, remove the file and start it: it then trusts what its control plane's registry tells next",
        path = .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The disk said no.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct FileForm {
    version: u32,
    /// BLAKE3 of `body`.
    checksum: Digest,
    /// JSON of the metadata, as text, so that the checksum covers exactly what is parsed.
    body: String,
}

/// What the file holds; `None` where there is none.
pub fn load(path: &Path) -> Result<Option<Trusted>, TrustedError> {
    let io = |source| TrustedError::Io { path: path.to_owned(), source };
    let damaged = |reason: String| TrustedError::Damaged { path: path.to_owned(), reason };
    match std::fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
        Ok(about) if about.len() > FILE_BYTES_MAX => return Err(damaged(format!("it has {} bytes", about.len()))),
        Ok(_) => {}
    }
    parse(&std::fs::read(path).map_err(io)?).map(Some).map_err(damaged)
}

fn parse(bytes: &[u8]) -> Result<Trusted, String> {
    let form: FileForm = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if form.version != FILE_VERSION {
        return Err(format!("its version is {}, this agent reads {FILE_VERSION}", form.version));
    }
    if Digest::of(form.body.as_bytes()) != form.checksum {
        return Err("its checksum does not match".into());
    }
    serde_json::from_str(&form.body).map_err(|e| e.to_string())
}

impl Trusted {
    /// Root metadata to begin with, vouched for by whoever gives it.
    ///
    /// # Errors
    /// Where it is none, or is not signed by its own keys.
    pub fn pinned(root: &str) -> Result<Self, String> {
        let signed: Signed<Root> = serde_json::from_str(root).map_err(|e| e.to_string())?;
        signed.signed.verify_role(&signed).map_err(|e| e.to_string())?;
        Ok(Self { root: root.to_owned(), parts: None })
    }

    /// Replaces the file, durably.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        let body = serde_json::to_string(self).map_err(io::Error::other)?;
        let form = FileForm { version: FILE_VERSION, checksum: Digest::of(body.as_bytes()), body };
        durable::write(path, &serde_json::to_vec(&form).map_err(io::Error::other)?, 0o600)
    }
}
