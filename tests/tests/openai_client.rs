//! Calls with the six real models: the official Python client, unmodified, and our own; what is spoken is read back by
//! our own ASR.

#[path = "../environments/mod.rs"]
mod environments;

#[path = "../openai/mod.rs"]
mod openai;

#[path = "../real_node/mod.rs"]
mod real_node;

use control_plane::registry::speech::wer::{word_errors, words};
use edge_agent::call_client::{CallOptions, CallOutcome, place_call};
use real_node::{Node, recorded_question};
use std::path::PathBuf;

fn show(outcome: &CallOutcome) {
    println!("{}", outcome.to_text());
}

fn answered_by(outcome: &CallOutcome) -> String {
    let ledger = serde_json::to_value(&outcome.ledger).expect("JSON");
    ledger["answered_by"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_question_is_understood_and_answered_word_for_word() {
    let node = Node::start().await;
    let question = node.says("When are you open?").await;
    let outcome = place_call(CallOptions::new(&node.url, question)).await.expect("answered");
    show(&outcome);
    assert_eq!(answered_by(&outcome), "known_question");
    let said = "We are open from nine to six, Monday to Friday, and from ten to two on Saturday.";
    assert_eq!(outcome.answer, said);
    let heard = node.hears(&outcome.audio).await;
    let errors = word_errors(said, &heard);
    println!("read back: {heard} ({} of {} words wrong)", errors.errors, errors.words);
    assert!(errors.errors * 10 <= errors.words, "the answer cannot be understood: {heard}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_person_gets_an_answer_that_says_what_is_printed() {
    let node = Node::start().await;
    let (said, question) = recorded_question().await;
    let outcome = place_call(CallOptions::new(&node.url, question)).await.expect("answered");
    println!("was said:     {}", said);
    show(&outcome);
    let errors = word_errors(&said, &outcome.transcript);
    assert!(errors.errors * 3 <= errors.words, "heard `{}`", outcome.transcript);
    let heard = node.hears(&outcome.audio).await;
    let errors = word_errors(&outcome.answer, &heard);
    println!("read back: {heard} ({} of {} words wrong)", errors.errors, errors.words);
    assert!(errors.errors * 5 <= errors.words, "printed `{}`, spoken `{heard}`", outcome.answer);
    assert!(!words(&outcome.answer).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_client_holds_a_spoken_conversation_of_two_turns() {
    let node = Node::start().await;
    let first = node.says("Where is your office?").await;
    let second = node.says("Can you tell me something about the weather in summer?").await;
    let questions = [node.file("first.wav", &first).await, node.file("second.wav", &second).await];
    let (target, url) = (PathBuf::from(env!("CARGO_TARGET_TMPDIR")), node.url.clone());
    let found = tokio::task::spawn_blocking(move || openai::converse(&target, &url, &questions)).await.expect("ran");
    println!("{}", serde_json::to_string_pretty(&found).expect("JSON"));
    let turns = found["turns"].as_array().expect("turns");
    assert_eq!(turns.len(), 2);
    let text = |n: usize, field: &str| turns[n][field].as_str().unwrap_or_default().to_owned();
    assert!(word_errors("where is your office", &text(0, "heard")).errors <= 1, "heard `{}`", text(0, "heard"));
    assert_eq!(turns[0]["ledger"]["answered_by"], "known_question");
    assert_eq!(
        text(0, "answer"),
        "You find us at twelve Harbour Street, two minutes on foot from the central station."
    );
    assert!(word_errors("can you tell me something about the weather in summer", &text(1, "heard")).errors <= 2);
    assert_eq!(turns[1]["ledger"]["answered_by"], "model");
    for turn in turns {
        assert!(matches!(turn["status"].as_str(), Some("completed" | "incomplete")), "{turn}");
        assert!(turn["audio_ms"].as_u64() >= Some(500), "an answer is spoken: {turn}");
    }
    assert!(!found["typed"].as_str().unwrap_or_default().is_empty());
}
