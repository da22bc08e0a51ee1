//! A caller whose stated language no model of the node speaks.

use crate::support::{Client, FakeSpeech, Node, front_desk, serving};
use nearfield_shared::{artefact::Stage, assistant::Assistant};
use serde_json::{Value, json};

const APOLOGY: &str = "I am sorry. I do not speak German. I speak English.";

/// A node whose recogniser and voice know English.
async fn english() -> Node {
    let mut serving = serving(vec![Assistant { greeting: Some("Hello.".into()), ..front_desk() }]);
    for (stage, model) in &mut serving.models {
        model.languages = match stage {
            Stage::Asr => vec!["en".into(), "fr".into()],
            Stage::Tts => vec!["en-US".into()],
            _ => vec![],
        };
    }
    Node::with(FakeSpeech::default(), serving, 8).await
}

fn states(kind: &str, language: &str) -> Value {
    json!({"type": "session.update", "session": {"type": kind, "audio": {"input": {"transcription": {"model": "x", "language": language}}}}})
}

fn says(done: &Value) -> &Value {
    &done["response"]["output"][0]["content"][0]["transcript"]
}

#[tokio::test]
async fn a_language_in_the_address_is_answered_before_the_greeting() {
    let node = english().await;
    for (stated, told) in [("de-AT", true), ("German", true), ("en-GB", false), ("%21%21", false)] {
        let mut client = Client::connect(&format!("{}&language={stated}", node.url())).await;
        if told {
            let event = client.expect("nearfield.language_not_spoken").await;
            assert_eq!((&event["language"], &event["spoken"]), (&json!("de"), &json!(["en"])));
            let apology = client.expect("response.done").await;
            assert_eq!(says(&apology), APOLOGY);
            assert_eq!(apology["response"]["nearfield"]["ledger"]["answered_by"], "language");
            assert_eq!(apology["response"]["conversation_id"], Value::Null);
        }
        assert_eq!(says(&client.expect("response.done").await), "Hello.");
        assert_eq!(client.kinds().contains(&"nearfield.language_not_spoken".to_owned()), told, "{stated}");
    }
}

#[tokio::test]
async fn a_language_in_the_session_goes_over_it_and_is_told_once() {
    let node = english().await;
    let mut client = Client::connect(&format!("{}&language=de", node.url())).await;
    client.expect("response.done").await;
    client.expect("response.done").await;
    client.ask(states("realtime", "en"), "session.updated").await;
    client.ask(states("realtime", "de"), "nearfield.language_not_spoken").await;
    assert_eq!(says(&client.expect("response.done").await), APOLOGY);
    client.ask(states("realtime", "de-CH"), "session.updated").await;
    let error = client.ask(states("realtime", "no language"), "error").await;
    assert_eq!(error["error"]["param"], "session.audio.input.transcription.language");
    let told = client.kinds().iter().filter(|kind| *kind == "nearfield.language_not_spoken").count();
    assert_eq!(told, 2);
}

#[tokio::test]
async fn a_session_for_words_alone_is_told_by_the_event_alone() {
    let node = english().await;
    let mut client = Client::connect(&format!("{}&intent=transcription", node.url())).await;
    client.ask(states("transcription", "fr"), "nearfield.language_not_spoken").await;
    client.speak(400).await;
    client.expect("conversation.item.input_audio_transcription.completed").await;
    assert!(!client.kinds().contains(&"response.created".to_owned()));
}

#[tokio::test]
async fn models_that_do_not_say_what_they_speak_speak_anything() {
    let node = Node::with(
        FakeSpeech::default(),
        serving(vec![Assistant { greeting: Some("Hello.".into()), ..front_desk() }]),
        8,
    )
    .await;
    let mut client = Client::connect(&format!("{}&language=de", node.url())).await;
    assert_eq!(says(&client.expect("response.done").await), "Hello.");
}
