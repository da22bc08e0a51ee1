//! The store itself, for whoever leads; and reading all of it, for whoever does not.

use super::{
    client::{Client, EtcdError},
    journal::{self, Changes, HEAD, Head, TXN_BYTES_MAX, TXN_CHANGES_MAX},
    leadership::Fence,
    settings::EtcdSettings,
    wire::{Compare, KeyValue, Step, after},
};
use crate::store::{Contents, Store, StoreError, Write, check, record};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

const COUNT: &str = "count";
const DATA: &str = "data/";
const JOURNAL: &str = "journal/";
const MOVED: &str = "moved";

/// Changes that the writer puts into one batch: with room for a job that brings some of its own.
const BATCH_MAX: usize = TXN_CHANGES_MAX - 20;

/// Pause before a transaction that was not answered is asked for again.
const AGAIN: Duration = Duration::from_millis(100);

/// How often a read is tried before anybody leads.
const READS_MAX: u32 = 3;

/// A store of small values in etcd, for the one who leads.
pub struct EtcdStore {
    runtime: tokio::runtime::Runtime,
    client: Client,
    settings: EtcdSettings,
    fence: Fence,
    /// The count as it stands in etcd; `None` where there is none yet.
    count: Option<Vec<u8>>,
    keys: BTreeSet<String>,
    batches: u64,
    /// A journal that is not applied to its end yet.
    pending: Option<(Head, Changes)>,
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore").field("batches", &self.batches).finish_non_exhaustive()
    }
}

/// What changes with a transaction, so that it is done once: a key, what it must be before, and what it is afterwards.
struct Guard {
    key: String,
    before: Option<Vec<u8>>,
    /// The same as before where the transaction does not change it.
    after: Option<Vec<u8>>,
}

fn runtime() -> Result<tokio::runtime::Runtime, StoreError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| StoreError::Engine(format!("no runtime for etcd: {e}")))
}

fn count(bytes: Option<&[u8]>) -> Result<(u64, usize), StoreError> {
    let Some(bytes) = bytes else { return Ok((0, 0)) };
    let text = record::decode(COUNT, bytes)?;
    let wrong = || StoreError::Damaged { key: COUNT.into(), detail: "it is not two numbers".into() };
    let (batches, keys) = text.split_once(' ').ok_or_else(wrong)?;
    Ok((batches.parse().map_err(|_| wrong())?, keys.parse().map_err(|_| wrong())?))
}

fn not_text(key: &[u8]) -> StoreError {
    StoreError::Damaged { key: String::from_utf8_lossy(key).into_owned(), detail: "its key is not text".into() }
}

/// Name of a key below the prefix.
fn name<'a>(key: &'a [u8], prefix: &str) -> Result<&'a str, StoreError> {
    let text = std::str::from_utf8(key).map_err(|_| not_text(key))?;
    text.strip_prefix(prefix).ok_or_else(|| not_text(key))
}

/// Reads all of a store at one moment, whoever leads, and changes nothing; a journal that is not applied yet counts. Blocks, and not within a runtime.
///
/// # Errors
/// When etcd does not answer, or what is there is damaged or was moved away.
pub fn contents(settings: &EtcdSettings) -> Result<Contents, StoreError> {
    let (runtime, client) = (runtime()?, Client::new(settings)?);
    let root = settings.key("");
    let mut tried = 0;
    let found = loop {
        match runtime.block_on(client.range(&root, &after(&root), false)) {
            Ok((found, _)) => break found,
            Err(error) if error.may_pass() && tried < READS_MAX => {
                tried += 1;
                std::thread::sleep(AGAIN * tried);
            }
            Err(error) => return Err(error.into()),
        }
    };
    let (mut data, mut other) = (BTreeMap::new(), BTreeMap::new());
    for KeyValue { key, value, .. } in found {
        let name = name(&key.0, &root)?;
        match name.strip_prefix(DATA) {
            Some(key) => drop(data.insert(key.to_owned(), record::decode(key, &value.0)?)),
            None => drop(other.insert(name.to_owned(), value.0)),
        }
    }
    if let Some(head) = other.get(HEAD) {
        let head = Head::read(head)?;
        let pieces_of = Head::pieces_of(head.batch);
        let pieces = other.iter().filter(|(name, _)| name.starts_with(&pieces_of)).map(|(_, piece)| piece.as_slice());
        for (key, value) in journal::read(&head, pieces)? {
            match value {
                Some(value) => drop(data.insert(key, value)),
                None => drop(data.remove(&key)),
            }
        }
    }
    let (batches, keys) = count(other.get(COUNT).map(Vec::as_slice))?;
    check_count(data.len(), keys)?;
    if let Some(moved) = other.get(MOVED) {
        return Err(StoreError::Moved(String::from_utf8_lossy(moved).into_owned()));
    }
    Ok(Contents { entries: data.into_iter().collect(), batches })
}

fn check_count(found: usize, written: usize) -> Result<(), StoreError> {
    if found == written {
        return Ok(());
    }
    let detail = format!(
        "{found} keys are there, {written} were written; somebody has changed etcd behind this control plane's back. Restore a backup into a new prefix"
    );
    Err(StoreError::Damaged { key: COUNT.into(), detail })
}

/// Says in a store that its data was moved away, and where to; whoever leads may. Blocks, and not within a runtime.
///
/// # Errors
/// When etcd does not answer.
pub fn mark_moved(settings: &EtcdSettings, fence: &Fence, to: &str) -> Result<(), StoreError> {
    let (runtime, client) = (runtime()?, Client::new(settings)?);
    let held = Compare::CreatedAt(fence.key.clone(), fence.created);
    let put = Step::Put(settings.key(MOVED), to.as_bytes().to_vec());
    let done = runtime.block_on(client.txn(&[held], &[put], &[])).map_err(StoreError::from)?;
    if done.succeeded { Ok(()) } else { Err(StoreError::NotLeading) }
}

impl EtcdStore {
    /// Opens the store for the holder of the leadership: a journal is applied to its end, and the keys are counted. Blocks, and not within a runtime.
    ///
    /// # Errors
    /// When etcd does not answer, another leads, or what is there is damaged or was moved away.
    pub fn open(settings: &EtcdSettings, fence: Fence) -> Result<Self, StoreError> {
        let mut store = Self {
            runtime: runtime()?,
            client: Client::new(settings)?,
            settings: settings.clone(),
            fence,
            count: None,
            keys: BTreeSet::new(),
            batches: 0,
            pending: None,
        };
        if let Some(moved) = store.one(&store.settings.key(MOVED))? {
            return Err(StoreError::Moved(String::from_utf8_lossy(&moved).into_owned()));
        }
        store.count = store.one(&store.settings.key(COUNT))?;
        let (batches, written) = count(store.count.as_deref())?;
        store.batches = batches;
        if let Some(head) = store.one(&store.settings.key(HEAD))? {
            let head = Head::read(&head)?;
            let pieces = store.all(&store.settings.key(&Head::pieces_of(head.batch)), None, false)?;
            let changes = journal::read(&head, pieces.iter().map(|piece| piece.value.0.as_slice()))?;
            tracing::info!(batch = head.batch, "a large change that was cut off is applied to its end");
            store.pending = Some((head, changes));
            store.roll_forward()?;
        }
        let data = store.settings.key(DATA);
        for found in store.all(&data, None, true)? {
            store.keys.insert(name(&found.key.0, &data)?.to_owned());
        }
        check_count(store.keys.len(), written)?;
        Ok(store)
    }

    /// Asks again while that may help, and this control plane may lead.
    fn patiently<A>(&self, ask: impl AsyncFn(&Client) -> Result<A, EtcdError>) -> Result<A, StoreError> {
        loop {
            match self.runtime.block_on(ask(&self.client)) {
                Err(error) if error.may_pass() => {
                    if !self.fence.may_hold() {
                        self.fence.lose();
                        return Err(StoreError::NotLeading);
                    }
                    tracing::warn!(%error, "the store waits for etcd");
                    std::thread::sleep(AGAIN);
                }
                answer => return answer.map_err(StoreError::from),
            }
        }
    }

    fn one(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.patiently(async |client| client.get(key).await)?.map(|found| found.value.0))
    }

    /// All keys that begin with this text, which ends in `/`; from one of them on, if it is named.
    fn all(&self, prefix: &str, from: Option<&str>, keys_only: bool) -> Result<Vec<KeyValue>, StoreError> {
        let (from, end) = (from.unwrap_or(prefix), after(prefix));
        Ok(self.patiently(async |client| client.range(from, &end, keys_only).await)?.0)
    }

    /// A transaction of ours: done once, and only while this control plane leads.
    fn transact(&self, guard: &Guard, steps: &[Step]) -> Result<(), StoreError> {
        let compares = [
            Compare::CreatedAt(self.fence.key.clone(), self.fence.created),
            match &guard.before {
                Some(value) => Compare::Is(guard.key.clone(), value.clone()),
                None => Compare::Absent(guard.key.clone()),
            },
        ];
        let look = [Step::Get(self.fence.key.clone()), Step::Get(guard.key.clone())];
        let answer = self.patiently(async |client| client.txn(&compares, steps, &look).await)?;
        if answer.succeeded {
            return Ok(());
        }
        let mut found = answer.responses.into_iter().map(|step| step.response_range.kvs.into_iter().next());
        let (leader, guarded) = (found.next().flatten(), found.next().flatten());
        if leader.is_none_or(|leader| leader.create_revision.0 != self.fence.created) {
            self.fence.lose();
            return Err(StoreError::NotLeading);
        }
        // Nobody else writes while we lead, so what is there is an earlier attempt of ours whose answer was lost.
        if guarded.map(|found| found.value.0) == guard.after {
            return Ok(());
        }
        let detail = "it is not what this control plane has written; somebody has changed etcd behind its back";
        Err(StoreError::Damaged { key: guard.key.clone(), detail: detail.into() })
    }

    fn step(&self, key: &str, value: Option<&String>) -> Step {
        let at = self.settings.key(&format!("{DATA}{key}"));
        match value {
            Some(value) => Step::Put(at, record::encode(key, value)),
            None => Step::Delete(at),
        }
    }

    /// Applies what is left of a journal.
    fn roll_forward(&mut self) -> Result<(), StoreError> {
        while let Some((head, changes)) = &self.pending {
            let key = self.settings.key(HEAD);
            let left = || changes.iter().skip(head.applied);
            let n = journal::fit(left());
            if n == 0 {
                let guard = Guard { key, before: Some(head.bytes()), after: None };
                self.transact(&guard, &[Step::DeleteAll(self.settings.key(JOURNAL))])?;
                self.pending = None;
                return Ok(());
            }
            let next = Head { applied: head.applied + n, ..head.clone() };
            let mut steps: Vec<Step> = left().take(n).map(|(key, value)| self.step(key, value.as_ref())).collect();
            steps.push(Step::Put(key.clone(), next.bytes()));
            self.transact(&Guard { key, before: Some(head.bytes()), after: Some(next.bytes()) }, &steps)?;
            if let Some((head, _)) = &mut self.pending {
                *head = next;
            }
        }
        Ok(())
    }

    /// Refuses to show a change by halves.
    fn is_whole(&self) -> Result<(), StoreError> {
        match self.pending {
            None => Ok(()),
            Some(_) => {
                Err(StoreError::Etcd("a large change is not applied whole yet; the next change does that first".into()))
            }
        }
    }

    fn decoded(&self, found: Vec<KeyValue>) -> Result<Vec<(String, String)>, StoreError> {
        let data = self.settings.key(DATA);
        let decode = |KeyValue { key, value, .. }: KeyValue| {
            let key = name(&key.0, &data)?;
            Ok((key.to_owned(), record::decode(key, &value.0)?))
        };
        found.into_iter().map(decode).collect()
    }
}

impl Store for EtcdStore {
    fn get(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.is_whole()?;
        let found = self.one(&self.settings.key(&format!("{DATA}{key}")))?;
        found.map(|bytes| record::decode(key, &bytes)).transpose()
    }

    fn scan(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError> {
        self.is_whole()?;
        let data = self.settings.key(DATA);
        let from = format!("{data}{prefix}");
        // etcd's ranges end at a key, and a prefix of ours may end anywhere: the rest is left out here.
        let found = if prefix.ends_with('/') || prefix.is_empty() {
            self.all(&from, None, false)?
        } else {
            let mut found = self.all(&data, Some(&from), false)?;
            found.retain(|found| found.key.0.starts_with(from.as_bytes()));
            found
        };
        self.decoded(found)
    }

    fn between(&self, from: &str, end: Option<&str>) -> Result<Vec<(String, String)>, StoreError> {
        self.is_whole()?;
        let data = self.settings.key(DATA);
        let from = format!("{data}{from}");
        let end = end.map_or_else(|| after(&data), |end| format!("{data}{end}"));
        let found = self.patiently(async |client| client.range(&from, &end, false).await)?.0;
        self.decoded(found)
    }

    fn write(&mut self, batch: &[Write]) -> Result<(), StoreError> {
        check(batch)?;
        // An earlier one whose last steps did not get through: its order to this one counts.
        self.roll_forward()?;
        let changes = journal::last_of_each(batch);
        let added = changes.iter().filter(|(key, value)| value.is_some() && !self.keys.contains(*key)).count();
        let removed = changes.iter().filter(|(key, value)| value.is_none() && self.keys.contains(*key)).count();
        let (batches, keys) = (self.batches + 1, self.keys.len() + added - removed);
        let after = record::encode(COUNT, &format!("{batches} {keys}"));
        let put_count = Step::Put(self.settings.key(COUNT), after.clone());
        let guard = |after: Option<Vec<u8>>| Guard { key: self.settings.key(COUNT), before: self.count.clone(), after };
        let guarded = guard(Some(after.clone()));
        if journal::fit(changes.iter()) == changes.len() {
            let mut steps: Vec<Step> = changes.iter().map(|(key, value)| self.step(key, value.as_ref())).collect();
            steps.push(put_count);
            self.transact(&guarded, &steps)?;
        } else {
            let (pieces, head) = journal::write(batches, &changes);
            // Whatever an attempt has left that was cut off before its head.
            self.transact(&guard(self.count.clone()), &[Step::DeleteAll(self.settings.key(JOURNAL))])?;
            for (n, piece) in pieces.into_iter().enumerate() {
                let step = Step::Put(self.settings.key(&Head::piece(batches, n)), piece);
                self.transact(&guard(self.count.clone()), &[step])?;
            }
            self.transact(&guarded, &[Step::Put(self.settings.key(HEAD), head.bytes()), put_count])?;
            self.pending = Some((head, changes.clone()));
        }
        // From here on it is made.
        (self.count, self.batches) = (Some(after), batches);
        for (key, value) in changes {
            if value.is_some() {
                self.keys.insert(key);
            } else {
                self.keys.remove(&key);
            }
        }
        self.roll_forward()
    }

    fn batches(&self) -> u64 {
        self.batches
    }

    fn batch_max(&self) -> usize {
        BATCH_MAX
    }
}

const _: () = assert!(TXN_BYTES_MAX > crate::store::VALUE_BYTES_MAX + crate::store::KEY_BYTES_MAX + 1_000);
