//! A whole node and a whole control plane over real QUIC, HTTP and disk; only the models are scripted.

#[path = "../../edge-agent/tests/node/host.rs"]
pub mod host;
#[path = "../../shared/tests/manual_clock/mod.rs"]
pub mod manual_clock;

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
use host::{ARCHITECTURE, FakeHost, GOLDEN_CASES, NoSpeech};
use nearfield_shared::{
    artefact::{Digest, Manifest, SignedManifest, Stage},
    clock::{Clock, SystemClock},
    link::{AgentLinkConfig, BackoffConfig},
    wire::{
        DeviceName,
        message::{DeviceKind, DeviceSummary},
    },
};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest wait for something that should happen at once; generous, because a slow machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Plane {
    _folder: tempfile::TempDir,
    pub dir: PlaneDir,
    pub running: Running,
    pub admin: AdminClient,
    clock: Arc<dyn Clock>,
    server: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Plane {
    pub async fn start() -> Self {
        Self::start_at(Arc::new(SystemClock::default())).await
    }

    /// With another clock than the machine's.
    pub async fn start_at(clock: Arc<dyn Clock>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = PlaneConfig { heartbeat_s: 0.2, ..PlaneConfig::on_loopback() };
        let dir = PlaneDir::init(&folder.path().join("plane"), &config).unwrap();
        let (running, admin, server) = serve(&dir, config, &clock).await;
        Self { _folder: folder, dir, running, admin, clock, server: Some(server) }
    }

    pub async fn stop(&mut self) {
        if let Some((stop, task)) = self.server.take() {
            stop.cancel();
            task.await.unwrap();
        }
    }

    pub async fn start_again(&mut self) {
        let Running { agents, api, admin, .. } = self.running.clone();
        let config = PlaneConfig { heartbeat_s: 0.2, agents, api, admin, ..PlaneConfig::on_loopback() };
        let (running, admin, server) = serve(&self.dir, config, &self.clock).await;
        (self.running, self.admin, self.server) = (running, admin, Some(server));
    }

    /// A model in the plane's registry, as an import leaves it.
    pub fn add_model(&self, name: &str, stage: Stage, bytes: &[u8]) -> Digest {
        let manifest = Manifest { golden_cases: GOLDEN_CASES, ..Manifest::of_file(name, stage, ARCHITECTURE, bytes) };
        std::fs::write(self.dir.artefact(&manifest.digest), bytes).unwrap();
        let signed = SignedManifest::sign(&manifest, &self.dir.signing_key().unwrap()).unwrap();
        let path = self.dir.models().join(format!("{name}.json"));
        std::fs::write(path, serde_json::to_vec(&signed).unwrap()).unwrap();
        manifest.digest
    }

    /// Applies one region whose hearing is this model.
    pub async fn apply(&self, asr: &str) {
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

    pub async fn token(&self) -> String {
        self.token_for("fra-1").await
    }

    pub async fn token_for(&self, node: &str) -> String {
        let token = NewToken { region: "eu".parse().unwrap(), node: Some(node.parse().unwrap()), ttl_s: 600 };
        self.admin.create_token(&token).await.unwrap().token
    }

    /// Asks until the node is as wanted.
    pub async fn node(&self, what: &str, wanted: impl Fn(&NodeView) -> bool) -> NodeView {
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

async fn serve(
    dir: &PlaneDir,
    config: PlaneConfig,
    clock: &Arc<dyn Clock>,
) -> (Running, AdminClient, (CancellationToken, JoinHandle<()>)) {
    let server = Server::bind_with(dir.clone(), config, clock.clone()).await.unwrap();
    let running = server.running().clone();
    dir.set_running(&running).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn({
        let stop = stop.clone();
        async move {
            server.run(stop).await.unwrap();
        }
    });
    (running, AdminClient::connect(dir).unwrap(), (stop, task))
}

pub async fn start_node(dir: &StateDir, report_window: Duration) -> Daemon {
    start_node_at(dir, report_window, Arc::new(SystemClock::default())).await
}

/// With another clock than the machine's.
pub async fn start_node_at(dir: &StateDir, report_window: Duration, clock: Arc<dyn Clock>) -> Daemon {
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
        clock,
        calls: edge_agent::media::router,
        updates: edge_agent::update::Updates::none(),
    })
    .await
    .unwrap()
}

/// Enrols with a token as its text was handed over.
pub async fn enrol_node(plane: &Plane, dir: &StateDir, token: &str) -> Result<(), String> {
    let order = EnrolOrder {
        planes: vec![plane.running.agents.to_string()],
        token: token.parse()?,
        node: None,
        url: None,
        again: false,
    };
    enrol(dir, &order).await.map(drop).map_err(|e| e.to_string())
}
