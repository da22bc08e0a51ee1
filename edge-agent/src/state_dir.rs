//! The folder of one node: where each of its files stands, and the lock that keeps a second daemon out.

use crate::secrets::{self, SecretError};
use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

/// The state folder of a node (mode 0700).
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

/// Holds the folder for one daemon; released when dropped, or by the system when the process dies.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// Its permissions are wrong, or it cannot be made.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Another daemon runs on it.
    #[error(
        "another edge-agent is running on {path}; stop it first, or give this one a folder of its own with --dir",
        path = .0.display()
    )]
    InUse(PathBuf),
    /// The lock file cannot be made.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl StateDir {
    /// Opens the folder, making it with mode 0700 if it is not there.
    pub fn open(root: &Path) -> Result<Self, DirError> {
        secrets::private_folder(root)?;
        let dir = Self { root: root.to_owned() };
        secrets::private_folder(&dir.artefacts())?;
        Ok(dir)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes the folder for this process.
    pub fn lock(&self) -> Result<DirLock, DirError> {
        self.lock_file("agent.lock")
    }

    /// Takes the folder for whoever decides which program runs: the daemon where it is alone, else its supervisor.
    pub fn lock_programs(&self) -> Result<DirLock, DirError> {
        self.lock_file("run.lock")
    }

    fn lock_file(&self, name: &str) -> Result<DirLock, DirError> {
        let path = self.root.join(name);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| DirError::Io { path: path.clone(), source })?;
        // SAFETY: the descriptor belongs to `file`, which outlives the call; flock touches no memory of ours.
        let taken = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
        if taken == 0 {
            return Ok(DirLock { _file: file });
        }
        let source = io::Error::last_os_error();
        if source.kind() == io::ErrorKind::WouldBlock {
            Err(DirError::InUse(self.root.clone()))
        } else {
            Err(DirError::Io { path, source })
        }
    }

    /// Settings, TOML.
    pub fn config(&self) -> PathBuf {
        self.root.join("agent.toml")
    }

    /// Secrets that assistants' files name: a file for each, mode 0600.
    pub fn tool_secrets(&self) -> PathBuf {
        self.root.join("secrets")
    }

    /// The node's private key, PKCS#8, and the certificate for it, both PEM and in one file so that they change together. The key never
    /// leaves the node.
    pub fn node_key(&self) -> PathBuf {
        self.root.join("node.key")
    }

    /// The node's certificate, PEM, where an older agent enrolled it; since then it stands in [`StateDir::node_key`].
    pub fn node_certificate(&self) -> PathBuf {
        self.root.join("node.crt")
    }

    /// What the control plane told at enrolment: its certificate authority, its signing key, the region.
    pub fn identity(&self) -> PathBuf {
        self.root.join("identity.json")
    }

    /// The newest list of revoked certificates that the control plane told, PEM.
    pub fn revoked(&self) -> PathBuf {
        self.root.join("revoked.crl")
    }

    /// The registry's metadata that this node trusts.
    pub fn registry(&self) -> PathBuf {
        self.root.join("registry.json")
    }

    /// A folder that is there while newer metadata is verified.
    pub(crate) fn registry_scratch(&self) -> PathBuf {
        self.root.join("registry.verifying")
    }

    /// The key that wraps the vault's record keys.
    pub fn vault_key(&self) -> PathBuf {
        self.root.join("vault.key")
    }

    /// The vault's database folder.
    pub fn vault(&self) -> PathBuf {
        self.root.join("vault")
    }

    /// The key that callers present, where one is required.
    pub fn caller_key(&self) -> PathBuf {
        self.root.join("caller.key")
    }

    /// The state that this node last served whole.
    pub fn last_known_good(&self) -> PathBuf {
        self.root.join("last-known-good.json")
    }

    /// Model files, named by their BLAKE3.
    pub fn artefacts(&self) -> PathBuf {
        self.root.join("artefacts")
    }

    /// Programs of releases, and which of them runs.
    pub fn programs(&self) -> PathBuf {
        self.root.join("agent")
    }

    /// The running daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join("agent.sock")
    }

    /// Every file that must be mode 0600 where it exists.
    pub fn secrets(&self) -> [PathBuf; 3] {
        [self.node_key(), self.vault_key(), self.caller_key()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_kept_out_until_the_first_is_gone() {
        let temporary = tempfile::tempdir().expect("dir");
        let dir = StateDir::open(&temporary.path().join("node")).expect("open");
        let first = dir.lock().expect("first");
        assert!(matches!(dir.lock(), Err(DirError::InUse(_))));
        drop(first);
        dir.lock().expect("free again");
    }
}
