//! What the control plane remembers: small values under text keys, atomic in batches and on disk before anyone is told.
//!
//! [`Store`] is narrow on purpose, so that another engine can take sled's place: [`sled_store`] for one control plane, [`etcd`] for several.
//! [`conformance`] is the one suite that every implementation passes. Artefacts are never in here, they are files named by their hash.
//!
//! # FAILURE LADDER
//! A value with a wrong checksum, a database that does not open, or one that panics while opening is set aside whole, and the last
//! export is restored ([`open::open`]). Data between the export and the failure is lost, so generations are moved well ahead
//! afterwards; agents go on serving what they have.

pub mod conformance;
pub mod etcd;
pub mod migrate;
pub mod open;
pub mod record;
pub mod sled_store;
pub mod snapshot;
pub mod writer;

/// Largest value in bytes. A region with six models and its assistants takes about 40 KiB.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// Largest key in bytes.
pub const KEY_BYTES_MAX: usize = 200;

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a value.
    Put {
        /// Where.
        key: String,
        /// What; JSON by convention, so that an export can be read.
        value: String,
    },
    /// Removes a value; one that is not there is fine.
    Delete {
        /// Where.
        key: String,
    },
}

impl Write {
    /// The key that changes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The engine or the disk failed.
    #[error("the store failed: {0}; check that the disk works and has room")]
    Engine(String),
    /// A value is not what was written.
    #[error("the value of `{key}` is damaged: {detail}")]
    Damaged {
        /// Its key.
        key: String,
        /// What is wrong.
        detail: String,
    },
    /// The value was written by a later version.
    #[error("the value of `{key}` was written by a newer control plane (format {found}); run that version")]
    Newer {
        /// Its key.
        key: String,
        /// Its format.
        found: u8,
    },
    /// Too large.
    #[error(
        "{what} of `{key}` has {bytes} bytes, at most {max} fit; make the assistants or models of that region fewer or shorter"
    )]
    TooLarge {
        /// Key or value.
        what: &'static str,
        /// The key.
        key: String,
        /// Its size.
        bytes: usize,
        /// What fits.
        max: usize,
    },
    /// The change is made and stored, and its line could not be added to the audit.
    #[error(
        "the change is made, but audit.log cannot be written: {0}; check that the disk works and has room. The line is kept, and written with the next change"
    )]
    Audit(String),
    /// More changes are waiting than the queue holds.
    #[error("the store is overloaded; try again")]
    Overloaded,
    /// etcd does not do it.
    #[error("{0}")]
    Etcd(String),
    /// Another control plane may lead by now, so nothing was changed.
    #[error("this control plane does not lead any more; ask the one that does (`control-plane status`)")]
    NotLeading,
    /// What was here is elsewhere.
    #[error("the data of this store was moved to {0}; start the control plane with that store, or restore a backup")]
    Moved(String),
}

/// Keys with their values.
pub type Entries = Vec<(String, String)>;

/// Everything in a store at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// All values, sorted by key.
    pub entries: Entries,
    /// Batches that it has seen.
    pub batches: u64,
}

impl Contents {
    /// What is in a store now.
    pub fn of(store: &impl Store) -> Result<Self, StoreError> {
        Ok(Self { entries: store.scan("")?, batches: store.batches() })
    }
}

/// A store of small values.
pub trait Store: Send {
    /// One value.
    fn get(&self, key: &str) -> Result<Option<String>, StoreError>;

    /// All values whose key begins with `prefix`, sorted by key.
    fn scan(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError>;

    /// All values whose key is not below `from` and below `end`, if one is named; sorted by key.
    fn between(&self, from: &str, end: Option<&str>) -> Result<Vec<(String, String)>, StoreError> {
        let mut found = self.scan("")?;
        found.retain(|(key, _)| key.as_str() >= from && end.is_none_or(|end| key.as_str() < end));
        Ok(found)
    }

    /// Makes all changes or none. They are on the disk when this returns.
    fn write(&mut self, batch: &[Write]) -> Result<(), StoreError>;

    /// How many batches were ever written. An export notes it, so that a store that has lost some can be told.
    fn batches(&self) -> u64;

    /// Changes that are worth putting into one batch. A larger one is made whole all the same.
    fn batch_max(&self) -> usize {
        512
    }
}

/// Checks sizes; for implementations.
pub(crate) fn check(batch: &[Write]) -> Result<(), StoreError> {
    for write in batch {
        let key = write.key();
        let too_large = |what, bytes, max| Err(StoreError::TooLarge { what, key: key.to_owned(), bytes, max });
        if key.len() > KEY_BYTES_MAX {
            return too_large("the key", key.len(), KEY_BYTES_MAX);
        }
        if let Write::Put { value, .. } = write
            && value.len() > VALUE_BYTES_MAX
        {
            return too_large("the value", value.len(), VALUE_BYTES_MAX);
        }
    }
    Ok(())
}
