//! Responses outside of the conversation, which run beside it.

use crate::support::{Client, Did, FakeSpeech, Node, audio_ms, front_desk, serving, until};
use serde_json::{Value, json};

/// Types an item and asks for the answer to it, whose first words are thought and then nothing more.
async fn begins_an_answer(node: &Node, client: &mut Client) -> Value {
    node.script(|s| s.answers.push_back(vec![Did::Well("This is the first sentence. "), Did::Hangs]));
    let item =
        json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "tell me something"}]});
    client.ask(json!({"type": "conversation.item.create", "item": item}), "conversation.item.done").await;
    let begun = client.ask(json!({"type": "response.create"}), "response.created").await["response"]["id"].clone();
    client.expect("response.output_audio.delta").await;
    begun
}

fn beside(modality: &str) -> Value {
    json!({"type": "response.create", "response": {
        "conversation": "none", "output_modalities": [modality], "instructions": "Sum up.",
        "audio": {"output": {"format": {"type": "audio/pcmu"}}}, "metadata": {"for": "a screen"},
    }})
}

#[tokio::test]
async fn two_run_while_another_is_in_progress_each_with_its_own_events_and_format() {
    let node = Node::start().await;
    let mut client = node.call().await;
    client.manual().await;
    let spoken = begins_an_answer(&node, &mut client).await;
    client.seen.clear();
    client.send(beside("audio")).await;
    client.send(beside("text")).await;
    let (first, second) = (client.expect("response.done").await, client.expect("response.done").await);
    for done in [&first, &second] {
        let response = &done["response"];
        assert_eq!((&response["status"], &response["conversation_id"]), (&json!("completed"), &Value::Null));
        assert_eq!(response["metadata"], json!({"for": "a screen"}));
        let own = client.seen.iter().filter(|e| e["response_id"] == response["id"]);
        let done = own.clone().filter(|e| e["type"] == "response.output_item.done").count();
        assert_eq!(done, 1, "{:?}", own.collect::<Vec<_>>());
    }
    // 42 letters in two sentences, at 8 bytes for each of 50 ms; the helper counts 48.
    let spoken_beside = [&first, &second].map(|done| done["response"]["output_modalities"][0] == "audio");
    let id = if spoken_beside[0] { &first["response"]["id"] } else { &second["response"]["id"] };
    let own: Vec<Value> = client.seen.iter().filter(|e| e["response_id"] == *id).cloned().collect();
    assert_eq!((spoken_beside.iter().filter(|spoken| **spoken).count(), audio_ms(&own) * 48 / 8), (1, 42 * 50));
    let cancelled = client.ask(json!({"type": "response.cancel"}), "response.done").await["response"].clone();
    assert_eq!((&cancelled["id"], &cancelled["status"]), (&spoken, &json!("cancelled")));
    let usage = |done: &Value| done["response"]["usage"]["input_token_details"]["text_tokens"].as_u64();
    assert_eq!((usage(&first), usage(&second)), (Some(12), Some(12)), "each has a prompt of its own");
}

#[tokio::test]
async fn no_more_than_four_run_at_once_and_their_work_stands_back() {
    let node = Node::start().await;
    let mut client = node.call().await;
    client.manual().await;
    node.script(|s| s.answers.extend((0..2).map(|_| vec![Did::Hangs])));
    for _ in 0..4 {
        client.ask(beside("text"), "response.created").await;
    }
    let refused = client
        .ask(json!({"type": "response.create", "event_id": "five", "response": {"conversation": "none"}}), "error")
        .await;
    let error = &refused["error"];
    assert_eq!((&error["code"], &error["event_id"]), (&json!("rate_limit_exceeded"), &json!("five")));
    // Two of them are thought at; the others wait for a place, and the caller for nobody.
    until(|| node.speech.script.lock().unwrap().prompts.len() == 2).await;
    begins_an_answer(&node, &mut client).await;
    let dues = node.speech.script.lock().unwrap().dues.clone();
    let wanted: Vec<_> = dues.iter().filter(|(job, ..)| *job == "generate").collect();
    let [(_, came, first), (_, _, second), (_, asked, conversation)] = wanted.as_slice() else { panic!("{wanted:?}") };
    assert!(first.is_some_and(|due| due > *came) && second.is_some_and(|due| due > *came), "{wanted:?}");
    assert!(conversation.is_some_and(|due| due <= *asked), "{wanted:?}");
    drop(client);
    node.quiet().await;
}

#[tokio::test]
async fn one_that_ends_makes_place_and_one_that_fails_fails_alone() {
    let node = Node::with(FakeSpeech::default(), serving(vec![front_desk()]), 8).await;
    let mut client = node.call().await;
    client.manual().await;
    let spoken = begins_an_answer(&node, &mut client).await;
    let broken = edge_agent::speech::SpeechError::Model("it broke".into());
    node.script(|s| s.answers.extend([vec![Did::Fails(broken)], vec![Did::Hangs]]));
    let failed = client.ask(beside("text"), "response.done").await["response"].clone();
    assert_eq!(
        (&failed["status"], &failed["status_details"]["error"]["message"]),
        (&json!("failed"), &json!("it broke"))
    );
    let begun = client.ask(beside("text"), "response.created").await["response"]["id"].clone();
    let cancel = json!({"type": "response.cancel", "response_id": begun});
    let cancelled = client.ask(cancel, "response.done").await["response"].clone();
    assert_eq!((&cancelled["id"], &cancelled["status"]), (&begun, &json!("cancelled")));
    let cancelled = client.ask(json!({"type": "response.cancel"}), "response.done").await["response"].clone();
    assert_eq!(cancelled["id"], spoken, "all the while it was in progress");
    drop(client);
    node.quiet().await;
}
