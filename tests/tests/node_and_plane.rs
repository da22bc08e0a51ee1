//! A whole node and a whole control plane over real QUIC, HTTP and disk; only the models are scripted.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

#[path = "../scripted_node/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod scripted_node;

use edge_agent::state_dir::StateDir;
use nearfield_shared::{artefact::Stage, desired::Generation, report::CallTally, routing::RouteAnswer};
use scripted_node::{PATIENCE, Plane, enrol_node, host::Behaviour, start_node};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_enrols_serves_refuses_what_is_bad_and_outlives_its_plane() {
    let mut plane = Plane::start().await;
    let good = |rest: &[u8]| [Behaviour::Good.line().as_bytes(), rest].concat();
    let mut bytes = 0;
    for stage in Stage::ALL.into_iter().filter(|stage| *stage != Stage::Asr) {
        let file = good(stage.as_str().as_bytes());
        bytes += file.len() as u64;
        plane.add_model(stage.as_str(), stage, &file);
    }
    let large = good(&vec![7; 3_000_000]);
    bytes += large.len() as u64;
    let first = plane.add_model("asr-1", Stage::Asr, &large);
    plane.add_model("asr-2", Stage::Asr, Behaviour::GoldenDiffers.line().as_bytes());
    let better = plane.add_model("asr-3", Stage::Asr, &good(b"better"));
    plane.apply("asr-1").await;

    // Tokens: wrong, right, and used.
    let folder = tempfile::tempdir().unwrap();
    let dir = StateDir::open(&folder.path().join("node")).unwrap();
    let token = plane.token().await;
    let mut parts: Vec<&str> = token.split('.').collect();
    let wrong_secret = "A".repeat(parts[1].len());
    parts[1] = &wrong_secret;
    enrol_node(&plane, &dir, &parts.join(".")).await.expect_err("a wrong token");
    assert!(!dir.identity().exists());
    enrol_node(&plane, &dir, &token).await.unwrap();
    let other = StateDir::open(&folder.path().join("other")).unwrap();
    let said = enrol_node(&plane, &other, &token).await.expect_err("a used token");
    assert!(said.contains("token"), "{said}");

    // It serves, and the plane knows.
    let daemon = start_node(&dir, Duration::from_millis(100)).await;
    let node = plane.node("generation 1", |node| node.serving == Generation(1) && node.models.len() == 6).await;
    assert!(node.models.iter().any(|model| model.digest == first), "{node:?}");
    assert_eq!(node.public_url.as_deref(), Some(daemon.urls()[0].as_str()));
    assert_eq!(daemon.status().fetched_bytes, bytes, "each file once");

    // A model that does not reproduce its golden result here: refused with the reason, and the old one serves on.
    plane.apply("asr-2").await;
    let node = plane.node("the refusal", |node| node.refusal.is_some()).await;
    let refusal = node.refusal.unwrap();
    assert!(refusal.contains("golden") && refusal.contains("asr"), "{refusal}");
    assert_eq!((node.serving, daemon.status().serving), (Generation(1), 1));
    plane.apply("asr-3").await;
    plane.node("generation 3", |node| node.serving == Generation(3)).await;

    // Figures: four calls are too few to be told about, five are not.
    let one = CallTally { calls: 1, turns_by_model: 2, ..CallTally::default() };
    (0..4).for_each(|_| daemon.services().tally.add(&one));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(daemon.status().calls_unreported, 4);
    daemon.services().tally.add(&one);
    let reported = async {
        while daemon.status().calls_unreported > 0 || plane.admin.metrics().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reported).await.expect("the plane has the figures");

    // The plane goes; the node serves on, also after a restart, and the plane finds it unchanged when it comes back.
    plane.stop().await;
    daemon.drain().await;
    let daemon = start_node(&dir, Duration::from_secs(60)).await;
    let booted = async {
        while daemon.status().serving != 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, booted).await.expect("offline boot");
    assert!(daemon.status().models.iter().any(|model| model.digest == better));
    let answer = reqwest::get(format!("{}/v1/route?country=DE", daemon.urls()[0])).await.unwrap();
    let answer: RouteAnswer = answer.json().await.expect("routes of the last-known-good state");
    assert_eq!(answer.nodes.len(), 1);
    plane.start_again().await;
    plane.node("the node is back", |node| node.serving == Generation(3) && node.state == "up").await;
    assert_eq!(daemon.status().fetched_bytes, 0, "nothing new, nothing fetched");
    daemon.drain().await;
    plane.stop().await;
}
