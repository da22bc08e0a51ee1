//! A desired state as it is pushed since version 2 of the protocol: what is large stands in it by its digest.

use super::Nonce;
#[cfg(doc)]
use super::Routes;
use crate::{
    artefact::{Digest, SignedManifest, Stage},
    assistant::Assistant,
    desired::{DesiredState, Generation, Route},
    policy::Policy,
    region::RegionId,
    release::Release,
    trial::TrialSettings,
    wire::names::{TargetName, VersionName},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a node should be, with the manifests of its models by their digests. Routes are not part of it: they are told by [`Routes`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// To be repeated in the answer.
    pub nonce: Nonce,
    /// Its generation.
    pub generation: Generation,
    /// The region this is for.
    pub region: RegionId,
    /// The digest of each model's signed manifest ([`SignedManifest::digest`]).
    pub manifests: BTreeMap<Stage, Digest>,
    /// The assistants served here; the first is the default.
    pub assistants: Vec<Assistant>,
    /// What may be done with what callers say.
    pub policy: Policy,
    /// How new models are tried before they serve, where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialSettings>,
    /// The release of the agent that nodes run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<ReleaseByName>,
}

/// A release of the agent, with the manifests of its programs by their digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseByName {
    /// Its version.
    pub version: VersionName,
    /// The digest of each target's signed manifest.
    pub programs: BTreeMap<TargetName, Digest>,
}

impl State {
    /// A state as it is pushed.
    pub fn of(state: &DesiredState, nonce: Nonce) -> Self {
        Self {
            nonce,
            generation: state.generation,
            region: state.region.clone(),
            manifests: state.models.iter().map(|(stage, manifest)| (*stage, manifest.digest())).collect(),
            assistants: state.assistants.clone(),
            policy: state.policy.clone(),
            trial: state.trial.clone(),
            agent: state.agent.as_ref().map(|release| ReleaseByName {
                version: release.version.clone(),
                programs: release.programs.iter().map(|(target, signed)| (target.clone(), signed.digest())).collect(),
            }),
        }
    }

    /// The manifests that a node of this target needs for it.
    pub fn needs(&self, target: Option<&TargetName>) -> BTreeSet<Digest> {
        let program = self.agent.as_ref().zip(target).and_then(|(release, target)| release.programs.get(target));
        self.manifests.values().chain(program).copied().collect()
    }

    /// The whole state, as far as its manifests are `known`, with these routes.
    pub fn with(&self, known: &BTreeMap<Digest, SignedManifest>, routes: Vec<Route>) -> DesiredState {
        let models = self.manifests.iter().filter_map(|(stage, digest)| Some((*stage, known.get(digest)?.clone())));
        DesiredState {
            generation: self.generation,
            region: self.region.clone(),
            models: models.collect(),
            routes,
            assistants: self.assistants.clone(),
            policy: self.policy.clone(),
            trial: self.trial.clone(),
            agent: self.agent.as_ref().map(|release| Release {
                version: release.version.clone(),
                programs: release
                    .programs
                    .iter()
                    .filter_map(|(target, digest)| Some((target.clone(), known.get(digest)?.clone())))
                    .collect(),
            }),
        }
    }
}
