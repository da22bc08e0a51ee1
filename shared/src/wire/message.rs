//! The messages of the control stream. The type says the direction.
//!
//! Invariant: [`AgentToPlane`] cannot hold what a caller said. Every field is a number, a digest, one of a closed set, or a
//! name from [`super::names`]; figures about calls exist only as [`AnonymisedReport`]. In particular a refusal
//! ([`Problem`]) is a code with numbers, not a text: the text with all the detail stays in the node's own log.

mod problem;
mod state;

pub use problem::{Problem, ProblemKind};
pub use state::{ReleaseByName, State};

use super::{
    broadcast::Broadcast,
    frame::{Frame, FrameError, Limit},
    names::{DeviceName, NodeName, PublicUrl, VersionName},
};
use crate::{
    artefact::{Digest, SignedManifest, Stage},
    desired::{DesiredState, Generation, Route},
    region::RegionId,
    report::AnonymisedReport,
    trial::Trying,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

/// What a node tells the plane.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentToPlane {
    /// First message: who dials, and what it serves. Kind 1.
    HereIAm(HereIAm),
    /// The generation serves now. Kind 2.
    Ack(Ack),
    /// The generation was refused; the old one serves on. Kind 3.
    Nack(Nack),
    /// How the node is; also its sign of life. Kind 4.
    Status(Status),
    /// Figures about a group of calls. Kind 5.
    Report(Report),
    /// The node is going down on purpose. Kind 6.
    Goodbye,
    /// The node lacks manifests of the state that was pushed. Kind 7, of version 2.
    ManifestsWanted(ManifestsWanted),
    /// A kind of a later version; skipped.
    Unknown(u8),
}

/// What the plane tells a node.
#[derive(Debug, Clone, PartialEq)]
pub enum PlaneToAgent {
    /// Answer to `HereIAm`. Kind 1.
    Welcome(Welcome),
    /// What the node should be, whole. Kind 2; to nodes of version 1.
    Desired(Broadcast<Desired>),
    /// Where callers can go right now. Replaces what the desired state said, and does not make a generation. Kind 3.
    Routes(Broadcast<Routes>),
    /// A sign of life. Kind 4.
    StillHere,
    /// The report with this id is counted; the node forgets it. Kind 5.
    ReportTaken(ReportTaken),
    /// The plane is going down on purpose; come back after this time. Kind 6.
    GoAway(GoAway),
    /// The plane will not talk to this node. Kind 7.
    Refused(Refused),
    /// Certificates that are no longer good, of every region. Kind 8.
    Revoked(Broadcast<Revoked>),
    /// What the node should be, with its manifests by name. Kind 9, of version 2.
    State(Broadcast<State>),
    /// A manifest that the node asked for. Kind 10, of version 2.
    Manifest(Broadcast<SignedManifest>),
    /// What is asked of this node beside its state. Kind 11.
    Duty(Duty),
    /// The registry's signed metadata. Kind 12.
    Registry(Broadcast<Registry>),
    /// A kind of a later version; skipped.
    Unknown(u8),
}

/// Who dials, and what it serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HereIAm {
    /// The node; must be what its certificate says.
    pub node: NodeName,
    /// Its region; must be what its certificate says.
    pub region: RegionId,
    /// Version of the agent program.
    pub agent_version: VersionName,
    /// The generation in use; 0 where it has none.
    pub serving: Generation,
    /// The newest generation that it refused for a reason that trying again does not change. Stated here too, because
    /// the NACK may have been lost with the connection.
    #[serde(default)]
    pub refused: Option<RefusedState>,
    /// What it computes on.
    pub device: DeviceSummary,
    /// Where callers reach it; `None` where they cannot.
    #[serde(default)]
    pub public_url: Option<PublicUrl>,
    /// Where it gives models to nodes of its region; `None` where it does not.
    #[serde(default)]
    pub neighbours: Option<SocketAddr>,
}

/// A generation that a node cannot serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefusedState {
    /// The generation.
    pub generation: Generation,
    /// Why.
    pub detail: Problem,
}

/// What a node computes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSummary {
    /// The kind.
    pub kind: DeviceKind,
    /// Its name.
    pub name: DeviceName,
    /// Memory for models in bytes; 0 where that is not known.
    pub memory_bytes: u64,
}

/// Kinds of compute device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// A card of its own.
    DiscreteGpu,
    /// A GPU in the processor.
    IntegratedGpu,
    /// A GPU shared with other machines.
    VirtualGpu,
    /// A GPU API run by the processor.
    SoftwareGpu,
    /// A kind of a later version.
    #[serde(other)]
    Other,
}

/// Which push a message answers. Random enough that an answer to another connection's push is never taken for this one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nonce(pub u64);

/// A generation serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The generation.
    pub generation: Generation,
    /// The push that is answered.
    pub nonce: Nonce,
}

/// A generation was refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Nack {
    /// The generation refused.
    pub generation: Generation,
    /// The push that is answered.
    pub nonce: Nonce,
    /// Why.
    pub detail: Problem,
    /// The generation that serves on; 0 where there is none.
    pub serving: Generation,
}

/// How a node is. Operational only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The generation in use; 0 where there is none.
    pub serving: Generation,
    /// The generation being fetched, proven or swapped in, where there is one.
    #[serde(default)]
    pub activating: Option<Generation>,
    /// How far its candidates' trial has come, where one is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trying>,
    /// Whether it takes new calls.
    pub accepting: bool,
    /// The live model of each stage.
    pub models: Vec<LiveModel>,
    /// Calls right now.
    pub calls_in_progress: u32,
    /// Calls that it would take at most.
    pub calls_max: u32,
    /// Share of the device's time in use since the last status, 0.0 to 1.0.
    pub load: f32,
    /// Bytes of model weights in memory.
    pub resident_bytes: u64,
    /// Seconds since the agent started.
    pub uptime_s: u64,
    /// BLAKE3 of the agent's own program, where it is one of a release; the node gives that to its neighbours, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Digest>,
}

/// A model that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveModel {
    /// Its stage.
    pub stage: Stage,
    /// Its artefact.
    pub digest: Digest,
}

/// Figures about a group of calls, sent again until [`ReportTaken`] answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Random, so that a report that is sent twice is counted once.
    pub id: u64,
    /// The figures.
    pub figures: AnonymisedReport,
}

/// Answer to `HereIAm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Version of the plane program.
    pub plane_version: VersionName,
    /// Send a status this often, in milliseconds. Either side hangs up after three times this without a message.
    pub heartbeat_ms: u32,
    /// The plane's clock, seconds since 1970, for `edge-agent doctor` to compare.
    pub unix_s: i64,
    /// The region's current generation; 0 where nothing was applied yet.
    pub generation: Generation,
}

/// What a node should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// To be repeated in the answer.
    pub nonce: Nonce,
    /// The state. Shared, because a plane pushes the same to every node of a region.
    #[serde(with = "arc")]
    pub state: Arc<DesiredState>,
}

/// Manifests that a node lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestsWanted {
    /// Their digests; a plane answers [`MANIFESTS_WANTED_MAX`] of them.
    pub digests: BTreeSet<Digest>,
}

/// Manifests that a plane sends for one [`ManifestsWanted`], at most: one for each stage, that of the agent's program, and room for
/// stages to come.
pub const MANIFESTS_WANTED_MAX: usize = 16;

/// Where callers can go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Routes {
    /// All regions.
    #[serde(with = "arc")]
    pub routes: Arc<Vec<Route>>,
}

/// Certificates that are no longer good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// An X.509 certificate revocation list (RFC 5280) in PEM, signed by the plane's authority, so that it holds wherever it came
    /// from. Its CRL number only ever grows.
    #[serde(with = "arc")]
    pub crl_pem: Arc<String>,
}

/// Versions of root metadata that a plane tells at most: one for each change of keys, and one a year.
pub const REGISTRY_ROOTS_MAX: usize = 64;

/// The registry's metadata by TUF (The Update Framework), each part the JSON text that was signed. It is trusted by its signatures alone, so it holds
/// wherever it came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    /// Root metadata by version, so that a node that was away for several follows them one after the other; empty where this connection
    /// has carried them.
    #[serde(default)]
    pub roots: BTreeMap<u64, String>,
    /// Timestamp metadata.
    pub timestamp: String,
    /// Snapshot metadata.
    pub snapshot: String,
    /// Targets metadata; `None` where this connection has carried it.
    #[serde(default)]
    pub targets: Option<String>,
}

/// What is asked of one node beside its state, whole: a later one replaces it. A node to which none was sent has the default one, which
/// agents that do not know this message have always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duty {
    /// Whether it should take new calls. Those that are in progress go on.
    pub accepting: bool,
    /// How often to report, in milliseconds, where that is more often than by the node's own settings; groups are as large as ever.
    #[serde(default)]
    pub report_every_ms: Option<u32>,
}

impl Default for Duty {
    fn default() -> Self {
        Self { accepting: true, report_every_ms: None }
    }
}

/// A report was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportTaken {
    /// Its id.
    pub id: u64,
}

/// The plane is going down on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoAway {
    /// Milliseconds after which to dial again.
    pub retry_after_ms: u32,
}

/// The plane will not talk to this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// For programs.
    pub code: RefusedCode,
    /// For people, with the remedy.
    pub reason: String,
}

/// Codes of [`Refused`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedCode {
    /// The plane does not know the node.
    UnknownNode,
    /// The node's certificate was revoked.
    Revoked,
    /// `HereIAm` contradicts the certificate.
    WrongIdentity,
    /// The same node connected again; the newer connection stays.
    Replaced,
    /// The message does not belong here.
    Protocol,
    /// The plane has as many connections as it takes.
    Overloaded,
    /// A code of a later version.
    #[serde(other)]
    Unknown,
}

mod arc {
    //! `Arc` for serde without the `rc` feature, which would be switched on for the whole workspace.
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::sync::Arc;

    pub(super) fn serialize<T: Serialize, S: Serializer>(value: &Arc<T>, s: S) -> Result<S::Ok, S::Error> {
        value.as_ref().serialize(s)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<Arc<T>, D::Error> {
        T::deserialize(d).map(Arc::new)
    }
}

impl AgentToPlane {
    /// The frame's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let limit = Limit::FROM_AGENT;
        match self {
            Self::HereIAm(body) => Frame::encode(1, body, limit),
            Self::Ack(body) => Frame::encode(2, body, limit),
            Self::Nack(body) => Frame::encode(3, body, limit),
            Self::Status(body) => Frame::encode(4, body, limit),
            Self::Report(body) => Frame::encode(5, body, limit),
            Self::Goodbye => Frame::encode(6, &(), limit),
            Self::ManifestsWanted(body) => Frame::encode(7, body, limit),
            Self::Unknown(kind) => Frame::encode(*kind, &(), limit),
        }
    }

    /// Reads a frame.
    pub fn decode(frame: &Frame) -> Result<Self, FrameError> {
        Ok(match frame.kind {
            1 => Self::HereIAm(frame.json()?),
            2 => Self::Ack(frame.json()?),
            3 => Self::Nack(frame.json()?),
            4 => Self::Status(frame.json()?),
            5 => Self::Report(frame.json()?),
            6 => Self::Goodbye,
            7 => Self::ManifestsWanted(frame.json()?),
            kind => Self::Unknown(kind),
        })
    }
}

impl PlaneToAgent {
    /// The frame's bytes; what is told to many nodes is encoded once.
    pub fn encode(&self) -> Result<Bytes, FrameError> {
        let limit = Limit::FROM_PLANE;
        let own = match self {
            Self::Desired(body) => return body.frame(2, limit),
            Self::Routes(body) => return body.frame(3, limit),
            Self::Revoked(body) => return body.frame(8, limit),
            Self::State(body) => return body.frame(9, limit),
            Self::Manifest(body) => return body.frame(10, limit),
            Self::Registry(body) => return body.frame(12, limit),
            Self::Welcome(body) => Frame::encode(1, body, limit),
            Self::StillHere => Frame::encode(4, &(), limit),
            Self::ReportTaken(body) => Frame::encode(5, body, limit),
            Self::GoAway(body) => Frame::encode(6, body, limit),
            Self::Refused(body) => Frame::encode(7, body, limit),
            Self::Duty(body) => Frame::encode(11, body, limit),
            Self::Unknown(kind) => Frame::encode(*kind, &(), limit),
        };
        own.map(Bytes::from)
    }

    /// Reads a frame.
    pub fn decode(frame: &Frame) -> Result<Self, FrameError> {
        Ok(match frame.kind {
            1 => Self::Welcome(frame.json()?),
            2 => Self::Desired(Broadcast::read(frame)?),
            3 => Self::Routes(Broadcast::read(frame)?),
            4 => Self::StillHere,
            5 => Self::ReportTaken(frame.json()?),
            6 => Self::GoAway(frame.json()?),
            7 => Self::Refused(frame.json()?),
            8 => Self::Revoked(Broadcast::read(frame)?),
            9 => Self::State(Broadcast::read(frame)?),
            10 => Self::Manifest(Broadcast::read(frame)?),
            11 => Self::Duty(frame.json()?),
            12 => Self::Registry(Broadcast::read(frame)?),
            kind => Self::Unknown(kind),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::Policy,
        report::CallTally,
        wire::frame::{FrameDecoder, HEADER_BYTES},
    };

    fn policy() -> Policy {
        Policy {
            serves_countries: vec!["*".into()],
            store_transcripts: false,
            retention_days: 0,
            metrics_group_min: 5,
            notices: vec![],
        }
    }

    #[test]
    fn every_message_survives_the_wire() {
        let here = HereIAm {
            node: "fra-1".parse().unwrap(),
            region: "eu-central".parse().unwrap(),
            agent_version: "0.1.0".parse().unwrap(),
            serving: Generation(3),
            refused: Some(RefusedState { generation: Generation(4), detail: Problem::new(ProblemKind::LoadFailed) }),
            device: DeviceSummary {
                kind: DeviceKind::SoftwareGpu,
                name: DeviceName::from_driver("llvmpipe"),
                memory_bytes: 1 << 33,
            },
            public_url: Some("http://127.0.0.1:8080".parse().unwrap()),
            neighbours: Some("10.0.0.1:7444".parse().unwrap()),
        };
        let status = Status {
            serving: Generation(3),
            activating: Some(Generation(4)),
            trial: Some(Trying { turns: 3, live_turns: 30, turns_min: 20, share_percent: 10.0, left_s: 500 }),
            accepting: true,
            models: vec![LiveModel { stage: Stage::Asr, digest: Digest::of(b"a") }],
            calls_in_progress: 2,
            calls_max: 8,
            load: 0.25,
            resident_bytes: 1 << 27,
            uptime_s: 100,
            program: Some(Digest::of(b"p")),
        };
        let figures =
            AnonymisedReport::suppress(&CallTally { calls: 9, ..CallTally::default() }, Some(&policy())).unwrap();
        for message in [
            AgentToPlane::HereIAm(here),
            AgentToPlane::Ack(Ack { generation: Generation(3), nonce: Nonce(u64::MAX) }),
            AgentToPlane::Nack(Nack {
                generation: Generation(4),
                nonce: Nonce(1),
                detail: Problem {
                    index: Some(3),
                    found: Some(0.5),
                    wanted: Some(0.999),
                    artefact: Some(Digest::of(b"a")),
                    ..Problem::new(ProblemKind::GoldenDiffers).at(Stage::Asr)
                },
                serving: Generation(3),
            }),
            AgentToPlane::Status(status),
            AgentToPlane::Report(Report { id: 7, figures }),
            AgentToPlane::Goodbye,
            AgentToPlane::ManifestsWanted(ManifestsWanted { digests: [Digest::of(b"a")].into() }),
        ] {
            let mut decoder = FrameDecoder::new(Limit::FROM_AGENT);
            decoder.receive(&message.encode().unwrap());
            let frame = decoder.next_frame().unwrap().expect("whole");
            assert_eq!(AgentToPlane::decode(&frame), Ok(message));
        }
    }

    #[test]
    fn unknown_kinds_are_not_errors() {
        let frame = Frame { kind: 200, body: br#"{"anything":1}"#.to_vec() };
        assert_eq!(AgentToPlane::decode(&frame), Ok(AgentToPlane::Unknown(200)));
        assert_eq!(PlaneToAgent::decode(&frame), Ok(PlaneToAgent::Unknown(200)));
    }

    #[test]
    fn a_known_kind_with_another_body_is_an_error() {
        let frame = Frame { kind: 2, body: b"{}".to_vec() };
        assert!(matches!(AgentToPlane::decode(&frame), Err(FrameError::Malformed { kind: 2, .. })));
        let frame = Frame { kind: 2, body: b"not json".to_vec() };
        assert!(matches!(PlaneToAgent::decode(&frame), Err(FrameError::Malformed { kind: 2, .. })));
    }

    #[test]
    fn an_ack_is_small() {
        let ack = AgentToPlane::Ack(Ack { generation: Generation(1), nonce: Nonce(1) }).encode().unwrap();
        assert_eq!(&ack[HEADER_BYTES..], br#"{"generation":1,"nonce":1}"#);
    }

    #[test]
    fn a_problem_reads_as_a_sentence() {
        let problem = Problem {
            found: Some(0.91),
            wanted: Some(0.999),
            index: Some(2),
            ..Problem::new(ProblemKind::GoldenDiffers).at(Stage::Embed)
        };
        assert_eq!(
            problem.to_string(),
            "embed: a golden result was not reproduced on the device (number 2), found 0.91, wanted 0.999; \
             the node's log and `edge-agent status` say more"
        );
    }
}
