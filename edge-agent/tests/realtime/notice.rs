//! A region whose law wants callers to be told something first.

use crate::support::{Client, FakeSpeech, Node, front_desk, serving};
use edge_agent::node::Serving;
use nearfield_shared::{assistant::Assistant, policy::Notice};
use serde_json::json;

fn demanding() -> Serving {
    let greeting = Some("Hello.".into());
    let mut serving = serving(vec![Assistant { greeting, ..front_desk() }]);
    if let Some(policy) = &mut serving.policy {
        policy.notices = vec![Notice::Recording, Notice::Ai];
    }
    serving
}

#[tokio::test]
async fn every_caller_is_told_first_and_cannot_skip_it() {
    let told = format!("{} {}", Notice::Ai.words(), Notice::Recording.words());
    for (query, says) in [("", "Hello."), ("&greeting=off", "")] {
        let node = Node::with(FakeSpeech::default(), demanding(), 8).await;
        let mut client = Client::connect(&format!("{}{query}", node.url())).await;
        client.server_vad().await;
        client.expect("response.created").await;
        let error = client.ask(json!({"type": "response.cancel"}), "error").await;
        assert_eq!(error["error"]["code"], "notice_cannot_be_skipped");
        client.append(600, true).await;
        let done = client.expect("response.done").await;
        assert_eq!(done["response"]["output"][0]["content"][0]["transcript"], told);
        assert_eq!(
            (&done["response"]["status"], &done["response"]["conversation_id"]),
            (&json!("completed"), &json!(null))
        );
        assert_eq!(done["response"]["nearfield"]["ledger"]["answered_by"], "notice");
        if !says.is_empty() {
            let greeting = client.expect("response.done").await;
            assert_eq!(greeting["response"]["output"][0]["content"][0]["transcript"], says);
        }
        assert!(!client.kinds().contains(&"input_audio_buffer.speech_started".to_owned()), "nobody drops its audio");
        // What was said meanwhile is listened to once the notice was heard.
        client.append(1_000, false).await;
        client.expect("input_audio_buffer.speech_started").await;
        let answered = client.expect("response.done").await;
        assert_ne!(answered["response"]["id"], done["response"]["id"]);
        drop(client);
        node.quiet().await;
    }
}

#[tokio::test]
async fn a_session_for_words_alone_has_no_voice_to_tell_it_with() {
    let node = Node::with(FakeSpeech::default(), demanding(), 8).await;
    let mut client = Client::connect(&format!("{}&intent=transcription", node.url())).await;
    client.speak(400).await;
    client.expect("conversation.item.input_audio_transcription.completed").await;
    assert!(!client.kinds().contains(&"response.created".to_owned()));
}
