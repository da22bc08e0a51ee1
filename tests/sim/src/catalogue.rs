//! Models that were made and not trained: each says in its file how it will do, and the catalogue knows the truth about all of them.

use crate::chance::Chance;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use nearfield_shared::{
    artefact::{Digest, Manifest, SignedManifest, Stage},
    desired::DesiredState,
    wire::NodeName,
};
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

/// The architecture that every agent runs.
const OLD: &str = "sim-1";

/// The architecture that agents of the newest version run.
const NEW: &str = "sim-2";

/// How a model does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traits {
    /// Of a thousand nodes so many do not reproduce its golden results.
    pub golden_bad_permille: u64,
    /// Of a thousand turns so many fail.
    pub errors_permille: u64,
    /// First audio comes so much later, in milliseconds.
    pub late_ms: u64,
    /// Whether only agents of the newest version run it.
    pub new_architecture: bool,
    /// Whether somebody else than the plane signed it.
    pub forged: bool,
}

/// A model.
pub struct Model {
    /// What vouches for it.
    pub manifest: Manifest,
    /// Its file.
    pub file: Vec<u8>,
    /// How it does.
    pub traits: Traits,
}

/// Every model of a run.
pub struct Catalogue {
    key: Ed25519KeyPair,
    forger: Ed25519KeyPair,
    models: BTreeMap<Digest, Model>,
}

fn key_pair(chance: &mut Chance) -> Ed25519KeyPair {
    let seed: Vec<u8> = (0..4).flat_map(|_| chance.next().to_le_bytes()).collect();
    Ed25519KeyPair::from_seed_unchecked(&seed).expect("a seed of 32 bytes makes a key")
}

impl Catalogue {
    /// No model yet.
    pub fn new(chance: &mut Chance) -> Self {
        Self { key: key_pair(chance), forger: key_pair(chance), models: BTreeMap::new() }
    }

    /// The public half of the key that signs.
    pub fn public_key(&self) -> &[u8] {
        self.key.public_key().as_ref()
    }

    /// A new model, signed.
    pub fn make(&mut self, stage: Stage, traits: Traits) -> SignedManifest {
        let number = self.models.len();
        let file = format!("model {number} for {stage}: {traits:?}").into_bytes();
        let architecture = if traits.new_architecture { NEW } else { OLD };
        let mut manifest = Manifest::of_file(format!("m{number}"), stage, architecture, &file);
        manifest.golden_cases = 1;
        let key = if traits.forged { &self.forger } else { &self.key };
        let signed = SignedManifest::sign(&manifest, key).expect("a manifest is JSON");
        self.models.insert(manifest.digest, Model { manifest, file, traits });
        signed
    }

    /// One of them.
    pub fn model(&self, digest: &Digest) -> Option<&Model> {
        self.models.get(digest)
    }

    /// Whether a node's device does not reproduce a model's golden results.
    pub fn differs_on(&self, digest: &Digest, node: &NodeName) -> bool {
        let Some(model) = self.models.get(digest) else { return true };
        let mut hasher = DefaultHasher::new();
        (digest.0, node.as_str()).hash(&mut hasher);
        hasher.finish() % 1000 < model.traits.golden_bad_permille
    }

    /// Whether an agent of this version runs an architecture.
    pub fn runs(version: u16, architecture: &str) -> bool {
        architecture == OLD || (version >= 2 && architecture == NEW)
    }

    /// The truth: whether a node can serve a state.
    pub fn is_good(&self, state: &DesiredState, node: &NodeName, version: u16) -> bool {
        state.models.values().all(|signed| self.model_is_good(signed, node, version))
    }

    /// The same of one model.
    pub fn model_is_good(&self, signed: &SignedManifest, node: &NodeName, version: u16) -> bool {
        let Ok(manifest) = serde_json::from_str::<Manifest>(&signed.body) else { return false };
        let known =
            self.models.get(&manifest.digest).is_some_and(|model| model.manifest == manifest && !model.traits.forged);
        known && Self::runs(version, &manifest.architecture) && !self.differs_on(&manifest.digest, node)
    }
}
