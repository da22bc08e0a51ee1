//! A plane in a folder of its own, in this process.

use control_plane::{
    admin_client::AdminClient,
    api::views::{NewToken, NodeView, PlanView},
    config::Config,
    definition::SourceFile,
    fleet::change::Plan,
    serve::Server,
    state_dir::{Running, StateDir},
};
use nearfield_shared::{
    artefact::{Manifest, SignedManifest, Stage},
    clock::{Clock, SystemClock},
    wire::enrol::EnrolToken,
};
use std::{fs, sync::Arc};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub struct TestPlane {
    _folder: TempDir,
    pub dir: StateDir,
    config: Config,
    pub clock: Arc<dyn Clock>,
    server: Option<(CancellationToken, JoinHandle<()>)>,
    pub running: Running,
    pub admin: AdminClient,
}

/// Two regions with four tiny models each.
pub const REGIONS: [(&str, &str, &str); 2] = [("eu", "eu", r#"["DE", "FR"]"#), ("us", "us", r#"["*"]"#)];

impl TestPlane {
    /// Started, with nothing applied.
    pub async fn empty() -> Self {
        Self::with(Config { heartbeat_s: 30.0, ..Config::on_loopback() }).await
    }

    /// Started, with two regions applied.
    pub async fn new() -> Self {
        let plane = Self::empty().await;
        plane.apply(&plane.files()).await;
        plane
    }

    pub async fn with(config: Config) -> Self {
        Self::at(Arc::new(SystemClock::default()), config).await
    }

    /// With another clock than the machine's.
    pub async fn at(clock: Arc<dyn Clock>, config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = StateDir::init(&folder.path().join("state"), &config).unwrap();
        for stage in [Stage::Vad, Stage::Asr, Stage::Llm, Stage::Tts] {
            add_model(&dir, &format!("{stage}-1"), stage, stage.as_str().as_bytes());
        }
        let (running, admin, server) = start(&dir, &config, &clock).await;
        Self { _folder: folder, dir, config, clock, server: Some(server), running, admin }
    }

    /// One that runs as a process of its own on this folder.
    pub fn beside(dir: StateDir) -> Self {
        let (running, admin) = (dir.running().unwrap(), AdminClient::connect(&dir).unwrap());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let _folder = tempfile::tempdir().unwrap();
        Self { _folder, dir, config: Config::on_loopback(), clock, server: None, running, admin }
    }

    pub async fn stop(&mut self) {
        if let Some((stop, task)) = self.server.take() {
            stop.cancel();
            task.await.unwrap();
        }
    }

    /// On the ports that it had before, so that nodes find it again.
    pub async fn start_again(&mut self) {
        self.stop().await;
        let config = Config {
            agents: self.running.agents,
            api: self.running.api,
            admin: self.running.admin,
            ..self.config.clone()
        };
        let (running, admin, server) = start(&self.dir, &config, &self.clock).await;
        (self.running, self.admin, self.server) = (running, admin, Some(server));
    }

    pub fn files(&self) -> Vec<SourceFile> {
        let region = |(id, law, countries): (&str, &str, &str)| SourceFile {
            path: format!("regions/{id}.toml"),
            stem: id.into(),
            assistant: false,
            text: format!(
                "id = \"{id}\"\njurisdiction = \"{law}\"\nassistants = [\"desk\"]\n[location]\nlatitude = 50\nlongitude = 8\n\
                 [policy]\nserves_countries = {countries}\nstore_transcripts = false\nretention_days = 0\nmetrics_group_min = 5\n\
                 [models]\nvad = \"vad-1\"\nasr = \"asr-1\"\nllm = \"llm-1\"\ntts = \"tts-1\"\n"
            ),
        };
        let desk = SourceFile {
            path: "regions/assistants/desk.toml".into(),
            stem: "desk".into(),
            assistant: true,
            text: "name = \"desk\"\nvoice = \"v\"\ninstructions = \"i0\"\n".into(),
        };
        REGIONS.into_iter().map(region).chain([desk]).collect()
    }

    /// The same, with other instructions for the assistant: a new generation everywhere.
    pub fn files_with(&self, instructions: &str) -> Vec<SourceFile> {
        let mut files = self.files();
        for file in files.iter_mut().filter(|file| file.assistant) {
            file.text = file.text.replace("i0", instructions);
        }
        files
    }

    pub async fn apply(&self, files: &[SourceFile]) -> Plan {
        match self.admin.apply(files.to_vec()).await.unwrap() {
            PlanView::Plan(plan) => plan,
            PlanView::Mistakes(mistakes) => panic!("{mistakes:#?}"),
        }
    }

    pub async fn token(&self, region: &str, node: Option<&str>, ttl_s: i64) -> EnrolToken {
        let token = NewToken { region: region.parse().unwrap(), node: node.map(|node| node.parse().unwrap()), ttl_s };
        self.admin.create_token(&token).await.unwrap().token.parse().unwrap()
    }

    pub async fn node(&self, name: &str) -> NodeView {
        self.admin.node(name).await.unwrap()
    }

    /// Asks again until the node is as wanted; a test that waits for ever is one that fails.
    pub async fn wait_for(&self, name: &str, what: impl Fn(&NodeView) -> bool) -> NodeView {
        loop {
            let node = self.node(name).await;
            if what(&node) {
                return node;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

async fn start(
    dir: &StateDir,
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> (Running, AdminClient, (CancellationToken, JoinHandle<()>)) {
    let server = loop {
        match Server::bind_with(dir.clone(), config.clone(), clock.clone()).await {
            Ok(server) => break server,
            // Another test may have been given the port while this plane was down, or its last packets are still on their way.
            // Or the last task of the server before has not let go of the folder yet.
            Err(error)
                if ["in use", "already; stop it first"].iter().any(|busy| format!("{error:#}").contains(busy)) =>
            {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error:#}"),
        }
    };
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

/// A model file with its signed manifest, as an import leaves them.
pub fn add_model(dir: &StateDir, name: &str, stage: Stage, bytes: &[u8]) -> Manifest {
    let manifest = Manifest::of_file(name, stage, "test", bytes);
    fs::write(dir.artefact(&manifest.digest), bytes).unwrap();
    let signed = SignedManifest::sign(&manifest, &dir.signing_key().unwrap()).unwrap();
    fs::write(dir.models().join(format!("{name}.json")), serde_json::to_vec(&signed).unwrap()).unwrap();
    manifest
}
