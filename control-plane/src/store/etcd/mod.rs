//! [`Store`](super::Store) on etcd, for more than one control plane.
//!
//! We speak etcd's own JSON gateway (`/v3/kv/range`, `/v3/kv/txn`, `/v3/lease/…` on the client port) with the HTTP client that is here anyway: the crate
//! `etcd-client` needs `protoc` to be built. The price is base64, a third more bytes of small values.
//!
//! ```text
//! PREFIX/leader            who leads: held by a lease, so that it goes away with its holder (leadership.rs)
//! PREFIX/data/KEY          each value, as in sled: format, checksum, text (store/record.rs)
//! PREFIX/count             `BATCHES KEYS`, in every transaction that changes data
//! PREFIX/journal/head      a change that is larger than one transaction and not applied whole yet (journal.rs)
//! PREFIX/journal/N/PIECE   its text, in pieces
//! PREFIX/moved             says where the data went, after `migrate` away from here
//! ```
//!
//! **Invariant:** only the leader writes, and a leader that was paused, cut off or replaced does not: every transaction compares the revision at which
//! `leader` was created, so one that was asked for by an earlier leader does nothing, whenever it arrives (`store/etcd/tests.rs`,
//! `control-plane/tests/e2e/several.rs`). Every transaction also compares something that it changes itself, so one whose answer was lost can be asked for again and
//! is done once, and a copy of it that arrives late does nothing.
//!
//! # FAILURE LADDER
//! An endpoint that does not answer: the next is asked. None answers, or etcd has no leader of its own: that is tried again until the lease must have ended; then
//! this control plane does not lead any more. A transaction that is refused for another reason (no space): the change fails with the remedy, as on a full disk.

mod client;
mod journal;
mod leadership;
mod settings;
mod store;
mod wire;

#[cfg(test)]
#[path = "../../../tests/etcd_cluster/mod.rs"]
mod cluster;
#[cfg(test)]
mod tests;

pub use client::{Client, EtcdError};
pub use leadership::{Fence, Leader, Leadership, campaign, who_leads};
pub use settings::{DEFAULT_LEASE_S, EtcdConfig, EtcdSettings, LEASE_S};
pub use store::{EtcdStore, contents, mark_moved};
