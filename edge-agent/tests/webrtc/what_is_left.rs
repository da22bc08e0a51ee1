//! Nothing is left of a call, however it ends.

use crate::{
    caller::{Caller, Offering},
    support::{FakeSpeech, Node, front_desk, serving},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_and_one_that_never_connects_give_their_places_back() {
    let node = Node::with(FakeSpeech::default(), serving(vec![front_desk()]), 2).await;
    let mut caller = Caller::call(&node).await;
    caller.say(500);
    caller.wait(300).await;
    drop(caller);
    let offering = Offering::new().await;
    let client = reqwest::Client::new();
    let offer = |sdp: String| {
        let url = format!("http://{}/v1/realtime/calls", node.address);
        client.post(url).header("content-type", "application/sdp").body(sdp).send()
    };
    assert_eq!(offer(offering.sdp.clone()).await.unwrap().status(), 201);
    // Both places are taken.
    let full = offer(offering.sdp.clone()).await.unwrap();
    assert_eq!((full.status().as_u16(), full.headers().contains_key("retry-after")), (503, true));
    let body: serde_json::Value = full.json().await.unwrap();
    assert_eq!(body["error"]["code"], "node_full");
    node.quiet().await;
    Caller::call(&node).await.leave().await;
    node.quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_hung_up_by_its_name() {
    let node = Node::start().await;
    let (mut caller, location) = Caller::call_at(&node, "").await;
    let hang_up = || reqwest::Client::new().post(format!("http://{}{location}/hangup", node.address)).send();
    assert_eq!(hang_up().await.unwrap().status(), 200);
    caller.until(|caller| caller.closed).await;
    node.quiet().await;
    let again = hang_up().await.unwrap();
    assert_eq!(again.status(), 404);
    let body: serde_json::Value = again.json().await.unwrap();
    assert_eq!(body["error"]["code"], "call_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_goes_down_says_so_and_closes() {
    let node = Node::start().await;
    let mut caller = Caller::call(&node).await;
    let calls = node.services.calls.clone();
    let drained = tokio::spawn(async move { calls.drain(std::time::Duration::from_secs(20)).await });
    caller.until(|caller| caller.closed).await;
    assert_eq!(caller.all("error")[0]["error"]["code"], "call_ended");
    assert_eq!(drained.await.unwrap(), 0);
    node.quiet().await;
}
