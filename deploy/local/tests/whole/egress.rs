//! Nothing that a caller says reaches the control plane: whole calls with marked words, and none of the words is found in any byte
//! that the agent sent, in anything that the control plane keeps, or in a log.

use crate::{
    support::{Place, call, utterance},
    tap::Tap,
};
use futures_util::{SinkExt as _, StreamExt as _};
use nearfield::{
    agent::{Agent, settings},
    plane::Plane,
    process::{Program, args},
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio_tungstenite::tungstenite::Message;

/// Words that callers say or type in this test, and that stand nowhere else in a system's files.
const MARKED: [&str; 6] = ["zanzibar", "pelican", "4711", "somewhere", "meters", "metres"];

/// Types a message into a call, with consent to its transcript being stored, and waits for the answer.
async fn typed_call(url: &str, text: &str) {
    let url = format!("{}/v1/realtime?greeting=off", url.replacen("http", "ws", 1));
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let item = json!({
        "type": "message", "role": "user", "content": [{ "type": "input_text", "text": text }]
    });
    for event in [
        json!({ "type": "session.update", "session": { "type": "realtime", "nearfield": { "consent": true } } }),
        json!({ "type": "conversation.item.create", "item": item }),
        json!({ "type": "response.create" }),
    ] {
        socket.send(Message::text(event.to_string())).await.unwrap();
    }
    while let Some(message) = socket.next().await {
        let Ok(text) = message.unwrap().into_text() else { continue };
        let event: Value = serde_json::from_str(&text).unwrap();
        assert_ne!(event["type"], "error", "{event}");
        if event["type"] == "response.done" {
            return;
        }
    }
    panic!("the call ended without an answer");
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // Models hold a vocabulary, and so every word there is.
        if path.is_dir() && path.file_name().is_some_and(|name| name != "artefacts") {
            files.extend(files_below(&path));
        } else if path.is_file() {
            files.push(path);
        }
    }
    files
}

fn assert_unmarked(what: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    for word in MARKED {
        assert!(!text.contains(word), "`{word}` is found in {what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_word_of_a_caller_reaches_the_control_plane_or_a_log() {
    let place = Place::with_one_region(|region| region.replace("metrics_group_min = 20", "metrics_group_min = 5"));
    let (home, options) = (&place.home, &place.options);
    let plane = Plane::start(home, options).await.unwrap();
    plane.apply(&options.regions).await.unwrap();
    Agent::enrol(home, &plane, "eu-central", options).await.unwrap();
    let agent_dir = edge_agent::state_dir::StateDir::open(&home.agent("eu-central")).unwrap();
    let tap = Tap::start(plane.state(), plane.running().agents, &agent_dir);
    // Everything the agent logs, not only what it logs by default.
    let settings = settings(tap.address()) + "report_window_s = 10\nlog = \"edge_agent=trace,nearfield=trace,info\"\n";
    let mut agent = Agent::start(home, "eu-central", options, &settings).unwrap();
    let status = agent.wait_until_live(|_| {}).await.unwrap();
    let url = status.listeners[0].clone();

    let mut heard = String::new();
    for id in ["something", "goforward", "something", "goforward"] {
        let outcome = call(&url, &utterance(id), false).await;
        heard.push_str(&outcome.transcript.to_lowercase());
    }
    assert!(heard.contains("somewhere"), "a marked word was heard, so it was there to leak: {heard}");
    typed_call(&url, "My name is Zanzibar Pelican and my number is 4711.").await;

    // The figures of these five calls do go out: the test would prove little if nothing did.
    let metrics = args([&"--state", &plane.state().root(), &"metrics", &"--json"]);
    let mut told = String::new();
    for _ in 0..600 {
        told = options.launcher.run(Program::ControlPlane, &metrics).await.unwrap();
        if told.contains("eu-central") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(told.contains("eu-central"), "no report reached the control plane: {told}");
    agent.stop(Duration::from_secs(20)).await;
    let plane_root = plane.state().root().to_owned();
    plane.stop(Duration::from_secs(20)).await;

    let sent = tap.heard();
    let sent_text = String::from_utf8_lossy(&sent);
    assert!(sent_text.contains("eu-central-1") && sent_text.contains("\"calls\""), "the tap heard the link");
    println!("{} bytes were sent to the control plane", sent.len());
    assert_unmarked("what the agent sent", &sent);
    for folder in [plane_root, home.root().join("logs"), agent_dir.root().to_owned()] {
        for file in files_below(&folder) {
            assert_unmarked(&file.display().to_string(), &fs::read(&file).unwrap());
        }
    }
    let vault: u64 = files_below(&agent_dir.vault()).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(vault > 0, "the transcripts are there, sealed");
}
