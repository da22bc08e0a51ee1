//! A whole node and a whole control plane over real QUIC, HTTP and disk; only the models are scripted.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

#[path = "../../edge-agent/tests/node/host.rs"]
#[allow(dead_code, reason = "the node's own tests use all of it")]
mod host;

use control_plane::{
    admin_client::AdminClient,
    api::views::{NewToken, NodeView, PlanView},
    config::Config as PlaneConfig,
    definition::SourceFile,
    serve::Server,
    state_dir::{Running, StateDir as PlaneDir},
};
use edge_agent::{
    config::Config,
    daemon::{Daemon, DaemonParts},
    enrol::{EnrolOrder, enrol},
    identity::Identity,
    state_dir::StateDir,
};
use host::{ARCHITECTURE, Behaviour, FakeHost, GOLDEN_CASES, NoSpeech};
use nearfield_shared::{
    artefact::{Digest, Manifest, SignedManifest, Stage},
    desired::Generation,
    link::{AgentLinkConfig, BackoffConfig},
    report::CallTally,
    routing::RouteAnswer,
    wire::{
        DeviceName,
        message::{DeviceKind, DeviceSummary},
    },
};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest wait for something that should happen at once; generous, because a slow machine is no failure.
const PATIENCE: Duration = Duration::from_secs(60);

struct Plane {
    _folder: tempfile::TempDir,
    dir: PlaneDir,
    running: Running,
    admin: AdminClient,
    server: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Plane {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = PlaneConfig { heartbeat_s: 1.0, ..PlaneConfig::on_loopback() };
        let dir = PlaneDir::init(&folder.path().join("plane"), &config).unwrap();
        let (running, admin, server) = serve(&dir, config).await;
        Self { _folder: folder, dir, running, admin, server: Some(server) }
    }

    async fn stop(&mut self) {
        if let Some((stop, task)) = self.server.take() {
            stop.cancel();
            task.await.unwrap();
        }
    }

    async fn start_again(&mut self) {
        let Running { agents, api, admin, .. } = self.running.clone();
        let config = PlaneConfig { heartbeat_s: 1.0, agents, api, admin, ..PlaneConfig::on_loopback() };
        let (running, admin, server) = serve(&self.dir, config).await;
        (self.running, self.admin, self.server) = (running, admin, Some(server));
    }

    /// A model in the plane's registry, as an import leaves it.
    fn add_model(&self, name: &str, stage: Stage, bytes: &[u8]) -> Digest {
        let manifest = Manifest { golden_cases: GOLDEN_CASES, ..Manifest::of_file(name, stage, ARCHITECTURE, bytes) };
        std::fs::write(self.dir.artefact(&manifest.digest), bytes).unwrap();
        let signed = SignedManifest::sign(&manifest, &self.dir.signing_key().unwrap()).unwrap();
        let path = self.dir.models().join(format!("{name}.json"));
        std::fs::write(path, serde_json::to_vec(&signed).unwrap()).unwrap();
        manifest.digest
    }

    /// Applies one region whose hearing is this model.
    async fn apply(&self, asr: &str) {
        let region = format!(
            "id = \"eu\"\njurisdiction = \"eu\"\nassistants = [\"desk\"]\n[location]\nlatitude = 50\nlongitude = 8\n\
             [policy]\nserves_countries = [\"DE\"]\nstore_transcripts = true\nretention_days = 3\nmetrics_group_min = 5\n\
             [models]\nvad = \"vad\"\nturn = \"turn\"\nasr = \"{asr}\"\nllm = \"llm\"\ntts = \"tts\"\n\
             embed = \"embed\"\n"
        );
        let file = |path: &str, stem: &str, assistant, text: &str| SourceFile {
            path: path.into(),
            stem: stem.into(),
            assistant,
            text: text.into(),
        };
        let desk = "name = \"desk\"\nvoice = \"v\"\ninstructions = \"be kind\"\n";
        let files = vec![
            file("regions/eu.toml", "eu", false, &region),
            file("regions/assistants/desk.toml", "desk", true, desk),
        ];
        match self.admin.apply(files).await.unwrap() {
            PlanView::Plan(_) => {}
            PlanView::Mistakes(mistakes) => panic!("{mistakes:#?}"),
        }
    }

    async fn token(&self) -> String {
        let token = NewToken { region: "eu".parse().unwrap(), node: Some("fra-1".parse().unwrap()), ttl_s: 600 };
        self.admin.create_token(&token).await.unwrap().token
    }

    /// Asks until the node is as wanted.
    async fn node(&self, what: &str, wanted: impl Fn(&NodeView) -> bool) -> NodeView {
        let asked = async {
            loop {
                if let Ok(node) = self.admin.node("fra-1").await
                    && wanted(&node)
                {
                    return node;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(node) => node,
            Err(_) => panic!("never: {what}; now {:?}", self.admin.node("fra-1").await.ok()),
        }
    }
}

async fn serve(dir: &PlaneDir, config: PlaneConfig) -> (Running, AdminClient, (CancellationToken, JoinHandle<()>)) {
    let server = Server::bind(dir.clone(), config).await.unwrap();
    let running = server.running().clone();
    dir.set_running(&running).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn({
        let stop = stop.clone();
        async move { server.run(stop).await.unwrap() }
    });
    (running, AdminClient::connect(dir).unwrap(), (stop, task))
}

async fn start_node(dir: &StateDir, report_window: Duration) -> Daemon {
    let config = Config { report_window, ..Config::read(&dir.config()).unwrap() };
    let backoff = BackoffConfig { first: Duration::from_millis(20), max: Duration::from_millis(200) };
    Daemon::start(DaemonParts {
        identity: Identity::load(dir).unwrap(),
        dir: dir.clone(),
        config,
        host: FakeHost::new(),
        speech: Arc::new(NoSpeech),
        device: DeviceSummary { kind: DeviceKind::Cpu, name: DeviceName::from_driver("test"), memory_bytes: 0 },
        device_reason: "a test".into(),
        link: AgentLinkConfig { backoff, ..AgentLinkConfig::default() },
        calls: edge_agent::media::router,
    })
    .await
    .unwrap()
}

/// Enrols with a token as its text was handed over.
async fn enrol_node(plane: &Plane, dir: &StateDir, token: &str) -> Result<(), String> {
    let order = EnrolOrder {
        plane: plane.running.agents.to_string(),
        token: token.parse()?,
        node: None,
        url: None,
        again: false,
    };
    enrol(dir, &order).await.map(drop).map_err(|e| e.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_enrols_serves_refuses_what_is_bad_and_outlives_its_plane() {
    let mut plane = Plane::start().await;
    let good = |rest: &[u8]| [Behaviour::Good.line().as_bytes(), rest].concat();
    let mut bytes = 0;
    for stage in Stage::ALL.into_iter().filter(|stage| *stage != Stage::Asr) {
        let file = good(stage.as_str().as_bytes());
        bytes += file.len() as u64;
        plane.add_model(stage.as_str(), stage, &file);
    }
    let large = good(&vec![7; 3_000_000]);
    bytes += large.len() as u64;
    let first = plane.add_model("asr-1", Stage::Asr, &large);
    plane.add_model("asr-2", Stage::Asr, Behaviour::GoldenDiffers.line().as_bytes());
    let better = plane.add_model("asr-3", Stage::Asr, &good(b"better"));
    plane.apply("asr-1").await;

    // Tokens: wrong, right, and used.
    let folder = tempfile::tempdir().unwrap();
    let dir = StateDir::open(&folder.path().join("node")).unwrap();
    let token = plane.token().await;
    let mut parts: Vec<&str> = token.split('.').collect();
    let wrong_secret = "A".repeat(parts[1].len());
    parts[1] = &wrong_secret;
    enrol_node(&plane, &dir, &parts.join(".")).await.expect_err("a wrong token");
    assert!(!dir.identity().exists());
    enrol_node(&plane, &dir, &token).await.unwrap();
    let other = StateDir::open(&folder.path().join("other")).unwrap();
    let said = enrol_node(&plane, &other, &token).await.expect_err("a used token");
    assert!(said.contains("token"), "{said}");

    // It serves, and the plane knows.
    let daemon = start_node(&dir, Duration::from_millis(100)).await;
    let node = plane.node("generation 1", |node| node.serving == Generation(1) && node.models.len() == 6).await;
    assert!(node.models.iter().any(|model| model.digest == first), "{node:?}");
    assert_eq!(node.public_url.as_deref(), Some(daemon.urls()[0].as_str()));
    assert_eq!(daemon.status().fetched_bytes, bytes, "each file once");

    // A model that does not reproduce its golden result here: refused with the reason, and the old one serves on.
    plane.apply("asr-2").await;
    let node = plane.node("the refusal", |node| node.refusal.is_some()).await;
    let refusal = node.refusal.unwrap();
    assert!(refusal.contains("golden") && refusal.contains("asr"), "{refusal}");
    assert_eq!((node.serving, daemon.status().serving), (Generation(1), 1));
    plane.apply("asr-3").await;
    plane.node("generation 3", |node| node.serving == Generation(3)).await;

    // Figures: four calls are too few to be told about, five are not.
    let one = CallTally { calls: 1, turns_by_model: 2, ..CallTally::default() };
    (0..4).for_each(|_| daemon.services().tally.add(&one));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(daemon.status().calls_unreported, 4);
    daemon.services().tally.add(&one);
    let reported = async {
        while daemon.status().calls_unreported > 0 || plane.admin.metrics().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reported).await.expect("the plane has the figures");

    // The plane goes; the node serves on, also after a restart, and the plane finds it unchanged when it comes back.
    plane.stop().await;
    daemon.drain().await;
    let daemon = start_node(&dir, Duration::from_secs(60)).await;
    let booted = async {
        while daemon.status().serving != 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, booted).await.expect("offline boot");
    assert!(daemon.status().models.iter().any(|model| model.digest == better));
    let answer = reqwest::get(format!("{}/v1/route?country=DE", daemon.urls()[0])).await.unwrap();
    let answer: RouteAnswer = answer.json().await.expect("routes of the last-known-good state");
    assert_eq!(answer.nodes.len(), 1);
    plane.start_again().await;
    plane.node("the node is back", |node| node.serving == Generation(3) && node.state == "up").await;
    assert_eq!(daemon.status().fetched_bytes, 0, "nothing new, nothing fetched");
    daemon.drain().await;
    plane.stop().await;
}
