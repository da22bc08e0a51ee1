//! A node in this process: the six real models on one engine, real everything else.
#![allow(dead_code, reason = "each test uses what it needs")]

use control_plane::registry::{Cache, Catalogue, Fetcher, speech::RATE_HZ};
use edge_agent::{
    call_client::{Recording, wav},
    calls::CallDoor,
    config::WebRtcConfig,
    media::{resample::resample, webrtc::WebRtc},
    node::{ServedModel, Services, Serving},
    outbound::Outbound,
    speech::Speech,
    state_dir::StateDir,
    telemetry::Tally,
    vault::Vault,
};
use nearfield_inference::engine::{Engine, EngineHandle};
use nearfield_shared::{
    artefact::Digest, assistant::Assistant, desired::Generation, policy::Policy, region::Jurisdiction,
};
use nearfield_tests::{MODELS, engine_with_all_models};
use std::{path::PathBuf, sync::Arc};
use tokio::sync::{OnceCell, watch};

static ENGINE: OnceCell<(Engine, EngineHandle)> = OnceCell::const_new();

/// One engine for all tests of this process, with the default models live.
async fn engine() -> EngineHandle {
    let (_, handle) = ENGINE
        .get_or_init(|| async {
            let engine = engine_with_all_models().await;
            let handle = engine.handle();
            (engine, handle)
        })
        .await;
    handle.clone()
}

/// The question that a person recorded: its words, and the sound.
pub async fn recorded_question() -> (String, Recording) {
    let utterance = tokio::task::spawn_blocking(|| {
        let fetcher = Fetcher::new(Cache::of_user().expect("a cache"));
        let speech = Catalogue::builtin().and_then(|catalogue| catalogue.speech()).expect("the list of recordings");
        speech.question(&fetcher).expect("the recording")
    });
    let utterance = utterance.await.expect("ran");
    let recording = Recording { samples: utterance.samples(), rate_hz: RATE_HZ };
    (utterance.text, recording)
}

/// A node in this process, with the real models and the front desk of `regions/`.
pub struct Node {
    pub url: String,
    pub engine: EngineHandle,
    pub services: Services,
    server: tokio::task::JoinHandle<()>,
    _serving: watch::Sender<Arc<Serving>>,
    folder: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Node {
    /// A node with the real models and the front desk of `regions/`.
    pub async fn start() -> Self {
        let engine = engine().await;
        let text = include_str!("../../regions/assistants/front-desk.toml");
        let assistant: Assistant = toml::from_str(text).expect("an assistant");
        let model = |name: &str| ServedModel {
            name: name.into(),
            version: "1".into(),
            languages: vec!["en".into()],
            digest: Digest::of(name.as_bytes()),
            resident_bytes: 0,
            load_ms: 0,
            golden_cases: 0,
            proven_ms: 0,
        };
        let serving = Serving {
            generation: Generation(1),
            region: Some("eu-central".parse().expect("a name")),
            jurisdiction: Some(Jurisdiction("eu".into())),
            policy: Some(Policy {
                serves_countries: vec!["*".into()],
                store_transcripts: false,
                retention_days: 0,
                metrics_group_min: 5,
                notices: vec![],
            }),
            assistants: vec![assistant],
            routes: vec![],
            models: MODELS.into_iter().map(|(stage, name)| (stage, model(name))).collect(),
        };
        let folder = tempfile::tempdir().expect("a folder");
        let dir = StateDir::open(&folder.path().join("node")).expect("a node's folder");
        let (sender, receiver) = watch::channel(Arc::new(serving));
        let services = Services {
            node: "test-node".into(),
            speech: Arc::new(engine.clone()),
            serving: receiver,
            vault: Vault::open(&dir).expect("a vault"),
            tally: Tally::default(),
            trials: Default::default(),
            calls: CallDoor::new(4),
            client_secrets: Default::default(),
            places: Default::default(),
            telephony: None,
            webrtc: WebRtc::listen(&WebRtcConfig::default()).expect("a free port"),
            outbound: Outbound::new(&[], &dir.tool_secrets()).expect("a client"),
        };
        let router = edge_agent::media::router(services.clone()).merge(edge_agent::talk::router());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("served") });
        Self { url, engine, services, server, _serving: sender, folder }
    }

    /// Somebody says this: our own voice, 24 kHz.
    pub async fn says(&self, text: &str) -> Recording {
        let samples = Speech::speak(&self.engine, text.to_owned(), 1.0).await.expect("spoken");
        Recording { samples, rate_hz: 24_000 }
    }

    /// What our own ASR hears in an answer, cut into parts it takes.
    pub async fn hears(&self, audio: &[f32]) -> String {
        let audio = resample(audio, 24_000, 16_000).expect("rates");
        let mut heard = Vec::new();
        for part in edge_agent::media::heard::parts(&audio) {
            heard.push(Speech::transcribe(&self.engine, part.to_vec()).await.expect("heard"));
        }
        heard.join(" ")
    }

    pub async fn file(&self, name: &str, recording: &Recording) -> PathBuf {
        let path = self.folder.path().join(name);
        wav::write(&path, recording.rate_hz, &recording.samples).expect("written");
        path
    }
}
