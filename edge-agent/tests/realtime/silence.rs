//! A caller who says nothing, at an assistant that asks whether they are there.

use crate::support::{FakeSpeech, Node, front_desk, serving};
use nearfield_shared::assistant::{Assistant, Silence};

#[tokio::test]
async fn a_silent_caller_is_asked_and_the_call_ends_with_a_goodbye() {
    // Half a second of voice for ten letters: short words keep the test short.
    let silence = Silence { after_s: 1, ask: "Hey?".into(), times: 1, goodbye: "Bye.".into() };
    let assistant = Assistant { greeting: Some("Hi.".into()), silence: Some(silence), ..front_desk() };
    let node = Node::with(FakeSpeech::default(), serving(vec![assistant]), 8).await;
    let mut client = node.call().await;
    for says in ["Hi.", "Hey?", "Bye."] {
        let done = client.expect("response.done").await;
        assert_eq!(done["response"]["output"][0]["content"][0]["transcript"], says);
    }
    let goodbye = client.expect("nearfield.goodbye").await;
    assert_eq!(goodbye["reason"], "caller_silent");
    assert!(client.next().await.is_none(), "the node hangs up");
    assert!(!client.kinds().contains(&"input_audio_buffer.timeout_triggered".to_owned()));
    drop(client);
    node.quiet().await;
}
