//! Desired state: what a region should run, as state with a generation and never as commands.

mod proof;
pub mod stored;

pub use proof::ManifestRefused;

use crate::{
    artefact::{SignedManifest, Stage},
    assistant::Assistant,
    policy::Policy,
    region::{Jurisdiction, Location, RegionId},
    release::Release,
    trial::TrialSettings,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A generation of the desired state of one region. Only ever grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Everything a node of one region should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DesiredState {
    /// Grows by one with every change.
    pub generation: Generation,
    /// The region this is for.
    pub region: RegionId,
    /// The signed manifest of the model of each stage.
    pub models: BTreeMap<Stage, SignedManifest>,
    /// Every region that callers can be routed to, for `GET /v1/route` on an agent.
    pub routes: Vec<Route>,
    /// The assistants served here; the first is the default.
    pub assistants: Vec<Assistant>,
    /// What may be done with what callers say.
    pub policy: Policy,
    /// How new models are tried on a share of the turns before they serve; `None` has them serve once they are proven. Agents that do not know
    /// it do the latter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialSettings>,
    /// The release of the agent that nodes run; `None` is the program that is installed on each. Agents older than this field
    /// pass it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Release>,
}

/// A region as routing sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The region.
    pub region: RegionId,
    /// The law it stands under.
    pub jurisdiction: Jurisdiction,
    /// Where it is.
    pub location: Location,
    /// Countries its policy serves.
    pub policy: Policy,
    /// Nodes with a public address, for callers.
    pub nodes: Vec<RouteNode>,
}

/// A node that a caller can be sent to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteNode {
    /// The node's name.
    pub node: String,
    /// Base URL of its caller API, for example `https://fra1.example.net`.
    pub url: String,
    /// Whether the control plane saw it alive and serving when this was made.
    pub up: bool,
}
