//! How a node is, in one record: for `edge-agent status`, for `doctor`, and for `/metrics`.
//!
//! Operational only. Refusals in words stand here and in the node's log; the control plane gets their codes.

use crate::{
    artefacts::Progress,
    calls::CallDoor,
    control::LinkState,
    memory::Memory,
    node::Serving,
    registry::RegistryState,
    slots::{Activity, ModelHost},
    telemetry::Tally,
    trial::Trials,
    update::{ProgramReport, Updates},
};
use nearfield_shared::{
    artefact::{Digest, Stage},
    desired::{Route, RouteNode},
    exposition::{Exposition, Kind, labels},
    trial::Trying,
    wire::message::{DeviceSummary, LiveModel, Status},
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Instant};
use tokio::sync::watch;

/// How a node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The node's name.
    pub node: String,
    /// Its region.
    pub region: String,
    /// The version of what runs: its release's, else this program's own.
    pub agent_version: String,
    /// Which program runs, and what was tried.
    #[serde(default)]
    pub program: ProgramReport,
    /// Its process.
    pub pid: u32,
    /// What the process takes of the machine's memory, where the system tells.
    #[serde(default)]
    pub memory: Option<Memory>,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// What the models run on.
    pub device: DeviceSummary,
    /// Why that device was chosen.
    pub device_reason: String,
    /// Base URLs that it listens on.
    pub listeners: Vec<String>,
    /// The generation in use; 0 where there is none.
    pub serving: u64,
    /// The generation being activated.
    pub activating: Option<u64>,
    /// How far its candidates' trial on live turns has come, where one is under way.
    #[serde(default)]
    pub trial: Option<Trying>,
    /// The last state that was refused, and why.
    pub last_refusal: Option<RefusalReport>,
    /// The artefact being fetched: bytes here, bytes in all.
    pub fetching: Option<(u64, u64)>,
    /// Bytes fetched since the start.
    pub fetched_bytes: u64,
    /// How many of them came from neighbours.
    #[serde(default)]
    pub fetched_near_bytes: u64,
    /// The live models.
    pub models: Vec<ModelReport>,
    /// Stages without a model; a call needs all stages.
    pub missing: Vec<Stage>,
    /// The control link.
    pub link: LinkReport,
    /// Calls.
    pub calls: CallsReport,
    /// When the node's certificate ends, seconds since 1970.
    pub certificate_ends_unix_s: i64,
    /// When the next one is asked for, seconds since 1970 by the control plane's clock.
    #[serde(default)]
    pub certificate_renews_unix_s: i64,
    /// Why that did not work the last time.
    #[serde(default)]
    pub certificate_problem: Option<String>,
    /// What is known of the registry of models; `None` where it has no signed metadata.
    #[serde(default)]
    pub registry: Option<RegistryState>,
    /// Certificates on the newest list of revoked ones.
    #[serde(default)]
    pub certificates_revoked: usize,
    /// Calls counted and not yet reported, because the group is too small or the window is not over.
    pub calls_unreported: u64,
}

/// A refused state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalReport {
    /// Its generation.
    pub generation: u64,
    /// Why.
    pub reason: String,
}

/// A live model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelReport {
    /// Its stage.
    pub stage: Stage,
    /// The catalogue name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// BLAKE3 of its file.
    pub digest: Digest,
    /// Bytes of weights as they stand in memory.
    pub resident_bytes: u64,
    /// Milliseconds that loading took.
    pub load_ms: u64,
    /// Milliseconds that reproducing the golden cases took.
    pub proven_ms: u64,
    /// Golden cases reproduced on this device.
    pub golden_cases: u32,
}

/// The control link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReport {
    /// `HOST:PORT` of the control plane that was dialled last.
    pub plane: String,
    /// Whether it is heard.
    pub connected: bool,
    /// Its version.
    pub plane_version: Option<String>,
    /// Its clock minus ours, in seconds.
    pub plane_ahead_s: Option<i64>,
    /// Why the link is down, where it is.
    pub last_problem: Option<String>,
}

/// Calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallsReport {
    /// In progress.
    pub in_progress: u64,
    /// The most at once.
    pub max: u64,
    /// Let in since the start.
    pub admitted: u64,
    /// Refused since the start.
    pub refused: u64,
    /// Whether the node is about to stop.
    pub draining: bool,
}

/// Where a report takes its figures from. Clones share them.
#[derive(Clone)]
pub struct StatusSource {
    /// The node's name.
    pub node: Arc<str>,
    /// Its region.
    pub region: Arc<str>,
    /// When the daemon started.
    pub started: Instant,
    /// What the models run on.
    pub device: DeviceSummary,
    /// Why that device was chosen.
    pub device_reason: Arc<str>,
    /// Base URLs that it listens on.
    pub listeners: Arc<[String]>,
    /// Where callers reach this node.
    pub public_url: Option<Arc<str>>,
    /// What serves.
    pub serving: watch::Receiver<Arc<Serving>>,
    /// What the slots' owner does.
    pub activity: watch::Receiver<Activity>,
    /// The artefact in progress.
    pub progress: Progress,
    /// The link.
    pub link: watch::Receiver<LinkState>,
    /// The calls.
    pub calls: CallDoor,
    /// What is counted.
    pub tally: Tally,
    /// The trial of candidates.
    pub trials: Trials,
    /// The models.
    pub host: Arc<dyn ModelHost>,
    /// The program.
    pub updates: Arc<Updates>,
}

impl StatusSource {
    /// How the node is now.
    pub fn report(&self) -> StatusReport {
        let serving = self.serving.borrow().clone();
        let activity = self.activity.borrow().clone();
        let link = self.link.borrow().clone();
        let (have, total) = self.progress.in_file();
        StatusReport {
            node: self.node.to_string(),
            region: self.region.to_string(),
            agent_version: self.updates.version().to_string(),
            program: self.updates.report(),
            pid: std::process::id(),
            memory: Memory::own(),
            uptime_s: self.started.elapsed().as_secs(),
            device: self.device.clone(),
            device_reason: self.device_reason.to_string(),
            listeners: self.listeners.to_vec(),
            serving: serving.generation.0,
            activating: activity.activating.map(|generation| generation.0),
            trial: self.trials.progress(),
            last_refusal: activity
                .last_refusal
                .map(|(generation, reason)| RefusalReport { generation: generation.0, reason }),
            fetching: (total > 0).then_some((have, total)),
            fetched_bytes: self.progress.fetched_bytes(),
            fetched_near_bytes: self.progress.near_bytes(),
            models: serving
                .models
                .iter()
                .map(|(stage, model)| ModelReport {
                    stage: *stage,
                    name: model.name.clone(),
                    version: model.version.clone(),
                    digest: model.digest,
                    resident_bytes: model.resident_bytes,
                    load_ms: model.load_ms,
                    proven_ms: model.proven_ms,
                    golden_cases: model.golden_cases,
                })
                .collect(),
            missing: serving.missing(),
            link: LinkReport {
                plane: link.plane,
                connected: link.connected,
                plane_version: link.plane_version,
                plane_ahead_s: link.plane_ahead_s,
                last_problem: link.last_problem,
            },
            calls: CallsReport {
                in_progress: self.calls.inside() as u64,
                max: self.calls.calls_max() as u64,
                admitted: self.calls.admitted(),
                refused: self.calls.refused(),
                draining: self.calls.is_draining(),
            },
            certificate_ends_unix_s: link.certificate.valid_unix_s.1,
            certificate_renews_unix_s: link.certificate.renews_unix_s,
            certificate_problem: link.certificate.problem,
            registry: link.registry,
            certificates_revoked: link.revoked.map_or(0, |held| held.certificates),
            calls_unreported: self.tally.calls(),
        }
    }

    /// What the control plane hears of it. The link machine fills in the generations.
    pub fn for_plane(&self) -> Status {
        let serving = self.serving.borrow().clone();
        Status {
            serving: serving.generation,
            activating: None,
            trial: self.trials.progress(),
            accepting: self.accepting(),
            models: serving
                .models
                .iter()
                .map(|(stage, model)| LiveModel { stage: *stage, digest: model.digest })
                .collect(),
            calls_in_progress: self.calls.inside() as u32,
            calls_max: self.calls.calls_max() as u32,
            load: self.host.load_share().clamp(0.0, 1.0),
            resident_bytes: serving.models.values().map(|model| model.resident_bytes).sum(),
            uptime_s: self.started.elapsed().as_secs(),
            program: self.updates.digest(),
        }
    }

    /// The routes that callers are told: those of the control plane, with this node as it really is. Cut off from the plane, or
    /// before it has heard that this node is up, the node knows better about itself than what was last told.
    pub fn routes(&self) -> Vec<Route> {
        let serving = self.serving.borrow().clone();
        let mut routes = serving.routes.clone();
        let ours = routes.iter_mut().find(|route| Some(&route.region) == serving.region.as_ref());
        if let (Some(route), Some(url)) = (ours, &self.public_url) {
            let here = RouteNode { node: self.node.to_string(), url: url.to_string(), up: self.accepting() };
            match route.nodes.iter_mut().find(|node| node.node == here.node) {
                Some(node) => *node = here,
                None => route.nodes.push(here),
            }
        }
        routes
    }

    /// Whether a new call would be let in now, as far as models and draining go.
    pub fn accepting(&self) -> bool {
        self.serving.borrow().missing().is_empty() && !self.calls.is_draining() && !self.calls.keeps_out()
    }
}

impl StatusReport {
    /// The report as metrics in Prometheus' text format. A closed set: no label comes from a caller.
    pub fn exposition(&self) -> String {
        let mut text = Exposition::new("nearfield_agent");
        let flag = |value: bool| f64::from(u8::from(value));
        use Kind::{Counter, Gauge};
        text.one("uptime_seconds", Gauge, "Seconds since the agent started.", self.uptime_s as f64);
        text.one("control_connected", Gauge, "Whether the control plane is heard.", flag(self.link.connected));
        text.one("generation", Gauge, "Generation of the state in use.", self.serving as f64);
        text.one("activating", Gauge, "Whether a state is being activated.", flag(self.activating.is_some()));
        let tried = self.trial.map_or(0, |trial| trial.turns);
        text.one("trial", Gauge, "Whether candidates are tried on live turns.", flag(self.trial.is_some()));
        text.one("trial_turns", Gauge, "Turns that they have answered.", tried);
        text.one("calls_in_progress", Gauge, "Calls in progress.", self.calls.in_progress as f64);
        text.one("calls_max", Gauge, "Calls at once at most.", self.calls.max as f64);
        text.one("calls_admitted_total", Counter, "Calls let in.", self.calls.admitted as f64);
        text.one("calls_refused_total", Counter, "Calls refused at the door.", self.calls.refused as f64);
        text.one("draining", Gauge, "Whether the node is about to stop.", flag(self.calls.draining));
        text.one("artefact_bytes_total", Counter, "Bytes of models fetched.", self.fetched_bytes as f64);
        let ends = self.certificate_ends_unix_s as f64;
        text.one("certificate_ends_timestamp_seconds", Gauge, "When the node's certificate ends.", ends);
        let weights = self.models.iter().map(|model| (labels([("stage", &model.stage)]), model.resident_bytes as f64));
        text.family("model_resident_bytes", Gauge, "Bytes of weights in memory.", weights);
        if let Some(Memory { resident_bytes, peak_bytes }) = self.memory {
            text.one("resident_bytes", Gauge, "Bytes of the process in memory.", resident_bytes as f64);
            text.one("peak_resident_bytes", Gauge, "The most they ever were.", peak_bytes as f64);
        }
        text.finish()
    }
}
