//! The audit: one line for every change of the fleet and of who may change it, in a file that only grows.
//!
//! ```text
//! HASH {"n":7,"unix_s":1800000000,"who":"eve","role":"operator","what":"node.revoke","object":"node/fra-1",…}
//! ```
//! Each line begins with the SHA-256, in hex, of the hash before it and its own JSON, so no byte, line or order can change without every hash after
//! it. The last hash and the number of lines stand in the store, so a tail that was cut off is missed too. What this cannot show is a change by
//! somebody who rewrites file and store alike: whoever may fear that copies `audit.log` elsewhere.
//!
//! # FAILURE LADDER
//! A change, its line and the new last hash reach the store in one batch; then the line goes into the file, and is synced, before anybody is told. Lines
//! that the store has and the file lacks, because the process or the disk failed in between, are written with the next change or at the
//! next start; that brings a last line back, too, which somebody cut off. A file that contradicts the store is never mended: the server goes on behind it and says so, and [`verify`] names the line.

mod file;

pub use file::{AuditFile, Opened, Wanted, last, lines, verify};

use crate::{
    fleet::accounts::{Caller, Role},
    store::{Store, StoreError, Write},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What stands before the first hash.
const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Longest detail of an entry, in characters.
const DETAIL_MAX: usize = 1_000;

const HEAD_KEY: &str = "audit/head";
const LINE_PREFIX: &str = "audit/line/";

/// The first key after those of all lines.
const LINES_END: &str = "audit/line0";

/// Lines of a store that an export keeps at least: the newest. Many more than can be in the store and not in the file yet.
const LINES_EXPORTED: u64 = 5_000;

fn line_key(n: u64) -> String {
    format!("{LINE_PREFIX}{n:020}")
}

/// Whether a key of the store is that of a line.
pub(crate) fn is_line(key: &str) -> bool {
    key.starts_with(LINE_PREFIX)
}

/// The same of one of the first `lines`.
pub(crate) fn is_line_within(key: &str, lines: u64) -> bool {
    is_line(key) && *key <= *line_key(lines)
}

/// Leaves out lines that are so old that the file has had them for long. Only a store that several control planes share keeps those.
pub(crate) fn leave_out_old_lines(entries: &mut Vec<(String, String)>) {
    let newest = entries.iter().filter(|(key, _)| key.starts_with(LINE_PREFIX)).map(|(key, _)| key).max();
    let newest = newest.and_then(|key| key.strip_prefix(LINE_PREFIX)?.parse::<u64>().ok()).unwrap_or_default();
    let oldest = line_key(newest.saturating_sub(LINES_EXPORTED));
    entries.retain(|(key, _)| !key.starts_with(LINE_PREFIX) || *key > oldest);
}

/// Everything of a store that a control plane needs whose file has this many lines: the lines after them, and all that is no line.
pub(crate) fn entries_after(store: &impl Store, lines: u64) -> Result<Vec<(String, String)>, StoreError> {
    let mut entries = store.between("", Some(LINE_PREFIX))?;
    entries.extend(store.between(&line_key(lines + 1), Some(LINES_END))?);
    entries.extend(store.between(LINES_END, None)?);
    Ok(entries)
}

/// Who made a change.
#[derive(Debug, Clone)]
pub enum Actor {
    /// Somebody with an account.
    Account(Caller),
    /// The control plane itself, for example for a node that came with a token, which the entry names.
    Plane,
}

/// A change, as it is told to the audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// What was done: `region.apply`, `token.create`, `node.enrol`, `node.renew`, `node.revoke`, `node.adopt`, `node.cordon`, `node.drain`, `node.uncordon`, `node.label`, `rollout.approve`,
    /// `rollout.pause`, `rollout.resume`, `rollout.abort`, `rollout.wave`, `rollout.undone`, `account.add`, `account.rotate`, `account.remove`,
    /// `model.import`, `model.remove` or `store.restored`.
    pub what: &'static str,
    /// To what, for example `node/fra-1`.
    pub object: String,
    /// More, for people.
    pub detail: String,
    /// SHA-256 of its record before, hex; `None` where there was none.
    pub before: Option<String>,
    /// The same afterwards.
    pub after: Option<String>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number, from 1.
    pub n: u64,
    /// When, seconds since 1970.
    pub unix_s: i64,
    /// The account; `control-plane` for itself.
    pub who: String,
    /// The account's role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// What was done.
    pub what: String,
    /// To what.
    pub object: String,
    /// More, for people.
    #[serde(default)]
    pub detail: String,
    /// SHA-256 of its record before, hex.
    pub before: Option<String>,
    /// The same afterwards.
    pub after: Option<String>,
}

/// Where a chain of lines ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// How many lines there are.
    pub lines: u64,
    /// The last one's hash.
    pub hash: String,
}

impl Default for Head {
    fn default() -> Self {
        Self { lines: 0, hash: GENESIS.to_owned() }
    }
}

/// The hash of a line after another.
fn hash_after(before: &str, json: &str) -> String {
    let digest = Sha256::new().chain_update(before).chain_update(json).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Head {
    /// The next line, without its line end, and where the chain ends with it.
    fn next(&self, entry: &Entry) -> (String, Self) {
        let json = serde_json::to_string(entry).expect("an entry has string keys only, which JSON can hold");
        let hash = hash_after(&self.hash, &json);
        (format!("{hash} {json}"), Self { lines: entry.n, hash })
    }

    /// Where the chain ends with a line that follows; else what is wrong with it.
    fn follow(&self, line: &str) -> Result<Self, String> {
        let n = self.lines + 1;
        let (hash, json) = line.split_once(' ').ok_or_else(|| format!("line {n} was changed: it has no hash"))?;
        if hash_after(&self.hash, json) == hash {
            return Ok(Self { lines: n, hash: hash.to_owned() });
        }
        Err(match serde_json::from_str::<Entry>(json) {
            Ok(entry) if entry.n != n => {
                format!("line {n} says that it is number {}: lines before it were removed, added or moved", entry.n)
            }
            _ => format!("line {n} was changed, or does not follow the line before it, which was"),
        })
    }
}

/// What the store has of the audit.
#[derive(Debug, Default)]
pub struct Stored {
    head: Head,
    lines: BTreeMap<u64, String>,
}

impl Stored {
    /// Finds it among everything that the store has.
    pub fn find(entries: &[(String, String)]) -> Result<Self, serde_json::Error> {
        let mut stored = Self::default();
        for (key, value) in entries {
            if key == HEAD_KEY {
                stored.head = serde_json::from_str(value)?;
            } else if let Some(n) = key.strip_prefix(LINE_PREFIX).and_then(|n| n.parse().ok()) {
                stored.lines.insert(n, value.clone());
            }
        }
        Ok(stored)
    }
}

#[derive(Debug)]
struct Chain {
    head: Head,
    /// How far the file is.
    written: Head,
    /// Lines that the file lacks.
    unwritten: BTreeMap<u64, String>,
    /// Lines that the file has, and the store still too.
    deletable: Vec<u64>,
    /// Whether the store keeps all lines, for the files of others.
    kept: bool,
}

/// The audit of a running server.
#[derive(Debug)]
pub struct Audit {
    chain: Mutex<Chain>,
    file: Mutex<AuditFile>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked under the lock has changed nothing by halves: lines are added and taken off one at a time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Audit {
    /// Goes on where store and file are.
    pub(crate) fn new(opened: Opened) -> Self {
        Self::with(opened, false)
    }

    /// The same with a store that several control planes share: it keeps every line, so that whoever leads next has the whole chain.
    pub(crate) fn shared(opened: Opened) -> Self {
        Self::with(Opened { deletable: Vec::new(), ..opened }, true)
    }

    fn with(opened: Opened, kept: bool) -> Self {
        let Opened { file, head, deletable, .. } = opened;
        let chain = Chain { written: head.clone(), head, unwritten: BTreeMap::new(), deletable, kept };
        Self { chain: Mutex::new(chain), file: Mutex::new(file) }
    }

    /// Adds a line: returns its number, and what the batch of its change has to write. Call it in the order of the batches.
    pub fn add(&self, actor: &Actor, act: Act, now: i64) -> (u64, Vec<Write>) {
        let mut chain = locked(&self.chain);
        let (line, head) = chain.head.next(&entry(chain.head.lines + 1, actor, act, now));
        chain.unwritten.insert(head.lines, line);
        chain.head = head;
        let delete = |n: u64| Write::Delete { key: line_key(n) };
        let mut writes: Vec<Write> = std::mem::take(&mut chain.deletable).into_iter().map(delete).collect();
        // All that the file lacks, so that a batch that failed leaves no gap.
        writes.extend(chain.unwritten.iter().map(|(n, line)| put_line(*n, line)));
        writes.push(put_head(&chain.head));
        (chain.head.lines, writes)
    }

    /// Writes and syncs every line up to this one, whose batch is in the store. Blocks on the disk; lines that wait together share a sync.
    pub fn write(&self, n: u64) -> io::Result<()> {
        let mut file = locked(&self.file);
        let lines: Vec<(u64, String)> =
            locked(&self.chain).unwritten.range(..=n).map(|(n, line)| (*n, line.clone())).collect();
        if lines.is_empty() {
            return Ok(());
        }
        file.append(lines.iter().map(|(_, line)| line.as_str()))?;
        let mut chain = locked(&self.chain);
        for (n, line) in lines {
            chain.unwritten.remove(&n);
            if !chain.kept {
                chain.deletable.push(n);
            }
            let hash = line.split(' ').next().unwrap_or_default().to_owned();
            chain.written = Head { lines: n, hash };
        }
        Ok(())
    }

    /// Holds the file against what this server knows. Reads all of it, so it blocks.
    pub fn verify(&self) -> io::Result<(u64, Option<String>)> {
        let file = locked(&self.file);
        let written = locked(&self.chain).written.clone();
        verify(file.path(), &written)
    }

    /// The last of the lines that are asked for, oldest first. Reads the file, so it blocks.
    pub fn last(&self, most: usize, wanted: &Wanted) -> io::Result<Vec<Result<Entry, String>>> {
        let file = locked(&self.file);
        last(file.path(), most, wanted)
    }
}

fn entry(n: u64, actor: &Actor, act: Act, now: i64) -> Entry {
    let (who, role) = match actor {
        Actor::Account(caller) => (caller.name.to_string(), Some(caller.role)),
        Actor::Plane => ("control-plane".to_owned(), None),
    };
    let Act { what, object, detail, before, after } = act;
    let detail = detail.chars().take(DETAIL_MAX).collect();
    Entry { n, unix_s: now, who, role, what: what.to_owned(), object, detail, before, after }
}

fn put_line(n: u64, line: &str) -> Write {
    Write::Put { key: line_key(n), value: line.to_owned() }
}

fn put_head(head: &Head) -> Write {
    let value = serde_json::to_string(head).expect("a head has string keys only, which JSON can hold");
    Write::Put { key: HEAD_KEY.to_owned(), value }
}

#[cfg(test)]
mod tests;
