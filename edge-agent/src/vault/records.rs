//! Where the vault keeps its sealed records: a narrow trait, and sled behind it.
//!
//! Every value is stored with a version byte and a BLAKE3 checksum. sled's `flush` on Linux leaves its file to the
//! page cache, so the database file is synced as well. A database that does not open, or panics while opening, is set
//! aside and an empty one takes its place: a vault that cannot be read must not keep the node from taking calls. There is no
//! second copy to restore from, because a copy of what callers said would be one more thing to erase.

use std::{
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// Version byte of every stored value. 1 is the first.
const VALUE_VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 32;

/// Cache of the database in bytes: records are a few KiB and are rarely read, so a small one is enough.
const CACHE_BYTES: u64 = 8 << 20;

/// A change to one record: a new value, or `None` to remove it.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// A key with its value, or with what is wrong with that.
pub type Scanned = (Vec<u8>, Result<Vec<u8>, RecordsError>);

/// Why records could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The database or the disk said no.
    #[error("the vault's database failed: {0}; check the disk with `edge-agent doctor`")]
    Database(String),
    /// A value is not what was written.
    #[error("a record of the vault is damaged ({0}); erase it with `edge-agent vault erase`")]
    Damaged(&'static str),
}

/// Small values under keys, changed all at once and durably.
pub trait Records: Send {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RecordsError>;
    /// Applies all changes or none, and returns when they would survive a power cut.
    fn apply(&mut self, changes: Vec<Change>) -> Result<(), RecordsError>;
    /// Every record in key order; a damaged one is told in its place.
    fn scan(&self) -> Result<Vec<Scanned>, RecordsError>;
}

/// Records in a sled database.
pub struct SledRecords {
    db: sled::Db,
    file: PathBuf,
}

impl SledRecords {
    /// Opens the database in `folder`; where it is broken, sets it aside and tells the name it now has.
    pub fn open(folder: &Path) -> Result<(Self, Option<PathBuf>), RecordsError> {
        match Self::try_open(folder) {
            Ok(records) => Ok((records, None)),
            Err(reason) => {
                let aside = free_name(folder);
                tracing::error!(%reason, aside = %aside.display(), "the vault's database does not open and is set aside");
                std::fs::rename(folder, &aside).map_err(|e| RecordsError::Database(e.to_string()))?;
                Ok((Self::try_open(folder)?, Some(aside)))
            }
        }
    }

    fn try_open(folder: &Path) -> Result<Self, RecordsError> {
        let config = sled::Config::new().path(folder).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        // sled panics on some damaged files instead of returning an error.
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
            .map_err(|_| RecordsError::Database("it panicked while opening".into()))?;
        let db = opened.map_err(database)?;
        if let Ok(about) = std::fs::metadata(folder) {
            use std::os::unix::fs::PermissionsExt as _;
            let mut permissions = about.permissions();
            permissions.set_mode(0o700);
            std::fs::set_permissions(folder, permissions).map_err(|e| RecordsError::Database(e.to_string()))?;
        }
        Ok(Self { db, file: folder.join("db") })
    }
}

fn database(e: impl std::fmt::Display) -> RecordsError {
    RecordsError::Database(e.to_string())
}

fn free_name(folder: &Path) -> PathBuf {
    let base = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    (1u32..)
        .map(|n| folder.with_file_name(format!("{base}.broken-{n}")))
        .find(|path| !path.exists())
        .expect("fewer than 2^32 folders stand beside each other")
}

impl Records for SledRecords {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RecordsError> {
        self.db.get(key).map_err(database)?.map(|value| unpack(&value)).transpose()
    }

    fn apply(&mut self, changes: Vec<Change>) -> Result<(), RecordsError> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, pack(&value)),
                None => batch.remove(key),
            }
        }
        self.db.apply_batch(batch).map_err(database)?;
        self.db.flush().map_err(database)?;
        match File::open(&self.file).and_then(|file| file.sync_all()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(database(e)),
            _ => Ok(()),
        }
    }

    fn scan(&self) -> Result<Vec<Scanned>, RecordsError> {
        self.db.iter().map(|item| item.map(|(key, value)| (key.to_vec(), unpack(&value))).map_err(database)).collect()
    }
}

fn pack(value: &[u8]) -> Vec<u8> {
    [&[VALUE_VERSION], blake3::hash(value).as_bytes().as_slice(), value].concat()
}

fn unpack(stored: &[u8]) -> Result<Vec<u8>, RecordsError> {
    let (version, rest) = stored.split_first().ok_or(RecordsError::Damaged("it is empty"))?;
    if *version != VALUE_VERSION {
        return Err(RecordsError::Damaged("its version is not known to this agent"));
    }
    let (checksum, value) = rest.split_at_checked(CHECKSUM_BYTES).ok_or(RecordsError::Damaged("it is cut short"))?;
    if blake3::hash(value).as_bytes() != checksum {
        return Err(RecordsError::Damaged("its checksum does not match"));
    }
    Ok(value.to_vec())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Records in memory, for tests; fails on request.
    #[derive(Default)]
    pub(crate) struct MemoryRecords {
        pub(crate) values: BTreeMap<Vec<u8>, Vec<u8>>,
        pub(crate) fail_next_apply: bool,
    }

    impl Records for MemoryRecords {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RecordsError> {
            Ok(self.values.get(key).cloned())
        }

        fn apply(&mut self, changes: Vec<Change>) -> Result<(), RecordsError> {
            if std::mem::take(&mut self.fail_next_apply) {
                return Err(RecordsError::Database("no space left on device".into()));
            }
            for (key, value) in changes {
                match value {
                    Some(value) => self.values.insert(key, value),
                    None => self.values.remove(&key),
                };
            }
            Ok(())
        }

        fn scan(&self) -> Result<Vec<Scanned>, RecordsError> {
            Ok(self.values.iter().map(|(k, v)| (k.clone(), Ok(v.clone()))).collect())
        }
    }

    fn conforms(records: &mut dyn Records) {
        assert_eq!(records.get(b"a").expect("get"), None);
        records.apply(vec![(b"b".to_vec(), Some(b"2".to_vec())), (b"a".to_vec(), Some(b"1".to_vec()))]).expect("apply");
        records.apply(vec![(b"a".to_vec(), None), (b"c".to_vec(), Some(vec![]))]).expect("apply");
        assert_eq!(records.get(b"a").expect("get"), None);
        assert_eq!(records.get(b"b").expect("get"), Some(b"2".to_vec()));
        let all: Vec<_> = records.scan().expect("scan").into_iter().map(|(k, v)| (k, v.expect("whole"))).collect();
        assert_eq!(all, [(b"b".to_vec(), b"2".to_vec()), (b"c".to_vec(), vec![])]);
    }

    #[test]
    fn every_store_conforms() {
        conforms(&mut MemoryRecords::default());
        let dir = tempfile::tempdir().expect("dir");
        conforms(&mut SledRecords::open(&dir.path().join("vault")).expect("open").0);
    }

    #[test]
    fn records_survive_a_restart_and_a_broken_database_is_set_aside() {
        let dir = tempfile::tempdir().expect("dir");
        let folder = dir.path().join("vault");
        let (mut records, aside) = SledRecords::open(&folder).expect("open");
        assert_eq!(aside, None);
        records.apply(vec![(b"k".to_vec(), Some(b"v".to_vec()))]).expect("apply");
        drop(records);
        let (records, _) = SledRecords::open(&folder).expect("open again");
        assert_eq!(records.get(b"k").expect("get"), Some(b"v".to_vec()));
        drop(records);
        std::fs::write(folder.join("conf"), b"not a sled configuration").expect("damage");
        let (records, aside) = SledRecords::open(&folder).expect("open after damage");
        assert_eq!(records.get(b"k").expect("get"), None);
        assert!(aside.expect("set aside").join("db").exists());
    }

    #[test]
    fn a_damaged_value_is_told_and_never_returned() {
        let whole = pack(b"value");
        assert_eq!(unpack(&whole).expect("whole"), b"value");
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            assert!(unpack(&damaged).is_err(), "byte {at}");
        }
        for length in 0..CHECKSUM_BYTES {
            assert!(unpack(&whole[..length]).is_err());
        }
    }
}
