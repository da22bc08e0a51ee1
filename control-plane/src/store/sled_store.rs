//! [`Store`] on sled 0.34.
//!
//! `flush` alone is not safe against a power loss on Linux: sled writes its file without a sync of it. After each flush the
//! file `db` is therefore synced too.
//!
//! sled opens some damaged files without an error, as if they were empty or older. Every batch therefore also counts itself and
//! the keys there are ([`COUNT_KEY`]): a store whose keys do not match its count is damaged, and one whose count of
//! batches is behind its own export has lost some ([`super::open`]).

use super::{Store, StoreError, Write, check, record};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::{Path, PathBuf},
};

/// Where the counts stand: `BATCHES KEYS`. Sorts before every key of the fleet and is not seen by users of the store.
const COUNT_KEY: &str = "\u{0}count";

/// Bytes of page cache. The whole state of 10,000 nodes is about 10 MB and is held in memory by the fleet anyway.
const CACHE_BYTES: u64 = 8 << 20;

/// A sled database.
#[derive(Debug)]
pub struct SledStore {
    db: sled::Db,
    file: PathBuf,
    keys: BTreeSet<String>,
    batches: u64,
}

fn engine(e: impl std::fmt::Display) -> StoreError {
    StoreError::Engine(e.to_string())
}

impl SledStore {
    /// Opens or makes the database in a folder and checks every value. May panic inside sled on a damaged file; see
    /// [`super::open::open`].
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let config = sled::Config::default()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            // Every batch is flushed here; sled's own timer would only add wake-ups.
            .flush_every_ms(None)
            .mode(sled::Mode::LowSpace);
        let db = config.open().map_err(engine)?;
        let mut store = Self { db, file: dir.join("db"), keys: BTreeSet::new(), batches: 0 };
        store.keys = store.scan("")?.into_iter().map(|(key, _)| key).collect();
        let count = store.get(COUNT_KEY)?;
        let (batches, keys) = match count.as_deref().map(|text| text.split_once(' ')) {
            None => (0, 0),
            Some(pair) => pair
                .and_then(|(batches, keys)| Some((batches.parse().ok()?, keys.parse().ok()?)))
                .ok_or_else(|| StoreError::Damaged { key: "count".into(), detail: "it is not two numbers".into() })?,
        };
        if keys != store.keys.len() {
            let detail = format!("{} keys are there, {keys} were written", store.keys.len());
            return Err(StoreError::Damaged { key: "count".into(), detail });
        }
        store.batches = batches;
        Ok(store)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(engine)?;
        File::open(&self.file).and_then(|file| file.sync_all()).map_err(engine)
    }
}

impl Store for SledStore {
    fn get(&self, key: &str) -> Result<Option<String>, StoreError> {
        let bytes = self.db.get(key).map_err(engine)?;
        bytes.map(|bytes| record::decode(key, &bytes)).transpose()
    }

    fn scan(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError> {
        self.db
            .scan_prefix(prefix)
            .filter(|entry| !matches!(entry, Ok((key, _)) if *key == COUNT_KEY))
            .map(|entry| {
                let (key, bytes) = entry.map_err(engine)?;
                let key = std::str::from_utf8(&key).map_err(engine)?.to_owned();
                let value = record::decode(&key, &bytes)?;
                Ok((key, value))
            })
            .collect()
    }

    fn write(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        check(writes)?;
        let mut batch = sled::Batch::default();
        // Whether each key is there afterwards.
        let mut there = BTreeMap::new();
        for write in writes {
            match write {
                Write::Put { key, value } => batch.insert(key.as_str(), record::encode(key, value)),
                Write::Delete { key } => batch.remove(key.as_str()),
            }
            there.insert(write.key(), matches!(write, Write::Put { .. }));
        }
        let added = there.iter().filter(|(key, there)| **there && !self.keys.contains(**key)).count();
        let removed = there.iter().filter(|(key, there)| !**there && self.keys.contains(**key)).count();
        let (batches, count) = (self.batches + 1, self.keys.len() + added - removed);
        batch.insert(COUNT_KEY, record::encode(COUNT_KEY, &format!("{batches} {count}")));
        self.db.apply_batch(batch).map_err(engine)?;
        self.batches = batches;
        for (key, there) in there {
            if there {
                self.keys.insert(key.to_owned());
            } else {
                self.keys.remove(key);
            }
        }
        self.sync()
    }

    fn batches(&self) -> u64 {
        self.batches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;
    use nearfield_shared::link::Seed;

    #[test]
    fn conforms() {
        let dir = tempfile::tempdir().unwrap();
        conformance::check(|| SledStore::open(dir.path()).unwrap());
    }

    #[test]
    #[ignore = "run by the test below, in a process that it kills"]
    fn writes_until_it_is_killed() {
        let Some(dir) = std::env::var_os(conformance::STORE) else { return };
        conformance::write_until_killed(SledStore::open(Path::new(&dir)).unwrap());
    }

    #[test]
    fn a_writer_that_is_killed_loses_nothing_that_it_has_acknowledged() {
        let (dir, mut seed) = (tempfile::tempdir().unwrap(), Seed(5));
        let path = dir.path().to_str().unwrap();
        let test = "store::sled_store::tests::writes_until_it_is_killed";
        for _ in 0..6 {
            let acknowledged = conformance::kill_a_writer(test, path, &mut seed, || {});
            conformance::check_after_kill(&SledStore::open(dir.path()).unwrap(), acknowledged);
        }
    }

    #[test]
    fn a_value_that_was_changed_behind_its_back_is_found_when_opening() {
        let dir = tempfile::tempdir().unwrap();
        SledStore::open(dir.path()).unwrap().write(&[Write::Put { key: "a".into(), value: "1".into() }]).unwrap();
        let db = sled::open(dir.path()).unwrap();
        let mut bytes = db.get("a").unwrap().unwrap().to_vec();
        *bytes.last_mut().unwrap() = b'2';
        db.insert("a", bytes).unwrap();
        db.flush().unwrap();
        drop(db);
        assert!(matches!(SledStore::open(dir.path()), Err(StoreError::Damaged { key, .. }) if key == "a"));
    }
}
