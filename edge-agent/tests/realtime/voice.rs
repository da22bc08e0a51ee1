//! The voice of a session: names are taken, the one in use is told, and none is changed once it was heard.

use crate::support::{Client, FakeSpeech, Node, front_desk, serving};
use nearfield_shared::assistant::Assistant;
use serde_json::{Value, json};

fn update(voice: &str) -> Value {
    json!({"type": "session.update", "session": {"type": "realtime", "audio": {
        "input": {"turn_detection": null}, "output": {"voice": voice},
    }}})
}

fn create(voice: &str, conversation: &str) -> Value {
    let audio = json!({"output": {"voice": voice}});
    json!({"type": "response.create", "event_id": "v", "response": {
        "conversation": conversation, "instructions": "Say hi.", "audio": audio,
    }})
}

async fn refused(client: &mut Client, event: Value, param: &str) {
    let error = client.ask(event, "error").await["error"].clone();
    assert_eq!((&error["code"], &error["param"]), (&json!("cannot_update_voice"), &json!(param)), "{error}");
}

#[tokio::test]
async fn a_voice_that_was_heard_stays_and_the_one_in_use_is_told() {
    let node = Node::start().await;
    let mut client = node.call().await;
    for name in ["marin", "cedar"] {
        let updated = client.ask(update(name), "session.updated").await;
        assert_eq!(updated["session"]["audio"]["output"]["voice"], "heart", "{name} is taken, and heart speaks");
    }
    let done = client.ask(create("cedar", "auto"), "response.done").await;
    assert_eq!(done["response"]["audio"]["output"]["voice"], "heart");
    refused(&mut client, update("marin"), "session.audio.output.voice").await;
    refused(&mut client, create("marin", "auto"), "response.audio.output.voice").await;
    // Who names the same one again changes nothing, and what is not in the conversation has no voice to keep.
    for same in ["cedar", "heart"] {
        client.ask(update(same), "session.updated").await;
    }
    let done = client.ask(create("marin", "none"), "response.done").await;
    assert_eq!(
        (&done["response"]["status"], &done["response"]["audio"]["output"]["voice"]),
        (&json!("completed"), &json!("heart"))
    );
    for wrong in [json!(7), json!(""), json!("x".repeat(200))] {
        let audio = json!({"output": {"voice": wrong}});
        let event = json!({"type": "session.update", "session": {"type": "realtime", "audio": audio}});
        assert_eq!(client.ask(event, "error").await["error"]["param"], "session.audio.output.voice", "{wrong}");
    }
}

#[tokio::test]
async fn a_greeting_leaves_the_choice_to_a_client_that_comes_late() {
    let desk = Assistant { greeting: Some("Hello.".into()), ..front_desk() };
    let node = Node::with(FakeSpeech::default(), serving(vec![desk]), 8).await;
    let mut client = node.call().await;
    client.expect("response.done").await;
    client.ask(update("marin"), "session.updated").await;
}
