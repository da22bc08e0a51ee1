//! Sessions of other kinds: words alone, the beta of the protocol, opened by a client secret; and callers who say nothing.

use crate::support::{Client, Node};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest as _, http::HeaderValue};

async fn connect(url: &str, headers: &[(&'static str, &str)]) -> Result<(Client, Value), tungstenite::Error> {
    let mut request = url.into_client_request().expect("a request");
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_str(value).expect("a header"));
    }
    let (socket, _) = tokio_tungstenite::connect_async(request).await?;
    let mut client = Client { socket, seen: vec![] };
    let first = client.next().await.expect("an event");
    Ok((client, first))
}

#[tokio::test]
async fn a_transcription_session_tells_words_and_answers_nothing() {
    let node = Node::start().await;
    let url = format!("ws://{}/v1/realtime?intent=transcription", node.address);
    let (mut client, created) = connect(&url, &[]).await.expect("connected");
    assert_eq!((&created["type"], &created["session"]["type"]), (&json!("session.created"), &json!("transcription")));
    assert_eq!(created["session"]["object"], "realtime.transcription_session");
    assert_eq!(created["session"]["audio"]["input"]["turn_detection"]["type"], "server_vad");
    let detection = json!({"type": "server_vad", "silence_duration_ms": 200});
    let update = json!({"type": "session.update", "session": {"type": "transcription", "audio": {
        "input": {"transcription": {"model": "whisper-1"}, "turn_detection": detection}}}});
    client.ask(update, "session.updated").await;
    for _ in 0..2 {
        client.speak(400).await;
        let heard = client.expect("conversation.item.input_audio_transcription.completed").await;
        assert_eq!(heard["transcript"], "tell me something");
    }
    let refused = client.ask(json!({"type": "response.create", "event_id": "r"}), "error").await["error"].clone();
    assert_eq!((&refused["code"], &refused["event_id"]), (&json!("not_in_transcription_session"), &json!("r")));
    assert!(!client.seen.iter().any(|e| e["type"].as_str().is_some_and(|t| t.starts_with("response."))));
    assert!(node.speech.script.lock().unwrap().prompts.is_empty(), "nothing was thought ahead");
}

#[tokio::test]
async fn a_session_becomes_one_of_transcription_by_its_type_and_commits_by_hand() {
    let node = Node::start().await;
    let mut client = node.call().await;
    let update = json!({"type": "session.update", "session": {"type": "transcription", "audio": {"input": {"turn_detection": null}}}});
    let updated = client.ask(update, "session.updated").await;
    assert_eq!(
        (&updated["session"]["type"], &updated["session"]["instructions"]),
        (&json!("transcription"), &Value::Null)
    );
    client.append(500, true).await;
    client.ask(json!({"type": "input_audio_buffer.commit"}), "input_audio_buffer.committed").await;
    client.expect("conversation.item.input_audio_transcription.completed").await;
}

#[tokio::test]
async fn the_beta_is_spoken_where_it_is_asked_for() {
    let node = Node::start().await;
    for headers in [[("openai-beta", "realtime=v1")], [("sec-websocket-protocol", "realtime, openai-beta.realtime-v1")]]
    {
        let (mut client, created) = connect(&node.url(), &headers).await.expect("connected");
        let session = &created["session"];
        assert_eq!(
            (&session["modalities"], &session["input_audio_format"], &session["audio"], &session["voice"]),
            (&json!(["audio", "text"]), &json!("pcm16"), &Value::Null, &json!("heart"))
        );
        client.expect("conversation.created").await;
        let update = json!({"type": "session.update", "session": {
            "modalities": ["text", "audio"], "turn_detection": null, "output_audio_format": "g711_ulaw", "temperature": 0.6}});
        let updated = client.ask(update, "session.updated").await["session"].clone();
        assert_eq!((&updated["turn_detection"], &updated["output_audio_format"]), (&Value::Null, &json!("g711_ulaw")));
        let item = json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]});
        client.ask(json!({"type": "conversation.item.create", "item": item}), "conversation.item.created").await;
        client.seen.clear();
        client.send(json!({"type": "response.create", "response": {"modalities": ["audio", "text"]}})).await;
        let done = client.expect("response.done").await["response"].clone();
        assert_eq!(
            client.kinds(),
            [
                "response.created",
                "rate_limits.updated",
                "response.output_item.added",
                "conversation.item.created",
                "response.content_part.added",
                "response.audio_transcript.delta",
                "response.audio.delta",
                "response.audio_transcript.delta",
                "response.audio.delta",
                "response.audio.done",
                "response.audio_transcript.done",
                "response.content_part.done",
                "response.output_item.done",
                "response.done",
            ]
        );
        assert_eq!(
            (&done["modalities"], &done["output"][0]["content"][0]["type"]),
            (&json!(["audio", "text"]), &json!("audio"))
        );
        client.send(json!({"type": "response.create", "response": {"modalities": ["text"]}})).await;
        client.expect("response.text.delta").await;
        client.expect("response.done").await;
    }
    let (mut client, created) =
        connect(&format!("{}&intent=transcription", node.url()), &[("openai-beta", "realtime=v1")])
            .await
            .expect("connected");
    assert_eq!(created["type"], "transcription_session.created");
    let update = json!({"type": "transcription_session.update", "session": {"input_audio_format": "g711_alaw"}});
    let updated = client.ask(update, "transcription_session.updated").await;
    assert_eq!(updated["session"]["input_audio_format"], "g711_alaw");
}

async fn post(node: &Node, body: Value) -> (u16, Value) {
    let url = format!("http://{}/v1/realtime/client_secrets", node.address);
    let answer = reqwest::Client::new().post(url).body(body.to_string()).send().await.expect("answered");
    let status = answer.status().as_u16();
    (status, serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("JSON"))
}

#[tokio::test]
async fn a_client_secret_opens_the_session_that_it_is_bound_to() {
    let node = Node::start().await;
    let session = json!({"type": "realtime", "model": "gpt-realtime", "instructions": "Whisper.", "audio": {"input": {"turn_detection": null}}});
    let (status, made) =
        post(&node, json!({"session": session, "expires_after": {"anchor": "created_at", "seconds": 60}})).await;
    assert_eq!((status, &made["session"]["instructions"]), (200, &json!("Whisper.")), "{made}");
    assert_eq!(made["session"]["expires_at"], made["expires_at"]);
    let value = made["value"].as_str().expect("a value");
    let url = format!("ws://{}/v1/realtime", node.address);
    let protocols = format!("realtime, openai-insecure-api-key.{value}");
    for headers in [[("authorization", format!("Bearer {value}"))], [("sec-websocket-protocol", protocols)]] {
        let headers = headers.map(|(name, value)| (name, value));
        let headers: Vec<(&'static str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (_client, created) = connect(&url, &headers).await.expect("connected");
        let session = &created["session"];
        assert_eq!((&session["instructions"], &session["model"]), (&json!("Whisper."), &json!("gpt-realtime")));
        assert_eq!(session["audio"]["input"]["turn_detection"], Value::Null);
    }
    let wrong = connect(&url, &[("authorization", "Bearer ek_nobodys")]).await.err();
    let Some(tungstenite::Error::Http(answer)) = wrong else { panic!("{wrong:?}") };
    let body: Value = serde_json::from_slice(answer.body().as_deref().unwrap_or_default()).expect("JSON");
    assert_eq!((answer.status().as_u16(), &body["error"]["code"]), (401, &json!("invalid_api_key")));

    let (status, made) = post(&node, json!({"session": {"type": "transcription"}})).await;
    assert_eq!((status, &made["session"]["type"]), (200, &json!("transcription")));
    for (body, param) in [
        (json!({"session": {"type": "realtime", "sped": 1}}), "session.sped"),
        (json!({"expires_after": {"seconds": 1}}), "expires_after.seconds"),
        (json!({"session": []}), "session"),
    ] {
        let (status, refused) = post(&node, body).await;
        assert_eq!((status, &refused["error"]["param"]), (400, &json!(param)), "{refused}");
    }
    let (status, refused) = post(&node, json!({"session": {"instructions": "x".repeat(64_000)}})).await;
    assert_eq!((status, &refused["error"]["code"]), (413, &json!("invalid_body")));
}

#[tokio::test]
async fn a_silent_caller_is_spoken_to_after_the_time_that_the_client_set() {
    let node = Node::start().await;
    let mut client = node.call().await;
    let detection = json!({"type": "server_vad", "silence_duration_ms": 200, "idle_timeout_ms": 5_000});
    let update = json!({"type": "session.update", "session": {"audio": {"input": {"turn_detection": detection}}}});
    let updated = client.ask(update, "session.updated").await;
    assert_eq!(updated["session"]["audio"]["input"]["turn_detection"]["idle_timeout_ms"], 5_000);
    client.speak(400).await;
    client.expect("response.done").await;
    client.seen.clear();
    let triggered = client.expect("input_audio_buffer.timeout_triggered").await;
    assert!(triggered["audio_start_ms"].as_u64() <= triggered["audio_end_ms"].as_u64(), "{triggered}");
    let done = client.expect("response.done").await["response"].clone();
    assert_eq!(done["output"][0]["content"][0]["transcript"], "Are you still there?");
    let committed = client.seen.iter().find(|e| e["type"] == "input_audio_buffer.committed").expect("committed");
    assert_eq!(committed["item_id"], triggered["item_id"]);
}

#[tokio::test]
async fn cancel_and_truncate_come_in_either_order() {
    let node = Node::start().await;
    let long = || vec![crate::support::Did::Well("One two three four five six. "), crate::support::Did::Hangs];
    node.script(|s| s.answers.extend([long(), long()]));
    let mut client = node.call().await;
    client.manual().await;
    for truncate_first in [true, false] {
        client.send(json!({"type": "response.create", "response": {"instructions": "Count."}})).await;
        let item = client.expect("response.output_audio.delta").await["item_id"].clone();
        let truncate =
            json!({"type": "conversation.item.truncate", "item_id": item, "content_index": 0, "audio_end_ms": 300});
        let cancel = json!({"type": "response.cancel"});
        let order = if truncate_first { [&truncate, &cancel] } else { [&cancel, &truncate] };
        for event in order {
            client.send(event.clone()).await;
        }
        let (mut truncated, mut done) = (false, false);
        while !(truncated && done) {
            let event = client.next().await.expect("open");
            assert_ne!(event["type"], "error", "{event}");
            truncated |= event["type"] == "conversation.item.truncated";
            done |= event["type"] == "response.done";
        }
        let error = client.ask(json!({"type": "response.cancel", "event_id": "late"}), "error").await["error"].clone();
        assert_eq!((&error["code"], &error["event_id"]), (&json!("response_cancel_not_active"), &json!("late")));
        let shown = client
            .ask(json!({"type": "conversation.item.retrieve", "item_id": item}), "conversation.item.retrieved")
            .await;
        assert_eq!(shown["item"]["content"][0]["transcript"], "One", "only what was heard is left");
    }
}
