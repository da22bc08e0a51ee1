//! What is left when a call is over: a transcript where it may be, figures, and nothing else.

use crate::support::{Did, FakeSpeech, Node, front_desk, serving, until};
use edge_agent::vault::Speaker;
use nearfield_shared::policy::{Policy, Request, decide};
use serde_json::json;
use std::time::Duration;

async fn one_call(node: &Node, consent: bool) {
    node.script(|s| s.words.push_back(Did::Well("my number is four seven one one".into())));
    let mut client = node.call().await;
    client.server_vad().await;
    let update = json!({"type": "session.update", "session": {"nearfield": {"consent": consent}}});
    let updated = client.ask(update, "session.updated").await;
    let permitted = node.services.serving.borrow().policy.as_ref().is_some_and(|p| p.store_transcripts);
    assert_eq!(updated["session"]["nearfield"]["transcript"]["stored"], consent && permitted);
    client.speak(400).await;
    let done = client.expect("response.done").await;
    // The answer is heard to its end before the caller hangs up.
    let audio_ms = done["response"]["nearfield"]["ledger"]["audio_ms"].as_u64().expect("a number");
    assert!(audio_ms > 0);
    client.socket.close(None).await.expect("closed");
    node.quiet().await;
}

#[tokio::test]
async fn a_transcript_is_kept_only_with_consent_and_permit() {
    let node = Node::start().await;
    one_call(&node, false).await;
    assert_eq!(node.services.vault.list().await.expect("readable").len(), 0, "no consent");
    one_call(&node, true).await;
    let kept = node.services.vault.list().await.expect("readable");
    assert_eq!(kept.len(), 1);
    let serving = node.services.serving.borrow().clone();
    let permit = decide(serving.policy.as_ref(), &Request::ReadTranscript).expect("permitted");
    let transcript = node.services.vault.show(&permit, kept[0].call).await.expect("there");
    assert_eq!(transcript.assistant, "front-desk");
    let said: Vec<_> = transcript.said.iter().map(|s| (s.speaker, s.text.reveal().as_str())).collect();
    assert_eq!(said[0], (Speaker::Caller, "my number is four seven one one"));
    assert_eq!(said[1].0, Speaker::Assistant);

    let forbidding = Policy { store_transcripts: false, ..serving.policy.clone().expect("a policy") };
    let mut strict = (*serving).clone();
    strict.policy = Some(forbidding);
    node.serving.send_replace(std::sync::Arc::new(strict));
    one_call(&node, true).await;
    assert_eq!(node.services.vault.list().await.expect("readable").len(), 1, "no permit");
}

#[tokio::test]
async fn figures_are_counted_when_the_call_is_over() {
    let node = Node::start().await;
    node.script(|s| {
        s.words.push_back(Did::Well("when are you open".into()));
        s.words.push_back(Did::Well("something else".into()));
        s.answers.push_back(vec![Did::Well("Let me think about that. "), Did::Hangs]);
    });
    let mut client = node.call().await;
    client.server_vad().await;
    client.speak(400).await;
    client.expect("response.done").await;
    // Over the known answer, which is still played: a barge-in. The second answer never ends: the caller leaves in it.
    client.speak(400).await;
    client.expect("response.output_audio.delta").await;
    assert_eq!(node.services.tally.calls(), 0, "a call counts when it is over");
    drop(client);
    until(|| node.services.tally.calls() == 1).await;
    node.quiet().await;
    let generation = Some(node.services.serving.borrow().generation);
    let other = nearfield_shared::report::CallTally { calls: 1, generation, ..Default::default() };
    (0..4).for_each(|_| node.services.tally.add(&other));
    let policy = node.services.serving.borrow().policy.clone();
    let figures = node.services.tally.take_report(policy.as_ref()).expect("five calls").figures();
    assert_eq!((figures.turns_from_cache, figures.dropped, figures.barge_ins), (1, 1, 1));
    assert_eq!(
        (figures.begun_ahead, figures.wasted_ahead_ms),
        (0, 0),
        "this node was too busy for more than it had to do"
    );
    assert_eq!(figures.first_audio.iter().sum::<u64>(), 1, "the answer that never ended has no ledger");
    assert_eq!(figures.duration[0], 1);
}

#[tokio::test]
async fn draining_lets_the_answer_end_and_then_says_goodbye() {
    let node = Node::with(FakeSpeech { work_ms: 20, ..FakeSpeech::default() }, serving(vec![front_desk()]), 8).await;
    node.script(|s| s.answers.push_back(vec![Did::Well("Short.")]));
    let mut client = node.call().await;
    client.server_vad().await;
    client.speak(400).await;
    client.expect("response.created").await;
    let door = node.services.calls.clone();
    let drained = tokio::spawn(async move { door.drain(Duration::from_secs(60)).await });
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["status"], "completed");
    assert_eq!(client.next().await, None, "closed");
    assert_eq!(drained.await.expect("ran"), 0, "no call was cut");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_leaves_nothing() {
    let node = Node::start().await;
    let mut client = node.call().await;
    client.manual().await;
    // Each answer to a wrong event is small; the client never reads one.
    let wrong = json!({"type": "no.such.event", "event_id": "x".repeat(100)}).to_string();
    use futures_util::SinkExt as _;
    let mut sent = 0u32;
    while node.services.calls.inside() == 1 {
        if client.socket.send(tokio_tungstenite::tungstenite::Message::Text(wrong.clone().into())).await.is_err() {
            break;
        }
        sent += 1;
        assert!(sent < 2_000_000, "a client that never reads is served for ever");
    }
    node.quiet().await;
}
