//! A node without models: scripted speech, real everything else; and a client that speaks JSON over a WebSocket.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use base64::Engine as _;
use edge_agent::{
    calls::CallDoor,
    config::WebRtcConfig,
    media::webrtc::WebRtc,
    node::{ServedModel, Services, Serving},
    outbound::Outbound,
    speech::{BoxFuture, ChatMessage, Pieces, Speech, SpeechError, Transcript, VadSlot, Wish},
    state_dir::StateDir,
    telemetry::Tally,
    vault::Vault,
};
use futures_util::{SinkExt as _, StreamExt as _};
use nearfield_shared::{
    artefact::{Digest, Stage},
    assistant::{Assistant, HandOver, KnownQuestion},
    desired::Generation,
    policy::Policy,
    region::Jurisdiction,
};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, sync::watch};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};

/// What the scripted models do, in order; what is not scripted is ordinary.
#[derive(Default)]
pub struct Script {
    /// What taking a slot of the detector does before it succeeds.
    pub opening: VecDeque<Did<()>>,
    /// What the detector does with the next pushes before it listens.
    pub hearing: VecDeque<Did<()>>,
    /// What the transcriber answers.
    pub words: VecDeque<Did<String>>,
    /// Milliseconds of audio that the transcriber was given.
    pub transcribed_ms: Vec<usize>,
    /// The drafts that the transcriber was given: the length of the words each one holds.
    pub drafts: Vec<Vec<u32>>,
    /// The words that were boosted for each transcript of a call.
    pub boosted: Vec<Vec<String>>,
    /// What the language model answers, in pieces.
    pub answers: VecDeque<Vec<Did<&'static str>>>,
    /// What speaking a phrase does before it succeeds.
    pub speaking: VecDeque<Did<()>>,
    /// What embedding does before it succeeds.
    pub embedding: VecDeque<Did<()>>,
    /// What the turn model says; 0.9 where nothing is left.
    pub turns: VecDeque<Did<f32>>,
    /// Wishes about answers, of which the script does what it likes.
    pub wishes: Vec<Wish>,
    /// Prompts the language model was given.
    pub prompts: Vec<Vec<ChatMessage>>,
    /// Phrases that were spoken, cached ones not among them.
    pub spoken: Vec<String>,
    /// When each job came and when it was wanted, where that was said.
    pub dues: Vec<(&'static str, Instant, Option<Instant>)>,
}

/// One thing a model does.
pub enum Did<T> {
    Well(T),
    Fails(SpeechError),
    Hangs,
    Panics,
}

#[derive(Default, Clone)]
pub struct FakeSpeech {
    pub script: Arc<Mutex<Script>>,
    pub slots_open: Arc<AtomicUsize>,
    /// Calls that were let in.
    pub places: Arc<AtomicUsize>,
    /// Jobs whose future is alive.
    pub jobs: Arc<AtomicUsize>,
    pub slots_max: usize,
    /// Whether the models are at their limit, and for how many milliseconds they send callers away.
    pub full_for_ms: Option<u64>,
    /// Milliseconds that each piece of work takes.
    pub work_ms: u64,
    /// When its jobs are wanted.
    pub due: Option<Instant>,
    /// Whether there is time for work that is not asked for yet.
    pub idle: bool,
}

/// Counts something while it lives.
pub struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn perform<T>(did: Did<T>) -> Result<T, SpeechError> {
    match did {
        Did::Well(value) => Ok(value),
        Did::Fails(error) => Err(error),
        Did::Hangs => std::future::pending().await,
        Did::Panics => panic!("scripted"),
    }
}

impl FakeSpeech {
    fn note_due(&self, job: &'static str) {
        self.script.lock().unwrap().dues.push((job, Instant::now(), self.due));
    }

    fn job<'a, T: Send + 'a>(&self, did: Did<T>) -> BoxFuture<'a, Result<T, SpeechError>> {
        let (counted, ms) = (Counted::new(&self.jobs), self.work_ms);
        Box::pin(async move {
            let _counted = counted;
            tokio::time::sleep(Duration::from_millis(ms)).await;
            perform(did).await
        })
    }
}

impl Speech for FakeSpeech {
    fn admit(&self) -> Result<Box<dyn std::any::Any + Send>, SpeechError> {
        match self.full_for_ms {
            Some(retry_after_ms) => Err(SpeechError::Overloaded { retry_after_ms }),
            None => Ok(Box::new(Counted::new(&self.places))),
        }
    }

    fn due(self: Arc<Self>, by: Instant) -> Arc<dyn Speech> {
        Arc::new(Self { due: Some(by), ..(*self).clone() })
    }

    fn backlog(&self) -> Duration {
        if self.idle { Duration::ZERO } else { Duration::from_secs(5) }
    }

    fn open_vad(&self) -> Result<Box<dyn VadSlot>, SpeechError> {
        if self.slots_max > 0 && self.slots_open.load(Ordering::SeqCst) >= self.slots_max {
            return Err(SpeechError::Overloaded { retry_after_ms: 1_500 });
        }
        match self.script.lock().unwrap().opening.pop_front() {
            Some(Did::Fails(error)) => Err(error),
            _ => {
                let (script, open) = (Arc::clone(&self.script), Counted::new(&self.slots_open));
                Ok(Box::new(Loudness { rest: Vec::new(), script, _open: open }))
            }
        }
    }

    fn turn_probability(&self, _: Vec<f32>) -> BoxFuture<'_, Result<f32, SpeechError>> {
        let did = self.script.lock().unwrap().turns.pop_front().unwrap_or(Did::Well(0.9));
        self.job(did)
    }

    fn transcribe(&self, audio: Vec<f32>) -> BoxFuture<'_, Result<String, SpeechError>> {
        self.note_due("transcribe");
        let mut script = self.script.lock().unwrap();
        script.transcribed_ms.push(audio.len() / 16);
        let words = script.words.pop_front();
        drop(script);
        self.job(words.unwrap_or(Did::Well("tell me something".into())))
    }

    fn transcribe_after(&self, audio: Vec<f32>, draft: Transcript) -> BoxFuture<'_, Result<Transcript, SpeechError>> {
        self.script.lock().unwrap().drafts.push(draft.tokens);
        Box::pin(async move {
            let text = self.transcribe(audio).await?;
            Ok(Transcript { tokens: vec![text.len() as u32], text })
        })
    }

    fn transcribe_with(
        &self,
        audio: Vec<f32>,
        draft: Transcript,
        words: Arc<[String]>,
    ) -> BoxFuture<'_, Result<Transcript, SpeechError>> {
        self.script.lock().unwrap().boosted.push(words.to_vec());
        self.transcribe_after(audio, draft)
    }

    fn generate(&self, messages: Vec<ChatMessage>, tokens_max: usize) -> Result<Pieces, SpeechError> {
        self.note_due("generate");
        let mut script = self.script.lock().unwrap();
        script.prompts.push(messages);
        let answer = script.answers.pop_front();
        let answer =
            answer.unwrap_or_else(|| vec![Did::Well("This is the first sentence. "), Did::Well("And the second.")]);
        let (send, receive) = tokio::sync::mpsc::channel::<Result<String, SpeechError>>(8);
        let (counted, ms) = (Counted::new(&self.jobs), self.work_ms);
        let task = tokio::spawn(async move {
            let _counted = counted;
            for piece in answer.into_iter().take(tokens_max) {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                if send.send(perform(piece).await.map(str::to_owned)).await.is_err() {
                    return;
                }
            }
        });
        struct Stop(tokio::task::JoinHandle<()>);
        impl Drop for Stop {
            fn drop(&mut self) {
                self.0.abort();
            }
        }
        Ok(Pieces::new(receive, Stop(task)))
    }

    fn generate_as(&self, messages: Vec<ChatMessage>, tokens_max: usize, wish: Wish) -> Result<Pieces, SpeechError> {
        self.script.lock().unwrap().wishes.push(wish);
        self.generate(messages, tokens_max)
    }

    fn speak(&self, phrase: String, _: f32) -> BoxFuture<'_, Result<Vec<f32>, SpeechError>> {
        self.note_due("speak");
        let mut script = self.script.lock().unwrap();
        let did = script.speaking.pop_front().unwrap_or(Did::Well(()));
        script.spoken.push(phrase.clone());
        drop(script);
        // 50 ms for each letter, as a tone.
        let audio: Vec<f32> = (0..phrase.chars().count() * 1_200).map(|n| 0.3 * (n as f32 * 0.05).sin()).collect();
        let did = match did {
            Did::Well(()) => Did::Well(audio),
            Did::Fails(error) => Did::Fails(error),
            Did::Hangs => Did::Hangs,
            Did::Panics => Did::Panics,
        };
        self.job(did)
    }

    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Vec<f32>>, SpeechError>> {
        self.note_due("embed");
        let did = self.script.lock().unwrap().embedding.pop_front().unwrap_or(Did::Well(()));
        let vectors = texts.iter().map(|text| bag_of_words(text)).collect();
        self.job(match did {
            Did::Well(()) => Did::Well(vectors),
            Did::Fails(error) => Did::Fails(error),
            Did::Hangs => Did::Hangs,
            Did::Panics => Did::Panics,
        })
    }
}

/// Texts with the same words point the same way.
fn bag_of_words(text: &str) -> Vec<f32> {
    let mut vector = vec![0.0f32; 256];
    for word in text.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()) {
        vector[usize::from(Digest::of(word.as_bytes()).0[0])] += 1.0;
    }
    let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-9);
    vector.iter().map(|v| v / length).collect()
}

/// A detector that takes loudness for speech.
struct Loudness {
    rest: Vec<f32>,
    script: Arc<Mutex<Script>>,
    _open: Counted,
}

impl VadSlot for Loudness {
    fn push<'a>(&'a mut self, samples: &'a [f32]) -> BoxFuture<'a, Result<Vec<f32>, SpeechError>> {
        self.rest.extend_from_slice(samples);
        let whole = self.rest.len() / 512 * 512;
        let frames: Vec<f32> = self.rest.drain(..whole).collect();
        let loud = |frame: &[f32]| frame.iter().map(|s| s * s).sum::<f32>() / 512.0 > 0.001;
        let did = self.script.lock().unwrap().hearing.pop_front();
        Box::pin(async move {
            perform(did.unwrap_or(Did::Well(()))).await?;
            Ok(frames.chunks(512).map(|f| if loud(f) { 0.95 } else { 0.02 }).collect())
        })
    }
}

/// A node with everything but models.
pub struct Node {
    pub speech: Arc<FakeSpeech>,
    pub services: Services,
    pub serving: watch::Sender<Arc<Serving>>,
    pub address: SocketAddr,
    server: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub fn front_desk() -> Assistant {
    Assistant {
        name: "front-desk".into(),
        instructions: "Be kind and brief.".into(),
        greeting: None,
        voice: "heart".into(),
        match_threshold: 0.62,
        questions: vec![KnownQuestion {
            ask: vec!["when are you open".into(), "what are your opening hours".into()],
            answer: "We are open from nine to six. Come by.".into(),
        }],
        hand_over: HandOver {
            ask: vec!["i want to talk to a person".into()],
            say: Some("One moment please.".into()),
            ..HandOver::default()
        },
        ..Assistant::default()
    }
}

pub fn serving(assistants: Vec<Assistant>) -> Serving {
    let model = |stage: Stage| ServedModel {
        name: format!("fake-{stage}"),
        version: "1".into(),
        languages: vec![],
        digest: Digest::of(stage.as_str().as_bytes()),
        resident_bytes: 1,
        load_ms: 1,
        proven_ms: 1,
        golden_cases: 1,
    };
    Serving {
        generation: Generation(7),
        region: Some("eu-central".parse().unwrap()),
        jurisdiction: Some(Jurisdiction("eu".into())),
        policy: Some(Policy {
            serves_countries: vec!["*".into()],
            store_transcripts: true,
            retention_days: 7,
            metrics_group_min: 5,
            notices: vec![],
        }),
        assistants,
        routes: vec![],
        models: Stage::ALL.into_iter().map(|stage| (stage, model(stage))).collect(),
    }
}

impl Node {
    pub async fn start() -> Self {
        Self::with(FakeSpeech::default(), serving(vec![front_desk()]), 8).await
    }

    pub async fn with(speech: FakeSpeech, serving: Serving, calls_max: usize) -> Self {
        Self::made(speech, serving, calls_max, |_| {}).await
    }

    /// A node whose assistants may ask these hosts of its own network.
    pub async fn asking(speech: FakeSpeech, serving: Serving, calls_max: usize, private_hosts: Vec<String>) -> Self {
        Self::build(speech, serving, calls_max, &private_hosts, |_| {}).await
    }

    /// With other services than usual.
    pub async fn made(
        speech: FakeSpeech,
        serving: Serving,
        calls_max: usize,
        change: impl FnOnce(&mut Services),
    ) -> Self {
        Self::build(speech, serving, calls_max, &[], change).await
    }

    async fn build(
        speech: FakeSpeech,
        serving: Serving,
        calls_max: usize,
        private_hosts: &[String],
        change: impl FnOnce(&mut Services),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&folder.path().join("node")).unwrap();
        let speech = Arc::new(speech);
        let (sender, receiver) = watch::channel(Arc::new(serving));
        let mut services = Services {
            node: "test-node".into(),
            speech: speech.clone(),
            serving: receiver,
            vault: Vault::open(&dir).unwrap(),
            tally: Tally::default(),
            trials: Default::default(),
            calls: CallDoor::new(calls_max),
            client_secrets: Default::default(),
            places: Default::default(),
            telephony: None,
            webrtc: WebRtc::listen(&WebRtcConfig::default()).expect("a free port"),
            outbound: Outbound::new(private_hosts, &dir.tool_secrets()).unwrap(),
        };
        change(&mut services);
        let router = edge_agent::media::router(services.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { speech, services, serving: sender, address, server, _folder: folder }
    }

    /// Where the node's secrets lie.
    pub fn secrets(&self) -> std::path::PathBuf {
        self._folder.path().join("node/secrets")
    }

    pub fn url(&self) -> String {
        format!("ws://{}/v1/realtime?model=gpt-realtime", self.address)
    }

    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.speech.script.lock().unwrap());
    }

    /// Waits until the assistants are ready: their phrases are spoken and nothing is at work.
    pub async fn warm(&self) {
        until(|| self.speech.script.lock().unwrap().spoken.len() >= 9 && self.speech.jobs.load(Ordering::SeqCst) == 0)
            .await;
    }

    /// Waits until no call is left, and nothing of one.
    pub async fn quiet(&self) {
        until(|| {
            self.services.calls.inside() == 0
                && self.speech.slots_open.load(Ordering::SeqCst) == 0
                && self.speech.jobs.load(Ordering::SeqCst) == 0
        })
        .await;
    }

    pub async fn call(&self) -> Client {
        Client::connect(&self.url()).await
    }
}

/// Waits for something that must become true; a test that waits in vain is stopped by the test runner's reader, not by a clock here.
pub async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A client.
pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Everything received.
    pub seen: Vec<Value>,
}

impl Client {
    /// Connects and takes `session.created`.
    pub async fn connect(url: &str) -> Self {
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let mut client = Self { socket, seen: vec![] };
        client.expect("session.created").await;
        client
    }

    pub async fn send(&mut self, event: Value) {
        self.socket.send(Message::Text(event.to_string().into())).await.unwrap();
    }

    /// The next event; `None` when the connection is closed.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            match self.socket.next().await? {
                Ok(Message::Text(text)) => {
                    let event: Value = serde_json::from_str(&text).unwrap();
                    self.seen.push(event.clone());
                    return Some(event);
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Reads until an event of this type.
    pub async fn expect(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("closed before {kind}; saw {:?}", self.kinds()));
            if event["type"] == kind {
                return event;
            }
        }
    }

    /// Sends an event and returns the answer of this type.
    pub async fn ask(&mut self, event: Value, kind: &str) -> Value {
        self.send(event).await;
        self.expect(kind).await
    }

    /// The types of what was received since the last look, repeated ones once.
    pub fn kinds(&mut self) -> Vec<String> {
        let mut kinds: Vec<String> =
            self.seen.drain(..).map(|e| e["type"].as_str().unwrap_or_default().to_owned()).collect();
        kinds.dedup();
        kinds
    }

    pub async fn manual(&mut self) {
        let update = json!({"type": "session.update", "session": {"type": "realtime", "audio": {"input": {"turn_detection": null}}}});
        self.ask(update, "session.updated").await;
    }

    pub async fn server_vad(&mut self) {
        let detection = json!({"type": "server_vad", "silence_duration_ms": 200, "prefix_padding_ms": 100});
        let update = json!({"type": "session.update", "session": {"type": "realtime", "audio": {"input": {"turn_detection": detection}}}});
        self.ask(update, "session.updated").await;
    }

    /// Sends speech (a tone) or silence at 24 kHz.
    pub async fn append(&mut self, ms: usize, loud: bool) {
        let bytes = tone(ms, loud);
        for chunk in bytes.chunks(4_800) {
            let audio = base64::engine::general_purpose::STANDARD.encode(chunk);
            self.send(json!({"type": "input_audio_buffer.append", "audio": audio})).await;
        }
    }

    /// Speaks and then is silent for long enough to end a turn.
    pub async fn speak(&mut self, ms: usize) {
        self.append(ms, true).await;
        self.append(1_000, false).await;
    }
}

/// PCM16 at 24 kHz.
pub fn tone(ms: usize, loud: bool) -> Vec<u8> {
    let sample = |n: usize| if loud { (8_000.0 * (n as f32 * 0.08).sin()) as i16 } else { 0 };
    (0..ms * 24).flat_map(|n| sample(n).to_le_bytes()).collect()
}

/// Milliseconds of audio in the deltas of some events, 24 kHz PCM16.
pub fn audio_ms(events: &[Value]) -> usize {
    let bytes = |event: &Value| {
        let delta = event["delta"].as_str().unwrap_or_default();
        base64::engine::general_purpose::STANDARD.decode(delta).unwrap().len()
    };
    events.iter().filter(|e| e["type"] == "response.output_audio.delta").map(bytes).sum::<usize>() / 48
}
