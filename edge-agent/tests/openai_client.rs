//! The official Python clients hold conversations with a node, unmodified; the models are scripted here.
//! `nearfield-tests` holds the same conversation with the real ones.

#[path = "../../tests/environments/mod.rs"]
mod environments;

#[path = "../../tests/openai/mod.rs"]
mod openai;
mod support;

use support::{Did, Node, tone};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_client_holds_a_spoken_conversation_of_two_turns() {
    let node = Node::start().await;
    node.script(|s| {
        s.words.push_back(Did::Well("When are you open?".into()));
        s.words.push_back(Did::Well("Tell me a story about a fox.".into()));
        s.answers.push_back(vec![Did::Well("Once there was a fox. "), Did::Well("It was quick.")]);
        s.answers.push_back(vec![Did::Well("Goodbye "), Did::Well("then.")]);
    });
    let (_folder, question) = question();
    let target = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let url = format!("http://{}", node.address);
    let questions = [question.clone(), question];
    let found = tokio::task::spawn_blocking(move || openai::converse(&target, &url, &questions)).await.expect("ran");

    assert_eq!(found["place"]["region"], "eu-central");
    let turns = found["turns"].as_array().expect("two turns");
    let show = |n: usize, field: &str| turns[n][field].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        (show(0, "heard"), show(0, "answer")),
        ("When are you open?".into(), "We are open from nine to six. Come by.".into())
    );
    assert_eq!(
        (show(1, "heard"), show(1, "answer")),
        ("Tell me a story about a fox.".into(), "Once there was a fox. It was quick.".into())
    );
    assert_eq!((show(0, "status"), show(1, "status")), ("completed".into(), "completed".into()));
    assert_eq!(turns[0]["audio_ms"], 37 * 50);
    assert_eq!(turns[0]["ledger"]["answered_by"], "known_question");
    assert_eq!(turns[1]["ledger"]["answered_by"], "model");
    assert_eq!(found["typed"], "Goodbye then.");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_client_makes_secrets_calls_functions_and_transcribes() {
    let node = Node::start().await;
    script_of_an_agent(&node);
    node.script(|s| {
        s.answers.truncate(2);
        // Two answers at once, and nobody knows which is thought first.
        s.answers.extend((0..2).map(|_| vec![Did::Well("It was spoken.")]));
    });
    let (_folder, question) = question();
    let target = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let url = format!("http://{}", node.address);
    let found =
        tokio::task::spawn_blocking(move || openai::open_sessions(&target, &url, &question)).await.expect("ran");

    assert_eq!(found["problems"], serde_json::json!([]), "events that do not fit the client's own types");
    let functions = &found["functions"];
    assert_eq!(functions["call"], serde_json::json!(["get_weather", "{\"city\":\"Paris\"}"]));
    assert_eq!(functions["words"], "It is 18 degrees and sunny.");
    let given = serde_json::json!({
        "heard": ["tell me something"], "bytes": 14 * 50 * 8, "formats": ["audio/pcmu", "audio/pcm"],
        "topics": ["spoken", "beside"], "in_conversation": [true, false], "beside": "It was spoken.",
    });
    assert_eq!(found["given"], given);
    let expect = serde_json::json!({"type": "transcription", "heard": "tell me something"});
    assert_eq!(found["transcription"], expect);
    assert_eq!(found["refused"], serde_json::json!({"param": "session.max_output_tokens", "status": 401}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_calls_its_function_speaks_about_it_and_is_spoken_over() {
    let node = Node::start().await;
    script_of_an_agent(&node);
    let (_folder, question) = question();
    let target = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let url = format!("ws://{}", node.address);
    let found = tokio::task::spawn_blocking(move || openai::employ_agent(&target, &url, &question)).await.expect("ran");

    let expect = serde_json::json!([{"name": "get_weather", "output": "18 degrees and sunny in Paris"}]);
    assert_eq!(found["tools"], expect, "{found}");
    assert_eq!(found["errors"], serde_json::json!([]), "{found}");
    let told = |kind: &str| found["seen"].as_array().is_some_and(|seen| seen.iter().any(|event| event == kind));
    assert!(told("audio") && told("audio_interrupted") && told("tool_start"), "{found}");
    assert!(found["audio_ms"].as_u64() >= Some(27 * 50 + 11 * 50), "{found}");
    let words = found["history"].to_string();
    for said in ["How warm is it in Paris?", "It is 18 degrees and sunny.", "tell me something", "Very well."] {
        assert!(words.contains(said), "{said}: {found}");
    }
    let prompts = node.speech.script.lock().expect("whole").prompts.clone();
    assert!(prompts[1].last().is_some_and(|m| m.content.contains("18 degrees and sunny in Paris")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_of_npm_opened_by_a_client_secret_does_the_same() {
    let node = Node::start().await;
    script_of_an_agent(&node);
    let (_folder, question) = question();
    let target = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let url = format!("http://{}", node.address);
    let employed = tokio::task::spawn_blocking(move || openai::employ_agent_of_npm(&target, &url, &question));
    let Some(found) = employed.await.expect("ran") else { return };
    assert_eq!((&found["secret"], &found["tools"]), (&"ek_".into(), &serde_json::json!(["Paris"])), "{found}");
    assert_eq!(found["errors"], serde_json::json!([]), "{found}");
    assert!(found["interrupted"].as_u64() >= Some(1), "{found}");
    let said = ["It is 18 degrees and sunny.", "This answer is a long one.", "Very well."];
    assert_eq!(found["said"], serde_json::json!(said), "{found}");
    assert!(found["audio_ms"].as_u64() >= Some(27 * 50 + 10 * 50), "{found}");
}

/// A call of a function, what is said about its result, an answer that does not end by itself, and one more.
fn script_of_an_agent(node: &Node) {
    node.script(|s| {
        let call = "<tool_call>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}]</tool_call>";
        s.answers.push_back(vec![Did::Well(call)]);
        s.answers.push_back(vec![Did::Well("It is 18 degrees and sunny.")]);
        s.answers.push_back(vec![Did::Well("This answer is a long one. "), Did::Hangs]);
        s.answers.push_back(vec![Did::Well("Very well.")]);
    });
}

/// A recording of something spoken, which lives as long as its folder.
fn question() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let question = folder.path().join("question.wav");
    std::fs::write(&question, wav_of(&tone(900, true))).expect("written");
    (folder, question)
}

/// PCM16 at 24 kHz as a WAV file.
fn wav_of(pcm: &[u8]) -> Vec<u8> {
    let mut wav = Vec::new();
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 24_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::new(std::io::Cursor::new(&mut wav), spec).expect("a writer");
    pcm.chunks_exact(2).for_each(|b| writer.write_sample(i16::from_le_bytes([b[0], b[1]])).expect("written"));
    writer.finalize().expect("finished");
    wav
}
