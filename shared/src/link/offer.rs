//! A region's state as the plane offers it to every node of the region: made once, and each of its frames encoded once.

use crate::{
    artefact::{Digest, SignedManifest},
    desired::{DesiredState, Generation},
    wire::{
        Broadcast, PlaneToAgent,
        hello::VERSION_NAMES_MANIFESTS,
        message::{Desired, Nonce, State},
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
