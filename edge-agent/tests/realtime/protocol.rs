//! The events of the Realtime API, their order, and what they carry.

use crate::support::{Client, Did, FakeSpeech, Node, audio_ms, front_desk, serving, until};
use serde_json::{Value, json};

const TURN_BY_VAD: &[&str] = &[
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
    "conversation.item.input_audio_transcription.delta",
    "conversation.item.input_audio_transcription.completed",
];

const ANSWER: &[&str] = &[
    "response.created",
    "rate_limits.updated",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_audio_transcript.delta",
    "response.output_audio.delta",
    "response.output_audio_transcript.delta",
    "response.output_audio.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
];

#[tokio::test]
async fn a_spoken_turn_has_all_events_in_order() {
    let node = Node::start().await;
    let mut client = node.call().await;
    client.server_vad().await;
    client.seen.clear();
    client.speak(600).await;
    let done = client.expect("response.done").await;
    let events = std::mem::take(&mut client.seen);
    let mut kinds: Vec<&str> = events.iter().filter_map(|e| e["type"].as_str()).collect();
    kinds.dedup();
    assert_eq!(kinds, [TURN_BY_VAD, ANSWER].concat());

    let of = |kind: &str| events.iter().find(|e| e["type"] == kind).expect(kind);
    let item = &of("input_audio_buffer.committed")["item_id"];
    assert_eq!(&of("input_audio_buffer.speech_started")["item_id"], item);
    assert_eq!(&of("input_audio_buffer.speech_stopped")["item_id"], item);
    assert_eq!(&of("conversation.item.added")["item"]["id"], item);
    assert_eq!(of("conversation.item.added")["item"]["content"][0]["type"], "input_audio");
    assert_eq!(of("conversation.item.input_audio_transcription.completed")["transcript"], "tell me something");
    assert!(of("input_audio_buffer.speech_stopped")["audio_end_ms"].as_u64() >= Some(700));
    let mut ids: Vec<&str> = events.iter().map(|e| e["event_id"].as_str().expect("an id")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), events.len(), "every event has its own id");

    let response = &done["response"];
    assert_eq!(response["status"], "completed");
    assert_eq!(response["id"], of("response.created")["response"]["id"]);
    let said = "This is the first sentence. And the second.";
    assert_eq!(response["output"][0]["content"][0], json!({"type": "output_audio", "transcript": said}));
    assert_eq!(of("response.output_audio_transcript.done")["transcript"], said);
    assert_eq!(
        audio_ms(&events),
        50 * (said.len() - 1),
        "each letter is 50 ms, the space between the phrases is not spoken"
    );
    let ledger = &response["nearfield"]["ledger"];
    assert_eq!(ledger["answered_by"], "model");
    assert!(ledger["commit_to_first_audio_ms"].is_u64() && ledger["speech_end_to_first_audio_ms"].is_u64(), "{ledger}");
    assert_eq!(ledger["speculative_waste_ms"], 0);
    let usage = &response["usage"];
    assert_eq!(
        usage["total_tokens"].as_u64(),
        Some(usage["input_tokens"].as_u64().unwrap() + usage["output_tokens"].as_u64().unwrap())
    );
    assert_eq!(usage["output_token_details"]["text_tokens"], 2);
}

#[tokio::test]
async fn the_session_says_where_it_is_answered_and_merges_updates() {
    let node = Node::start().await;
    let mut client = node.call().await;
    let created = client.seen[0]["session"].clone();
    assert_eq!(created["model"], "gpt-realtime");
    assert_eq!(created["instructions"], "Be kind and brief.");
    assert_eq!(created["audio"]["output"]["voice"], "heart");
    assert_eq!(created["audio"]["input"]["turn_detection"]["type"], "semantic_vad");
    let nearfield = &created["nearfield"];
    assert_eq!(
        (&nearfield["region"], &nearfield["node"], &nearfield["assistant"]),
        (&json!("eu-central"), &json!("test-node"), &json!("front-desk"))
    );
    client.server_vad().await;
    let update =
        json!({"type": "session.update", "session": {"instructions": "Be quick.", "nearfield": {"consent": true}}});
    let updated = client.ask(update, "session.updated").await["session"].clone();
    assert_eq!(updated["instructions"], "Be quick.");
    assert_eq!(updated["audio"]["input"]["turn_detection"]["silence_duration_ms"], 200, "what was not named stays");
    assert_eq!(updated["nearfield"]["transcript"]["stored"], true);
    assert_eq!(updated["id"], created["id"]);
}

#[tokio::test]
async fn first_audio_leaves_before_the_answer_is_thought() {
    let node = Node::start().await;
    node.script(|s| s.answers.push_back(vec![Did::Well("The first sentence is here. "), Did::Hangs]));
    let mut client = node.call().await;
    client.server_vad().await;
    client.speak(400).await;
    client.expect("response.output_audio.delta").await;
    // The model never comes back; the answer is cancelled, and ends.
    client.send(json!({"type": "response.cancel"})).await;
    let done = client.expect("response.done").await;
    assert_eq!(
        (&done["response"]["status"], &done["response"]["status_details"]["reason"]),
        (&json!("cancelled"), &json!("client_cancelled"))
    );
    drop(client);
    node.quiet().await;
}

#[tokio::test]
async fn a_known_question_is_answered_from_the_cache_word_for_word() {
    let node = Node::start().await;
    node.warm().await;
    let spoken_before = node.speech.script.lock().unwrap().spoken.len();
    node.script(|s| s.words.push_back(Did::Well("When are you open?".into())));
    let mut client = node.call().await;
    client.server_vad().await;
    client.speak(400).await;
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["output"][0]["content"][0]["transcript"], "We are open from nine to six. Come by.");
    assert_eq!(done["response"]["nearfield"]["ledger"]["answered_by"], "known_question");
    assert_eq!(audio_ms(&client.seen), 50 * 37);
    assert_eq!(node.speech.script.lock().unwrap().spoken.len(), spoken_before, "nothing had to be spoken again");
    assert!(node.speech.script.lock().unwrap().prompts.is_empty(), "and nothing to be thought");
}

#[tokio::test]
async fn asking_for_a_person_hands_over() {
    let node = Node::start().await;
    node.script(|s| s.words.push_back(Did::Well("I want to talk to a person".into())));
    let mut client = node.call().await;
    client.server_vad().await;
    client.speak(400).await;
    let told = client.expect("nearfield.handed_over").await;
    let done = client.expect("response.done").await;
    assert_eq!(told["response_id"], done["response"]["id"]);
    assert_eq!(done["response"]["output"][0]["content"][0]["transcript"], "One moment please.");
    drop(client);
    until(|| node.services.tally.calls() == 1).await;
}

#[tokio::test]
async fn the_model_is_told_what_is_known_and_what_was_said() {
    let node = Node::start().await;
    node.script(|s| {
        s.words.push_back(Did::Well("what can I do while you are not open for me please tell me".into()));
        s.words.push_back(Did::Well("and on Sundays".into()));
    });
    let mut client = node.call().await;
    client.server_vad().await;
    client.speak(400).await;
    client.expect("response.done").await;
    client.speak(400).await;
    client.expect("response.done").await;
    let prompts = node.speech.script.lock().unwrap().prompts.clone();
    assert_eq!(prompts.len(), 2);
    assert_eq!(prompts[0][0].role, "system");
    assert!(
        prompts[0][0].content.starts_with("Be kind and brief.\nFacts you may use:\n- We are open from nine"),
        "{}",
        prompts[0][0].content
    );
    let roles: Vec<&str> = prompts[1].iter().map(|m| m.role).collect();
    assert_eq!(roles.first().zip(roles.last()), Some((&"system", &"user")));
    assert_eq!(prompts[1].last().map(|m| m.content.ends_with("and on Sundays")), Some(true));
}

#[tokio::test]
async fn a_client_that_decides_about_turns_itself() {
    let node = Node::start().await;
    let mut client = node.call().await;
    client.manual().await;
    client.append(500, true).await;
    client.ask(json!({"type": "input_audio_buffer.clear"}), "input_audio_buffer.cleared").await;
    let error = client.ask(json!({"type": "input_audio_buffer.commit", "event_id": "c1"}), "error").await;
    assert_eq!(
        (&error["error"]["code"], &error["error"]["event_id"]),
        (&json!("input_audio_buffer_commit_empty"), &json!("c1"))
    );
    client.append(500, true).await;
    client.ask(json!({"type": "input_audio_buffer.commit"}), "input_audio_buffer.committed").await;
    client.ask(json!({"type": "response.create", "response": {"metadata": {"turn": "1"}}}), "response.created").await;
    let done = client.expect("response.done").await;
    assert_eq!(
        (&done["response"]["status"], &done["response"]["metadata"]),
        (&json!("completed"), &json!({"turn": "1"}))
    );
    assert!(!client.seen.iter().any(|e| e["type"] == "input_audio_buffer.speech_started"));
}

#[tokio::test]
async fn text_in_and_text_out() {
    let node = Node::start().await;
    let mut client = node.call().await;
    client.manual().await;
    let item = json!({"type": "message", "role": "user", "id": "mine", "content": [{"type": "input_text", "text": "hello there"}]});
    client.send(json!({"type": "conversation.item.create", "item": item})).await;
    let added = client.expect("conversation.item.added").await;
    assert_eq!((&added["item"]["id"], &added["item"]["content"][0]["text"]), (&json!("mine"), &json!("hello there")));
    client.seen.clear();
    let wish = json!({"output_modalities": ["text"], "max_output_tokens": 64});
    client.send(json!({"type": "response.create", "response": wish})).await;
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["max_output_tokens"], 64);
    assert_eq!(
        done["response"]["output"][0]["content"][0],
        json!({"type": "output_text", "text": "This is the first sentence. And the second."})
    );
    assert_eq!(
        client.kinds(),
        [
            "conversation.item.done",
            "response.created",
            "rate_limits.updated",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
        ]
    );
    let again = client
        .ask(json!({"type": "conversation.item.retrieve", "item_id": "mine"}), "conversation.item.retrieved")
        .await;
    assert_eq!(again["item"]["content"][0]["text"], "hello there");
    client.ask(json!({"type": "conversation.item.delete", "item_id": "mine"}), "conversation.item.deleted").await;
    let gone = client.ask(json!({"type": "conversation.item.retrieve", "item_id": "mine"}), "error").await;
    assert_eq!(gone["error"]["code"], "item_not_found");
}

#[tokio::test]
async fn the_greeting_is_spoken_first_unless_it_is_turned_off() {
    let greeted = edge_greeting();
    let node = Node::with(FakeSpeech::default(), serving(vec![greeted]), 8).await;
    let mut client = node.call().await;
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["output"][0]["content"][0]["transcript"], "Hello, how can I help?");
    let mut client = Client::connect(&format!("{}&greeting=off", node.url())).await;
    client.server_vad().await;
    client.speak(400).await;
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["nearfield"]["ledger"]["answered_by"], "model");
}

fn edge_greeting() -> nearfield_shared::assistant::Assistant {
    nearfield_shared::assistant::Assistant { greeting: Some("Hello, how can I help?".into()), ..front_desk() }
}

#[tokio::test]
async fn telephone_formats_go_both_ways() {
    for format in ["audio/pcmu", "audio/pcma"] {
        let node = Node::start().await;
        let mut client = node.call().await;
        let update = json!({"type": "session.update", "session": {"type": "realtime", "audio": {
            "input": {"format": {"type": format}, "turn_detection": null}, "output": {"format": {"type": format}},
        }}});
        client.ask(update, "session.updated").await;
        let audio = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, vec![0x23u8; 8_000]);
        client.send(json!({"type": "input_audio_buffer.append", "audio": audio})).await;
        client.ask(json!({"type": "input_audio_buffer.commit"}), "input_audio_buffer.committed").await;
        client.send(json!({"type": "response.create"})).await;
        client.expect("response.done").await;
        let seconds = client.seen.iter().find(|e| e["type"] == "conversation.item.input_audio_transcription.completed");
        assert!((seconds.expect("words")["usage"]["seconds"].as_f64().expect("a number") - 1.0).abs() < 0.05);
        // 48 PCM bytes a millisecond become 8 of G.711: the helper counts for PCM.
        let ms = audio_ms(&client.seen) * 48 / 8;
        assert_eq!(ms, 50 * 42, "{format}");
    }
}

#[tokio::test]
async fn an_answer_out_of_band_is_not_in_the_conversation() {
    let node = Node::start().await;
    let mut client = node.call().await;
    client.manual().await;
    client.seen.clear();
    let response =
        json!({"conversation": "none", "output_modalities": ["text"], "instructions": "Say hi.", "input": []});
    client.send(json!({"type": "response.create", "response": response})).await;
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["conversation_id"], Value::Null);
    assert!(!client.seen.iter().any(|e| e["type"].as_str().is_some_and(|t| t.starts_with("conversation."))));
    let prompts = node.speech.script.lock().unwrap().prompts.clone();
    assert_eq!(prompts[0].iter().map(|m| m.content.as_str()).collect::<Vec<_>>(), ["Say hi."]);
}

#[tokio::test]
async fn assistants_change_between_calls_and_not_within_one() {
    let node = Node::start().await;
    let mut old = node.call().await;
    let other = nearfield_shared::assistant::Assistant {
        name: "night-desk".into(),
        instructions: "It is night.".into(),
        ..front_desk()
    };
    node.serving.send_replace(std::sync::Arc::new(serving(vec![other])));
    let mut tries = 0;
    let new = loop {
        let client = node.call().await;
        if client.seen[0]["session"]["nearfield"]["assistant"] == "night-desk" {
            break client;
        }
        tries += 1;
        assert!(tries < 1_000, "the new assistant never takes a call");
        drop(client);
        node.speech.slots_open.load(std::sync::atomic::Ordering::SeqCst);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    assert_eq!(new.seen[0]["session"]["instructions"], "It is night.");
    let updated = old.ask(json!({"type": "session.update", "session": {}}), "session.updated").await;
    assert_eq!(updated["session"]["nearfield"]["assistant"], "front-desk");
}

#[tokio::test]
async fn the_words_of_an_assistant_are_boosted_in_its_calls() {
    let words = vec!["KYC verification".to_owned(), "Kowalczyk".to_owned()];
    let desk = nearfield_shared::assistant::Assistant { words: words.clone(), ..front_desk() };
    let node = Node::with(FakeSpeech::default(), serving(vec![desk]), 8).await;
    let mut client = node.call().await;
    client.server_vad().await;
    client.speak(600).await;
    client.expect("response.done").await;
    let boosted = node.speech.script.lock().unwrap().boosted.clone();
    assert!(!boosted.is_empty() && boosted.iter().all(|list| *list == words), "{boosted:?}");
}
