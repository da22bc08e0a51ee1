//! The vault: transcripts of this node's calls, encrypted, under a permit, for a limited time.
//!
//! Nothing goes in or comes out without a [`Permit`] from `shared::policy::decide`; the node's own policy and the caller's
//! consent are what it takes. How erasing destroys is told in [`seal`].

pub mod records;
pub mod seal;
mod transcript;

pub use transcript::{Kept, Speaker, Transcript, Utterance};

use crate::state_dir::StateDir;
use nearfield_shared::policy::{Permit, Request};
use records::{Change, Records, RecordsError, SledRecords};
use seal::{Key, KeyFile, KeyFileError, SealError};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};
use uuid::Uuid;

/// Most bytes of one transcript before sealing: an hour of talk is under 100 KiB.
pub const TRANSCRIPT_BYTES_MAX: usize = 1 << 20;

/// Most transcripts kept. An erase wraps the keys of all that stay, so the bound also bounds an erase (to about a second).
pub const TRANSCRIPTS_MAX: usize = 100_000;

const DAY_S: u64 = 24 * 60 * 60;

/// Why the vault did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The permit is for something else.
    #[error("the permit presented is for another request; nothing was done")]
    WrongPermit,
    /// No such call.
    #[error("the vault holds no transcript of call {0}; `edge-agent vault list` shows what it holds")]
    NotFound(Uuid),
    /// The transcript is too long.
    #[error(
        "the transcript has {bytes} bytes, more than the {TRANSCRIPT_BYTES_MAX} that are stored; it was not stored"
    )]
    TooLong {
        /// Its size.
        bytes: usize,
    },
    /// The vault holds as many as it may.
    #[error(
        "the vault holds {TRANSCRIPTS_MAX} transcripts, as many as it may; erase some with `edge-agent vault erase`, or shorten the retention"
    )]
    Full,
    /// The database failed.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// A record does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The key is of no use.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The worker thread died.
    #[error("the vault's worker died; see the log")]
    Died,
}

/// A stored record. Version 1 of the schema is told by the store's version byte.
#[derive(Serialize, Deserialize)]
struct Record {
    stored_at_s: u64,
    expires_at_s: u64,
    #[serde(with = "base64_bytes")]
    wrapped_key: Vec<u8>,
    #[serde(with = "base64_bytes")]
    sealed: Vec<u8>,
}

impl Record {
    fn decode(bytes: &[u8]) -> Result<Self, RecordsError> {
        serde_json::from_slice(bytes).map_err(|_| RecordsError::Damaged("it is not a record"))
    }

    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and strings always serialise")
    }

    fn context(&self, call: Uuid) -> Vec<u8> {
        // Both times are bound to the content, so that a record's life cannot be lengthened by editing the database.
        [call.as_bytes().as_slice(), &self.stored_at_s.to_be_bytes(), &self.expires_at_s.to_be_bytes()].concat()
    }
}

/// The vault of one node. Clones share it; calls go to a blocking thread, one at a time.
#[derive(Clone)]
pub struct Vault {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    records: Box<dyn Records>,
    key_file: KeyFile,
    key: Key,
    /// The key before, while records wrapped with it may still stand in the database.
    previous: Option<Key>,
    count: usize,
}

impl Vault {
    /// Opens the vault of a node, finishing a key rotation that a crash cut short.
    pub fn open(dir: &StateDir) -> Result<Self, VaultError> {
        let (records, _aside) = SledRecords::open(&dir.vault())?;
        Self::with(Box::new(records), KeyFile::at(&dir.vault_key()))
    }

    fn with(records: Box<dyn Records>, key_file: KeyFile) -> Result<Self, VaultError> {
        let keys = key_file.read_or_create()?;
        let count = records.scan()?.len();
        let mut inner = Inner { records, key_file, key: keys.current, previous: keys.previous, count };
        inner.finish_rotation(Vec::new())?;
        Ok(Self { inner: Arc::new(Mutex::new(inner)) })
    }

    /// Stores a transcript for as long as the permit allows. `now_s` is in seconds since 1970 UTC.
    ///
    /// A second one of the same call replaces the first.
    pub async fn store(&self, permit: &Permit, transcript: Transcript, now_s: u64) -> Result<(), VaultError> {
        if !matches!(permit.request(), Request::StoreTranscript { consent: true }) {
            return Err(VaultError::WrongPermit);
        }
        let expires_at_s = now_s + u64::from(permit.retention_days()) * DAY_S;
        self.run(move |inner| inner.store(&transcript, now_s, expires_at_s)).await
    }

    /// What the vault holds, oldest first.
    pub async fn list(&self) -> Result<Vec<Kept>, VaultError> {
        self.run(|inner| inner.list()).await
    }

    /// Opens one transcript.
    pub async fn show(&self, permit: &Permit, call: Uuid) -> Result<Transcript, VaultError> {
        if !matches!(permit.request(), Request::ReadTranscript) {
            return Err(VaultError::WrongPermit);
        }
        self.run(move |inner| inner.show(call)).await
    }

    /// Erases one transcript, or all (`None`), for good. Returns how many.
    pub async fn erase(&self, permit: &Permit, call: Option<Uuid>) -> Result<usize, VaultError> {
        if !matches!(permit.request(), Request::EraseTranscript) {
            return Err(VaultError::WrongPermit);
        }
        self.run(move |inner| inner.erase(call)).await
    }

    /// Erases what has outlived its time. Returns how many.
    ///
    /// `retention_days` is the policy's, where one is in force: a policy that became stricter counts for what is already stored.
    pub async fn sweep(&self, now_s: u64, retention_days: Option<u32>) -> Result<usize, VaultError> {
        self.run(move |inner| inner.sweep(now_s, retention_days)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Inner) -> Result<T, VaultError> + Send + 'static,
    ) -> Result<T, VaultError> {
        let inner = Arc::clone(&self.inner);
        // Disk and cryptography leave the async runtime.
        tokio::task::spawn_blocking(move || work(&mut inner.lock().unwrap_or_else(PoisonError::into_inner)))
            .await
            .map_err(|_| VaultError::Died)?
    }
}

impl Inner {
    fn store(&mut self, transcript: &Transcript, now_s: u64, expires_at_s: u64) -> Result<(), VaultError> {
        let plain = transcript.to_plain();
        if plain.len() > TRANSCRIPT_BYTES_MAX {
            return Err(VaultError::TooLong { bytes: plain.len() });
        }
        let call = transcript.call;
        let replaces = self.records.get(call.as_bytes())?.is_some();
        if !replaces && self.count >= TRANSCRIPTS_MAX {
            return Err(VaultError::Full);
        }
        let data_key = Key::generate()?;
        let mut record = Record { stored_at_s: now_s, expires_at_s, wrapped_key: Vec::new(), sealed: Vec::new() };
        let context = record.context(call);
        record.sealed = data_key.seal(&context, &plain)?;
        record.wrapped_key = self.key.wrap(&context, &data_key)?;
        self.records.apply(vec![(call.as_bytes().to_vec(), Some(record.encode()))])?;
        self.count += usize::from(!replaces);
        Ok(())
    }

    fn list(&mut self) -> Result<Vec<Kept>, VaultError> {
        let mut kept: Vec<Kept> = Vec::new();
        for (key, value) in self.records.scan()? {
            let Ok(call) = Uuid::from_slice(&key) else { continue };
            // A damaged record is listed with no times, so that it can be seen and erased.
            let (stored_at_s, expires_at_s, bytes) = match value.and_then(|bytes| Record::decode(&bytes)) {
                Ok(record) => (record.stored_at_s, record.expires_at_s, record.sealed.len() as u64),
                Err(_) => (0, 0, 0),
            };
            kept.push(Kept { call, stored_at_s, expires_at_s, bytes });
        }
        kept.sort_by_key(|kept| (kept.stored_at_s, kept.call));
        Ok(kept)
    }

    fn show(&mut self, call: Uuid) -> Result<Transcript, VaultError> {
        let bytes = self.records.get(call.as_bytes())?.ok_or(VaultError::NotFound(call))?;
        let record = Record::decode(&bytes)?;
        let context = record.context(call);
        let data_key = self.unwrap_key(&context, &record.wrapped_key)?;
        let plain = data_key.open(&context, &record.sealed)?;
        Ok(Transcript::from_plain(call, &plain).ok_or(RecordsError::Damaged("it is not a transcript"))?)
    }

    fn erase(&mut self, call: Option<Uuid>) -> Result<usize, VaultError> {
        let doomed: Vec<Vec<u8>> = match call {
            Some(call) => {
                // A look at the key alone, so that a damaged record can be erased too.
                let known = self.records.scan()?.into_iter().any(|(key, _)| key == call.as_bytes());
                if !known {
                    return Err(VaultError::NotFound(call));
                }
                vec![call.as_bytes().to_vec()]
            }
            None => self.records.scan()?.into_iter().map(|(key, _)| key).collect(),
        };
        self.destroy(doomed)
    }

    fn sweep(&mut self, now_s: u64, retention_days: Option<u32>) -> Result<usize, VaultError> {
        let outlived = |record: &Record| {
            let by_policy = retention_days.map(|days| record.stored_at_s + u64::from(days) * DAY_S);
            // A policy of no days means now, even for what was stored while the clock was ahead.
            retention_days == Some(0) || now_s >= record.expires_at_s.min(by_policy.unwrap_or(u64::MAX))
        };
        let mut doomed = Vec::new();
        for (key, value) in self.records.scan()? {
            if value.and_then(|bytes| Record::decode(&bytes)).is_ok_and(|record| outlived(&record)) {
                doomed.push(key);
            }
        }
        if doomed.is_empty() {
            return Ok(0);
        }
        self.destroy(doomed)
    }

    /// Removes records and replaces the vault's key, so that what lingers of them in the database file opens for nobody.
    ///
    /// FAILURE LADDER: a failure before the key file changed leaves everything as it was; one after it (a full disk,
    /// a crash) leaves both keys in the file, everything readable, and the rest of the work to the next erase or start.
    fn destroy(&mut self, doomed: Vec<Vec<u8>>) -> Result<usize, VaultError> {
        self.finish_rotation(Vec::new())?;
        let new = Key::generate()?;
        self.key_file.begin_rotation(&new, &self.key)?;
        self.previous = Some(std::mem::replace(&mut self.key, new));
        let count = doomed.len();
        self.finish_rotation(doomed)?;
        self.count = self.count.saturating_sub(count);
        Ok(count)
    }

    /// Wraps the key of every record that the previous key opens with the current one and removes the doomed, in one step,
    /// then overwrites the previous key. Does nothing where no rotation is under way.
    fn finish_rotation(&mut self, doomed: Vec<Vec<u8>>) -> Result<(), VaultError> {
        let Some(previous) = &self.previous else { return Ok(()) };
        let doomed: BTreeSet<Vec<u8>> = doomed.into_iter().collect();
        let mut changes: Vec<Change> = Vec::new();
        for (key, value) in self.records.scan()? {
            let Ok(call) = Uuid::from_slice(&key) else { continue };
            if doomed.contains(&key) {
                continue;
            }
            let Ok(mut record) = value.and_then(|bytes| Record::decode(&bytes)) else { continue };
            let context = record.context(call);
            // A record that the previous key does not open was wrapped with the current one already, or is damaged.
            let Ok(data_key) = previous.unwrap_key(&context, &record.wrapped_key) else { continue };
            record.wrapped_key = self.key.wrap(&context, &data_key)?;
            changes.push((key, Some(record.encode())));
        }
        changes.extend(doomed.into_iter().map(|key| (key, None)));
        self.records.apply(changes)?;
        self.key_file.finish_rotation(&self.key)?;
        self.previous = None;
        Ok(())
    }

    fn unwrap_key(&self, context: &[u8], wrapped: &[u8]) -> Result<Key, SealError> {
        self.key.unwrap_key(context, wrapped).or_else(|e| match &self.previous {
            Some(previous) => previous.unwrap_key(context, wrapped),
            None => Err(e),
        })
    }
}

mod base64_bytes {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
