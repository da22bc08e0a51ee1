//! What the plane offers to many nodes, a region's state and the registry's metadata: made once, and each frame encoded once.

use crate::{
    artefact::{Digest, SignedManifest},
    desired::{DesiredState, Generation},
    wire::{
        Broadcast, PlaneToAgent,
        hello::VERSION_NAMES_MANIFESTS,
        message::{Desired, Nonce, Registry, State},
    },
};
use std::{collections::BTreeMap, sync::Arc};

/// A state in all forms in which nodes take it.
#[derive(Debug, PartialEq)]
pub struct Offer {
    whole: Broadcast<Desired>,
    by_name: Broadcast<State>,
    manifests: BTreeMap<Digest, Broadcast<SignedManifest>>,
}

impl Offer {
    /// Of a state. All nodes answer with the same nonce: answers travel on the connection of their push, so it only tells apart the
    /// offers of one connection.
    pub fn new(state: DesiredState, nonce: Nonce) -> Self {
        Self {
            by_name: State::of(&state, nonce).into(),
            manifests: state
                .models
                .values()
                .chain(state.agent.iter().flat_map(|release| release.programs.values()))
                .map(|m| (m.digest(), m.clone().into()))
                .collect(),
            whole: Desired { nonce, state: Arc::new(state) }.into(),
        }
    }

    /// The state's generation.
    pub fn generation(&self) -> Generation {
        self.by_name.generation
    }

    /// What a node answers with.
    pub fn nonce(&self) -> Nonce {
        self.by_name.nonce
    }

    /// The push to a node that speaks this version.
    pub fn push(&self, version: u16) -> PlaneToAgent {
        if version < VERSION_NAMES_MANIFESTS {
            PlaneToAgent::Desired(self.whole.clone())
        } else {
            PlaneToAgent::State(self.by_name.clone())
        }
    }

    /// One of its manifests.
    pub fn manifest(&self, digest: &Digest) -> Option<PlaneToAgent> {
        self.manifests.get(digest).cloned().map(PlaneToAgent::Manifest)
    }
}

/// The registry's metadata in both forms in which nodes are told it: whole, and without what a connection has carried.
#[derive(Debug, PartialEq)]
pub struct RegistryOffer {
    whole: Broadcast<Registry>,
    renewed: Broadcast<Registry>,
    body: Digest,
}

impl RegistryOffer {
    /// Of metadata that is whole.
    pub fn new(registry: Registry) -> Self {
        let mut hasher = blake3::Hasher::new();
        for text in registry.roots.values().chain(&registry.targets) {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        Self {
            body: Digest(*hasher.finalize().as_bytes()),
            renewed: Registry { roots: BTreeMap::new(), targets: None, ..registry.clone() }.into(),
            whole: registry.into(),
        }
    }

    /// What stays the same while timestamp and snapshot are only signed again: roots and targets.
    pub(super) fn body(&self) -> Digest {
        self.body
    }

    /// The message to a node that was told roots and targets on this connection, or was not.
    pub(super) fn push(&self, body_told: bool) -> PlaneToAgent {
        PlaneToAgent::Registry(if body_told { self.renewed.clone() } else { self.whole.clone() })
    }
}
