//! The last state that served here as a whole, on disk. With it a node boots and serves while the control plane is away.

use crate::durable::{self, Prepared};
use nearfield_shared::desired::{DesiredState, stored};
use std::{
    io,
    path::{Path, PathBuf},
};

/// The file.
#[derive(Debug, Clone)]
pub struct LastKnownGood {
    path: PathBuf,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The disk said no.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It was changed or cut.
    #[error("{path} is damaged ({reason}); it was set aside, and the control plane will send the state again", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl LastKnownGood {
    /// The file at `path`.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The state in the file; `None` where there is no file. A damaged file is set aside.
    pub fn load(&self) -> Result<Option<DesiredState>, LoadError> {
        let read = self.read();
        if let Err(LoadError::Damaged { .. }) = &read {
            let aside = self.path.with_extension("damaged");
            std::fs::rename(&self.path, aside).map_err(|source| LoadError::Io { path: self.path.clone(), source })?;
        }
        read
    }

    /// The same, and a damaged file stays: what a program that is being tried cannot read, the one before it may.
    pub fn read(&self) -> Result<Option<DesiredState>, LoadError> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LoadError::Io { path: self.path.clone(), source }),
        };
        stored::decode(&bytes).map(Some).map_err(|reason| LoadError::Damaged { path: self.path.clone(), reason })
    }

    /// Writes the state beside its place; [`Prepared::commit`] makes it the last known good.
    pub fn prepare(&self, state: &DesiredState) -> io::Result<Prepared> {
        durable::prepare(&self.path, &stored::encode(state).map_err(io::Error::other)?, 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_shared::{desired::Generation, policy::Policy};

    fn state(generation: u64) -> DesiredState {
        DesiredState {
            generation: Generation(generation),
            region: "eu-central".parse().expect("region"),
            models: Default::default(),
            routes: vec![],
            assistants: vec![],
            policy: Policy {
                serves_countries: vec!["DE".into()],
                store_transcripts: true,
                retention_days: 3,
                metrics_group_min: 20,
                notices: vec![],
            },
            trial: None,
            agent: None,
        }
    }

    #[test]
    fn what_was_committed_comes_back_and_what_was_not_does_not() {
        let dir = tempfile::tempdir().expect("dir");
        let file = LastKnownGood::at(&dir.path().join("last-known-good.json"));
        assert_eq!(file.load().expect("nothing yet"), None);
        file.prepare(&state(1)).expect("prepare").commit().expect("commit");
        // A process that dies here has prepared, and not committed.
        std::mem::forget(file.prepare(&state(2)).expect("prepare"));
        assert_eq!(file.load().expect("load"), Some(state(1)));
        file.prepare(&state(3)).expect("prepare over the leftover").commit().expect("commit");
        assert_eq!(file.load().expect("load"), Some(state(3)));
    }

    #[test]
    fn a_damaged_file_is_set_aside_whatever_byte_it_is() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("last-known-good.json");
        let file = LastKnownGood::at(&path);
        file.prepare(&state(1)).expect("prepare").commit().expect("commit");
        let whole = std::fs::read(&path).expect("read");
        for at in (0..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x02;
            std::fs::write(&path, damaged).expect("write");
            assert!(matches!(file.read(), Err(LoadError::Damaged { .. })), "byte {at}");
            assert!(matches!(file.load(), Err(LoadError::Damaged { .. })), "byte {at}");
            assert!(!path.exists(), "it was set aside");
        }
        assert_eq!(file.load().expect("as if new"), None);
    }
}
