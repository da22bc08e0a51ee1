//! Bad input at the door of calls: a clear error each time, and the other calls go on.

use crate::support::{Client, Did, FakeSpeech, Node, front_desk, serving};
use base64::Engine as _;
use edge_agent::{media::MESSAGE_BYTES_MAX, node::Serving, speech::SpeechError};
use futures_util::{SinkExt as _, StreamExt as _};
use nearfield_shared::artefact::Stage;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest as _};

/// The code and the field of the error that follows a message.
async fn error_after(client: &mut Client, message: Message) -> (Value, Value, Value) {
    client.socket.send(message).await.expect("sent");
    let error = client.expect("error").await["error"].clone();
    assert!(error["message"].as_str().is_some_and(|m| m.len() > 10), "an error has words: {error}");
    (error["code"].clone(), error["param"].clone(), error["event_id"].clone())
}

#[tokio::test]
async fn each_bad_event_gets_its_error_and_the_call_goes_on() {
    let node = Node::start().await;
    let mut client = node.call().await;
    let mut other = node.call().await;
    other.server_vad().await;
    client.server_vad().await;
    let odd = base64::engine::general_purpose::STANDARD.encode([1u8, 2, 3]);
    let bad = [
        ("{\"type\":", "invalid_json", Value::Null, Value::Null),
        ("not json at all", "invalid_json", Value::Null, Value::Null),
        ("[1,2,3]", "invalid_json", Value::Null, Value::Null),
        ("{\"event_id\":\"e0\"}", "invalid_value", json!("type"), json!("e0")),
        ("{\"type\":\"no.such.event\",\"event_id\":\"e1\"}", "invalid_value", json!("type"), json!("e1")),
        (
            "{\"type\":\"input_audio_buffer.append\",\"audio\":\"%%%\",\"event_id\":\"e2\"}",
            "invalid_value",
            json!("audio"),
            json!("e2"),
        ),
        (
            "{\"type\":\"session.update\",\"session\":{\"audio\":{\"input\":{\"format\":{\"type\":\"audio/mp3\"}}}},\"event_id\":\"e4\"}",
            "invalid_value",
            json!("session.audio.input.format"),
            json!("e4"),
        ),
        (
            "{\"type\":\"session.update\",\"session\":{\"audio\":{\"input\":{\"format\":{\"type\":\"audio/pcm\",\"rate\":16000}}}}}",
            "invalid_value",
            json!("session.audio.input.format"),
            Value::Null,
        ),
        ("{\"type\":\"response.cancel\",\"event_id\":\"e5\"}", "response_cancel_not_active", Value::Null, json!("e5")),
        (
            "{\"type\":\"conversation.item.delete\",\"item_id\":\"nobody\",\"event_id\":\"e6\"}",
            "item_not_found",
            json!("item_id"),
            json!("e6"),
        ),
    ];
    for (text, code, param, event_id) in bad {
        let found = error_after(&mut client, Message::Text(text.into())).await;
        assert_eq!(found, (json!(code), param, event_id), "{text}");
    }
    let append = json!({"type": "input_audio_buffer.append", "audio": odd, "event_id": "e3"}).to_string();
    let found = error_after(&mut client, Message::Text(append.into())).await;
    assert_eq!(found, (json!("invalid_value"), json!("audio"), json!("e3")), "an odd number of bytes");
    client.speak(400).await;
    assert_eq!(client.expect("response.done").await["response"]["status"], "completed");
    other.speak(400).await;
    assert_eq!(other.expect("response.done").await["response"]["status"], "completed");
}

#[tokio::test]
async fn a_binary_message_is_refused_with_the_protocols_own_code() {
    let node = Node::start().await;
    let mut client = node.call().await;
    let (code, _, _) = error_after(&mut client, Message::Binary(vec![0, 1, 2].into())).await;
    assert_eq!(code, "invalid_message");
    assert_eq!(close_code(&mut client).await, Some(1003));
}

#[tokio::test]
async fn an_oversized_message_closes_that_call_with_the_reason() {
    let node = Node::start().await;
    let mut client = node.call().await;
    let mut other = node.call().await;
    other.manual().await;
    let huge = format!("{{\"type\":\"input_audio_buffer.append\",\"audio\":\"{}\"}}", "A".repeat(MESSAGE_BYTES_MAX));
    // The node stops reading in the middle; whether the rest can still be written is the socket's affair.
    let _written = client.socket.send(Message::Text(huge.into())).await;
    let mut code = None;
    while let Some(Ok(message)) = client.socket.next().await {
        if let Message::Close(Some(frame)) = message {
            code = Some(u16::from(frame.code));
        }
    }
    assert!(matches!(code, Some(1009) | None), "{code:?}");
    let updated = other.ask(json!({"type": "session.update", "session": {}}), "session.updated").await;
    assert_eq!(updated["type"], "session.updated");
    drop((client, other));
    node.quiet().await;
}

#[tokio::test]
async fn a_broken_frame_ends_that_connection_and_no_other() {
    let node = Node::start().await;
    let mut other = node.call().await;
    let mut raw = tokio::net::TcpStream::connect(node.address).await.expect("connects");
    let hello = "GET /v1/realtime HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    raw.write_all(hello.as_bytes()).await.expect("written");
    // Reserved bits, an unknown opcode, and no mask: three violations of RFC 6455 in two bytes.
    raw.write_all(&[0xff, 0x05, 1, 2, 3, 4, 5]).await.expect("written");
    let mut rest = Vec::new();
    let _closed = raw.read_to_end(&mut rest).await;
    assert!(rest.starts_with(b"HTTP/1.1 101"));
    other.manual().await;
    drop(other);
    node.quiet().await;
}

#[tokio::test]
async fn too_much_audio_is_refused_before_it_is_kept() {
    let node = Node::start().await;
    let mut client = node.call().await;
    client.manual().await;
    // 300 s fit into one message, ten minutes into the buffer.
    let audio = base64::engine::general_purpose::STANDARD.encode(vec![0u8; 300 * 48_000]);
    let append = json!({"type": "input_audio_buffer.append", "audio": audio, "event_id": "full"});
    for _ in 0..2 {
        client.send(append.clone()).await;
    }
    let error = client.ask(append, "error").await;
    assert_eq!(
        (&error["error"]["code"], &error["error"]["event_id"]),
        (&json!("input_audio_buffer_full"), &json!("full"))
    );
    client.ask(json!({"type": "input_audio_buffer.clear"}), "input_audio_buffer.cleared").await;
    client.append(300, true).await;
    client.ask(json!({"type": "input_audio_buffer.commit"}), "input_audio_buffer.committed").await;
}

#[tokio::test]
async fn failing_models_end_answers_and_not_calls() {
    let node = Node::start().await;
    let busy = || Did::Fails(SpeechError::Overloaded { retry_after_ms: 1 });
    node.script(|s| {
        s.words.push_back(Did::Fails(SpeechError::Model("the weights are broken".into())));
        s.words.extend((0..5).map(|_| Did::Well("a question".into())));
        // Refused again and again, until patience ends.
        s.answers.extend((0..4).map(|_| vec![busy()]));
        s.answers.push_back(vec![Did::Well("First part. "), Did::Fails(SpeechError::WorkerDied)]);
    });
    let mut client = node.call().await;
    client.server_vad().await;
    client.speak(400).await;
    client.expect("conversation.item.input_audio_transcription.failed").await;
    for code in ["model_failed", "overloaded", "worker_died"] {
        let done = client.expect("response.done").await;
        let error = &done["response"]["status_details"]["error"];
        assert_eq!((&done["response"]["status"], &error["code"]), (&json!("failed"), &json!(code)));
        client.speak(400).await;
    }
    assert_eq!(client.expect("response.done").await["response"]["status"], "completed");
}

#[tokio::test]
async fn work_that_was_refused_for_the_moment_is_done_after_all() {
    let node = Node::start().await;
    node.warm().await;
    node.script(|s| {
        s.words.push_back(Did::Fails(SpeechError::WorkerDied));
        s.words.push_back(Did::Well("a question".into()));
        s.answers.push_back(vec![Did::Fails(SpeechError::Overloaded { retry_after_ms: 5 })]);
        s.answers.push_back(vec![Did::Well("An answer.")]);
        s.speaking.push_back(Did::Fails(SpeechError::WorkerDied));
    });
    let mut client = node.call().await;
    client.server_vad().await;
    client.speak(400).await;
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["output"][0]["content"][0]["transcript"], "An answer.");
}

#[tokio::test]
async fn a_phrase_that_cannot_be_spoken_fails_the_answer_and_the_next_works() {
    let node = Node::start().await;
    node.warm().await;
    node.script(|s| s.speaking.push_back(Did::Fails(SpeechError::Model("no voice".into()))));
    let mut client = node.call().await;
    client.server_vad().await;
    client.speak(400).await;
    assert_eq!(client.expect("response.done").await["response"]["status_details"]["error"]["message"], "no voice");
    client.speak(400).await;
    assert_eq!(client.expect("response.done").await["response"]["status"], "completed");
}

#[tokio::test]
async fn without_the_comparison_the_model_answers() {
    let node = Node::with(FakeSpeech::default(), serving(vec![front_desk()]), 8).await;
    node.script(|s| s.embedding.extend((0..20).map(|_| Did::Fails(SpeechError::NoModel(Stage::Embed)))));
    let mut client = node.call().await;
    client.server_vad().await;
    client.speak(400).await;
    assert_eq!(client.expect("response.done").await["response"]["nearfield"]["ledger"]["answered_by"], "model");
}

#[tokio::test]
async fn a_page_in_a_browser_is_told_by_an_event_when_to_come_back() {
    let node = Node::with(FakeSpeech { full_for_ms: Some(7_300), ..FakeSpeech::default() }, serving(vec![]), 8).await;
    let mut request = node.url().into_client_request().expect("a request");
    request.headers_mut().insert("origin", "https://shop.example".parse().expect("a header"));
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.expect("upgraded");
    let event = socket.next().await.expect("an event").expect("a message").into_text().expect("text");
    let event: Value = serde_json::from_str(&event).expect("json");
    assert_eq!((&event["type"], &event["error"]["code"]), (&"error".into(), &"overloaded".into()), "{event}");
    assert_eq!(event["error"]["retry_after_s"], 8, "{event}");
    match socket.next().await {
        Some(Ok(tungstenite::Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 1013),
        other => panic!("{other:?}"),
    }
    assert_eq!(node.services.calls.inside(), 0);
}

#[tokio::test]
async fn a_call_keeps_its_place_at_the_models_until_it_ends() {
    let speech = FakeSpeech::default();
    let places = std::sync::Arc::clone(&speech.places);
    let node = Node::with(speech, serving(vec![]), 8).await;
    let call = node.call().await;
    assert_eq!(places.load(std::sync::atomic::Ordering::SeqCst), 1);
    drop(call);
    node.quiet().await;
    assert_eq!(places.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_door_says_why_it_stays_closed() {
    let status = |error: tungstenite::Error| match error {
        tungstenite::Error::Http(response) => {
            let body: Value =
                serde_json::from_slice(response.body().as_deref().unwrap_or_default()).unwrap_or_default();
            let retry = response.headers().get("retry-after").is_some();
            (response.status().as_u16(), body["error"]["code"].as_str().unwrap_or_default().to_owned(), retry)
        }
        other => panic!("{other}"),
    };
    let refused = async |url: &str| status(tokio_tungstenite::connect_async(url).await.expect_err("refused"));

    let node = Node::with(FakeSpeech::default(), serving(vec![front_desk()]), 1).await;
    let first = node.call().await;
    assert_eq!(refused(&node.url()).await, (503, "node_full".into(), true));
    drop(first);
    node.quiet().await;
    let again = node.call().await;
    assert_eq!(refused(&format!("{}&assistant=nobody", node.url())).await, (404, "assistant_not_found".into(), false));
    drop(again);

    let node = Node::with(FakeSpeech { slots_max: 1, ..FakeSpeech::default() }, serving(vec![]), 8).await;
    let _first = node.call().await;
    assert_eq!(refused(&node.url()).await, (503, "overloaded".into(), true));
    assert_eq!(node.services.calls.inside(), 1, "the place of a refused call is free again");

    let node = Node::with(FakeSpeech::default(), Serving::default(), 8).await;
    assert_eq!(refused(&node.url()).await, (503, "not_ready".into(), true));

    let node = Node::with(FakeSpeech { full_for_ms: Some(7_300), ..FakeSpeech::default() }, serving(vec![]), 8).await;
    assert_eq!(refused(&node.url()).await, (503, "overloaded".into(), true));
    assert_eq!((node.services.calls.inside(), node.services.calls.refused()), (0, 1));

    let mut plain = tokio::net::TcpStream::connect(node.address).await.expect("connects");
    plain.write_all(b"GET /v1/realtime HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("written");
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.expect("text");
    assert!(answer.starts_with("HTTP/1.1 426") && answer.contains("websocket_required"), "{answer}");
}

async fn close_code(client: &mut Client) -> Option<u16> {
    while let Some(Ok(message)) = client.socket.next().await {
        if let Message::Close(frame) = message {
            return frame.map(|frame| u16::from(frame.code));
        }
    }
    None
}
