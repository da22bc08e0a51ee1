//! The talk page in a real browser, with a recorded question for a microphone and the real models behind it.
//!
//! A picture of the page is left in `target/tmp/talk_page.png`.

#[path = "../browser/mod.rs"]
mod browser;
#[path = "../real_node/mod.rs"]
mod real_node;

use browser::{Browser, installed};
use edge_agent::call_client::Recording;
use real_node::{Node, recorded_question};
use serde_json::json;
use std::{path::Path, time::Duration};

/// Silence before the question: the call begins in it, and the greeting is over.
const BEFORE_S: usize = 4;

/// Lets the test look into the connections that the page makes.
const WATCH: &str = "window.connections = []; window.RTCPeerConnection = class extends RTCPeerConnection { \
                     constructor(...given) { super(...given); window.connections.push(this); } };";

/// What was received of the answers' audio, in the browser's own figures.
const RECEIVED: &str = "(async () => { for (const report of (await window.connections[0].getStats()).values()) { \
                        if (report.type === 'inbound-rtp' && report.kind === 'audio') { \
                        return { packets: report.packetsReceived, energy: report.totalAudioEnergy, codec: report.codecId }; } } })()";

fn words(text: &str) -> Vec<String> {
    text.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_asks_by_keyboard_reads_along_and_hears_the_answer() {
    let Some(program) = installed() else { return };
    let node = Node::start().await;
    let (asked, Recording { samples, rate_hz }) = recorded_question().await;
    let mut with_silence = vec![0.0; BEFORE_S * rate_hz as usize];
    with_silence.extend(samples);
    let file = node.file("question.wav", &Recording { samples: with_silence, rate_hz }).await;
    let mut browser = Browser::start(program, &file).await;
    browser.open(&format!("{}/talk?greeting=off", node.url), WATCH).await;
    let roles = browser.spoken_roles().await;
    for (role, name) in [("button", "Start talking"), ("log", "Captions"), ("heading", "Answered by"), ("status", "")] {
        assert!(roles.contains(&(role.into(), name.into())), "{role} `{name}` is not among {roles:?}");
    }
    // The first thing that the keyboard comes to starts the call.
    browser.press("Tab", 9).await;
    browser.press("Enter", 13).await;
    browser.until("document.getElementById('status').textContent === 'Listening'").await;
    assert_eq!(browser.value("document.getElementById('node').textContent").await, json!("test-node"));
    assert_eq!(browser.value("document.getElementById('region').textContent").await, json!("eu-central"));
    browser.until("document.querySelectorAll('#captions li[data-who=caller]').length > 0").await;
    browser.until("document.querySelectorAll('#captions li[data-who=assistant]').length > 0").await;
    let said = browser.value("document.querySelector('#captions li[data-who=caller] span').textContent").await;
    let (said, asked) = (words(said.as_str().expect("text")), words(&asked));
    let found = asked.iter().filter(|word| said.contains(word)).count();
    assert!(2 * found >= asked.len(), "{asked:?} was heard as {said:?}");
    // The answer was heard, its turn is in the chart, and nothing went wrong.
    browser.until("document.querySelectorAll('#chart rect').length > 0").await;
    browser.until("document.getElementById('network').textContent.includes('ms')").await;
    // Its audio comes at the speed of speech, behind its words.
    browser.until(&format!("{RECEIVED}.then((received) => received?.energy > 1e-4)")).await;
    assert_eq!(browser.value("document.querySelectorAll('#rows tr').length").await, json!(1));
    assert_eq!(browser.value("document.getElementById('problem').textContent").await, json!(""));
    browser.picture(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("talk_page.png")).await;
    assert_eq!(node.services.calls.inside(), 1);
    browser.value("document.getElementById('call').click()").await;
    browser.until("document.getElementById('status').textContent === 'Not connected'").await;
    while node.services.calls.inside() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_said_with_its_remedy() {
    let Some(program) = installed() else { return };
    let node = Node::start().await;
    let file = node.file("silence.wav", &Recording { samples: vec![0.0; 16_000], rate_hz: 16_000 }).await;
    let mut browser = Browser::start(program, &file).await;
    browser.open(&format!("{}/talk?assistant=nobody", node.url), "").await;
    browser.value("document.getElementById('call').click()").await;
    let problem = "document.getElementById('problem').textContent";
    browser.until(&format!("{problem}.includes('there is no assistant `nobody` here')")).await;
    assert_eq!(browser.value("document.getElementById('call').textContent").await, json!("Start talking"));
    browser.open(&format!("{}/talk", node.url), "delete window.RTCPeerConnection").await;
    browser.value("document.getElementById('call').click()").await;
    browser.until(&format!("{problem}.includes('has no WebRTC')")).await;
    assert_eq!(node.services.calls.inside(), 0);
}
