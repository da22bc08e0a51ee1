//! Requests stand back behind calls, and are turned away where a call would be.

use crate::{
    ask::{Answer, begin, get, post},
    support::{self, Did, FakeSpeech, Node, until},
};
use serde_json::json;
use std::{sync::atomic::Ordering, time::Duration};

fn text() -> serde_json::Value {
    json!({"model": "any", "input": "hello"})
}

#[tokio::test]
async fn jobs_of_requests_are_wanted_later_than_those_of_any_call() {
    let node = Node::start().await;
    node.warm().await;
    node.script(|s| s.dues.clear());
    post(&node, "/v1/embeddings", &text()).await.done();
    node.script(|s| {
        let (_, came, due) = s.dues[0];
        assert!(due.expect("a time") - came > Duration::from_secs(9), "{:?}", s.dues);
    });
}

#[tokio::test]
async fn a_node_without_room_for_a_call_has_none_for_a_request() {
    let speech = FakeSpeech { full_for_ms: Some(4_200), ..FakeSpeech::default() };
    let node = Node::with(speech, support::serving(vec![support::front_desk()]), 8).await;
    let refused = post(&node, "/v1/embeddings", &text()).await;
    refused.refused(503, "overloaded", None, "busy");
    assert_eq!(refused.retry_after.as_deref(), Some("5"));
    assert_eq!(get(&node, "/v1/models").await.status, 200, "a list costs nothing");
}

#[tokio::test]
async fn a_stage_without_a_model_and_a_node_that_goes_down_are_told() {
    let mut serving = support::serving(vec![support::front_desk()]);
    serving.models.remove(&nearfield_shared::artefact::Stage::Embed);
    let node = Node::with(FakeSpeech::default(), serving, 8).await;
    let refused = post(&node, "/v1/embeddings", &text()).await;
    refused.refused(503, "no_model", None, "embed");
    assert_eq!(refused.retry_after.as_deref(), Some("10"));
    node.services.calls.drain(Duration::ZERO).await;
    post(&node, "/v1/embeddings", &text()).await.refused(503, "node_draining", None, "/v1/route");
}

#[tokio::test]
async fn a_line_has_an_end_and_clients_that_leave_give_their_places_back() {
    let node = Node::start().await;
    node.warm().await;
    node.script(|s| s.embedding.extend((0..2).map(|_| Did::Hangs)));
    let body = text();
    let url = format!("http://{}/v1/embeddings", node.address);
    let waiting: Vec<_> = (0..16).map(|_| tokio::spawn(reqwest::Client::new().post(&url).json(&body).send())).collect();
    let places = &node.speech.places;
    until(|| places.load(Ordering::SeqCst) == 16).await;
    assert_eq!(node.speech.jobs.load(Ordering::SeqCst), 2, "two work, the others wait");
    let refused = Answer::of(begin(&node, "/v1/embeddings", &body).await).await;
    refused.refused(429, "rate_limit_exceeded", None, "try again in 2 s");
    assert_eq!(refused.retry_after.as_deref(), Some("2"));
    waiting.iter().for_each(|client| client.abort());
    until(|| places.load(Ordering::SeqCst) == 0).await;
    node.quiet().await;
    post(&node, "/v1/embeddings", &body).await.done();
}
