//! The instrument itself: a caller against a scripted server that refuses, answers, falls silent in the middle, and is interrupted.

use base64::Engine as _;
use futures_util::{SinkExt as _, StreamExt as _};
use nearfield_bench::calls::{
    caller::{AnsweredBy, Outcome, Plan, TurnDetection, call},
    playback::GAP_MIN,
    script::{Script, Spoken},
};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::StatusCode,
    },
};

const SPEECH: &str = r#"{"type":"input_audio_buffer.append","audio":"c3BlZWNo"}"#;
const SILENCE: &str = r#"{"type":"input_audio_buffer.append","audio":""}"#;

/// Ten messages, of which all are speech.
fn script() -> Arc<Script> {
    let spoken = || Spoken {
        id: "ten".to_owned(),
        messages: vec![SPEECH.into(); 10],
        speech_begins: Duration::ZERO,
        speech_ends: Duration::from_millis(200),
    };
    Arc::new(Script { known: vec![spoken()], unknown: vec![spoken()], silence: SILENCE.into() })
}

fn plan(url: String, turns_max: usize, detection: TurnDetection) -> Plan {
    let until = Instant::now() + Duration::from_secs(600);
    Plan { url, until, turns_max, seed: 0, detection, interrupts: true }
}

struct Server {
    socket: WebSocketStream<TcpStream>,
}

impl Server {
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().await.expect("a caller");
        #[allow(clippy::result_large_err)]
        let take = |_: &Request, response: Response| Ok(response);
        Self { socket: accept_hdr_async(stream, take).await.expect("a handshake") }
    }

    async fn say(&mut self, event: Value) {
        self.socket.send(Message::Text(event.to_string().into())).await.expect("the caller listens");
    }

    /// So much sound of an answer.
    async fn audio(&mut self, response: &str, ms: usize) {
        let delta = base64::engine::general_purpose::STANDARD.encode(vec![0u8; ms * 48]);
        self.say(json!({ "type": "response.output_audio.delta", "response_id": response, "delta": delta })).await;
    }

    async fn done(&mut self, response: &str, status: &str, by: &str) {
        let ledger = json!({ "ledger": { "answered_by": by } });
        let response = json!({ "id": response, "status": status, "nearfield": ledger });
        self.say(json!({ "type": "response.done", "response": response })).await;
    }

    /// Reads until so many messages of speech have come; `None` when the caller has hung up.
    async fn hear(&mut self, mut messages: usize) -> Option<()> {
        while messages > 0 {
            match self.socket.next().await?.ok()? {
                Message::Text(text) if text.as_str() == SPEECH => messages -= 1,
                Message::Close(_) => return None,
                _ => {}
            }
        }
        Some(())
    }
}

async fn with(server: impl Future<Output = ()>, plan: Plan) -> Outcome {
    tokio::join!(call(plan, script()), server).0
}

#[tokio::test]
async fn a_refusal_is_counted_and_an_answer_is_timed_with_its_gap() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/v1/realtime", listener.local_addr().unwrap());
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        #[allow(clippy::result_large_err)]
        let refuse = |_: &Request, _: Response| -> Result<Response, ErrorResponse> {
            let mut response = ErrorResponse::new(None);
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response.headers_mut().insert("retry-after", "0".parse().unwrap());
            Err(response)
        };
        assert!(accept_hdr_async(stream, refuse).await.is_err());
        let mut server = Server::accept(&listener).await;
        server.hear(10).await.unwrap();
        server.say(json!({ "type": "input_audio_buffer.committed" })).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
        server
            .say(json!({ "type": "conversation.item.input_audio_transcription.completed", "transcript": "ten" }))
            .await;
        tokio::time::sleep(Duration::from_millis(60)).await;
        server.audio("a", 40).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.audio("a", 40).await;
        server.done("a", "completed", "known_question").await;
        assert!(server.hear(1).await.is_none(), "one turn was planned");
    };
    let outcome = with(server, plan(url, 1, TurnDetection::ServerVad)).await;
    assert_eq!((outcome.refusals, outcome.admitted, outcome.turns.len()), (1, true, 1));
    let turn = &outcome.turns[0];
    assert_eq!((turn.answered_by, &turn.failed), (Some(AnsweredBy::KnownQuestion), &None));
    let transcript = turn.commit_to_transcript.unwrap();
    assert!(transcript >= Duration::from_millis(50), "{turn:?}");
    assert!(turn.commit_to_audio.unwrap() >= transcript + Duration::from_millis(50), "{turn:?}");
    assert!(turn.speech_end_to_audio.is_some());
    assert!(turn.gaps.len() == 1 && turn.gaps[0] >= GAP_MIN, "{turn:?}");
}

#[tokio::test]
async fn who_commits_sends_nothing_but_speech() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/v1/realtime", listener.local_addr().unwrap());
    let server = async {
        let mut server = Server::accept(&listener).await;
        let mut kinds = Vec::new();
        while kinds.last().is_none_or(|k| k != "response.create") {
            let Message::Text(text) = server.socket.next().await.unwrap().unwrap() else { continue };
            assert_ne!(text.as_str(), SILENCE);
            let event: Value = serde_json::from_str(&text).unwrap();
            kinds.push(event["type"].as_str().unwrap().to_owned());
        }
        assert_eq!(kinds.iter().filter(|k| *k == "input_audio_buffer.append").count(), 10);
        assert_eq!(kinds[kinds.len() - 2], "input_audio_buffer.commit");
        server.audio("a", 20).await;
        server.done("a", "failed", "model").await;
        assert!(server.hear(1).await.is_none(), "one turn was planned");
    };
    let outcome = with(server, plan(url, 1, TurnDetection::Commit)).await;
    assert_eq!(outcome.turns[0].failed.as_deref(), Some("failed"));
}

#[tokio::test]
async fn an_interrupted_answer_tells_how_long_it_went_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/v1/realtime", listener.local_addr().unwrap());
    let server = async {
        let mut server = Server::accept(&listener).await;
        // The fourth turn is the one that the caller interrupts.
        for turn in 0..3 {
            server.hear(10).await.unwrap();
            let id = format!("short {turn}");
            server.say(json!({ "type": "input_audio_buffer.committed" })).await;
            server.audio(&id, 20).await;
            server.done(&id, "completed", "model").await;
        }
        server.hear(10).await.unwrap();
        server.say(json!({ "type": "input_audio_buffer.committed" })).await;
        server.audio("long", 5_000).await;
        server.hear(3).await.unwrap();
        server.say(json!({ "type": "input_audio_buffer.speech_started" })).await;
        tokio::time::sleep(Duration::from_millis(40)).await;
        server.audio("long", 200).await;
        server.done("long", "cancelled", "model").await;
        // What was said over it is the next turn.
        server.hear(7).await.unwrap();
        server.say(json!({ "type": "input_audio_buffer.committed" })).await;
        server.audio("next", 20).await;
        server.done("next", "completed", "known_question").await;
        assert!(server.hear(1).await.is_none(), "five turns were planned");
    };
    let outcome = with(server, plan(url, 5, TurnDetection::ServerVad)).await;
    assert_eq!(outcome.turns.len(), 5);
    let [cut, next] = [&outcome.turns[3], &outcome.turns[4]];
    assert!(cut.still_spoke.unwrap() >= Duration::from_millis(30), "{cut:?}");
    assert!(cut.barge_in.unwrap() >= cut.still_spoke.unwrap(), "{cut:?}");
    assert_eq!((next.answered_by, &next.failed), (Some(AnsweredBy::KnownQuestion), &None));
    assert!(outcome.turns.iter().all(|t| t.failed.is_none()), "{:?}", outcome.turns);
}
