//! Signs metadata as a registry would, and as none should, on request.

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::Ed25519KeyPair,
};
use nearfield_shared::{
    artefact::{Digest, Manifest},
    wire::message::Registry,
};
use serde_json::json;
use std::{collections::HashMap, num::NonZeroU64};
use tough::{
    TargetName,
    schema::{
        Hashes, Metafile, Role, RoleKeys, RoleType, Root, Signature, Signed, Snapshot, Target, Targets, Timestamp,
    },
    sign::Sign as _,
};

pub fn key() -> Ed25519KeyPair {
    Ed25519KeyPair::generate().unwrap()
}

/// A registry's keys; threshold of the root role and of the targets.
pub struct Signer {
    pub root: Vec<Ed25519KeyPair>,
    pub targets: Vec<Ed25519KeyPair>,
    pub snapshot: Ed25519KeyPair,
    pub timestamp: Ed25519KeyPair,
    pub threshold: u64,
}

/// Number and end of each role's metadata.
#[derive(Clone, Copy)]
pub struct Numbers {
    pub targets: (u64, i64),
    pub snapshot: (u64, i64),
    pub timestamp: (u64, i64),
}

impl Numbers {
    /// All the same.
    pub fn all(version: u64, ends: i64) -> Self {
        Self { targets: (version, ends), snapshot: (version, ends), timestamp: (version, ends) }
    }
}

fn sign<T: Role>(role: T, keys: &[&Ed25519KeyPair]) -> String {
    let message = role.canonical_form().unwrap();
    let signature = |key: &&Ed25519KeyPair| Signature {
        keyid: key.tuf_key().key_id().unwrap(),
        sig: Ed25519KeyPair::sign(key, &message).as_ref().to_vec().into(),
    };
    serde_json::to_string(&Signed { signatures: keys.iter().map(signature).collect(), signed: role }).unwrap()
}

fn number(n: u64) -> NonZeroU64 {
    NonZeroU64::new(n).unwrap()
}

fn time(unix_s: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(unix_s).unwrap()
}

fn meta(version: u64, text: &str) -> Metafile {
    let sha256 = digest(&SHA256, text.as_bytes()).as_ref().to_vec().into();
    Metafile {
        length: Some(text.len() as u64),
        hashes: Some(Hashes { sha256, _extra: HashMap::new() }),
        version: number(version),
        _extra: HashMap::new(),
    }
}

impl Signer {
    /// One key for each role.
    pub fn new() -> Self {
        Self { root: vec![key()], targets: vec![key()], snapshot: key(), timestamp: key(), threshold: 1 }
    }

    /// The same keys again.
    #[allow(dead_code, reason = "not every test binary does all of it")]
    pub fn again(&self) -> Self {
        let copy = |key: &Ed25519KeyPair| Ed25519KeyPair::from_pkcs8(key.to_pkcs8().unwrap().as_ref()).unwrap();
        Self {
            root: self.root.iter().map(copy).collect(),
            targets: self.targets.iter().map(copy).collect(),
            snapshot: copy(&self.snapshot),
            timestamp: copy(&self.timestamp),
            threshold: self.threshold,
        }
    }

    /// Root metadata that names these keys, signed by them and by `others`.
    pub fn root(&self, version: u64, ends: i64, others: &[&Ed25519KeyPair]) -> String {
        let (mut keys, mut roles) = (HashMap::new(), HashMap::new());
        let mut name = |role, of: &[&Ed25519KeyPair], threshold| {
            let keyids = of.iter().map(|key| {
                let key = key.tuf_key();
                let id = key.key_id().unwrap();
                keys.insert(id.clone(), key);
                id
            });
            let keyids = keyids.collect();
            roles.insert(role, RoleKeys { keyids, threshold: number(threshold), _extra: HashMap::new() });
        };
        name(RoleType::Root, &self.root.iter().collect::<Vec<_>>(), self.threshold);
        name(RoleType::Targets, &self.targets.iter().collect::<Vec<_>>(), self.threshold);
        name(RoleType::Snapshot, &[&self.snapshot], 1);
        name(RoleType::Timestamp, &[&self.timestamp], 1);
        let root = Root {
            spec_version: "1.0.0".into(),
            consistent_snapshot: false,
            version: number(version),
            expires: time(ends),
            keys,
            roles,
            _extra: HashMap::new(),
        };
        sign(root, &self.root.iter().chain(others.iter().copied()).collect::<Vec<_>>())
    }

    /// The rest, listing these models with their signed manifests' digests.
    pub fn parts(&self, numbers: Numbers, models: &[(Manifest, Digest)]) -> Registry {
        self.parts_signed_by(numbers, models, &self.targets.iter().collect::<Vec<_>>())
    }

    pub fn parts_signed_by(
        &self,
        numbers: Numbers,
        models: &[(Manifest, Digest)],
        of_targets: &[&Ed25519KeyPair],
    ) -> Registry {
        let mut targets = Targets::new("1.0.0".into(), number(numbers.targets.0), time(numbers.targets.1));
        targets.delegations = None;
        for (manifest, signed) in models {
            let target = Target {
                length: manifest.bytes,
                hashes: Hashes {
                    sha256: vec![0; 32].into(),
                    _extra: HashMap::from([("blake3".into(), json!(manifest.digest))]),
                },
                custom: HashMap::from([("manifests".into(), json!([signed]))]),
                _extra: HashMap::new(),
            };
            targets.targets.insert(TargetName::new(manifest.digest.to_hex()).unwrap(), target);
        }
        let targets = sign(targets, of_targets);
        let mut snapshot = Snapshot::new("1.0.0".into(), number(numbers.snapshot.0), time(numbers.snapshot.1));
        snapshot.meta.insert("targets.json".into(), meta(numbers.targets.0, &targets));
        let snapshot = sign(snapshot, &[&self.snapshot]);
        let mut timestamp = Timestamp::new("1.0.0".into(), number(numbers.timestamp.0), time(numbers.timestamp.1));
        timestamp.meta.insert("snapshot.json".into(), meta(numbers.snapshot.0, &snapshot));
        let timestamp = sign(timestamp, &[&self.timestamp]);
        Registry { roots: Default::default(), timestamp, snapshot, targets: Some(targets) }
    }

    /// All of it with the first root metadata.
    pub fn whole(&self, numbers: Numbers, models: &[(Manifest, Digest)]) -> Registry {
        Registry { roots: [(1, self.root(1, 1 << 37, &[]))].into(), ..self.parts(numbers, models) }
    }
}
