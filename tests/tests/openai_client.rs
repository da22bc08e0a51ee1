//! Calls with the six real models: the official Python client, unmodified, and our own; what is spoken is read back by
//! our own ASR.

#[path = "../openai/mod.rs"]
mod openai;

use control_plane::registry::{
    Cache, Catalogue, Fetcher, ensure,
    speech::wer::{word_errors, words},
};
use edge_agent::{
    call_client::{CallOptions, CallOutcome, Recording, place_call, wav},
    calls::CallDoor,
    media::resample::resample,
    node::{ServedModel, Services, Serving},
    speech::Speech,
    state_dir::StateDir,
    telemetry::Tally,
    vault::Vault,
};
use nearfield_inference::{
    device::{Want, select},
    engine::{Engine, EngineHandle, Limits},
};
use nearfield_shared::{
    artefact::{Digest, Stage},
    assistant::Assistant,
    desired::Generation,
    gguf::Gguf,
    policy::Policy,
    region::Jurisdiction,
};
use std::{path::PathBuf, sync::Arc};
use tokio::sync::{OnceCell, watch};

const MODELS: [(Stage, &str); 6] = [
    (Stage::Vad, "silero-vad"),
    (Stage::Turn, "smart-turn-v3.2"),
    (Stage::Asr, "moonshine-tiny"),
    (Stage::Llm, "smollm2-135m-instruct"),
    (Stage::Tts, "hibari"),
    (Stage::Embed, "minilm-l6-v2"),
];

static ENGINE: OnceCell<(Engine, EngineHandle)> = OnceCell::const_new();

/// One engine for all tests of this process, with the default models live.
async fn engine() -> EngineHandle {
    let (_, handle) = ENGINE
        .get_or_init(|| async {
            let names = MODELS.map(|(_, name)| name);
            let files = tokio::task::spawn_blocking(move || ensure(&names)).await.expect("ran").expect("the models");
            let engine = Engine::start(select(&Want::Cpu).expect("a CPU"), Limits::default()).expect("an engine");
            let handle = engine.handle();
            for ((stage, name), file) in MODELS.into_iter().zip(files) {
                let gguf = Gguf::open(file).expect("a GGUF file");
                let candidate = handle.load(gguf, stage).await.unwrap_or_else(|e| panic!("{name}: {e}"));
                handle.activate(candidate).await.unwrap_or_else(|e| panic!("{name}: {e}"));
            }
            (engine, handle)
        })
        .await;
    handle.clone()
}

struct Node {
    url: String,
    engine: EngineHandle,
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
    async fn start() -> Self {
        let engine = engine().await;
        let text = include_str!("../../regions/assistants/front-desk.toml");
        let assistant: Assistant = toml::from_str(text).expect("an assistant");
        let model = |name: &str| ServedModel {
            name: name.into(),
            version: "1".into(),
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
            calls: CallDoor::new(4),
        };
        let router = edge_agent::media::router(services);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("served") });
        Self { url, engine, server, _serving: sender, folder }
    }

    /// Somebody says this: our own voice, 24 kHz.
    async fn says(&self, text: &str) -> Recording {
        let samples = Speech::speak(&self.engine, text.to_owned(), 1.0).await.expect("spoken");
        Recording { samples, rate_hz: 24_000 }
    }

    /// What our own ASR hears in an answer, cut into parts it takes.
    async fn hears(&self, audio: &[f32]) -> String {
        let audio = resample(audio, 24_000, 16_000).expect("rates");
        let mut heard = Vec::new();
        for part in edge_agent::media::heard::parts(&audio) {
            heard.push(Speech::transcribe(&self.engine, part.to_vec()).await.expect("heard"));
        }
        heard.join(" ")
    }

    async fn file(&self, name: &str, recording: &Recording) -> PathBuf {
        let path = self.folder.path().join(name);
        wav::write(&path, recording.rate_hz, &recording.samples).expect("written");
        path
    }
}

fn show(outcome: &CallOutcome) {
    println!("{}", outcome.to_text());
}

fn answered_by(outcome: &CallOutcome) -> String {
    let ledger = serde_json::to_value(&outcome.ledger).expect("JSON");
    ledger["answered_by"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_question_is_understood_and_answered_word_for_word() {
    let node = Node::start().await;
    let question = node.says("When are you open?").await;
    let outcome = place_call(CallOptions::new(&node.url, question)).await.expect("answered");
    show(&outcome);
    assert_eq!(answered_by(&outcome), "known_question");
    let said = "We are open from nine to six, Monday to Friday, and from ten to two on Saturday.";
    assert_eq!(outcome.answer, said);
    let heard = node.hears(&outcome.audio).await;
    let errors = word_errors(said, &heard);
    println!("read back: {heard} ({} of {} words wrong)", errors.errors, errors.words);
    assert!(errors.errors * 10 <= errors.words, "the answer cannot be understood: {heard}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_person_gets_an_answer_that_says_what_is_printed() {
    let node = Node::start().await;
    let utterance = tokio::task::spawn_blocking(|| {
        let fetcher = Fetcher::new(Cache::of_user().expect("a cache"));
        let speech = Catalogue::builtin().and_then(|catalogue| catalogue.speech()).expect("the list of recordings");
        speech.question(&fetcher).expect("the recording")
    });
    let utterance = utterance.await.expect("ran");
    let question = Recording { samples: utterance.samples(), rate_hz: 16_000 };
    let outcome = place_call(CallOptions::new(&node.url, question)).await.expect("answered");
    println!("was said:     {}", utterance.text);
    show(&outcome);
    let errors = word_errors(&utterance.text, &outcome.transcript);
    assert!(errors.errors * 3 <= errors.words, "heard `{}`", outcome.transcript);
    let heard = node.hears(&outcome.audio).await;
    let errors = word_errors(&outcome.answer, &heard);
    println!("read back: {heard} ({} of {} words wrong)", errors.errors, errors.words);
    assert!(errors.errors * 5 <= errors.words, "printed `{}`, spoken `{heard}`", outcome.answer);
    assert!(!words(&outcome.answer).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_client_holds_a_spoken_conversation_of_two_turns() {
    let node = Node::start().await;
    let first = node.says("Where is your office?").await;
    let second = node.says("Can you tell me something about the weather in summer?").await;
    let questions = [node.file("first.wav", &first).await, node.file("second.wav", &second).await];
    let (target, url) = (PathBuf::from(env!("CARGO_TARGET_TMPDIR")), node.url.clone());
    let found = tokio::task::spawn_blocking(move || openai::converse(&target, &url, &questions)).await.expect("ran");
    println!("{}", serde_json::to_string_pretty(&found).expect("JSON"));
    let turns = found["turns"].as_array().expect("turns");
    assert_eq!(turns.len(), 2);
    let text = |n: usize, field: &str| turns[n][field].as_str().unwrap_or_default().to_owned();
    assert!(word_errors("where is your office", &text(0, "heard")).errors <= 1, "heard `{}`", text(0, "heard"));
    assert_eq!(turns[0]["ledger"]["answered_by"], "known_question");
    assert_eq!(
        text(0, "answer"),
        "You find us at twelve Harbour Street, two minutes on foot from the central station."
    );
    assert!(word_errors("can you tell me something about the weather in summer", &text(1, "heard")).errors <= 2);
    assert_eq!(turns[1]["ledger"]["answered_by"], "model");
    for turn in turns {
        assert!(matches!(turn["status"].as_str(), Some("completed" | "incomplete")), "{turn}");
        assert!(turn["audio_ms"].as_u64() >= Some(500), "an answer is spoken: {turn}");
    }
    assert!(!found["typed"].as_str().unwrap_or_default().is_empty());
}
