//! The keys of the roles, each a file of its own with mode 0600.
//!
//! A key that takes the place of another is first written beside it as `NAME.new`; then the metadata that names it is written; then it is renamed. Whatever
//! moment that is cut at, the one that the metadata names is found.

use super::{TufError, roles};
use crate::secret_file;
use aws_lc_rs::{rand::SystemRandom, signature::Ed25519KeyPair};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use tough::schema::key::Key;

/// Reads a key.
pub(super) fn read(path: &Path) -> Result<Ed25519KeyPair, TufError> {
    Ed25519KeyPair::from_pkcs8(&secret_file::read(path)?).map_err(|e| {
        TufError::Schema(format!("{} is no Ed25519 key in PKCS#8: {e}; take it from a backup", path.display()))
    })
}

/// Makes a new key. Never replaces a file.
pub(super) fn make(path: &Path) -> Result<Ed25519KeyPair, TufError> {
    let failed = |e: aws_lc_rs::error::Unspecified| TufError::Schema(e.to_string());
    let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(failed)?;
    secret_file::write_new(path, key.as_ref())?;
    Ed25519KeyPair::from_pkcs8(key.as_ref()).map_err(|e| TufError::Schema(e.to_string()))
}

/// The key of this file; made where there is none.
pub(super) fn read_or_make(path: &Path) -> Result<Ed25519KeyPair, TufError> {
    if exists(path)? { read(path) } else { make(path) }
}

pub(super) fn exists(path: &Path) -> Result<bool, TufError> {
    fs::exists(path).map_err(|error| TufError::Io { path: path.to_owned(), error })
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    path.with_file_name(name)
}

/// The key of this file, if it is the one that the metadata names; ends a change of keys that was cut off.
pub(super) fn named(path: &Path, wanted: &Key) -> Result<Option<Ed25519KeyPair>, TufError> {
    if exists(path)? {
        let key = read(path)?;
        if roles::public(&key) == *wanted {
            return Ok(Some(key));
        }
    }
    let new = beside(path);
    if exists(&new)? {
        let key = read(&new)?;
        if roles::public(&key) == *wanted {
            put_in_place(path)?;
            return Ok(Some(key));
        }
    }
    Ok(None)
}

/// A key that will take the place of the one of this file, once [`settle`] is called.
pub(super) fn make_beside(path: &Path) -> Result<Ed25519KeyPair, TufError> {
    let new = beside(path);
    // One that an interrupted change has left and no metadata names was never used.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(TufError::Io { path: new, error }),
        _ => make(&new),
    }
}

/// Puts the key beside this file in its place, if there is one.
pub(super) fn settle(path: &Path) -> Result<(), TufError> {
    if exists(&beside(path))? { put_in_place(path) } else { Ok(()) }
}

fn put_in_place(path: &Path) -> Result<(), TufError> {
    let renamed = fs::rename(beside(path), path)
        .and_then(|()| path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all()));
    renamed.map_err(|error| TufError::Io { path: path.to_owned(), error })
}
