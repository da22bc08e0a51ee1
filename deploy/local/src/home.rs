//! The one folder that a local system lives in, and the lock that keeps a second one out of it.

use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File, OpenOptions},
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

/// The state folder of one local system. Dropping it frees the folder for another run.
pub struct Home {
    root: PathBuf,
    // Held for its advisory lock, which the kernel frees even when the process is killed.
    _lock: File,
}

impl Home {
    /// Opens (or makes) the folder and locks it.
    ///
    /// # Errors
    /// When the folder cannot be made, or another `nearfield` is using it.
    pub fn open(root: &Path) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .with_context(|| format!("cannot make the state folder {}; name another with --state", root.display()))?;
        let root = root.canonicalize().with_context(|| format!("cannot open {}", root.display()))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(root.join("lock"))
            .with_context(|| format!("cannot write in {}; name another folder with --state", root.display()))?;
        // SAFETY: the descriptor is open for as long as `lock` lives, and flock touches no memory of ours.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            bail!(
                "another nearfield is already running on {}; stop it first, or name another folder with --state",
                root.display()
            );
        }
        Ok(Self { root, _lock: lock })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the control plane keeps its state.
    pub fn plane(&self) -> PathBuf {
        self.root.join("control-plane")
    }

    /// Where the agent of a region keeps its state.
    pub fn agent(&self, region: &str) -> PathBuf {
        self.root.join("agents").join(region)
    }

    /// Where a process writes its log.
    pub fn log(&self, process: &str) -> PathBuf {
        self.root.join("logs").join(format!("{process}.log"))
    }

    /// Where spoken answers are written.
    pub fn answers(&self) -> PathBuf {
        self.root.join("answers")
    }
}

/// The folder used when none is named: `nearfield/local` in the user's state folder.
pub fn default_root() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty()) {
        return Ok(PathBuf::from(dir).join("nearfield/local"));
    }
    let home = std::env::var_os("HOME")
        .filter(|dir| !dir.is_empty())
        .context("neither XDG_STATE_HOME nor HOME is set; name a state folder with --state")?;
    Ok(PathBuf::from(home).join(".local/state/nearfield/local"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_is_refused_and_a_freed_one_is_not() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let first = Home::open(dir.path()).expect("first");
        let second = Home::open(dir.path()).err().expect("the folder is in use");
        assert!(second.to_string().contains("--state"), "{second}");
        drop(first);
        Home::open(dir.path()).expect("freed");
    }
}
