//! Keys of a telephone, from a client that bridges one.

use crate::support::Node;
use serde_json::json;

#[tokio::test]
async fn keys_are_echoed_collected_and_answered() {
    let node = Node::start().await;
    let mut client = node.call().await;
    client.server_vad().await;
    for key in ["4", "2", "#"] {
        let pressed =
            client.ask(json!({"type": "nearfield.dtmf", "event": key}), "input_audio_buffer.dtmf_event_received").await;
        assert_eq!(pressed["event"], key);
        assert!(pressed["received_at"].as_u64().is_some_and(|at| at > 1_700_000_000), "{pressed}");
    }
    let item = client.expect("conversation.item.added").await;
    assert_eq!(item["item"]["content"], json!([{"type": "input_text", "text": "[keys: 42#]"}]));
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["status"], "completed");
    let prompts = node.speech.script.lock().unwrap().prompts.clone();
    assert_eq!(prompts[0].last().map(|m| (m.role, &*m.content)), Some(("user", "[keys: 42#]")));
    let error = client.ask(json!({"type": "nearfield.dtmf", "event": "42", "event_id": "k"}), "error").await;
    assert_eq!((&error["error"]["param"], &error["error"]["event_id"]), (&json!("event"), &json!("k")));
}
