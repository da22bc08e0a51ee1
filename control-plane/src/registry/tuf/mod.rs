//! The registry's signed metadata by TUF (The Update Framework, <https://theupdateframework.io>): which models there are now, so that nodes can tell an
//! old answer, a frozen one and a mixed one from today's.
//!
//! Four roles sign it. *Root* names everybody's keys, and its own key may lie in a safe: it is needed once a year and when keys change. *Targets* lists
//! the models; its key is the one that signs manifests, needed by `model import` alone, so it may lie elsewhere too. *Snapshot* says which targets are
//! the newest, *timestamp* says so for a day: their keys belong to the daemon, which signs them anew in time. A thief of the daemon's keys can hold nodes
//! at what they have, and cannot give them a model.
//!
//! Everything stands in one file, `registry.json`, replaced whole under a lock of its own, so that `model import` and the daemon need not ask each
//! other, and no moment of a crash mixes old and new. Numbers of targets, snapshot and timestamp are the time at which they were signed, or one more than
//! before: so they are above those that nodes have seen even after an old state folder was restored.
//!
//! Pure but for [`keeper`], [`keys`] and [`file`]; the time is passed in.

pub mod file;
pub mod keeper;
pub mod keys;
pub mod roles;
pub mod rotation;
pub mod view;

pub use file::Metadata;
pub use keeper::{Brought, Keeper};

use crate::{secret_file::SecretFileError, state_dir::StateDirError};
use serde::{Deserialize, Serialize};
use std::{io, path::PathBuf};

/// Models that the targets list at most: each takes about 600 bytes of the one message that nodes are sent.
pub const TARGETS_MAX: usize = 2_000;

const DAY_S: i64 = 24 * 3600;

/// `[registry]` in `config.toml`: how long each role's metadata is good. All of it that the daemon can sign is signed anew at half of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lifetimes {
    /// Days of the root metadata. Default 365.
    pub root_days: u32,
    /// Days of the list of models: without a new one for so long, nodes take no new model. Default 90.
    pub targets_days: u32,
    /// Days of the snapshot. Default 7.
    pub snapshot_days: u32,
    /// Hours of the timestamp: as long may a node be shown an old state of the registry. Default 24.
    pub timestamp_hours: u32,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { root_days: 365, targets_days: 90, snapshot_days: 7, timestamp_hours: 24 }
    }
}

impl Lifetimes {
    pub(super) fn root_s(&self) -> i64 {
        i64::from(self.root_days) * DAY_S
    }

    pub(super) fn targets_s(&self) -> i64 {
        i64::from(self.targets_days) * DAY_S
    }

    pub(super) fn snapshot_s(&self) -> i64 {
        i64::from(self.snapshot_days) * DAY_S
    }

    pub(super) fn timestamp_s(&self) -> i64 {
        i64::from(self.timestamp_hours) * 3600
    }

    /// What is out of bounds.
    pub fn check(&self) -> Vec<String> {
        let bounds = [
            ("root_days", self.root_days, 3650),
            ("targets_days", self.targets_days, 3650),
            ("snapshot_days", self.snapshot_days, 365),
            ("timestamp_hours", self.timestamp_hours, 720),
        ];
        let wrong = bounds.into_iter().filter(|(_, value, max)| !(1..=*max).contains(value));
        wrong.map(|(name, value, max)| format!("registry.{name} = {value} must be within 1 to {max}")).collect()
    }
}

/// Why the registry's metadata is not as it should be. What was published before stays.
#[derive(Debug, thiserror::Error)]
pub enum TufError {
    /// There is none yet, and the key that it needs is not here.
    #[error(
        "the registry has no metadata yet, and signing.key is kept elsewhere; run `control-plane registry sign --signing-key FILE` once"
    )]
    NotMade,
    /// A key of the daemon's is missing or another.
    #[error(
        "{path} is not the key that the registry's root metadata names; take it from a backup, or run `control-plane registry rotate-root --online`",
        path = .0.display()
    )]
    OtherOnlineKey(PathBuf),
    /// The root key is not the one of the metadata.
    #[error("{path} is not the key that signs the registry's root metadata; name that with --root-key FILE", path = .0.display())]
    OtherRootKey(PathBuf),
    /// The root key is kept elsewhere.
    #[error("{path} is not here; name the file in which you keep the root key with --root-key FILE", path = .0.display())]
    RootKeyElsewhere(PathBuf),
    /// The signing key is not the one of the metadata.
    #[error(
        "the key that signs models is not the one that the registry's root metadata names; take the one that `init` made"
    )]
    OtherSigningKey,
    /// A model that is not listed.
    #[error("{0} is not listed; `control-plane registry show` lists what is")]
    NotListed(String),
    /// More models than nodes can be told of.
    #[error(
        "{0} models would be listed, at most {TARGETS_MAX} can be; take old ones out with `control-plane registry withdraw`"
    )]
    TooMany(usize),
    /// The file was changed or cut.
    #[error(
        "{path} is damaged ({reason}); restore it from a backup, or, where the root key was never changed, remove it: it is then made anew from the keys",
        path = .path.display()
    )]
    Damaged {
        /// `registry.json`.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It could not be put together.
    #[error("the registry's metadata cannot be made: {0}")]
    Schema(String),
    /// A secret cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// The disk says no.
    #[error("{path}: {error}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk says.
        error: io::Error,
    },
}

#[cfg(test)]
mod tests;
