//! Changes that are larger than one transaction of etcd, and whole all the same.
//!
//! The change is written as text first, in pieces. One transaction then writes the journal's head, and with it the new count: from then on the change is made, and
//! whoever opens the store next, or writes next, applies it to its end (roll forward). Before, nobody sees anything of it. The head says how many of its changes are
//! applied and moves with them, so every step is done once, whoever asks for it and however often.

use crate::store::{StoreError, Write};
use nearfield_shared::artefact::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bytes of one piece: etcd takes 1.5 MiB in a request.
const PIECE_BYTES: usize = 1 << 20;

/// Bytes of keys and values in one transaction, at most: [`crate::store::VALUE_BYTES_MAX`] fits with its key, and etcd takes 1.5 MiB.
pub const TXN_BYTES_MAX: usize = 1_300_000;

/// Changes in one transaction, at most: etcd takes 128 steps, and a few are ours.
pub const TXN_CHANGES_MAX: usize = 120;

/// What etcd adds to each step, with room.
const STEP_BYTES: usize = 100;

/// What is left of a batch where a later change of a key undoes an earlier one: etcd takes each key once in a transaction. `None` removes.
pub type Changes = BTreeMap<String, Option<String>>;

/// The last change of each key.
pub fn last_of_each(batch: &[Write]) -> Changes {
    let mut changes = Changes::new();
    for write in batch {
        let value = match write {
            Write::Put { value, .. } => Some(value.clone()),
            Write::Delete { .. } => None,
        };
        changes.insert(write.key().to_owned(), value);
    }
    changes
}

/// How many of the changes, in the order of their keys, fit into one transaction; at least one of them.
pub fn fit<'a>(changes: impl Iterator<Item = (&'a String, &'a Option<String>)>) -> usize {
    let mut bytes = 0;
    changes
        .take(TXN_CHANGES_MAX)
        .enumerate()
        .take_while(|(n, (key, value))| {
            bytes += STEP_BYTES + key.len() + value.as_ref().map_or(0, String::len);
            *n == 0 || bytes <= TXN_BYTES_MAX
        })
        .count()
}

/// `PREFIX/journal/head`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of the batch.
    pub batch: u64,
    /// Pieces of its text.
    pub pieces: usize,
    /// BLAKE3 of the text.
    pub digest: Digest,
    /// Changes, in the order of their keys, that are applied.
    pub applied: usize,
}

impl Head {
    /// Its bytes in etcd.
    pub fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a head has string keys only, which JSON can hold")
    }

    /// Reads it back.
    pub fn read(bytes: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(bytes).map_err(|e| damaged(&e))
    }

    /// Name of a piece, below the prefix; they sort as they follow one another.
    pub fn piece(batch: u64, n: usize) -> String {
        format!("{}{n:06}", Self::pieces_of(batch))
    }

    /// What the names of all pieces of a batch begin with.
    pub fn pieces_of(batch: u64) -> String {
        format!("journal/{batch:020}/")
    }
}

/// Name of the head, below the prefix.
pub const HEAD: &str = "journal/head";

fn damaged(detail: &dyn std::fmt::Display) -> StoreError {
    StoreError::Damaged { key: "journal".into(), detail: detail.to_string() }
}

/// The text of a change in pieces, and the head that makes it count.
pub fn write(batch: u64, changes: &Changes) -> (Vec<Vec<u8>>, Head) {
    let text = serde_json::to_vec(changes).expect("a map of strings is JSON");
    let pieces: Vec<Vec<u8>> = text.chunks(PIECE_BYTES).map(<[u8]>::to_vec).collect();
    let head = Head { batch, pieces: pieces.len(), digest: Digest::of(&text), applied: 0 };
    (pieces, head)
}

/// The change again, from its pieces in order.
pub fn read<'a>(head: &Head, pieces: impl Iterator<Item = &'a [u8]>) -> Result<Changes, StoreError> {
    let (mut text, mut found) = (Vec::new(), 0);
    for piece in pieces {
        text.extend_from_slice(piece);
        found += 1;
    }
    if found != head.pieces || Digest::of(&text) != head.digest {
        return Err(damaged(&format_args!(
            "{found} of {} pieces are there, and their digest is not the head's",
            head.pieces
        )));
    }
    serde_json::from_slice(&text).map_err(|e| damaged(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_reads_back_and_damage_is_noticed() {
        let batch = [
            Write::Put { key: "a".into(), value: "x".repeat(3 << 20) },
            Write::Put { key: "b".into(), value: "1".into() },
            Write::Delete { key: "b".into() },
        ];
        let changes = last_of_each(&batch);
        assert_eq!(changes["b"], None, "the last change of a key counts");
        let (mut pieces, head) = write(7, &changes);
        assert_eq!((pieces.len(), Head::read(&head.bytes()).unwrap()), (4, head.clone()));
        assert_eq!(read(&head, pieces.iter().map(Vec::as_slice)).unwrap(), changes);
        assert!(read(&head, pieces[1..].iter().map(Vec::as_slice)).is_err());
        pieces[2][5] ^= 1;
        assert!(read(&head, pieces.iter().map(Vec::as_slice)).is_err());
    }

    #[test]
    fn what_fits_is_bounded_in_number_and_bytes_and_never_nothing() {
        let many: Changes = (0..500).map(|n| (format!("{n:04}"), Some("1".into()))).collect();
        assert_eq!(fit(many.iter()), TXN_CHANGES_MAX);
        let large: Changes = (0..5).map(|n| (format!("{n}"), Some("x".repeat(600_000)))).collect();
        assert_eq!(fit(large.iter()), 2);
        let largest: Changes = [("k".into(), Some("x".repeat(2 << 20)))].into();
        assert_eq!(fit(largest.iter()), 1);
        assert_eq!(fit(Changes::new().iter()), 0);
    }
}
