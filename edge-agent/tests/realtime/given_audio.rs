//! Items that a client makes of audio: their words are found and answered like those of a turn.

use crate::support::{Client, Did, FakeSpeech, Node, front_desk, serving};
use base64::Engine as _;
use edge_agent::speech::SpeechError;
use serde_json::{Value, json};

const COMPLETED: &str = "conversation.item.input_audio_transcription.completed";

/// Of this many milliseconds, at 24 kHz.
fn audio(ms: usize) -> String {
    base64::engine::general_purpose::STANDARD.encode(vec![1u8; ms * 48])
}

fn create(id: &str, role: &str, content: Value) -> Value {
    json!({"type": "conversation.item.create", "event_id": format!("of {id}"), "item": {"type": "message", "id": id, "role": role, "content": content}})
}

fn heard(id: &str, audio: &str) -> Value {
    create(id, "user", json!([{"type": "input_audio", "audio": audio, "transcript": "not looked at"}]))
}

async fn node() -> Node {
    Node::with(FakeSpeech::default(), serving(vec![front_desk()]), 8).await
}

async fn client(node: &Node) -> Client {
    let mut client = Client::connect(&format!("{}&greeting=off", node.url())).await;
    client.manual().await;
    client
}

#[tokio::test]
async fn its_words_are_found_and_what_is_asked_for_waits_for_them() {
    let node = node().await;
    node.script(|s| s.words.push_back(Did::Well("when are you open".into())));
    let mut client = client(&node).await;
    client.send(heard("said", &audio(800))).await;
    client.send(json!({"type": "response.create"})).await;
    let added = client.expect("conversation.item.added").await;
    assert_eq!((&added["item"]["id"], &added["item"]["role"]), (&json!("said"), &json!("user")));
    assert_eq!(added["item"]["content"][0]["type"], "input_audio");
    let words = client.expect(COMPLETED).await;
    assert_eq!((&words["item_id"], &words["transcript"]), (&json!("said"), &json!("when are you open")));
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["output"][0]["content"][0]["transcript"], "We are open from nine to six. Come by.");
    let shown = client
        .ask(json!({"type": "conversation.item.retrieve", "item_id": "said"}), "conversation.item.retrieved")
        .await;
    assert_eq!(shown["item"]["content"][0]["transcript"], "when are you open");
}

#[tokio::test]
async fn words_that_are_not_found_fail_the_answer_that_waits_for_them_and_no_other() {
    let node = node().await;
    node.script(|s| s.words.extend((0..4).map(|_| Did::Fails(SpeechError::Model("broken".into())))));
    let mut client = client(&node).await;
    client.send(heard("said", &audio(800))).await;
    client.send(json!({"type": "response.create"})).await;
    client.expect("conversation.item.input_audio_transcription.failed").await;
    assert_eq!(client.expect("response.done").await["response"]["status"], "failed");
    client.send(create("typed", "user", json!([{"type": "input_text", "text": "when are you open"}]))).await;
    client.send(json!({"type": "response.create"})).await;
    assert_eq!(client.expect("response.done").await["response"]["status"], "completed");
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_by_name_and_nothing_is_added() {
    let node = node().await;
    let mut client = client(&node).await;
    let part = json!({"type": "input_audio", "audio": audio(800)});
    for (event, param, says) in [
        (heard("a", "%%%"), "item.content[0].audio", "not base64"),
        (heard("b", &audio(50)), "item.content", "50 ms"),
        (create("c", "user", json!([{"type": "input_audio", "audio": 5}])), "item.content[0].audio", "is base64"),
        (create("d", "user", json!([part, {"type": "input_text", "text": "x"}])), "item.content", "only part"),
        (create("e", "assistant", json!([part])), "item.role", "role user"),
    ] {
        let error = client.ask(event.clone(), "error").await;
        assert_eq!((&error["error"]["param"], &error["error"]["event_id"]), (&json!(param), &event["event_id"]));
        assert!(error["error"]["message"].as_str().is_some_and(|message| message.contains(says)), "{error}");
    }
    let wish = json!({"type": "response.create", "response": {"input": [{"type": "message", "role": "user", "content": [part]}]}});
    let error = client.ask(wish, "error").await;
    assert_eq!(error["error"]["param"], "response.input[0].content[0].audio");
    assert!(!client.kinds().contains(&"conversation.item.added".to_owned()));
}
