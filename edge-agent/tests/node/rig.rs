//! A node, its plane and its host, ready to be driven.

use crate::{
    host::{Behaviour, FakeHost, NoSpeech},
    plane::{NODE, Plane, REGION},
};
use edge_agent::{
    config::Config,
    daemon::{Daemon, DaemonParts, StartError},
    identity::{self, Identity},
    node::Services,
    slots::ModelHost,
    state_dir::StateDir,
    update::Updates,
};
use nearfield_shared::{
    artefact::{Manifest, Stage},
    clock::SystemClock,
    desired::{DesiredState, Generation, Route, RouteNode},
    link::{AgentLinkConfig, BackoffConfig},
    policy::Policy,
    region::{Jurisdiction, Location},
    wire::{
        AgentToPlane, DeviceName,
        message::{DeviceKind, DeviceSummary, Nack},
    },
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// Longest wait for something that should happen at once; generous, because a slow machine is no failure.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Rig {
    pub plane: Arc<Plane>,
    pub heard: mpsc::UnboundedReceiver<AgentToPlane>,
    pub host: Arc<FakeHost>,
    pub folder: tempfile::TempDir,
    pub dir: StateDir,
}

impl Rig {
    /// A plane, and an enrolled node that is not running.
    pub async fn new() -> Self {
        let (plane, heard) = Plane::start().await;
        let folder = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&folder.path().join("node")).unwrap();
        enrol_offline(&plane, &dir);
        Self { plane, heard, host: FakeHost::new(), folder, dir }
    }

    pub fn config(&self) -> Config {
        config(&self.plane.address())
    }

    pub async fn start(&self) -> Daemon {
        self.start_with(self.config()).await.unwrap()
    }

    pub async fn start_with(&self, config: Config) -> Result<Daemon, StartError> {
        Daemon::start(parts(self.dir.clone(), config, Arc::clone(&self.host) as Arc<dyn ModelHost>)).await
    }

    /// A model of a stage with this behaviour; `salt` makes different files of the same behaviour.
    pub fn model(&self, stage: Stage, behaviour: Behaviour, salt: &str) -> Manifest {
        self.plane.stock(stage, format!("{}{salt}", behaviour.line()).as_bytes())
    }

    /// A state of these manifests, signed as they are.
    pub fn state(&self, generation: u64, manifests: &[&Manifest]) -> DesiredState {
        DesiredState {
            generation: Generation(generation),
            region: REGION.parse().unwrap(),
            models: manifests.iter().map(|manifest| (manifest.stage, self.plane.sign(manifest))).collect(),
            routes: routes(),
            assistants: vec![],
            policy: policy(),
            trial: None,
            agent: None,
        }
    }

    /// The next message that `pick` takes; others are skipped.
    pub async fn hear<T>(&mut self, mut pick: impl FnMut(AgentToPlane) -> Option<T>) -> T {
        let heard = async {
            loop {
                let message = self.heard.recv().await.expect("the plane lives");
                if let Some(picked) = pick(message) {
                    return picked;
                }
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.expect("the node said nothing of the kind")
    }

    pub async fn acked(&mut self, generation: u64) {
        self.hear(|message| match message {
            AgentToPlane::Ack(ack) if ack.generation == Generation(generation) => Some(()),
            AgentToPlane::Nack(nack) if nack.generation == Generation(generation) => panic!("refused: {nack:?}"),
            _ => None,
        })
        .await;
    }

    pub async fn nacked(&mut self, generation: u64) -> Nack {
        self.hear(|message| match message {
            AgentToPlane::Nack(nack) if nack.generation == Generation(generation) => Some(nack),
            AgentToPlane::Ack(ack) if ack.generation == Generation(generation) => panic!("it was activated"),
            _ => None,
        })
        .await
    }
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Writes into `dir` what an enrolment would have.
pub fn enrol_offline(plane: &Plane, dir: &StateDir) {
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let enrolled = plane.enrolled(&csr.pem().unwrap());
    identity::store(dir, &enrolled, &key.serialize_pem().into()).unwrap();
}

pub fn config(plane: &str) -> Config {
    Config { planes: vec![plane.to_owned()], drain_grace: Duration::from_millis(200), ..Config::default() }
}

pub fn parts(dir: StateDir, config: Config, host: Arc<dyn ModelHost>) -> DaemonParts {
    let backoff = BackoffConfig { first: Duration::from_millis(20), max: Duration::from_millis(200) };
    DaemonParts {
        identity: Identity::load(&dir).unwrap(),
        dir,
        config,
        host,
        speech: Arc::new(NoSpeech),
        device: DeviceSummary { kind: DeviceKind::Cpu, name: DeviceName::from_driver("test"), memory_bytes: 0 },
        device_reason: "a test".into(),
        link: AgentLinkConfig { backoff, ..AgentLinkConfig::default() },
        clock: Arc::new(SystemClock::default()),
        calls,
        updates: Updates::none(),
    }
}

/// The paths that stand where calls would be taken.
fn calls(services: Services) -> axum::Router {
    axum::Router::new().route(
        "/v1/realtime",
        axum::routing::get(move || {
            let services = services.clone();
            async move { format!("hello from {}", services.node) }
        }),
    )
}

pub fn policy() -> Policy {
    Policy {
        serves_countries: vec!["DE".into(), "FR".into()],
        store_transcripts: true,
        retention_days: 30,
        metrics_group_min: 5,
        notices: vec![],
    }
}

fn routes() -> Vec<Route> {
    let route = |region: &str, law: &str, at, policy, node: &str| Route {
        region: region.parse().unwrap(),
        jurisdiction: Jurisdiction(law.into()),
        location: at,
        policy,
        nodes: vec![RouteNode { node: node.into(), url: format!("http://{node}.example"), up: true }],
    };
    let us = Policy { serves_countries: vec!["*".into()], ..policy() };
    vec![
        route(REGION, "eu", Location { latitude: 50.1, longitude: 8.7 }, policy(), NODE),
        route("us-east", "us", Location { latitude: 39.0, longitude: -77.5 }, us, "iad-1"),
    ]
}

/// Bytes that no compression or repetition could fake, beginning with a behaviour.
pub fn large(behaviour: Behaviour, bytes: usize) -> Vec<u8> {
    let line = behaviour.line();
    let mut file = vec![0; bytes];
    let mut state = bytes as u64;
    for byte in &mut file {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    }
    file[..line.len()].copy_from_slice(line.as_bytes());
    file
}

/// Names of the files in the node's artefact folder.
pub fn artefact_files(dir: &StateDir) -> Vec<String> {
    names_in(&dir.artefacts())
}

fn names_in(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
