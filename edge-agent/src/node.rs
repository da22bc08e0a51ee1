//! What a node is made of, as the parts that take calls see it.
//!
//! [`Services`] is all that `media::router` gets: handles that are cheap to clone, and one `watch` with everything
//! that the control plane decides. A call takes a copy of [`Serving`] when it begins and keeps to it until it ends, so a
//! change of assistants or policy never falls into the middle of a turn.

use crate::{
    calls::CallDoor,
    media::{client_secret::ClientSecrets, telephony::Telephony, webrtc::WebRtc},
    outbound::Outbound,
    rest::Places,
    speech::Speech,
    telemetry::Tally,
    trial::Trials,
    vault::Vault,
};
use nearfield_shared::{
    artefact::{Digest, Stage},
    assistant::Assistant,
    desired::{DesiredState, Generation, Route},
    policy::Policy,
    region::{Jurisdiction, RegionId},
};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;

/// Handles for whoever takes calls on this node.
#[derive(Clone)]
pub struct Services {
    /// The node's name.
    pub node: Arc<str>,
    /// The models, as calls use them.
    pub speech: Arc<dyn Speech>,
    /// What is served now; see [`Serving`].
    pub serving: watch::Receiver<Arc<Serving>>,
    /// Transcripts, encrypted, under a permit.
    pub vault: Vault,
    /// Where a call's figures go when it ends.
    pub tally: Tally,
    /// Whether candidates are tried on live turns now, and which turns they get.
    pub trials: Trials,
    /// Admission and draining.
    pub calls: CallDoor,
    /// What asks other hosts for the assistants.
    pub outbound: Outbound,
    /// Short-lived keys that open calls.
    pub client_secrets: ClientSecrets,
    /// The lines of those who are not in a call.
    pub places: Places,
    /// How calls by telephone come in, where they do.
    pub telephony: Option<Arc<Telephony>>,
    /// Calls over WebRTC.
    pub webrtc: WebRtc,
}

/// A model that is live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedModel {
    /// The catalogue name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// BCP 47 tags of the languages that it handles; empty where language does not matter.
    pub languages: Vec<String>,
    /// BLAKE3 of its file.
    pub digest: Digest,
    /// Bytes of weights as they stand in memory.
    pub resident_bytes: u64,
    /// How long it took to load, in milliseconds.
    pub load_ms: u64,
    /// How long it took to reproduce its golden cases, in milliseconds.
    pub proven_ms: u64,
    /// Golden cases that were reproduced on this device before it served.
    pub golden_cases: u32,
}

/// What this node serves: one generation of the desired state, whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Serving {
    /// The generation; zero before the first one is live.
    pub generation: Generation,
    /// The region, once known.
    pub region: Option<RegionId>,
    /// The law this node stands under, once known.
    pub jurisdiction: Option<Jurisdiction>,
    /// What may be done with what callers say; `None` denies everything.
    pub policy: Option<Policy>,
    /// The assistants; the first is the default.
    pub assistants: Vec<Assistant>,
    /// Every region a caller can be routed to.
    pub routes: Vec<Route>,
    /// The live model of each stage.
    pub models: BTreeMap<Stage, ServedModel>,
}

impl Serving {
    /// What is served once `state` is live with these models.
    pub fn of(state: &DesiredState, models: BTreeMap<Stage, ServedModel>) -> Self {
        let jurisdiction =
            state.routes.iter().find(|route| route.region == state.region).map(|route| route.jurisdiction.clone());
        Self {
            generation: state.generation,
            region: Some(state.region.clone()),
            jurisdiction,
            policy: Some(state.policy.clone()),
            assistants: state.assistants.clone(),
            routes: state.routes.clone(),
            models,
        }
    }

    /// The assistant of this name, or the default where none is asked for.
    pub fn assistant(&self, name: Option<&str>) -> Option<&Assistant> {
        match name {
            None => self.assistants.first(),
            Some(name) => self.assistants.iter().find(|assistant| assistant.name == name),
        }
    }

    /// The stages that have no model yet; a call needs all of them.
    pub fn missing(&self) -> Vec<Stage> {
        Stage::ALL.into_iter().filter(|stage| !self.models.contains_key(stage)).collect()
    }
}
