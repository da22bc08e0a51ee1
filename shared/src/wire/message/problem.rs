//! Why a node refuses a state: a code with numbers, so that no text of a node can carry what a caller said.

use crate::artefact::{Digest, Stage};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is wrong with a desired state, on this node. Numbers and codes only; the words are in the node's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// What happened.
    pub kind: ProblemKind,
    /// The stage concerned, where it is one.
    #[serde(default)]
    pub stage: Option<Stage>,
    /// The artefact concerned, where it is one.
    #[serde(default)]
    pub artefact: Option<Digest>,
    /// Which one of several: the golden case or the chunk, counted from 0.
    #[serde(default)]
    pub index: Option<u64>,
    /// What was found, in the unit of the kind.
    #[serde(default)]
    pub found: Option<f64>,
    /// What would have been right, in the unit of the kind.
    #[serde(default)]
    pub wanted: Option<f64>,
}

impl Problem {
    /// A problem without further figures.
    pub fn new(kind: ProblemKind) -> Self {
        Self { kind, stage: None, artefact: None, index: None, found: None, wanted: None }
    }

    /// The same, about this stage.
    #[must_use]
    pub fn at(self, stage: Stage) -> Self {
        Self { stage: Some(stage), ..self }
    }
}

/// Kinds of [`Problem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The state is for another region.
    WrongRegion,
    /// The state is older than what serves here; `found` and `wanted` are generations.
    OldGeneration,
    /// A newer state came before this one was active.
    Superseded,
    /// The manifest's signature does not hold.
    BadSignature,
    /// The manifest cannot be read, or contradicts itself.
    BadManifest,
    /// This agent cannot run the architecture; a newer agent may.
    UnknownArchitecture,
    /// The file was converted for another version of the stage's interface; `found` and `wanted` are versions.
    WrongInterface,
    /// The artefact could not be fetched.
    FetchFailed,
    /// The bytes do not have the digest; `index` is the chunk.
    WrongDigest,
    /// The disk is full; `found` and `wanted` are bytes.
    DiskFull,
    /// The device's memory does not suffice; `found` and `wanted` are bytes.
    DeviceMemory,
    /// The file could not be loaded.
    LoadFailed,
    /// A golden result was not reproduced on this device; `index` is the case, `found` and `wanted` its measure.
    GoldenDiffers,
    /// A call that the node spoke to its own candidate went wrong at the stage; `found` and `wanted` are the share of words that were
    /// misheard, where that is what went wrong.
    SpokenCallFailed,
    /// That call took far longer than with the live models; `found` and `wanted` are milliseconds.
    SpokenCallSlow,
    /// Too many turns failed on the candidate while it was tried; `found` and `wanted` are percent.
    TrialErrors,
    /// Answers of the candidate came too late while it was tried; `found` and `wanted` are milliseconds.
    TrialLatency,
    /// The candidate died while it was tried.
    TrialDied,
    /// An assistant cannot be served here, for example because the voice does not exist.
    BadAssistant,
    /// The release of the agent was tried and did not come up healthy; the one before runs on.
    AgentUpdateFailed,
    /// The release of the agent has no program for this node.
    AgentNotForTarget,
    /// The registry's metadata is out of date, so nobody can say that the model is still wanted; `found` is when it ended and `wanted` the plane's
    /// time, seconds since 1970.
    RegistryExpired,
    /// The registry's metadata is older than what this node has seen of it.
    RegistryRollback,
    /// The registry's metadata is not signed as it has to be, or its parts do not belong together.
    RegistryInvalid,
    /// The registry's metadata on this node's disk is damaged.
    RegistryDamaged,
    /// The registry does not list the model as the manifest has it.
    NotInRegistry,
    /// The agent failed.
    Failed,
    /// A kind of a later version.
    #[serde(other)]
    Other,
}

impl ProblemKind {
    /// Whether the same state may be accepted at a later try, without anyone changing it.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::FetchFailed | Self::DiskFull | Self::Failed) || self.is_of_registry()
    }

    /// Whether it tells of the registry's metadata, so that newer metadata may end it.
    pub fn is_of_registry(self) -> bool {
        matches!(
            self,
            Self::RegistryExpired
                | Self::RegistryRollback
                | Self::RegistryInvalid
                | Self::RegistryDamaged
                | Self::NotInRegistry
        )
    }

    fn words(self) -> &'static str {
        match self {
            Self::WrongRegion => "the state is for another region",
            Self::OldGeneration => "the state is older than the one in use",
            Self::Superseded => "a newer state came first",
            Self::BadSignature => "the manifest's signature does not hold",
            Self::BadManifest => "the manifest cannot be read",
            Self::UnknownArchitecture => "this agent cannot run the architecture",
            Self::WrongInterface => "the model was converted for another interface version",
            Self::FetchFailed => "the artefact could not be fetched",
            Self::WrongDigest => "the bytes do not have the digest",
            Self::DiskFull => "the node's disk is full",
            Self::DeviceMemory => "the device has not enough memory",
            Self::LoadFailed => "the model could not be loaded",
            Self::GoldenDiffers => "a golden result was not reproduced on the device",
            Self::SpokenCallFailed => "a spoken call to the candidate on the device went wrong",
            Self::SpokenCallSlow => "a spoken call to the candidate on the device took too long",
            Self::TrialErrors => "too many live turns failed on the candidate",
            Self::TrialLatency => "the candidate answered live turns too late",
            Self::TrialDied => "the candidate died while it was tried",
            Self::BadAssistant => "an assistant cannot be served",
            Self::AgentUpdateFailed => "the agent's release did not come up healthy, and the one before runs on",
            Self::AgentNotForTarget => "the agent's release has no program for this node's target",
            Self::RegistryExpired => "the registry's metadata is out of date",
            Self::RegistryRollback => "the registry's metadata is older than the node has seen",
            Self::RegistryInvalid => "the registry's metadata is not signed as it has to be",
            Self::RegistryDamaged => "the registry's metadata on the node's disk is damaged",
            Self::NotInRegistry => "the registry does not list the model",
            Self::Failed => "the agent failed",
            Self::Other => "a reason that only a newer control plane knows",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(stage) = self.stage {
            write!(f, "{stage}: ")?;
        }
        f.write_str(self.kind.words())?;
        if let Some(index) = self.index {
            write!(f, " (number {index})")?;
        }
        match (self.found, self.wanted) {
            (Some(found), Some(wanted)) => write!(f, ", found {found}, wanted {wanted}")?,
            (Some(found), None) => write!(f, ", found {found}")?,
            (None, Some(wanted)) => write!(f, ", wanted {wanted}")?,
            (None, None) => {}
        }
        if let Some(digest) = self.artefact {
            write!(f, ", artefact {}", &digest.to_hex()[..12])?;
        }
        write!(f, "; the node's log and `edge-agent status` say more")
    }
}
