//! What is said and heard.

use crate::{
    caller::Caller,
    support::{Did, Node},
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_spoken_turn_is_answered_on_the_track_with_the_events_beside_it() {
    let node = Node::start().await;
    node.warm().await;
    node.script(|script| script.words.push_back(Did::Well("what is this".into())));
    let mut caller = Caller::call(&node).await;
    caller.say(800);
    caller.until(|caller| caller.saw("output_audio_buffer.stopped")).await;
    let order = [
        "session.created",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "response.created",
        "response.output_audio_transcript.delta",
        "response.done",
        "output_audio_buffer.stopped",
    ];
    let positions: Vec<usize> = order.iter().map(|kind| caller.position(kind)).collect();
    assert!(positions.is_sorted(), "{order:?} at {positions:?}");
    assert!(caller.position("response.created") < caller.position("output_audio_buffer.started"));
    assert!(!caller.saw("response.output_audio.delta"), "audio goes over the track");
    let response = &caller.all("response.done")[0]["response"];
    assert_eq!(response["status"], "completed");
    for kind in ["started", "stopped"] {
        let told = caller.all(&format!("output_audio_buffer.{kind}"));
        assert_eq!((told.len(), &told[0]["response_id"]), (1, &response["id"]));
        assert!(told[0]["event_id"].is_string());
    }
    // "This is the first sentence." and "And the second." at 50 ms a letter.
    let (heard, spoken) = (caller.heard_ms(0), (27 + 15) * 50);
    assert!(heard.abs_diff(spoken) < 200, "{heard} ms were heard of {spoken}");
    caller.leave().await;
    node.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn speech_stops_the_track_at_once_and_the_history_keeps_what_was_heard() {
    let node = Node::start().await;
    node.warm().await;
    let long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen. ";
    node.script(|script| script.answers.push_back(vec![Did::Well(long), Did::Well(long)]));
    let mut caller = Caller::call(&node).await;
    caller.say(600);
    caller.until(|caller| caller.heard_ms(0) > 400).await;
    caller.say(600);
    caller.until(|caller| caller.saw("output_audio_buffer.cleared")).await;
    // What is still on its way is heard, and nothing more.
    caller.wait(100).await;
    let cleared_at = caller.heard.len();
    caller.until(|caller| caller.all("input_audio_buffer.committed").len() == 2).await;
    assert_eq!(
        caller.heard[cleared_at..caller.heard.len().min(cleared_at + 10)].iter().filter(|l| **l > 0.05).count(),
        0
    );
    let cut = caller.all("conversation.item.truncated");
    let heard_ms = cut[0]["audio_end_ms"].as_u64().unwrap();
    assert!((300..3_000).contains(&heard_ms), "{heard_ms} ms are taken to be heard");
    caller.leave().await;
    node.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_stops_the_loudspeaker_and_cancels() {
    let node = Node::start().await;
    node.warm().await;
    let mut caller = Caller::call(&node).await;
    let clear = json!({ "type": "output_audio_buffer.clear" });
    caller.send(&clear);
    let ask = json!({ "type": "conversation.item.create", "item": {
        "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "tell me something" }],
    }});
    caller.send(&ask);
    caller.send(&json!({ "type": "response.create" }));
    caller.until(|caller| caller.saw("response.done") && caller.heard_ms(0) > 100).await;
    assert!(!caller.saw("output_audio_buffer.cleared"), "there was nothing to clear");
    // All of the answer is here, and most of it was not played yet.
    caller.send(&clear);
    caller.until(|caller| caller.saw("output_audio_buffer.cleared")).await;
    caller.until(|caller| caller.saw("conversation.item.truncated")).await;
    assert!(!caller.saw("output_audio_buffer.stopped") && !caller.saw("error"));
    // An answer that is being thought is cancelled, and so is its audio.
    node.script(|script| {
        script.answers.push_back(vec![
            Did::Well("A first sentence that is long. "),
            Did::Well("And a second one. "),
            Did::Hangs,
        ])
    });
    caller.send(&json!({ "type": "conversation.item.create", "item": {
        "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "what is this" }],
    }}));
    caller.send(&json!({ "type": "response.create" }));
    caller.until(|caller| caller.all("output_audio_buffer.started").len() == 2).await;
    caller.send(&json!({ "type": "response.cancel" }));
    caller.until(|caller| caller.all("output_audio_buffer.cleared").len() == 2).await;
    caller.until(|caller| caller.all("response.done").len() == 2).await;
    assert_eq!(caller.all("response.done")[1]["response"]["status"], "cancelled");
    caller.leave().await;
    node.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_message_is_told_and_the_call_goes_on() {
    let node = Node::start().await;
    let (mut caller, _) = Caller::call_at(&node, "?assistant=front-desk").await;
    caller.send_binary("{}");
    caller.send(&json!({ "type": "no.such", "event_id": "mine" }));
    caller.send(&json!({ "type": "session.update", "session": { "instructions": "Whisper." } }));
    caller.until(|caller| caller.saw("session.updated")).await;
    let errors = caller.all("error");
    assert_eq!(errors[0]["error"]["code"], "invalid_message");
    assert_eq!(errors[1]["error"]["event_id"], "mine");
    assert_eq!(caller.all("session.updated")[0]["session"]["instructions"], "Whisper.");
    caller.leave().await;
    node.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_one_track_a_spoken_answer_beside_the_conversation_waits_and_a_written_one_does_not() {
    let node = Node::start().await;
    node.warm().await;
    node.script(|script| script.answers.push_back(vec![Did::Well("This is the first sentence. "), Did::Hangs]));
    let mut caller = Caller::call(&node).await;
    let item = json!({ "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "tell me" }] });
    caller.send(&json!({ "type": "conversation.item.create", "item": item }));
    caller.send(&json!({ "type": "response.create" }));
    caller.until(|caller| caller.saw("output_audio_buffer.started")).await;
    for modality in ["audio", "text"] {
        let beside = json!({ "conversation": "none", "output_modalities": [modality], "instructions": "Sum up." });
        caller.send(&json!({ "type": "response.create", "response": beside }));
    }
    caller.until(|caller| caller.saw("response.done")).await;
    let done = &caller.all("response.done")[0]["response"];
    assert_eq!((&done["output_modalities"], &done["status"]), (&json!(["text"]), &json!("completed")));
    assert_eq!(caller.all("response.created").len(), 2, "the spoken one has not begun");
    caller.send(&json!({ "type": "response.cancel" }));
    caller.until(|caller| caller.all("response.done").len() == 3).await;
    let done = &caller.all("response.done")[2]["response"];
    assert_eq!((&done["output_modalities"], &done["status"]), (&json!(["audio"]), &json!("completed")));
    caller.leave().await;
    node.quiet().await;
}
