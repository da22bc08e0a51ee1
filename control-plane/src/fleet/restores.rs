//! What is let in after the store was restored from a copy that is older than what was lost.
//!
//! Between the copy and the restore the plane may have signed certificates: nodes renewed theirs, new ones enrolled. The store does not know them any more, but they
//! carry the authority's signature and the time at which it was given. So a certificate from that time, and only from that time, is taken for what it is: the node's
//! newest. **Invariant:** among the certificates of a node the one that was signed last wins, and whoever was shut out after it was signed stays out.
//!
//! Times are those of the plane's clock: where that was wrong when a certificate was signed, it may not be known again, and a person enrols its node.
//!
//! The downside: a node that was revoked in between comes back, unless the audit beside the store still tells of it ([`Fleet::restored`]); `control-plane restore` says so.

use super::{
    Fleet, digest,
    records::{NodeRecord, put},
};
use crate::{
    audit::{Act, Entry},
    ca::NodeIdentity,
    store::Write,
};
use nearfield_shared::wire::NodeName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Restores that are remembered at most; certificates from before the oldest of them that were never shown since need a person.
pub const RESTORES_MAX: usize = 16;

/// How far the time in a certificate and that of the copy may be apart where both are of one moment, in seconds.
const SLACK_S: i64 = 300;

/// The store was restored once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRecord {
    /// When the copy was made, seconds since 1970.
    pub copied_unix_s: i64,
    /// When it was put in place, seconds since 1970.
    pub restored_unix_s: i64,
    /// Nodes that the copy did not know and that the audit says were shut out in between, and when.
    #[serde(default)]
    pub shut_out: BTreeMap<NodeName, i64>,
}

impl RestoreRecord {
    fn key(&self) -> String {
        format!("restore/{:020}", self.restored_unix_s)
    }

    /// Whether the store may have lost what happened at this time.
    fn spans(&self, unix_s: i64) -> bool {
        (self.copied_unix_s - SLACK_S..=self.restored_unix_s + SLACK_S).contains(&unix_s)
    }
}

impl Fleet {
    pub(super) fn load_restore(&mut self, record: RestoreRecord) {
        self.restores.push(record);
    }

    /// The store was restored from a copy of this time: moves generations ahead, does again what the audit tells of nodes that were shut out
    /// since, and remembers from when to when certificates may be missing.
    pub fn restored(&mut self, copied_unix_s: i64, now: i64, audited_since: &[Entry]) -> Vec<Write> {
        let mut writes = self.skip_generations();
        let mut record = RestoreRecord { copied_unix_s, restored_unix_s: now, shut_out: BTreeMap::new() };
        for entry in audited_since.iter().filter(|entry| entry.what == "node.revoke") {
            let Some(node) = entry.object.strip_prefix("node/").and_then(|name| name.parse::<NodeName>().ok()) else {
                continue;
            };
            if self.nodes.contains_key(&node) {
                writes.extend(self.revoke(&node, Some(entry.detail.clone()), entry.unix_s).unwrap_or_default());
            } else {
                record.shut_out.insert(node, entry.unix_s);
            }
        }
        writes.push(put(record.key(), &record));
        self.restores.push(record);
        while self.restores.len() > RESTORES_MAX {
            let oldest = self.restores.remove(0);
            writes.push(Write::Delete { key: oldest.key() });
        }
        writes
    }

    /// Takes a certificate for its node's newest if the store can only have lost it in a restore.
    pub fn adopt(&mut self, identity: &NodeIdentity) -> (Vec<Write>, Option<Act>) {
        let (issued, mut nothing) = (identity.issued_unix_s(), (Vec::new(), None));
        let Some(restore) = self.restores.iter().find(|restore| restore.spans(issued)) else { return nothing };
        let NodeIdentity { node, region, serial, valid_unix_s } = identity;
        let before = self.nodes.get(node);
        let newest_known = before.map_or(restore.shut_out.get(node).copied(), |record| {
            let next = record.next.as_ref().map(|next| next.issued_unix_s);
            next.into_iter().chain(record.revoked_unix_s).chain([record.issued_unix_s]).max()
        });
        let known = before.is_some_and(|record| record.certificates().any(|(known, _)| known == serial));
        if known
            || newest_known.is_some_and(|newest| issued <= newest)
            || self.revoked.lists(serial)
            || self.region(region).is_none()
        {
            return nothing;
        }
        let new = || NodeRecord::new(node.clone(), region.clone(), serial.clone(), valid_unix_s.1, issued);
        let mut record = before.cloned().unwrap_or_else(new);
        record.region.clone_from(region);
        record.serial.clone_from(serial);
        (record.issued_unix_s, record.expires_unix_s, record.next) = (issued, valid_unix_s.1, None);
        (record.revoked_unix_s, record.revoked_reason) = (None, None);
        nothing.1 = Some(Act {
            what: "node.adopt",
            object: format!("node/{node}"),
            detail: format!(
                "in {region}: certificate {serial}, which was signed after the copy that the store was restored from"
            ),
            before: before.map(digest),
            after: Some(digest(&record)),
        });
        nothing.0.push(record.write());
        self.nodes.insert(node.clone(), record);
        nothing
    }
}
