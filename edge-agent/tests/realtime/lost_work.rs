//! The models fail, refuse, and do not answer: the caller is answered all the same.

use crate::support::{Client, Did, FakeSpeech, Node, front_desk, serving, until};
use edge_agent::speech::SpeechError;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

fn refused() -> SpeechError {
    SpeechError::Overloaded { retry_after_ms: 10 }
}

/// Speaks for 600 ms and is silent for a second, the speech cut where the detector's troubles fall into its middle.
async fn speaks_through(node: &Node, client: &mut Client, trouble: impl FnOnce(&mut crate::support::Script)) {
    client.append(200, true).await;
    client.expect("input_audio_buffer.speech_started").await;
    node.script(trouble);
    client.append(400, true).await;
    client.append(1_000, false).await;
}

/// The turn was answered once, and the transcriber was given all of what was said.
async fn is_answered(node: &Node, client: &mut Client) {
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["status"], "completed", "{done}");
    assert_eq!(done["response"]["nearfield"]["ledger"]["answered_by"], "model");
    let count = |client: &Client, kind: &str| client.seen.iter().filter(|e| e["type"] == kind).count();
    assert_eq!(count(client, "input_audio_buffer.speech_started"), 1);
    assert_eq!(count(client, "input_audio_buffer.committed"), 1);
    let transcribed_ms = node.speech.script.lock().expect("not poisoned").transcribed_ms.clone();
    // Speech, padding, and what is kept behind the last word.
    assert!(matches!(transcribed_ms[..], [600..=900]), "{transcribed_ms:?}");
}

async fn check(trouble: impl FnOnce(&mut crate::support::Script)) -> Vec<Value> {
    let node = Node::start().await;
    let mut client = node.call().await;
    client.server_vad().await;
    speaks_through(&node, &mut client, trouble).await;
    is_answered(&node, &mut client).await;
    let seen = std::mem::take(&mut client.seen);
    drop(client);
    node.quiet().await;
    seen
}

fn errors(seen: &[Value]) -> Vec<&str> {
    seen.iter().filter(|e| e["type"] == "error").filter_map(|e| e["error"]["code"].as_str()).collect()
}

#[tokio::test]
async fn a_detector_that_fails_in_the_middle_of_speech_is_replaced_and_hears_the_same_audio() {
    for error in [SpeechError::WorkerDied, refused(), SpeechError::Model("broken".into())] {
        let seen = check(|script| script.hearing.extend((0..2).map(|_| Did::Fails(error.clone())))).await;
        assert!(errors(&seen).is_empty(), "two failures are nobody's business");
    }
}

#[tokio::test]
async fn a_detector_that_cannot_be_had_for_a_while_is_waited_for_and_the_client_is_told_once() {
    let seen = check(|script| {
        script.hearing.push_back(Did::Fails(refused()));
        script.opening.extend((0..7).map(|_| Did::Fails(refused())));
    })
    .await;
    assert_eq!(errors(&seen), ["overloaded"]);
}

#[tokio::test]
async fn a_detector_that_never_answers_or_dies_is_given_up() {
    check(|script| script.hearing.push_back(Did::Hangs)).await;
    check(|script| script.hearing.push_back(Did::Panics)).await;
}

#[tokio::test]
async fn audio_that_no_detector_takes_is_passed_over_and_the_turn_ends() {
    let node = Node::start().await;
    let mut client = node.call().await;
    client.server_vad().await;
    let bad = || Did::Fails(SpeechError::Model("this audio breaks me".into()));
    speaks_through(&node, &mut client, |script| script.hearing.extend((0..3).map(|_| bad()))).await;
    client.append(600, false).await;
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["status"], "completed");
}

#[tokio::test]
async fn a_detector_that_never_comes_back_does_not_hold_a_turn_open() {
    let node = Node::start().await;
    let mut client = node.call().await;
    client.server_vad().await;
    speaks_through(&node, &mut client, |script| {
        script.hearing.push_back(Did::Fails(refused()));
        script.opening.extend((0..5_000).map(|_| Did::Fails(refused())));
    })
    .await;
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["status"], "completed");
    let transcribed_ms = node.speech.script.lock().expect("not poisoned").transcribed_ms.clone();
    assert!(
        matches!(transcribed_ms[..], [1_500..=20_000]),
        "what nobody listened to may hold words: {transcribed_ms:?}"
    );
    // And the call goes on when it comes back.
    node.script(|script| script.opening.clear());
    client.speak(400).await;
    client.expect("input_audio_buffer.speech_started").await;
    assert_eq!(client.expect("response.done").await["response"]["status"], "completed");
}

#[tokio::test]
async fn a_turn_model_that_fails_hangs_or_dies_leaves_it_to_the_silence() {
    for trouble in [Did::Fails(refused()), Did::Hangs, Did::Panics] {
        let node = Node::start().await;
        node.script(|script| script.turns.extend([trouble, Did::Fails(refused()), Did::Fails(refused()), Did::Hangs]));
        let mut client = node.call().await;
        // Semantic turn detection is what a session begins with; its longest silence is 1.5 s.
        client.append(600, true).await;
        client.append(2_000, false).await;
        is_answered(&node, &mut client).await;
        drop(client);
        node.quiet().await;
    }
}

#[tokio::test]
async fn a_noise_over_an_answer_that_is_still_thought_does_not_cost_the_answer() {
    let slow = FakeSpeech { work_ms: 400, ..FakeSpeech::default() };
    let node = Node::with(slow, serving(vec![front_desk()]), 8).await;
    node.script(|script| {
        script.words.extend([Did::Well("tell me something".into()), Did::Well(".".into())]);
        script.answers.push_back(vec![Did::Well("Here it is.")]);
    });
    let mut client = node.call().await;
    client.server_vad().await;
    client.speak(400).await;
    until(|| node.speech.script.lock().expect("not poisoned").prompts.len() == 1).await;
    client.speak(100).await;
    let cut = client.expect("response.done").await;
    assert_eq!(cut["response"]["status"], "cancelled");
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["output"][0]["content"][0]["transcript"], "Here it is.");
    let prompts = node.speech.script.lock().expect("not poisoned").prompts.len();
    assert_eq!(prompts, 1, "it was thought on meanwhile");
    assert_eq!(json!(node.speech.slots_open.load(Ordering::SeqCst)), json!(1));
}
