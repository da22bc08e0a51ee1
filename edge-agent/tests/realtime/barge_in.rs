//! Speaking over an answer.

use crate::support::{Did, Node, until};
use serde_json::json;
use std::sync::atomic::Ordering;

#[tokio::test]
async fn speech_over_an_answer_ends_it_once_and_nothing_of_it_follows() {
    let node = Node::start().await;
    node.script(|s| s.answers.push_back(vec![Did::Well("One two three four five. "), Did::Hangs]));
    let mut client = node.call().await;
    client.server_vad().await;
    client.speak(400).await;
    client.expect("response.output_audio.delta").await;
    client.append(300, true).await;
    let started = client.expect("input_audio_buffer.speech_started").await;
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["status"], "cancelled");
    assert_eq!(done["response"]["status_details"]["reason"], "turn_detected");
    assert_eq!(done["response"]["output"][0]["status"], "incomplete");
    let after = client.seen.iter().position(|e| e["event_id"] == started["event_id"]).expect("seen");
    let late = client.seen[after..].iter().filter(|e| e["type"] == "response.output_audio.delta").count();
    assert_eq!(late, 0, "no audio follows the detected speech");
    client.append(1_000, false).await;
    let next = client.expect("response.done").await;
    assert_eq!(next["response"]["status"], "completed");
    assert_ne!(next["response"]["id"], done["response"]["id"]);
    let prompts = node.speech.script.lock().unwrap().prompts.clone();
    let heard: Vec<&str> = prompts[1].iter().filter(|m| m.role == "assistant").map(|m| m.content.as_str()).collect();
    assert!(heard.iter().all(|said| "One two three four five.".starts_with(said) && said.len() < 24), "{heard:?}");
    let ends: Vec<_> = client.seen.iter().filter(|e| e["type"] == "response.done").collect();
    assert_eq!(ends.len(), 2, "each answer ended once");
    drop(client);
    node.quiet().await;
}

#[tokio::test]
async fn what_the_client_says_was_heard_is_what_the_history_keeps() {
    let node = Node::start().await;
    node.script(|s| s.answers.push_back(vec![Did::Well("One two three four five.")]));
    let mut client = node.call().await;
    client.manual().await;
    let item = |text: &str| json!({"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}});
    client.send(item("count")).await;
    client.send(json!({"type": "response.create"})).await;
    let done = client.expect("response.done").await;
    let id = done["response"]["output"][0]["id"].clone();
    // 24 letters of 50 ms are 1200 ms; after 700 ms three words were said.
    let truncate =
        json!({"type": "conversation.item.truncate", "item_id": id, "content_index": 0, "audio_end_ms": 700});
    client.ask(truncate, "conversation.item.truncated").await;
    let too_far = json!({"type": "conversation.item.truncate", "item_id": id, "content_index": 0, "audio_end_ms": 9_000, "event_id": "t"});
    let error = client.ask(too_far, "error").await;
    assert_eq!((&error["error"]["param"], &error["error"]["event_id"]), (&json!("audio_end_ms"), &json!("t")));
    client.send(item("go on")).await;
    client.send(json!({"type": "response.create"})).await;
    client.expect("response.done").await;
    let prompts = node.speech.script.lock().unwrap().prompts.clone();
    let said: Vec<&str> = prompts[1].iter().map(|m| m.content.as_str()).collect();
    assert_eq!(&said[1..], ["count", "One two three", "go on"]);
}

#[tokio::test]
async fn an_answer_is_not_interrupted_where_the_client_does_not_want_it() {
    let node = Node::start().await;
    node.script(|s| s.answers.push_back(vec![Did::Well("One two three. "), Did::Well("Four five six.")]));
    let mut client = node.call().await;
    let detection = json!({"type": "server_vad", "silence_duration_ms": 200, "interrupt_response": false});
    let update = json!({"type": "session.update", "session": {"audio": {"input": {"turn_detection": detection}}}});
    client.ask(update, "session.updated").await;
    client.speak(400).await;
    client.append(300, true).await;
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["status"], "completed");
    client.append(1_000, false).await;
    let second = client.expect("response.done").await;
    assert_eq!(second["response"]["status"], "completed", "what was said meanwhile is answered next");
}

#[tokio::test]
async fn hanging_up_in_the_middle_leaves_nothing_running() {
    let node = Node::start().await;
    node.script(|s| {
        s.words.push_back(Did::Hangs);
        s.answers.push_back(vec![Did::Hangs]);
    });
    let mut in_transcript = node.call().await;
    in_transcript.server_vad().await;
    in_transcript.speak(400).await;
    in_transcript.expect("input_audio_buffer.committed").await;
    let mut in_thought = node.call().await;
    in_thought.manual().await;
    let item = json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "think"}]});
    in_thought.send(json!({"type": "conversation.item.create", "item": item})).await;
    in_thought.ask(json!({"type": "response.create"}), "response.created").await;
    until(|| !node.speech.script.lock().unwrap().prompts.is_empty()).await;
    assert!(node.speech.jobs.load(Ordering::SeqCst) >= 2);
    drop((in_transcript, in_thought));
    node.quiet().await;
    until(|| node.services.tally.calls() == 2).await;
}
