//! The per-user cache: pinned files by their SHA-256, archives, partial downloads, and the locks that let processes share them.
//!
//! `files/` holds what was verified, `archives/` packages that may be read again, `partial/` downloads that were cut, `locks/`
//! one empty file for each thing that is being fetched. The folder belongs to the user alone; even so every file's
//! digest is checked again when it is taken out.

use super::{FetchError, Sha256};
use std::{
    env,
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// The cache folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    folder: PathBuf,
}

/// Held while something is fetched; other processes wait. Released on drop, and by the system when the process dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Cache {
    /// `$NEARFIELD_CACHE`, or `nearfield` in `$XDG_CACHE_HOME`, or `~/.cache/nearfield`.
    pub fn of_user() -> Result<Self, FetchError> {
        let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let folder = set("NEARFIELD_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|d| d.join("nearfield")))
            .or_else(|| set("HOME").map(|d| d.join(".cache/nearfield")))
            .ok_or_else(|| {
                let why = io::Error::other("neither NEARFIELD_CACHE, XDG_CACHE_HOME nor HOME is set; set one of them");
                FetchError::disk(Path::new("~/.cache/nearfield"), why)
            })?;
        Self::at(folder)
    }

    /// A cache in this folder, which is created for this user alone where it does not exist.
    pub fn at(folder: impl Into<PathBuf>) -> Result<Self, FetchError> {
        let folder = folder.into();
        for part in ["files", "archives", "partial", "locks", "models"] {
            let path = folder.join(part);
            DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|e| FetchError::disk(&path, e))?;
        }
        Ok(Self { folder })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where converted models are kept.
    pub fn models(&self) -> PathBuf {
        self.folder.join("models")
    }

    /// A cached file whose digest holds. One whose digest does not is removed.
    pub(super) fn file(&self, sha256: &Sha256) -> Result<Option<Vec<u8>>, FetchError> {
        let path = self.folder.join("files").join(sha256.to_string());
        match fs::read(&path) {
            Ok(bytes) if Sha256::of(&bytes) == *sha256 => Ok(Some(bytes)),
            Ok(_) => {
                tracing::warn!(path = %path.display(), "a cached file is damaged and is fetched again");
                super::remove(&path)?;
                Ok(None)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(FetchError::disk(&path, e)),
        }
    }

    /// Stores a file that was verified: whole, or not at all.
    pub(super) fn keep(&self, sha256: &Sha256, bytes: &[u8]) -> Result<(), FetchError> {
        let path = self.folder.join("files").join(sha256.to_string());
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(self.folder.join("files"))?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|e| e.error)
        };
        write().map(|_| ()).map_err(|e| FetchError::disk(&path, e))
    }

    pub(super) fn archive(&self, name: &str) -> PathBuf {
        self.folder.join("archives").join(name)
    }

    pub(super) fn partial(&self, name: &str) -> PathBuf {
        self.folder.join("partial").join(name)
    }

    /// A folder for one attempt, removed on drop.
    pub(super) fn scratch(&self) -> Result<tempfile::TempDir, FetchError> {
        let partial = self.folder.join("partial");
        tempfile::TempDir::new_in(&partial).map_err(|e| FetchError::disk(&partial, e))
    }

    /// Waits until no other process works on this name.
    pub fn lock(&self, name: &str) -> Result<Lock, FetchError> {
        let path = self.folder.join("locks").join(format!("{name}.lock"));
        let lock = || {
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            file.lock()?;
            Ok(Lock { _file: file })
        };
        lock().map_err(|e| FetchError::disk(&path, e))
    }
}
