//! `edge-agent call`: the caller in a shell.

use crate::support::{Did, Node};
use edge_agent::call_client::{CallArgs, CallError, CallOptions, Recording, place_call, run, wav};
use nearfield_dialogue::ledger::AnsweredBy;

fn recording(ms: usize) -> Recording {
    let samples = (0..ms * 16).map(|n| 0.3 * (n as f32 * 0.1).sin()).collect();
    Recording { samples, rate_hz: 16_000 }
}

#[tokio::test]
async fn a_recording_in_real_time_gets_its_answer() {
    let node = Node::start().await;
    node.script(|s| s.words.push_back(Did::Well("When are you open?".into())));
    let url = format!("http://{}", node.address);
    let outcome = place_call(CallOptions::new(&url, recording(700))).await.expect("answered");
    assert_eq!(outcome.transcript, "When are you open?");
    assert_eq!(outcome.answer, "We are open from nine to six. Come by.");
    assert_eq!((outcome.status.as_str(), outcome.handed_over), ("completed", false));
    assert_eq!(outcome.answered_at.region.as_deref(), Some("eu-central"));
    assert_eq!(outcome.answered_at.node.as_deref(), Some("test-node"));
    assert_eq!(outcome.audio.len(), 37 * 1_200);
    let ledger = outcome.ledger.as_ref().expect("a ledger");
    assert_eq!(ledger.answered_by, Some(AnsweredBy::KnownQuestion));
    assert!(ledger.endpoint_ms.expect("found by the node") >= 200);
    assert!(outcome.to_text().contains("end of speech -> first audio"));
}

#[tokio::test]
async fn a_recording_that_ends_in_silence_longer_than_its_answer_is_a_call_too() {
    let node = Node::start().await;
    node.script(|s| s.answers.push_back(vec![Did::Well("Yes.")]));
    let mut recording = recording(400);
    recording.samples.extend(vec![0.0; 16_000 * 3]);
    let url = format!("http://{}", node.address);
    let outcome = place_call(CallOptions::new(&url, recording)).await.expect("answered");
    assert_eq!((outcome.answer.as_str(), outcome.status.as_str()), ("Yes.", "completed"));
}

#[tokio::test]
async fn the_command_writes_the_answer_and_prints_json() {
    let node = Node::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (question, answer) = (folder.path().join("question.wav"), folder.path().join("answer.wav"));
    wav::write(&question, 16_000, &recording(500).samples).expect("written");
    let args = CallArgs {
        recording: question.clone(),
        url: format!("ws://{}", node.address),
        ca: None,
        key: None,
        out: Some(answer.clone()),
        key_file: None,
        assistant: Some("front-desk".into()),
        country: None,
        position: None,
        fast: true,
        consent: false,
        json: true,
    };
    let printed: serde_json::Value = serde_json::from_str(&run(args).await.expect("answered")).expect("JSON");
    assert_eq!(printed["answer"], "This is the first sentence. And the second.");
    assert!(printed["ledger"]["commit_to_first_audio_ms"].is_u64());
    assert_eq!(wav::read(&answer, 24_000).expect("a WAV").len(), 42 * 1_200);
}

#[tokio::test]
async fn what_goes_wrong_is_said_with_the_remedy() {
    let node = Node::start().await;
    let url = format!("ws://{}", node.address);
    let nobody = CallOptions { assistant: Some("nobody".into()), ..CallOptions::new(&url, recording(500)) };
    let error = place_call(nobody).await.expect_err("refused");
    assert!(matches!(&error, CallError::Refused { status: 404, message } if message.contains("front-desk")), "{error}");
    let error = place_call(CallOptions::new("ws://127.0.0.1:1", recording(500))).await.expect_err("nobody there");
    assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
    let error = place_call(CallOptions::new("front desk", recording(500))).await.expect_err("no address");
    assert!(matches!(error, CallError::Address(_)), "{error}");
    node.script(|s| s.words.push_back(Did::Fails(edge_agent::speech::SpeechError::Model("broken".into()))));
    let fast = CallOptions { real_time: false, ..CallOptions::new(&url, recording(500)) };
    let error = place_call(fast).await.expect_err("failed");
    assert!(matches!(&error, CallError::Node { code, .. } if code == "model_failed"), "{error}");
}
