//! Secrets in files: written so that only their owner can read them, and refused when others can.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Why a secret file was not used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// Others can read it, so it is no secret.
    #[error("{path} can be read by others (mode {mode:03o}); run `chmod 600 {path}`, and make the secret anew if anyone may have read it", path = path.display())]
    OthersCanRead {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The disk says no.
    #[error("{path}: {error}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk says.
        error: io::Error,
    },
}

/// Reads a secret, if only its owner can.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let io = |error| SecretFileError::Io { path: path.to_owned(), error };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let mode = fs::metadata(path).map_err(io)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretFileError::OthersCanRead { path: path.to_owned(), mode });
        }
    }
    fs::read(path).map(Zeroizing::new).map_err(io)
}

/// Writes a new secret with mode 0600. Never replaces a file: a lost key cannot be made again.
pub fn write_new(path: &Path, secret: &[u8]) -> Result<(), SecretFileError> {
    let io = |error| SecretFileError::Io { path: path.to_owned(), error };
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let mut file = options.open(path).map_err(io)?;
    file.write_all(secret).and_then(|()| file.sync_all()).map_err(io)
}

/// Makes a folder with mode 0700, for secrets and state; one that exists already is set to it.
pub fn private_dir(path: &Path) -> Result<(), SecretFileError> {
    let io = |error| SecretFileError::Io { path: path.to_owned(), error };
    fs::create_dir_all(path).map_err(io)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io)?;
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_secret_that_others_can_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_new(&path, b"secret").unwrap();
        assert_eq!(read(&path).unwrap().as_slice(), b"secret");
        for mode in [0o640, 0o604, 0o660, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn a_secret_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_new(&path, b"first").unwrap();
        assert!(write_new(&path, b"second").is_err());
        assert_eq!(read(&path).unwrap().as_slice(), b"first");
    }

    #[test]
    fn a_private_folder_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        private_dir(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
