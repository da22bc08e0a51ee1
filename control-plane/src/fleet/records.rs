//! What is stored. Fields are only ever added, with a default, so that an older record is read by a newer plane.

use crate::{definition::DefinedRegion, store::Write};
use nearfield_shared::{
    desired::Generation,
    region::RegionId,
    rollout::Label,
    wire::{
        NodeName, PublicUrl, VersionName,
        message::{DeviceSummary, Problem},
    },
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

pub(super) fn put<T: Serialize>(key: String, record: &T) -> Write {
    Write::Put {
        key,
        value: serde_json::to_string(record).expect("records have string keys only, which JSON can hold"),
    }
}

/// A region: its generation outlives its definition, so that a region that is taken out and put back goes on counting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionRecord {
    /// Its name.
    pub id: RegionId,
    /// The current generation.
    pub generation: Generation,
    /// When it was made, seconds since 1970.
    pub changed_unix_s: i64,
    /// What it runs; `None` where it was taken out.
    pub defined: Option<DefinedRegion>,
    /// What nodes run to which a rollout has not come yet.
    #[serde(default)]
    pub before: Option<Before>,
}

/// What a region ran before a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Before {
    /// Its generation.
    pub generation: Generation,
    /// What it was.
    pub defined: DefinedRegion,
}

impl RegionRecord {
    /// Makes it last.
    pub fn write(&self) -> Write {
        put(format!("region/{}", self.id), self)
    }
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its name.
    pub node: NodeName,
    /// Its region.
    pub region: RegionId,
    /// Serial number of its one valid certificate, hex.
    pub serial: String,
    /// When that expires, seconds since 1970.
    pub expires_unix_s: i64,
    /// When it was signed, seconds since 1970; 0 in records of older planes.
    #[serde(default)]
    pub issued_unix_s: i64,
    /// The certificate that takes its place as soon as the node uses it.
    #[serde(default)]
    pub next: Option<NextCertificate>,
    /// When it was enrolled, last.
    pub enrolled_unix_s: i64,
    /// When it was revoked, if it was.
    #[serde(default)]
    pub revoked_unix_s: Option<i64>,
    /// Why, in the admin's words.
    #[serde(default)]
    pub revoked_reason: Option<String>,
    /// The generation that it served last.
    #[serde(default)]
    pub serving: Generation,
    /// The last generation that it refused, while it has accepted no newer one.
    #[serde(default)]
    pub refusal: Option<Refusal>,
    /// When it last came or went.
    pub transition: Transition,
    /// Its agent's version.
    #[serde(default)]
    pub agent_version: Option<VersionName>,
    /// What it computes on.
    #[serde(default)]
    pub device: Option<DeviceSummary>,
    /// Where callers reach it.
    #[serde(default)]
    pub public_url: Option<PublicUrl>,
    /// Words by which rollouts find it.
    #[serde(default)]
    pub labels: BTreeSet<Label>,
    /// Whether somebody wants it left alone.
    #[serde(default)]
    pub cordon: Option<Cordon>,
}

/// A node is left alone: no callers are sent to it, and rollouts pass it over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cordon {
    /// Whether it takes no new calls at all.
    pub drain: bool,
    /// Since when, seconds since 1970.
    pub unix_s: i64,
}

impl NodeRecord {
    /// A node that has not connected yet.
    pub fn new(node: NodeName, region: RegionId, serial: String, expires_unix_s: i64, now: i64) -> Self {
        Self {
            node,
            region,
            serial,
            expires_unix_s,
            issued_unix_s: now,
            next: None,
            enrolled_unix_s: now,
            revoked_unix_s: None,
            revoked_reason: None,
            serving: Generation(0),
            refusal: None,
            transition: Transition { up: false, unix_s: now },
            agent_version: None,
            device: None,
            public_url: None,
            labels: BTreeSet::new(),
            cordon: None,
        }
    }

    /// Makes it last.
    pub fn write(&self) -> Write {
        put(format!("node/{}", self.node), self)
    }
}

/// A certificate that was signed, and not used yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextCertificate {
    /// Its serial number, hex.
    pub serial: String,
    /// When it was signed, seconds since 1970.
    pub issued_unix_s: i64,
    /// When it expires, seconds since 1970.
    pub expires_unix_s: i64,
}

/// A certificate that is no longer good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedRecord {
    /// Its serial number, hex.
    pub serial: String,
    /// The node that it was made for.
    pub node: NodeName,
    /// When it would have expired, seconds since 1970.
    pub expires_unix_s: i64,
    /// Since when it is not good, seconds since 1970.
    pub revoked_unix_s: i64,
}

impl RevokedRecord {
    fn key(&self) -> String {
        format!("revoked/{}", self.serial)
    }

    /// Makes it last.
    pub fn write(&self) -> Write {
        put(self.key(), self)
    }

    /// Forgets it.
    pub fn delete(&self) -> Write {
        Write::Delete { key: self.key() }
    }
}

/// Makes the number of the revocation list last.
pub fn write_list_number(number: u64) -> Write {
    put("revocations/number".into(), &number)
}

/// A generation that a node refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// The generation.
    pub generation: Generation,
    /// Why.
    pub detail: Problem,
    /// When, seconds since 1970.
    pub unix_s: i64,
}

/// A node came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// Whether it came.
    pub up: bool,
    /// When, seconds since 1970.
    pub unix_s: i64,
}

/// An enrolment token. Its secret is not here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// SHA-256 of the secret, hex.
    pub hash: String,
    /// The region that a node enrols into.
    pub region: RegionId,
    /// The node's name, where the admin chose it.
    #[serde(default)]
    pub node: Option<NodeName>,
    /// When it was made, seconds since 1970.
    pub created_unix_s: i64,
    /// When it ends, seconds since 1970.
    pub expires_unix_s: i64,
    /// The node that used it.
    #[serde(default)]
    pub used_by: Option<NodeName>,
}

impl TokenRecord {
    fn key(&self) -> String {
        format!("token/{}", self.hash)
    }

    /// Makes it last.
    pub fn write(&self) -> Write {
        put(self.key(), self)
    }

    /// Forgets it.
    pub fn delete(&self) -> Write {
        Write::Delete { key: self.key() }
    }
}

/// Figures of one region on one day, from all reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FiguresRecord {
    /// The region.
    pub region: RegionId,
    /// The day (UTC), `2026-11-22`.
    pub day: String,
    /// Reports added up.
    pub reports: u64,
    /// Calls that ended.
    pub calls: u64,
    /// Turns answered from the cache of known questions.
    pub turns_from_cache: u64,
    /// Turns answered by the language model.
    pub turns_by_model: u64,
    /// Turns whose answer failed.
    #[serde(default)]
    pub turns_failed: u64,
    /// Calls handed to a person.
    pub handed_over: u64,
    /// Calls whose caller left early.
    pub dropped: u64,
    /// Answers spoken over.
    pub barge_ins: u64,
    /// Turns whose words were asked for before the turn had certainly ended, and used.
    #[serde(default)]
    pub begun_ahead: u64,
    /// Work that was begun before a turn had certainly ended and was thrown away, in milliseconds.
    #[serde(default)]
    pub wasted_ahead_ms: u64,
    /// Commit to first audio: counts of the buckets of `LATENCY_BOUNDS_MS` and one above.
    pub first_audio: Vec<u64>,
    /// Duration: counts of the buckets of `DURATION_BOUNDS_S` and one above.
    pub duration: Vec<u64>,
    /// Ids of the reports taken last, so that one that is sent again is not counted again.
    pub taken: Vec<u64>,
}

impl FiguresRecord {
    /// Makes it last.
    pub fn write(&self) -> Write {
        put(format!("figures/{}/{}", self.region, self.day), self)
    }
}
