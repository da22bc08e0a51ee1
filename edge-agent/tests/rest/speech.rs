//! `POST /v1/audio/speech`. The scripted voice makes 50 ms of a tone for each letter.

use crate::{
    ask::{Answer, Form, begin, events, post, post_form},
    support::{Did, Node, until},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use edge_agent::speech::SpeechError;
use serde_json::{Value, json};
use std::{sync::atomic::Ordering, time::Duration};

const PATH: &str = "/v1/audio/speech";

/// Two phrases, of 26 and 14 letters.
const TEXT: &str = "We are open the whole day. Please come by";
const MS: u64 = (26 + 14) * 50;

fn body(format: &str) -> Value {
    json!({"model": "tts-1", "voice": "alloy", "input": TEXT, "response_format": format})
}

#[tokio::test]
async fn a_text_is_spoken_in_every_format_and_what_was_spoken_can_be_heard_again() {
    let node = Node::start().await;
    node.warm().await;
    for (format, kind) in [
        ("mp3", "audio/mpeg"),
        ("opus", "audio/ogg"),
        ("flac", "audio/flac"),
        ("wav", "audio/wav"),
        ("pcm", "audio/pcm"),
    ] {
        let response = begin(&node, PATH, &body(format)).await;
        assert_eq!(
            (response.status().as_u16(), response.headers()["content-type"].to_str().expect("text")),
            (200, kind)
        );
        let spoken = response.bytes().await.expect("a whole body");
        if format == "pcm" {
            assert_eq!(spoken.len() as u64, MS * 48);
            continue;
        }
        let form = Form::new().field("model", "any").file(&format!("spoken.{format}"), &spoken);
        let heard = Answer::of(post_form(&node, "/v1/audio/transcriptions", form).await).await.done();
        let seconds = heard["usage"]["seconds"].as_f64().expect("seconds");
        // Only MP3 has no way to say where its padding begins.
        let padding = if format == "mp3" { 0.12 } else { 0.03 };
        assert!((-0.005..padding).contains(&(seconds - MS as f64 / 1e3)), "{format}: {seconds} s");
        assert_eq!(heard["text"], "tell me something", "{format}");
    }
    let default = json!({"model": "any", "voice": {"id": "heart"}, "input": "Hello."});
    assert_eq!(begin(&node, PATH, &default).await.headers()["content-type"], "audio/mpeg");
}

#[tokio::test]
async fn events_carry_the_same_audio() {
    let node = Node::start().await;
    node.warm().await;
    let mut asked = body("pcm");
    asked["stream_format"] = "sse".into();
    let told = events(begin(&node, PATH, &asked).await).await;
    let (done, deltas) = told.split_last().expect("events");
    assert_eq!(deltas.len(), 2, "one for each phrase");
    let bytes = |event: &Value| STANDARD.decode(event["audio"].as_str().expect("audio")).expect("base64");
    let audio: Vec<u8> = deltas.iter().flat_map(bytes).collect();
    assert!(deltas.iter().all(|event| event["type"] == "speech.audio.delta"));
    let tokens = (TEXT.len().div_ceil(4), MS / 100);
    let usage =
        json!({"input_tokens": tokens.0, "output_tokens": tokens.1, "total_tokens": tokens.0 as u64 + tokens.1});
    assert_eq!(*done, json!({"type": "speech.audio.done", "usage": usage}));
    assert_eq!(audio, begin(&node, PATH, &body("pcm")).await.bytes().await.expect("whole"));
}

#[tokio::test]
async fn the_first_phrase_is_sent_while_the_next_is_not_spoken_yet() {
    let node = Node::start().await;
    node.warm().await;
    node.script(|s| s.speaking.extend([Did::Well(()), Did::Hangs]));
    let mut response = begin(&node, PATH, &body("pcm")).await;
    let mut bytes = 0;
    while bytes < 26 * 50 * 48 {
        bytes += response.chunk().await.expect("a chunk").expect("audio").len();
    }
    assert_eq!(bytes, 26 * 50 * 48);
    // The client leaves: the phrase that is being spoken is given up.
    drop(response);
    node.quiet().await;
    until(|| node.speech.places.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_failure_in_the_middle_never_looks_like_the_end() {
    let node = Node::start().await;
    node.warm().await;
    let fails = || [Did::Well(()), Did::Fails(SpeechError::Model("secret".into()))];
    node.script(|s| s.speaking.extend(fails()));
    let broken = begin(&node, PATH, &body("wav")).await;
    assert_eq!(broken.status().as_u16(), 200);
    broken.bytes().await.expect_err("broken off");
    node.script(|s| s.speaking.extend(fails()));
    let mut asked = body("pcm");
    asked["stream_format"] = "sse".into();
    let told = events(begin(&node, PATH, &asked).await).await;
    assert_eq!((told.len(), &told[1]["error"]["code"]), (2, &"model_failed".into()));
    node.script(|s| s.speaking.push_back(Did::Fails(SpeechError::Model("secret".into()))));
    post(&node, PATH, &body("wav")).await.refused(500, "model_failed", None, "try again");
}

#[tokio::test]
async fn what_cannot_be_spoken_is_refused_by_name() {
    let node = Node::start().await;
    node.warm().await;
    let check = async |change: Value, code: &str, param: &str, word: &str| {
        let mut asked = body("wav");
        for (field, value) in change.as_object().expect("fields") {
            asked[field] = value.clone();
        }
        post(&node, PATH, &asked).await.refused(400, code, Some(param), word);
    };
    check(json!({"input": null}), "missing_required_parameter", "input", "missing").await;
    check(json!({"input": " ... "}), "invalid_value", "input", "nothing to be spoken").await;
    check(json!({"input": "x".repeat(4_097)}), "string_above_max_length", "input", "4096 are the most").await;
    check(json!({"input": "x".repeat(20_000)}), "string_above_max_length", "input", "shorten").await;
    check(json!({"voice": null}), "missing_required_parameter", "voice", "missing").await;
    check(json!({"voice": 7}), "invalid_value", "voice", "name").await;
    check(json!({"response_format": "aac"}), "invalid_value", "response_format", "`opus`").await;
    check(json!({"stream_format": "morse"}), "invalid_value", "stream_format", "`sse`").await;
    check(json!({"speed": 3.0}), "invalid_value", "speed", "0.5 to 2").await;
    check(json!({"model": "fake-llm"}), "invalid_value", "model", "llm model").await;
    node.script(|s| s.dues.clear());
    begin(&node, PATH, &body("wav")).await.bytes().await.expect("spoken");
    node.script(|s| {
        let later = |(_, came, due): &(_, std::time::Instant, Option<std::time::Instant>)| {
            due.is_some_and(|due| due - *came > Duration::from_secs(9))
        };
        assert!(s.dues.len() == 2 && s.dues.iter().all(later), "{:?}", s.dues);
    });
}
