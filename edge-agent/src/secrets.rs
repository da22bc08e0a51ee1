//! Secrets live in files with mode 0600 and are refused where anybody else could read them.

use crate::durable;
use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Most bytes that a secret file may hold: a PEM key is under 4 KiB.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Why a secret was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Others can read or write the file or folder.
    #[error("{path} can be read by others (mode {mode:04o}); run `chmod {remedy:04o} {path}`", path = .path.display())]
    TooOpen {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The permission bits it should have.
        remedy: u32,
    },
    /// The file belongs to another user.
    #[error("{path} belongs to user {owner}, not to the user this agent runs as; run `chown` on it, or run the agent as that user", path = .path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// The numeric id of its owner.
        owner: u32,
    },
    /// The file is much too large to be a secret.
    #[error("{path} holds {bytes} bytes, which is no key; restore the right file", path = .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
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

impl SecretError {
    /// Whether the file is simply not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, SecretError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SecretError + '_ {
    move |source| SecretError::Io { path: path.to_owned(), source }
}

/// Reads a secret, after making sure that only its owner can.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let mut file = File::open(path).map_err(at(path))?;
    let about = file.metadata().map_err(at(path))?;
    check_mode(path, about.mode(), 0o600)?;
    // SAFETY: geteuid takes no argument, touches no memory and cannot fail.
    let us = unsafe { libc::geteuid() };
    if about.uid() != us && us != 0 {
        return Err(SecretError::NotOurs { path: path.to_owned(), owner: about.uid() });
    }
    if about.len() > SECRET_BYTES_MAX {
        return Err(SecretError::TooLong { path: path.to_owned(), bytes: about.len() });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(about.len() as usize));
    file.read_to_end(&mut bytes).map_err(at(path))?;
    Ok(bytes)
}

/// Writes a secret with mode 0600, atomically and durably.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), SecretError> {
    durable::write(path, bytes, 0o600).map_err(at(path))
}

/// Says whether a secret file is as it should be, without reading it.
pub fn check(path: &Path) -> Result<(), SecretError> {
    let about = fs::metadata(path).map_err(at(path))?;
    check_mode(path, about.mode(), 0o600)
}

/// Makes a folder with mode 0700, or makes sure that the one that stands there keeps others out.
pub fn private_folder(path: &Path) -> Result<(), SecretError> {
    match fs::metadata(path) {
        Ok(about) if about.is_dir() => check_mode(path, about.permissions().mode(), 0o700),
        Ok(_) => Err(at(path)(io::Error::new(io::ErrorKind::NotADirectory, "a file stands where a folder is needed"))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))
        }
        Err(e) => Err(at(path)(e)),
    }
}

fn check_mode(path: &Path, mode: u32, remedy: u32) -> Result<(), SecretError> {
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(SecretError::TooOpen { path: path.to_owned(), mode: mode & 0o7777, remedy })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_others_can_read_is_refused_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("vault.key");
        write(&path, b"key").expect("write");
        assert_eq!(read(&path).expect("read").as_slice(), b"key");
        for mode in [0o640, 0o604, 0o660, 0o644] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            let said = read(&path).expect_err("refused").to_string();
            assert!(said.contains("chmod 0600") && said.contains("vault.key"), "{said}");
        }
    }

    #[test]
    fn a_folder_is_made_private_and_an_open_one_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a/b");
        private_folder(&path).expect("made");
        assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        assert!(private_folder(&path).expect_err("refused").to_string().contains("chmod 0700"));
    }
}
