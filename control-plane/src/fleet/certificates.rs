//! Which certificates are good: one for each node, and the next one once it is used.
//!
//! A renewal leaves the certificate in use as it is and notes the next one; the first connection with that one makes it the only one.
//! So a node may crash, or a reply be lost, at any moment: it holds one of the two, and both let it in. From then on the
//! one before is refused, and with it every copy of the node's disk that was made before.

use super::{
    Fleet,
    records::{NextCertificate, NodeRecord, RevokedRecord, Transition, write_list_number},
};
use crate::{
    audit::Act,
    ca::{NodeCertificate, NodeIdentity, RevokedCertificate},
    store::Write,
};
use nearfield_shared::{
    region::RegionId,
    wire::{
        NodeName,
        message::{Refused, RefusedCode},
    },
};
use std::collections::BTreeMap;

/// Certificates on the revocation list at most: 20,000 make a list of about 1.2 MiB, which one message holds.
pub const REVOKED_MAX: usize = 20_000;

/// Renewals of one node on one day (UTC) at most. A node renews once a week, and again after each crash in the middle of it; each renewal is a
/// line of the audit, which no single node may fill.
pub const RENEWALS_PER_DAY_MAX: u32 = 24;

/// How long after its end a revoked certificate stays on the list: longer than any clock is wrong that anybody still uses.
const LISTED_S: i64 = 400 * 24 * 60 * 60;

/// The list of revoked certificates.
#[derive(Debug, Default)]
pub struct Revoked {
    by_serial: BTreeMap<String, RevokedRecord>,
    /// Grows with every change; 0 where there never was one.
    pub(super) number: u64,
}

impl Revoked {
    pub(super) fn load(&mut self, record: RevokedRecord) {
        self.by_serial.insert(record.serial.clone(), record);
    }

    /// Whether a certificate is on the list.
    pub(super) fn lists(&self, serial: &str) -> bool {
        self.by_serial.contains_key(serial)
    }

    /// Puts a node's certificates on the list, and takes off what is long over.
    fn add(&mut self, node: &NodeRecord, now: i64) -> Vec<Write> {
        let mut writes = Vec::new();
        self.by_serial.retain(|_, record| {
            let keep = now < record.expires_unix_s.saturating_add(LISTED_S);
            if !keep {
                writes.push(record.delete());
            }
            keep
        });
        for (serial, expires_unix_s) in node.certificates() {
            let (serial, node) = (serial.to_owned(), node.node.clone());
            let record = RevokedRecord { serial, node, expires_unix_s, revoked_unix_s: now };
            writes.push(record.write());
            self.load(record);
        }
        while self.by_serial.len() > REVOKED_MAX
            && let Some(first) = self.by_serial.values().min_by_key(|record| record.expires_unix_s).cloned()
        {
            self.by_serial.remove(&first.serial);
            writes.push(first.delete());
        }
        self.number += 1;
        writes.push(write_list_number(self.number));
        writes
    }
}

/// Renewals of each node on one day. In memory: a plane that starts again counts from nothing.
#[derive(Debug, Default)]
pub struct Renewals(BTreeMap<NodeName, (i64, u32)>);

impl NodeRecord {
    /// Serial numbers of its certificates, with their ends: the one in use, and the next one where it has one.
    pub fn certificates(&self) -> impl Iterator<Item = (&str, i64)> {
        let next = self.next.iter().map(|next| (next.serial.as_str(), next.expires_unix_s));
        std::iter::once((self.serial.as_str(), self.expires_unix_s)).chain(next)
    }

    /// When a node should have its next certificate at the latest, seconds since 1970: at half of its life it asks, and a fifth more is
    /// time enough for a plane that is down or busy.
    fn overdue_unix_s(&self) -> i64 {
        let life = self.expires_unix_s - self.issued_unix_s;
        self.issued_unix_s + life * 7 / 10
    }

    /// How the node's certificate is, in a word: `good`, `renewing` (the next one is signed and not used yet), `overdue`, `ended` (it can
    /// still be renewed) or `revoked`.
    pub fn certificate_state(&self, now: i64) -> &'static str {
        if self.revoked_unix_s.is_some() {
            "revoked"
        } else if now >= self.expires_unix_s {
            "ended"
        } else if self.next.is_some() {
            "renewing"
        } else if self.issued_unix_s > 0 && now >= self.overdue_unix_s() {
            "overdue"
        } else {
            "good"
        }
    }
}

impl Fleet {
    /// Whether a certificate is that of a node which may connect: the node is there and not shut out, and the certificate is its
    /// current or its next one. Says nothing about the time.
    pub fn admit(&self, identity: &NodeIdentity) -> Result<(), Refused> {
        let NodeIdentity { node, region, serial, .. } = identity;
        let refuse = |code, reason| Err(Refused { code, reason });
        let Some(record) = self.nodes.get(node) else {
            let reason =
                format!("no node {node} is enrolled here; enrol it with a token from `control-plane token create`");
            return refuse(RefusedCode::UnknownNode, reason);
        };
        if record.revoked_unix_s.is_some() {
            let reason = format!("node {node} was revoked; enrol it again with a token for its name");
            return refuse(RefusedCode::Revoked, reason);
        }
        let known = record.serial == *serial || record.next.as_ref().is_some_and(|next| next.serial == *serial);
        if !known || record.region != *region {
            let reason = format!(
                "node {node} has a newer certificate, so this one is no longer valid: it was enrolled again, or it runs from a \
                 copy of its folder, or from a backup; if this is the machine that should run it, enrol it again with a token for its name"
            );
            return refuse(RefusedCode::Revoked, reason);
        }
        Ok(())
    }

    /// A connection shows this certificate: it is taken for its node's newest if a restore lost it, and it is in use from now on if the node may connect.
    pub fn let_in(&mut self, identity: &NodeIdentity) -> (Result<(), Refused>, Vec<Write>, Option<Act>) {
        let (mut writes, act) = self.adopt(identity);
        let admitted = self.admit(identity);
        if admitted.is_ok() {
            writes.extend(self.used(&identity.node, &identity.serial));
        }
        (admitted, writes, act)
    }

    /// A node has connected with this certificate. If it is the next one, it is from now on the only one.
    pub fn used(&mut self, node: &NodeName, serial: &str) -> Vec<Write> {
        self.change(node, |node| {
            if let Some(next) = node.next.take_if(|next| next.serial == serial) {
                node.serial = next.serial;
                node.expires_unix_s = next.expires_unix_s;
                node.issued_unix_s = next.issued_unix_s;
            }
        })
    }

    /// Whether a node may have another certificate today; counts it.
    pub fn may_renew(&mut self, node: &NodeName, now: i64) -> Result<(), Refused> {
        let today = now.div_euclid(24 * 60 * 60);
        let (day, count) = self.renewals.0.entry(node.clone()).or_default();
        if *day != today {
            (*day, *count) = (today, 0);
        }
        if *count >= RENEWALS_PER_DAY_MAX {
            let reason = format!(
                "node {node} was given {count} certificates today; see on that machine that its state folder can be \
                 written (`edge-agent doctor`), and that no other agent runs with a copy of it. It may ask again tomorrow"
            );
            return Err(Refused { code: RefusedCode::Overloaded, reason });
        }
        *count += 1;
        Ok(())
    }

    /// Notes a node's next certificate, in place of one that it has not used.
    pub fn renewed(&mut self, node: &NodeName, certificate: &NodeCertificate, now: i64) -> Vec<Write> {
        self.change(node, |node| {
            node.next = Some(NextCertificate {
                serial: certificate.serial.clone(),
                issued_unix_s: now,
                expires_unix_s: certificate.expires_unix_s,
            });
        })
    }

    /// Takes a node in, new or again; the certificates that it had are no longer good.
    pub fn enrolled(&mut self, node: NodeName, region: RegionId, serial: String, expires: i64, now: i64) -> Vec<Write> {
        let enrolled = NodeRecord::new(node.clone(), region, serial, expires, now);
        self.live.remove(&node);
        let mut writes = vec![enrolled.write()];
        if let Some(before) = self.nodes.insert(node, enrolled).filter(|before| before.revoked_unix_s.is_none()) {
            writes.extend(self.revoked.add(&before, now));
        }
        writes
    }

    /// Shuts a node out. `None` where there is no such node, or it was shut out before.
    pub fn revoke(&mut self, node: &NodeName, reason: Option<String>, now: i64) -> Option<Vec<Write>> {
        let record = self.nodes.get_mut(node).filter(|record| record.revoked_unix_s.is_none())?;
        record.revoked_unix_s = Some(now);
        record.revoked_reason = reason;
        record.transition = Transition { up: false, unix_s: now };
        self.live.remove(node);
        let mut writes = vec![record.write()];
        writes.extend(self.revoked.add(record, now));
        Some(writes)
    }

    /// What stands on the revocation list, and its number; `None` where nothing was ever revoked.
    pub fn revocations(&self) -> Option<(u64, Vec<RevokedCertificate>)> {
        let entry = |record: &RevokedRecord| RevokedCertificate {
            serial: record.serial.clone(),
            revoked_unix_s: record.revoked_unix_s,
        };
        (self.revoked.number > 0).then(|| (self.revoked.number, self.revoked.by_serial.values().map(entry).collect()))
    }
}
