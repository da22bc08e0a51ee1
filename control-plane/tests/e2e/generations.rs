//! Desired states go out with generations that only grow; reconnecting with nothing new changes nothing.

use super::{
    agent::{Agent, enrolled},
    plane::TestPlane,
};
use nearfield_shared::{
    artefact::Stage,
    desired::Generation,
    wire::{AgentToPlane, Hello, PlaneToAgent, message::*},
};

#[tokio::test]
async fn a_node_is_told_what_to_be_and_the_plane_learns_that_it_is() {
    let plane = TestPlane::new().await;
    let mut agent = Agent::new(&plane, "eu", "a").await;
    let (nonce, state) = agent.desired().await;
    assert_eq!((state.generation, state.region.as_str()), (Generation(1), "eu"));
    assert_eq!(state.assistants[0].instructions, "i0");
    let key = plane.dir.signing_public_key().unwrap();
    assert_eq!(state.models[&Stage::Asr].verify(&key).unwrap().name, "asr-1");
    agent.ack(nonce, Generation(1)).await;
    let node = plane.wait_for("a", |node| node.serving == Generation(1)).await;
    assert_eq!((node.state.as_str(), node.refusal), ("up", None));
}

#[tokio::test]
async fn a_node_of_the_version_before_is_told_the_same_state_whole() {
    let plane = TestPlane::new().await;
    let mut newer = Agent::new(&plane, "eu", "new").await;
    let identity = enrolled(&plane, "eu", "old").await;
    let older = Agent::greeted_as(&plane, &identity, Hello { min: 1, max: 1 }).await;
    let mut older = Agent::welcomed(older, 0).await;
    let ((nonce, whole), (_, by_name)) = (older.desired().await, newer.desired().await);
    assert_eq!(whole.models, by_name.models);
    assert_eq!((&whole.assistants, &whole.policy), (&by_name.assistants, &by_name.policy));
    older.ack(nonce, Generation(1)).await;
    plane.wait_for("old", |node| node.serving == Generation(1)).await;
}

#[tokio::test]
async fn an_unchanged_apply_and_a_reconnect_push_nothing() {
    let plane = TestPlane::new().await;
    let mut agent = Agent::new(&plane, "eu", "a").await;
    let (nonce, _) = agent.desired().await;
    agent.ack(nonce, Generation(1)).await;
    plane.wait_for("a", |node| node.serving == Generation(1)).await;
    assert!(!plane.apply(&plane.files()).await.changes());

    let mut agent = Agent::connect(&plane, &agent.identity, 1).await;
    plane.apply(&plane.files_with("i1")).await;
    // Whatever else had been pushed would have come before this.
    let (_, state) = agent.desired().await;
    assert_eq!((state.generation, state.assistants[0].instructions.as_str()), (Generation(2), "i1"));
}

#[tokio::test]
async fn only_the_nodes_of_a_changed_region_are_told() {
    let plane = TestPlane::new().await;
    let mut eu = Agent::new(&plane, "eu", "a").await;
    let mut us = Agent::new(&plane, "us", "b").await;
    for agent in [&mut eu, &mut us] {
        let (nonce, _) = agent.desired().await;
        agent.ack(nonce, Generation(1)).await;
    }
    let mut files = plane.files();
    files[0].text = files[0].text.replace("retention_days = 0", "retention_days = 1");
    let plan = plane.apply(&files).await;
    assert_eq!(plan.regions.iter().map(|r| r.generation.0).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(eu.desired().await.1.policy.retention_days, 1);
    plane.apply(&plane.files_with("i2")).await;
    assert_eq!(us.desired().await.1.generation, Generation(2), "the first that it hears of");
}

#[tokio::test]
async fn a_newer_state_goes_out_before_the_older_is_answered() {
    let plane = TestPlane::new().await;
    let mut agent = Agent::new(&plane, "eu", "a").await;
    let (first, _) = agent.desired().await;
    plane.apply(&plane.files_with("i1")).await;
    let (second, state) = agent.desired().await;
    assert_eq!(state.generation, Generation(2));
    assert_ne!(first, second);
    agent.ack(first, Generation(1)).await;
    agent.ack(second, Generation(2)).await;
    plane.wait_for("a", |node| node.serving == Generation(2)).await;
}

#[tokio::test]
async fn a_refusal_is_shown_and_the_old_generation_serves_on() {
    let plane = TestPlane::new().await;
    let mut agent = Agent::new(&plane, "eu", "a").await;
    let (nonce, _) = agent.desired().await;
    agent.ack(nonce, Generation(1)).await;
    plane.apply(&plane.files_with("i1")).await;
    let (nonce, state) = agent.desired().await;
    let detail = Problem {
        index: Some(1),
        found: Some(0.5),
        wanted: Some(0.9),
        ..Problem::new(ProblemKind::GoldenDiffers).at(Stage::Asr)
    };
    let nack = Nack { generation: state.generation, nonce, detail, serving: Generation(1) };
    agent.say(AgentToPlane::Nack(nack)).await;
    let node = plane.wait_for("a", |node| node.refusal.is_some()).await;
    assert_eq!((node.serving, node.desired, node.state.as_str()), (Generation(1), Some(Generation(2)), "up"));
    let reason = node.refusal.unwrap();
    assert!(reason.contains("generation 2") && reason.contains("asr") && reason.contains("0.5"), "{reason}");

    let mut again = Agent::greeted(&plane, &agent.identity).await;
    let refused = RefusedState { generation: Generation(2), detail: Problem::new(ProblemKind::GoldenDiffers) };
    let here = HereIAm { refused: Some(refused), ..Agent::here_i_am(&agent.identity, 1) };
    again.say(AgentToPlane::HereIAm(here)).await;
    plane.wait_for("a", |node| node.state == "up").await;
    plane.apply(&plane.files_with("i3")).await;
    assert!(matches!(again.hear().await, Ok(PlaneToAgent::Welcome(_))));
    assert_eq!(again.desired().await.1.generation, Generation(3), "the refused one is not pushed again");
}

#[tokio::test]
async fn a_plane_that_is_behind_its_nodes_numbers_above_them() {
    let plane = TestPlane::new().await;
    let agent = Agent::new(&plane, "eu", "a").await;
    let mut agent = Agent::connect(&plane, &agent.identity, 7).await;
    let (_, state) = agent.desired().await;
    assert_eq!(state.generation, Generation(8));
}

#[tokio::test]
async fn a_second_connection_replaces_the_first() {
    let plane = TestPlane::new().await;
    let mut first = Agent::new(&plane, "eu", "a").await;
    let mut second = Agent::connect(&plane, &first.identity, 1).await;
    assert_eq!(first.refusal().await.code, RefusedCode::Replaced);
    drop(first);
    second.status(1, true).await;
    plane.wait_for("a", |node| node.calls == Some((1, 4))).await;
}
