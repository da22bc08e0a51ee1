//! The Wyoming protocol over real sockets, with scripted models: by the official package, and by clients that misbehave.

#[path = "../../tests/environments/mod.rs"]
mod environments;
mod support;

#[path = "../../tests/wyoming/mod.rs"]
mod wyoming;

use edge_agent::{
    config::Config,
    wyoming::{SESSIONS_MAX, bind, event, serve},
};
use event::Event;
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::atomic::Ordering};
use support::{Did, FakeSpeech, Node, front_desk, serving, tone, until};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A node with a listener for Wyoming.
struct Home {
    node: Node,
    address: SocketAddr,
    _stop: DropGuard,
}

impl Home {
    async fn with(speech: FakeSpeech) -> Self {
        let node = Node::with(speech, serving(vec![front_desk()]), 8).await;
        node.warm().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, node.services.clone(), stop.clone()));
        Self { node, address, _stop: stop.drop_guard() }
    }

    async fn start() -> Self {
        Self::with(FakeSpeech::default()).await
    }

    async fn connect(&self) -> Guest {
        Guest { socket: BufReader::new(TcpStream::connect(self.address).await.expect("connected")) }
    }
}

struct Guest {
    socket: BufReader<TcpStream>,
}

impl Guest {
    async fn send(&mut self, event: &Event) {
        self.write(&event.encode()).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.expect("sent");
    }

    async fn next(&mut self) -> Option<Event> {
        event::read(&mut self.socket).await.ok().flatten()
    }

    async fn expect(&mut self, kind: &str) -> Event {
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("closed before {kind}"));
            if event.kind == kind {
                return event;
            }
        }
    }

    /// The code of the error that is told, which is the last thing that is.
    async fn refused(&mut self) -> String {
        let error = self.expect("error").await;
        assert!(error.text("text").is_some_and(|text| text.len() > 10), "an error has words");
        assert!(self.next().await.is_none(), "the connection is closed");
        error.text("code").expect("a code").to_owned()
    }
}

fn event(kind: &str, data: Value) -> Event {
    Event::new(kind, data)
}

/// So many milliseconds of a tone or of silence.
fn audio(ms: usize, loud: bool) -> Event {
    event("audio-chunk", json!({"rate": 24_000, "width": 2, "channels": 1})).with(tone(ms, loud))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_package_hears_and_speaks() {
    let home = Home::start().await;
    home.node.script(|s| s.words.push_back(Did::Well("turn on the light".into())));
    let folder = tempfile::tempdir().expect("a folder");
    let recording = folder.path().join("light.wav");
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 24_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(&recording, spec).expect("a writer");
    let samples = [tone(320, false), tone(960, true)].concat();
    samples.chunks_exact(2).for_each(|b| writer.write_sample(i16::from_le_bytes([b[0], b[1]])).expect("written"));
    writer.finalize().expect("finished");
    let (target, address) = (std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")), home.address);
    let found = tokio::task::spawn_blocking(move || wyoming::be_at_home(&target, address, &recording));
    let found = found.await.expect("ran");

    assert_eq!(found["info"]["asr"], json!([["fake-asr", ["en"], true]]));
    assert_eq!(found["info"]["tts"], json!([["heart", ["en"], true]]));
    assert_eq!((&found["info"]["streaming"], &found["pong"]), (&json!([true, true]), &json!("there?")));
    let order =
        ["transcript-start", "voice-started", "voice-stopped", "transcript-chunk", "transcript", "transcript-stop"];
    let mut types: Vec<&str> =
        found["heard"]["types"].as_array().expect("types").iter().filter_map(Value::as_str).collect();
    // Who is first is not fixed: the recogniser works beside the detector.
    types.sort_by_key(|kind| order.iter().position(|other| other == kind));
    assert_eq!(types, order);
    assert_eq!(found["heard"]["types"][5], "transcript-stop");
    assert_eq!(found["heard"]["text"], json!(["turn on the light"]));
    assert_eq!(found["heard"]["pieces"], found["heard"]["text"]);
    assert_eq!(found["heard"]["at_once"], json!([["tell me something"], ["tell me something"], ["tell me something"]]));
    let time = |n: usize| found["voices"][n][1].as_u64().expect("a time");
    assert_eq!((&found["voices"][0][0], &found["voices"][1][0]), (&json!("voice-started"), &json!("voice-stopped")));
    assert!(time(0).abs_diff(320) <= 32 && time(1).abs_diff(1_280) <= 64, "{}", found["voices"]);
    let spoken = &found["spoken"];
    assert_eq!(spoken["formats"], json!([[24_000, 2, 1]]));
    assert_eq!(spoken["order"], json!(["audio-start", "audio-chunk", "audio-stop"]));
    let seconds = |found: &Value| found["seconds"].as_f64().expect("seconds");
    assert!((seconds(spoken) - 67.0 * 0.05).abs() < 0.1, "50 ms for each letter: {spoken}");
    assert!((seconds(&found["streamed"]) - seconds(spoken)).abs() < 0.1, "{found}");
    assert_eq!(found["streamed"]["order"], json!(["audio-start", "audio-chunk", "audio-stop", "synthesize-stopped"]));
    assert_eq!(found["refused"][0], "invalid_value");
    home.node.quiet().await;
}

#[tokio::test]
async fn what_is_no_event_ends_its_connection_and_no_other() {
    let home = Home::start().await;
    let mut other = home.connect().await;
    other.send(&event("audio-start", json!({"rate": 24_000, "width": 2, "channels": 1}))).await;
    other.send(&audio(300, true)).await;
    other.expect("voice-started").await;
    let long = vec![b'x'; event::HEADER_BYTES_MAX + 1];
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"{\"type\": 5}\n",
        b"{\"type\": \"audio-chunk\", \"payload_length\": 99999999999}\n",
        b"{\"type\": \"synthesize\", \"data_length\": -4}\n",
        b"{\"type\": \"synthesize\", \"data_length\": 4}\nnull",
        &long,
    ] {
        let mut guest = home.connect().await;
        guest.write(bytes).await;
        assert_eq!(guest.refused().await, "malformed_event");
    }
    let wide = json!({"rate": 24_000, "width": 4, "channels": 1});
    let text = "word ".repeat(1_000);
    for (bad, code) in [
        (event("audio-start", wide), "invalid_audio"),
        (event("audio-start", json!({"rate": 10, "width": 2, "channels": 1})).with(vec![]), ""),
        (event("audio-chunk", json!({"rate": 24_000, "width": 2, "channels": 2})).with(vec![0; 6]), "invalid_audio"),
        (event("audio-chunk", json!({"rate": 0, "width": 2, "channels": 1})).with(vec![0; 6]), "invalid_audio"),
        (event("audio-chunk", json!({})), "invalid_audio"),
        (event("select-program", json!({"name": "whisper"})), "unknown_program"),
        (event("synthesize", json!({})), "invalid_value"),
        (event("synthesize", json!({"text": text})), "text_too_long"),
        (event("synthesize", json!({"text": "hallo", "voice": {"language": "de"}})), "unsupported_language"),
        (event("synthesize", json!({"text": "<speak/>", "text_format": "ssml"})), "unsupported_format"),
    ] {
        let mut guest = home.connect().await;
        guest.send(&bad).await;
        if code.is_empty() {
            // The rate is looked at when there is audio.
            guest.send(&event("audio-chunk", json!({"rate": 10, "width": 2, "channels": 1})).with(vec![0; 2])).await;
        }
        let found = guest.refused().await;
        assert_eq!(found, if code.is_empty() { "invalid_audio" } else { code });
    }
    // What is not known is passed over, and what nobody began has no end.
    let mut guest = home.connect().await;
    for kind in ["run-pipeline", "audio-stop", "synthesize-chunk", "synthesize-stop"] {
        guest.send(&event(kind, json!({"x": 1})).with(vec![1, 2, 3])).await;
    }
    guest.send(&event("describe", Value::Null)).await;
    assert_eq!(guest.next().await.expect("answered").kind, "info");
    other.send(&event("audio-stop", Value::Null)).await;
    assert_eq!(other.expect("transcript").await.text("text"), Some("tell me something"));
}

#[tokio::test]
async fn audio_that_ends_early_and_speech_that_fails_are_told() {
    let home = Home::start().await;
    home.node.script(|s| {
        s.words.push_back(Did::Panics);
        s.speaking.push_back(Did::Fails(edge_agent::speech::SpeechError::Model("tensor 7".into())));
    });
    let mut guest = home.connect().await;
    guest.send(&event("transcribe", Value::Null)).await;
    guest.send(&audio(600, true)).await;
    guest.send(&event("audio-stop", Value::Null)).await;
    assert_eq!(guest.refused().await, "model_failed");
    let mut guest = home.connect().await;
    guest.send(&event("synthesize", json!({"text": "Hello."}))).await;
    assert_eq!(guest.refused().await, "model_failed");
    // No audio is no words.
    let mut guest = home.connect().await;
    guest.send(&event("audio-start", json!({"rate": 16_000, "width": 2, "channels": 1}))).await;
    guest.send(&event("audio-stop", Value::Null)).await;
    assert_eq!(guest.expect("transcript").await.text("text"), Some(""));
    home.node.quiet().await;
}

#[tokio::test]
async fn a_client_that_leaves_stops_its_work_and_makes_room() {
    let home = Home::start().await;
    home.node.script(|s| {
        s.speaking.push_back(Did::Hangs);
        s.words.push_back(Did::Hangs);
    });
    let mut speaking = home.connect().await;
    speaking.send(&event("synthesize", json!({"text": "Hello there."}))).await;
    let mut hearing = home.connect().await;
    hearing.send(&event("audio-start", json!({"rate": 24_000, "width": 2, "channels": 1}))).await;
    hearing.send(&audio(600, true)).await;
    hearing.send(&event("audio-stop", Value::Null)).await;
    until(|| home.node.speech.jobs.load(Ordering::SeqCst) == 2).await;
    let mut waiting = Vec::new();
    for _ in 2..SESSIONS_MAX {
        let mut guest = home.connect().await;
        guest.send(&event("ping", Value::Null)).await;
        guest.expect("pong").await;
        waiting.push(guest);
    }
    assert_eq!(home.connect().await.refused().await, "too_many_connections");
    drop((speaking, hearing, waiting));
    home.node.quiet().await;
    until(|| home.node.speech.places.load(Ordering::SeqCst) == 0).await;
    loop {
        let mut guest = home.connect().await;
        guest.send(&event("ping", json!({"text": "again"}))).await;
        // Those who left are noticed one after the other.
        if guest.next().await.is_some_and(|event| event.kind == "pong") {
            break;
        }
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_the_work_up_and_not_the_memory() {
    let home = Home::start().await;
    let mut guest = home.connect().await;
    let long = "This is a sentence of some words. ".repeat(100);
    for _ in 0..20 {
        guest.send(&event("synthesize", json!({"text": long}))).await;
    }
    let spoken = || home.node.speech.script.lock().expect("whole").spoken.len();
    // The sockets' buffers take some of it; then nothing more is spoken, whatever was asked for.
    let mut before = 0;
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        if spoken() == before {
            break;
        }
        before = spoken();
    }
    assert!(before < 20 * 100, "{before} phrases were spoken for nobody");
    let mut rest = Vec::new();
    let mut raw = guest.socket.into_inner();
    while rest.len() < 10 * 100 * 34 * 50 * 48 {
        let mut some = vec![0; 1 << 16];
        let read = raw.read(&mut some).await.expect("read");
        rest.extend_from_slice(&some[..read]);
    }
    until(|| spoken() > before).await;
    drop(raw);
    home.node.quiet().await;
}

#[tokio::test]
async fn beyond_loopback_it_is_not_served() {
    let beyond = Config { wyoming: Some("0.0.0.0:0".parse().expect("an address")), ..Config::default() };
    let said = bind(&beyond).expect_err("refused").to_string();
    assert!(said.contains("neither encryption nor a credential") && said.contains("tunnel"), "{said}");
    assert!(bind(&Config::default()).expect("fine").is_none(), "off by default");
    let at_home = Config { wyoming: Some("127.0.0.1:0".parse().expect("an address")), ..Config::default() };
    assert!(bind(&at_home).expect("bound").is_some());
}
