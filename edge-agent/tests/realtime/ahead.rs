//! Work that is done while the caller may still go on.

use crate::support::{Client, Did, FakeSpeech, Node, front_desk, serving, until};
use nearfield_shared::report::CallTally;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

const DELTA: &str = "conversation.item.input_audio_transcription.delta";
const COMPLETED: &str = "conversation.item.input_audio_transcription.completed";

async fn idle_node() -> (Node, Client) {
    let node = Node::with(FakeSpeech { idle: true, ..FakeSpeech::default() }, serving(vec![front_desk()]), 8).await;
    node.warm().await;
    let mut client = node.call().await;
    let detection = json!({"type": "server_vad", "silence_duration_ms": 640, "prefix_padding_ms": 100});
    let update = json!({"type": "session.update", "session": {"audio": {"input": {"turn_detection": detection}}}});
    client.ask(update, "session.updated").await;
    client.seen.clear();
    (node, client)
}

fn transcribed(node: &Node) -> usize {
    node.speech.script.lock().expect("not poisoned").transcribed_ms.len()
}

fn deltas(events: &[Value]) -> Vec<&str> {
    events.iter().filter(|e| e["type"] == DELTA).filter_map(|e| e["delta"].as_str()).collect()
}

#[tokio::test]
async fn the_caller_reads_along_and_the_answer_is_ready_at_the_commit() {
    let (node, mut client) = idle_node().await;
    let words = ["when the", "when the sun", "when the sun sets"];
    node.script(|s| {
        s.words.extend(words.map(|words| Did::Well(words.into())));
        s.answers.push_back(vec![Did::Well("In the evening. "), Did::Well("Every day.")]);
    });
    client.append(500, true).await;
    until(|| transcribed(&node) == 1).await;
    client.append(400, true).await;
    until(|| transcribed(&node) == 2).await;
    assert_eq!(client.expect(DELTA).await["delta"], "when the", "the caller is still speaking");
    client.append(300, false).await;
    // The whole turn is heard, the answer is thought, and its first phrase is spoken: all before the commit.
    until(|| node.speech.script.lock().unwrap().spoken.iter().any(|phrase| phrase == "In the evening.")).await;
    assert!(client.seen.iter().all(|e| !e["type"].as_str().unwrap().starts_with("response")));
    client.append(500, false).await;
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["output"][0]["content"][0]["transcript"], "In the evening. Every day.");
    let at = |kind: &str| client.seen.iter().position(|e| e["type"] == kind).expect(kind);
    assert!(at(DELTA) < at("input_audio_buffer.speech_stopped"));
    assert!(at("input_audio_buffer.committed") < at("response.created"));
    assert_eq!(deltas(&client.seen).concat(), "when the sun sets");
    assert_eq!(client.seen[at(COMPLETED)]["transcript"], "when the sun sets");
    let item = &client.seen[at("input_audio_buffer.speech_started")]["item_id"];
    assert!(client.seen.iter().filter(|e| e["type"] == DELTA).all(|e| e["item_id"] == *item));
    let ledger = &done["response"]["nearfield"]["ledger"];
    assert_eq!((&ledger["transcribe_ms"], &ledger["speculative_waste_ms"]), (&json!(0), &json!(0)));
    assert!(ledger["begun_ahead_ms"].is_u64());
    assert_eq!(transcribed(&node), 3, "nothing is heard twice at the commit");
    let prompts = node.speech.script.lock().unwrap().prompts.len();
    assert_eq!(prompts, 1, "nothing is thought twice");
    client.speak(200).await;
    client.expect("response.done").await;
    // Each transcript starts from the one before it, and those of another turn do not.
    let drafts = node.speech.script.lock().unwrap().drafts.clone();
    let lengths = [vec![], vec![words[0].len() as u32], vec![words[1].len() as u32], vec![]];
    assert_eq!(drafts[..4], lengths);
}

#[tokio::test]
async fn a_caller_who_goes_on_stops_what_was_begun_and_is_answered_to_all_of_it() {
    let (node, mut client) = idle_node().await;
    node.script(|s| {
        s.words
            .extend(["tell me", "tell me about the sea", "tell me about the sea"].map(|words| Did::Well(words.into())));
        s.answers.extend([vec![Did::Hangs], vec![Did::Well("It is wide.")]]);
    });
    client.append(200, true).await;
    client.append(300, false).await;
    until(|| node.speech.script.lock().unwrap().prompts.len() == 1).await;
    client.append(200, true).await;
    until(|| node.speech.jobs.load(Ordering::SeqCst) == 0).await;
    client.append(300, false).await;
    until(|| node.speech.script.lock().unwrap().prompts.len() == 2).await;
    client.append(600, false).await;
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["status"], "completed");
    let created = client.seen.iter().filter(|e| e["type"] == "response.created").count();
    assert_eq!(created, 1, "of the answer to half a question nothing was told");
    let prompts = node.speech.script.lock().unwrap().prompts.clone();
    let asked: Vec<&str> = prompts.iter().map(|p| p.last().expect("a prompt").content.as_str()).collect();
    assert_eq!(asked, ["tell me", "tell me about the sea"]);
    assert_eq!(deltas(&client.seen).concat(), "tell me about the sea");
    let wasted_ms = done["response"]["nearfield"]["ledger"]["speculative_waste_ms"].as_u64();
    drop(client);
    node.quiet().await;
    until(|| node.services.tally.calls() == 1).await;
    let generation = Some(node.services.serving.borrow().generation);
    (0..4).for_each(|_| node.services.tally.add(&CallTally { calls: 1, generation, ..CallTally::default() }));
    let policy = node.services.serving.borrow().policy.clone();
    let figures = node.services.tally.take_report(policy.as_ref()).expect("five calls").figures();
    assert_eq!((figures.begun_ahead, Some(figures.wasted_ahead_ms)), (1, wasted_ms));
}

#[tokio::test]
async fn a_busy_node_hears_and_thinks_only_what_it_must() {
    let node = Node::start().await;
    let mut client = node.call().await;
    client.server_vad().await;
    client.append(700, true).await;
    client.append(400, false).await;
    client.append(700, true).await;
    client.append(1_000, false).await;
    client.expect(COMPLETED).await;
    client.expect(COMPLETED).await;
    assert_eq!(transcribed(&node), 2);
}
