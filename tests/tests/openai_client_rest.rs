//! The REST endpoints with the six real models: the official Python client, unmodified, asks for everything, and LiveKit's plugins hear and
//! speak.

#[path = "../environments/mod.rs"]
mod environments;

#[path = "../livekit/mod.rs"]
mod livekit;

#[path = "../openai/mod.rs"]
mod openai;

#[path = "../real_node/mod.rs"]
mod real_node;

use control_plane::registry::speech::wer::{word_errors, words};
use real_node::{Node, recorded_question};
use serde_json::{Value, json};
use std::path::PathBuf;

/// What `rest.py` lets the voice say.
const SPOKEN: &str = "The quick brown fox jumps over the lazy dog. It was a sunny morning.";

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_client_uses_every_endpoint() {
    let node = Node::start().await;
    let (said, recording) = recorded_question().await;
    let seconds = recording.samples.len() as f64 / 16_000.0;
    let file = node.file("question.wav", &recording).await;
    let (target, url) = (PathBuf::from(env!("CARGO_TARGET_TMPDIR")), node.url.clone());
    let found = tokio::task::spawn_blocking(move || openai::ask_rest(&target, &url, &file)).await.expect("ran");
    println!("was said: {}\n{}", said, serde_json::to_string_pretty(&found).expect("JSON"));

    assert_eq!(found["models"]["first"], "front-desk");
    assert!(found["models"]["listed"].as_array().expect("names").contains(&"moonshine-tiny".into()));
    let embeddings = |field: &str| found["embeddings"][field].as_f64().expect("a number");
    assert!(embeddings("size") == 384.0 && embeddings("same") > 0.999_99);
    assert!(embeddings("near") > embeddings("far") + 0.3, "{}", found["embeddings"]);

    let heard = &found["transcriptions"];
    let errors = word_errors(&said, text(&heard["json"]));
    assert!(errors.errors * 4 <= errors.words, "heard `{}`", heard["json"]);
    assert_eq!((text(&heard["text"]).trim(), &heard["streamed"]), (text(&heard["json"]), &heard["json"]));
    assert_eq!(heard["done"], json!([heard["json"]]));
    assert!((heard["duration"].as_f64().expect("seconds") - seconds).abs() < 0.01);
    assert!(text(&heard["srt"]).starts_with("1\n00:00:0") && text(&heard["vtt"]).starts_with("WEBVTT"));
    let timed = heard["words"].as_array().expect("words");
    assert_eq!(timed.len(), text(&heard["json"]).split_whitespace().count());
    let mut before = 0.0;
    for word in timed {
        let (start, end) = (word[1].as_f64().expect("start"), word[2].as_f64().expect("end"));
        assert!(before <= start && start <= end && end <= seconds, "{word} after {before}");
        before = end;
    }

    for (form, heard) in found["speech"]["heard"].as_object().expect("formats") {
        let errors = word_errors(SPOKEN, text(heard));
        assert!(errors.errors <= 1, "{form}: {heard}");
    }
    let spoken = |field: &str| found["speech"][field].as_f64().expect("seconds");
    assert!((0.4..0.65).contains(&(spoken("quick_seconds") / spoken("seconds"))), "{}", found["speech"]);

    let chat = &found["chat"];
    assert_eq!(chat["hours"], "We are open from nine to six, Monday to Friday, and from ten to two on Saturday.");
    assert!(words(text(&chat["plain"])).len() > 5, "{}", chat["plain"]);
    assert_eq!((&chat["streamed"], &chat["finishes"]), (&chat["plain"], &json!([chat["finish"]])));
    assert_eq!((chat["usage"].as_array().map(Vec::len), &chat["short"]), (Some(1), &json!(["length", 3])));
    let stopped = text(&chat["plain"]).split(text(&chat["stop"])).next();
    assert_eq!(chat["stopped"], json!([stopped, "stop"]));
    assert!(chat["warm"][0] == chat["warm"][1] && chat["warm"][0] != chat["warm"][2], "{}", chat["warm"]);

    let tools = &found["tools"];
    assert_eq!((&tools["finish"], &tools["name"]), (&"tool_calls".into(), &"get_weather".into()));
    assert!(tools["arguments"]["city"].is_string(), "{tools}");
    assert_eq!(tools["streamed"], json!([[tools["name"], tools["arguments"]]]));
    assert!(!text(&tools["answer"]).is_empty());
    assert_eq!(
        found["refused"],
        json!({"status": 400, "code": "invalid_value", "param": "input", "type": "invalid_request_error"})
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plugins_of_livekit_hear_and_speak() {
    let node = Node::start().await;
    let (said, recording) = recorded_question().await;
    let file = node.file("question.wav", &recording).await;
    let (target, url) = (PathBuf::from(env!("CARGO_TARGET_TMPDIR")), node.url.clone());
    let found = tokio::task::spawn_blocking(move || livekit::hear_and_speak(&target, &url, &file)).await.expect("ran");
    println!("was said: {said}\n{}", serde_json::to_string_pretty(&found).expect("JSON"));
    for (model, heard) in found["heard"].as_object().expect("models") {
        let errors = word_errors(&said, text(heard));
        assert!(errors.errors * 4 <= errors.words, "{model} heard `{heard}`");
    }
    for (format, spoken) in found["spoken"].as_object().expect("formats") {
        let seconds = spoken["seconds"].as_f64().expect("seconds");
        assert!((3.0..8.0).contains(&seconds) && spoken["rates"] == json!([24_000]), "{format}: {spoken}");
    }
}
