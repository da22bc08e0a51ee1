//! The metadata of each role: what it says, and how it is signed and read. Pure.

use super::{TARGETS_MAX, TufError, file::Metadata};
use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::Ed25519KeyPair,
};
use jiff::Timestamp as Time;
use nearfield_shared::artefact::{Digest, Manifest};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    collections::{BTreeSet, HashMap},
    num::NonZeroU64,
};
use tough::{
    TargetName,
    schema::{
        Hashes, Metafile, Role, RoleKeys, RoleType, Root, Signature, Signed, Snapshot, Target, Targets, Timestamp,
        key::{Ed25519Key, Ed25519Scheme, Key},
    },
    sign::Sign as _,
};

/// The version of the specification that the metadata keeps to.
const SPEC: &str = "1.0.0";

/// Who signs what, as root metadata names it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Named {
    pub root: Key,
    pub targets: Key,
    pub snapshot: Key,
    pub timestamp: Key,
}

/// The public half of a key of ours.
pub(super) fn public(key: &Ed25519KeyPair) -> Key {
    key.tuf_key()
}

/// The key with this public half, 32 bytes.
pub(super) fn of_public(bytes: &[u8]) -> Key {
    Key::Ed25519 {
        keyval: Ed25519Key { public: bytes.to_vec().into(), _extra: HashMap::new() },
        scheme: Ed25519Scheme::Ed25519,
        _extra: HashMap::new(),
    }
}

fn schema(error: impl std::fmt::Display) -> TufError {
    TufError::Schema(error.to_string())
}

fn at(unix_s: i64) -> Result<Time, TufError> {
    Time::from_second(unix_s).map_err(schema)
}

fn number(version: u64) -> Result<NonZeroU64, TufError> {
    NonZeroU64::new(version).ok_or_else(|| schema("a version of 0"))
}

/// The number of what is signed now: the time, so that a restored folder goes on above what nodes have seen; never below the one before.
pub(super) fn next_version(before: Option<u64>, now: i64) -> u64 {
    before.map_or(1, |before| before.saturating_add(1)).max(u64::try_from(now).unwrap_or(0))
}

/// The text of a role's metadata, signed with these keys.
fn sign<T: Role>(role: T, keys: &[&Ed25519KeyPair]) -> Result<String, TufError> {
    let message = role.canonical_form().map_err(schema)?;
    let mut signatures: Vec<Signature> = Vec::new();
    for key in keys {
        let keyid = public(key).key_id().map_err(schema)?;
        if !signatures.iter().any(|signature| signature.keyid == keyid) {
            signatures.push(Signature { keyid, sig: Ed25519KeyPair::sign(key, &message).as_ref().to_vec().into() });
        }
    }
    serde_json::to_string(&Signed { signed: role, signatures }).map_err(schema)
}

/// Reads a role's metadata that this control plane has written.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<Signed<T>, TufError> {
    serde_json::from_str(text).map_err(schema)
}

/// Root metadata. `signers` are the new root key and, where it is another, the one before.
pub(super) fn root(version: u64, expires: i64, named: &Named, signers: &[&Ed25519KeyPair]) -> Result<String, TufError> {
    let (mut keys, mut roles) = (HashMap::new(), HashMap::new());
    let of_roles = [
        (RoleType::Root, &named.root),
        (RoleType::Targets, &named.targets),
        (RoleType::Snapshot, &named.snapshot),
        (RoleType::Timestamp, &named.timestamp),
    ];
    for (role, key) in of_roles {
        let id = key.key_id().map_err(schema)?;
        roles.insert(role, RoleKeys { keyids: vec![id.clone()], threshold: number(1)?, _extra: HashMap::new() });
        keys.insert(id, key.clone());
    }
    let root = Root {
        spec_version: SPEC.into(),
        consistent_snapshot: false,
        version: number(version)?,
        expires: at(expires)?,
        keys,
        roles,
        _extra: HashMap::new(),
    };
    sign(root, signers)
}

/// Who signs what, by root metadata that we have written: one key for each role.
pub(super) fn named(root: &Root) -> Result<Named, TufError> {
    let one = |role| root.keys(role).next().cloned().ok_or_else(|| schema(format!("{role} has no key")));
    Ok(Named {
        root: one(RoleType::Root)?,
        targets: one(RoleType::Targets)?,
        snapshot: one(RoleType::Snapshot)?,
        timestamp: one(RoleType::Timestamp)?,
    })
}

/// The models that targets metadata lists.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Listed(pub HashMap<TargetName, Target>);

fn name_of(digest: Digest) -> Result<TargetName, TufError> {
    TargetName::new(digest.to_hex()).map_err(schema)
}

impl Listed {
    /// Digests of signed manifests that are listed for a file.
    fn manifests(target: &Target) -> BTreeSet<String> {
        let listed = target.custom.get("manifests").and_then(Value::as_array);
        listed.into_iter().flatten().filter_map(|digest| digest.as_str().map(str::to_owned)).collect()
    }

    /// Whether a model is listed with this signed manifest.
    pub fn holds(&self, manifest: &Manifest, signed: Digest) -> bool {
        name_of(manifest.digest)
            .is_ok_and(|name| self.0.get(&name).is_some_and(|t| Self::manifests(t).contains(&signed.to_hex())))
    }

    /// Lists a model. `sha256` of its file is for other people's tools; nodes go by its BLAKE3, its length and its signed manifest.
    pub fn add(&mut self, manifest: &Manifest, signed: Digest, sha256: Vec<u8>) -> Result<(), TufError> {
        let name = name_of(manifest.digest)?;
        let mut manifests = self.0.get(&name).map(Self::manifests).unwrap_or_default();
        manifests.insert(signed.to_hex());
        let blake3 = HashMap::from([("blake3".to_owned(), json!(manifest.digest))]);
        let custom = json!({
            "model": manifest.name, "version": manifest.version, "stage": manifest.stage, "manifests": manifests,
        });
        let Value::Object(custom) = custom else { return Err(schema("custom is no object")) };
        let target = Target {
            length: manifest.bytes,
            hashes: Hashes { sha256: sha256.into(), _extra: blake3 },
            custom: custom.into_iter().collect(),
            _extra: HashMap::new(),
        };
        self.0.insert(name, target);
        if self.0.len() > TARGETS_MAX { Err(TufError::TooMany(self.0.len())) } else { Ok(()) }
    }

    /// Takes out every model of this name, or the one whose digest begins so (with at least eight digits); returns their digests.
    pub fn take_out(&mut self, what: &str) -> BTreeSet<String> {
        let is_meant = |name: &TargetName, target: &Target| {
            target.custom.get("model").and_then(Value::as_str) == Some(what)
                || (what.len() >= 8 && name.raw().starts_with(what))
        };
        let out = self.0.iter().filter(|(name, target)| is_meant(name, target)).map(|(name, _)| name.raw().to_owned());
        let out: BTreeSet<String> = out.collect();
        self.0.retain(|name, _| !out.contains(name.raw()));
        out
    }
}

/// Targets metadata.
pub(super) fn targets(version: u64, expires: i64, listed: &Listed, key: &Ed25519KeyPair) -> Result<String, TufError> {
    let mut targets = Targets::new(SPEC.into(), number(version)?, at(expires)?);
    targets.targets = listed.0.clone();
    targets.delegations = None;
    sign(targets, &[key])
}

/// The entry for a file of metadata in the one above it.
fn meta(version: NonZeroU64, text: &str) -> Metafile {
    Metafile {
        length: Some(text.len() as u64),
        hashes: Some(Hashes {
            sha256: digest(&SHA256, text.as_bytes()).as_ref().to_vec().into(),
            _extra: HashMap::new(),
        }),
        version,
        _extra: HashMap::new(),
    }
}

/// Snapshot metadata over these targets.
pub(super) fn snapshot(version: u64, expires: i64, targets: &str, key: &Ed25519KeyPair) -> Result<String, TufError> {
    let of_targets = meta(read::<Targets>(targets)?.signed.version, targets);
    let mut snapshot = Snapshot::new(SPEC.into(), number(version)?, at(expires)?);
    snapshot.meta.insert("targets.json".into(), of_targets);
    sign(snapshot, &[key])
}

/// Timestamp metadata over this snapshot.
pub(super) fn timestamp(version: u64, expires: i64, snapshot: &str, key: &Ed25519KeyPair) -> Result<String, TufError> {
    let of_snapshot = meta(read::<Snapshot>(snapshot)?.signed.version, snapshot);
    let mut timestamp = Timestamp::new(SPEC.into(), number(version)?, at(expires)?);
    timestamp.meta.insert("snapshot.json".into(), of_snapshot);
    sign(timestamp, &[key])
}

/// Number and end (seconds since 1970) of a role's metadata, if the root metadata's keys have signed it.
pub(super) fn stands<T: Role + Serialize + DeserializeOwned>(root: &Root, text: &str) -> Result<(u64, i64), TufError> {
    let signed = read::<T>(text)?;
    root.verify_role(&signed).map_err(schema)?;
    Ok((signed.signed.version().get(), signed.signed.expires().as_second()))
}

/// Whether a snapshot is the one that a timestamp means, and targets the ones that the snapshot means.
pub(super) fn belong_together(metadata: &Metadata) -> Result<bool, TufError> {
    let (timestamp, snapshot) = (read::<Timestamp>(&metadata.timestamp)?, read::<Snapshot>(&metadata.snapshot)?);
    let means = |entry: Option<&Metafile>, text: &str, version| entry == Some(&meta(version, text));
    let targets = read::<Targets>(&metadata.targets)?;
    Ok(means(timestamp.signed.meta.get("snapshot.json"), &metadata.snapshot, snapshot.signed.version)
        && means(snapshot.signed.meta.get("targets.json"), &metadata.targets, targets.signed.version))
}
