//! Disks that lose what was not synced.

use control_plane::store::{KEY_BYTES_MAX, Store, StoreError, VALUE_BYTES_MAX, Write};
use nearfield_shared::artefact::Digest;
use std::collections::BTreeMap;

/// A copy of the plane's store, as its export is.
#[derive(Debug, Clone, Default)]
pub struct Export {
    /// When it was made, seconds since 1970 by the plane's clock.
    pub unix_s: i64,
    /// Key to value.
    pub entries: BTreeMap<String, String>,
}

/// The plane's disk: batches are on it once they are synced, and of one that a crash cuts short either all or nothing is.
#[derive(Debug, Default)]
pub struct PlaneDisk {
    entries: BTreeMap<String, String>,
    batches: u64,
    writing: Vec<Write>,
    /// The newest export.
    pub export: Option<Export>,
}

fn bytes(batch: &[Write]) -> u64 {
    let of = |write: &Write| match write {
        Write::Put { key, value } => key.len() + value.len(),
        Write::Delete { key } => key.len(),
    };
    batch.iter().map(of).sum::<usize>() as u64
}

fn check(batch: &[Write]) -> Result<(), StoreError> {
    let too_large =
        |what, write: &Write, bytes, max| StoreError::TooLarge { what, key: write.key().into(), bytes, max };
    for write in batch {
        if write.key().len() > KEY_BYTES_MAX {
            return Err(too_large("the key", write, write.key().len(), KEY_BYTES_MAX));
        }
        if let Write::Put { value, .. } = write
            && value.len() > VALUE_BYTES_MAX
        {
            return Err(too_large("the value", write, value.len(), VALUE_BYTES_MAX));
        }
    }
    Ok(())
}

impl PlaneDisk {
    /// Begins to write a batch.
    pub fn begin(&mut self, batch: Vec<Write>) -> Result<(), StoreError> {
        check(&batch)?;
        self.writing = batch;
        Ok(())
    }

    /// The batch that was begun is on the disk.
    pub fn synced(&mut self) {
        for write in std::mem::take(&mut self.writing) {
            match write {
                Write::Put { key, value } => self.entries.insert(key, value),
                Write::Delete { key } => self.entries.remove(&key),
            };
        }
        self.batches += 1;
    }

    /// The disk did not take the batch that was begun.
    pub fn failed(&mut self) {
        self.writing.clear();
    }

    /// Bytes of the batch that is being written.
    pub fn writing_bytes(&self) -> u64 {
        bytes(&self.writing)
    }

    /// The machine dies when so many bytes of the batch that is being written are on the disk. A torn one is told from a whole one by its count
    /// ([`Store`] is atomic by contract), and is gone.
    pub fn crash(&mut self, reached: u64) {
        if !self.writing.is_empty() && reached >= self.writing_bytes() {
            self.synced();
        }
        self.failed();
    }

    /// Copies the store.
    pub fn export(&mut self, unix_s: i64) {
        self.export = Some(Export { unix_s, entries: self.entries.clone() });
    }

    /// The store is damaged and its export takes its place; says when that was made.
    pub fn restore(&mut self) -> Option<i64> {
        let export = self.export.clone()?;
        self.entries = export.entries;
        Some(export.unix_s)
    }
}

impl Store for PlaneDisk {
    fn get(&self, key: &str) -> Result<Option<String>, StoreError> {
        Ok(self.entries.get(key).cloned())
    }

    fn scan(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError> {
        let found = self.entries.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn write(&mut self, batch: &[Write]) -> Result<(), StoreError> {
        self.begin(batch.to_vec())?;
        self.synced();
        Ok(())
    }

    fn batches(&self) -> u64 {
        self.batches
    }
}

/// One file that is written beside its place and renamed into it.
#[derive(Debug, Clone, Default)]
pub struct File {
    target: Option<Vec<u8>>,
    temporary: Option<Vec<u8>>,
    /// What the rename replaced, until the folder is synced.
    renamed_over: Option<Option<Vec<u8>>>,
}

impl File {
    /// What a reader sees.
    pub fn read(&self) -> Option<&[u8]> {
        self.target.as_deref()
    }

    /// Begins to write the new content beside the old.
    pub fn prepare(&mut self, content: Vec<u8>) {
        self.temporary = Some(content);
    }

    /// Puts the new content, which is synced now, in place of the old.
    pub fn rename(&mut self) {
        if let Some(new) = self.temporary.take() {
            self.renamed_over = Some(self.target.replace(new));
        }
    }

    /// The folder is synced: the rename lasts.
    pub fn settled(&mut self) {
        self.renamed_over = None;
    }

    /// The machine dies. A temporary file is cut anywhere, a rename that was not synced may not have happened.
    pub fn crash(&mut self, cut: u64, rename_lasts: bool) {
        if let Some(torn) = &mut self.temporary {
            torn.truncate(cut as usize % (torn.len() + 1));
        }
        if let Some(old) = self.renamed_over.take()
            && !rename_lasts
        {
            self.target = old;
        }
    }
}

/// What outlives an agent's process.
#[derive(Debug, Clone, Default)]
pub struct AgentDisk {
    /// The last state that served.
    pub last_known_good: File,
    /// Model files by their digest.
    pub artefacts: BTreeMap<Digest, Vec<u8>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_plane::store::conformance;
    use std::sync::{Arc, Mutex};

    /// A store that is opened again and again.
    struct Opened(Arc<Mutex<PlaneDisk>>);

    impl Store for Opened {
        fn get(&self, key: &str) -> Result<Option<String>, StoreError> {
            self.0.lock().unwrap().get(key)
        }
        fn scan(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError> {
            self.0.lock().unwrap().scan(prefix)
        }
        fn write(&mut self, batch: &[Write]) -> Result<(), StoreError> {
            self.0.lock().unwrap().write(batch)
        }
        fn batches(&self) -> u64 {
            self.0.lock().unwrap().batches()
        }
    }

    #[test]
    fn the_planes_disk_is_a_store() {
        let disk = Arc::new(Mutex::new(PlaneDisk::default()));
        conformance::check(|| Opened(disk.clone()));
    }

    #[test]
    fn a_torn_batch_is_lost_whole_and_a_whole_one_stays() {
        let put = |value: &str| vec![Write::Put { key: "k".into(), value: value.into() }];
        let mut disk = PlaneDisk::default();
        disk.write(&put("old")).unwrap();
        for (reached, found) in [(0, "old"), (3, "old"), (4, "new")] {
            let mut disk = PlaneDisk { entries: disk.entries.clone(), ..PlaneDisk::default() };
            disk.begin(put("new")).unwrap();
            disk.crash(reached);
            assert_eq!(disk.get("k").unwrap().as_deref(), Some(found), "{reached} bytes");
        }
    }

    #[test]
    fn a_file_is_the_old_one_or_the_new_one_whenever_the_machine_dies() {
        let mut file = File::default();
        file.prepare(b"one".to_vec());
        file.rename();
        file.settled();
        let mut torn = file.clone();
        torn.prepare(b"two".to_vec());
        torn.crash(1, true);
        assert_eq!(torn.read(), Some(&b"one"[..]));
        for (lasts, found) in [(true, &b"two"[..]), (false, &b"one"[..])] {
            let mut file = file.clone();
            file.prepare(b"two".to_vec());
            file.rename();
            assert_eq!(file.read(), Some(&b"two"[..]));
            file.crash(0, lasts);
            assert_eq!(file.read(), Some(found));
        }
    }
}
