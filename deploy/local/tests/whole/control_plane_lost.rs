//! The control plane dies: calls go on, and a node that starts without it serves what it served before.

use crate::support::{Place, call, utterance};
use nearfield::{
    agent::{Agent, settings},
    plane::Plane,
};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn calls_outlive_the_control_plane_and_a_killed_agent_comes_back_without_it() {
    let place = Place::with_one_region(|region| region);
    let (home, options) = (&place.home, &place.options);
    let plane = Plane::start(home, options).await.unwrap();
    plane.apply(&options.regions).await.unwrap();
    Agent::enrol(home, &plane, "eu-central", options).await.unwrap();
    let settings = settings(plane.running().agents);

    // Killed in the middle of its first activation, it starts again whole, and no byte comes twice.
    let agent = Agent::start(home, "eu-central", options, &settings).unwrap();
    let before = loop {
        // Before its socket is there, there is nothing to ask.
        if let Ok(status) = agent.status().await
            && status.activating.is_some()
            && status.fetched_bytes > 0
        {
            break status.fetched_bytes;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    agent.kill().await;
    let mut agent = Agent::start(home, "eu-central", options, &settings).unwrap();
    let status = agent.wait_until_live(|_| {}).await.unwrap();
    let artefacts = std::fs::read_dir(plane.state().artefacts()).unwrap();
    let all: u64 = artefacts.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    println!("{before} bytes before the kill, {} after, {all} in all", status.fetched_bytes);
    assert!(before + status.fetched_bytes <= all, "{before} + {} of {all} bytes", status.fetched_bytes);

    // The plane is killed while the caller speaks.
    let url = status.listeners[0].clone();
    let speech = utterance("goforward");
    let first = tokio::spawn({
        let (url, speech) = (url.clone(), speech.clone());
        async move { call(&url, &speech, true).await }
    });
    while agent.status().await.unwrap().calls.in_progress == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    plane.kill().await;
    let first = first.await.unwrap();
    assert_eq!(first.status, "completed");
    assert!(!first.audio.is_empty());

    // And the node starts and answers with nobody there to tell it anything.
    agent.kill().await;
    let mut agent = Agent::start(home, "eu-central", options, &settings).unwrap();
    let status = agent.wait_until_live(|_| {}).await.unwrap();
    assert!(!status.link.connected);
    let second = call(&status.listeners[0], &speech, false).await;
    assert_eq!(second.status, "completed");
    assert_eq!(second.answered_at.region.as_deref(), Some("eu-central"));
    agent.stop(Duration::from_secs(20)).await;
}
