//! Bad input at every door: a clear end for who sends it, and nothing for the others.

use super::{
    agent::{Agent, ca_pem, dial, enrolled},
    plane::TestPlane,
};
use nearfield_shared::{
    desired::Generation,
    wire::{ALPN, AgentToPlane, ENROL_ALPN, message::*},
};

/// A node that does nothing wrong still serves.
async fn bystander(plane: &TestPlane) -> Agent {
    let mut agent = Agent::new(plane, "eu", "good").await;
    let (nonce, _) = agent.desired().await;
    agent.ack(nonce, Generation(1)).await;
    plane.wait_for("good", |node| node.state == "up").await;
    agent
}

async fn still_fine(plane: &TestPlane, agent: &mut Agent) {
    plane.apply(&plane.files_with("after")).await;
    assert_eq!(agent.desired().await.1.generation, Generation(2));
}

#[tokio::test]
async fn malformed_and_oversized_frames_end_only_their_own_link() {
    let plane = TestPlane::new().await;
    let mut good = bystander(&plane).await;
    let identity = enrolled(&plane, "eu", "bad").await;
    let frames: [(&[u8], &str); 4] = [
        (&[0, 0, 0, 0], "length of 0"),
        (&[0xff, 0xff, 0xff, 0xff, 2], "over the limit"),
        (b"\0\0\0\x05\x02nope", "cannot be read"),
        (b"\0\0\0\x03\x04{}", "cannot be read"),
    ];
    for (bytes, says) in frames {
        let mut bad = Agent::connect(&plane, &identity, 0).await;
        bad.send.write_all(bytes).await.unwrap();
        let refused = bad.refusal().await;
        assert_eq!(refused.code, RefusedCode::Protocol);
        assert!(refused.reason.contains(says), "{}", refused.reason);
    }
    still_fine(&plane, &mut good).await;
}

#[tokio::test]
async fn an_unknown_message_is_skipped() {
    let plane = TestPlane::new().await;
    let mut agent = Agent::new(&plane, "eu", "a").await;
    agent.say(AgentToPlane::Unknown(99)).await;
    agent.status(0, true).await;
    plane.wait_for("a", |node| node.calls.is_some()).await;
}

#[tokio::test]
async fn messages_in_the_wrong_order_or_name_are_refused() {
    let plane = TestPlane::new().await;
    let identity = enrolled(&plane, "eu", "a").await;
    let mut early = Agent::greeted(&plane, &identity).await;
    early.status(0, true).await;
    assert_eq!(early.refusal().await.code, RefusedCode::Protocol);

    let mut twice = Agent::connect(&plane, &identity, 0).await;
    twice.say(AgentToPlane::HereIAm(Agent::here_i_am(&identity, 0))).await;
    assert_eq!(twice.refusal().await.code, RefusedCode::Protocol);

    let mut liar = Agent::greeted(&plane, &identity).await;
    let here = HereIAm { node: "b".parse().unwrap(), ..Agent::here_i_am(&identity, 0) };
    liar.say(AgentToPlane::HereIAm(here)).await;
    let refused = liar.refusal().await;
    assert_eq!(refused.code, RefusedCode::WrongIdentity);
}

#[tokio::test]
async fn something_else_than_our_protocol_is_hung_up_on() {
    let plane = TestPlane::new().await;
    let mut good = bystander(&plane).await;
    let identity = enrolled(&plane, "eu", "bad").await;
    let (_endpoint, connection) = dial(&plane, &ca_pem(&plane), ALPN, Some(&identity)).await.unwrap();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let quinn::ConnectionError::ApplicationClosed(closed) = connection.closed().await else { panic!("closed") };
    assert!(String::from_utf8_lossy(&closed.reason).contains("does not speak"), "{closed}");

    let (_endpoint, connection) = dial(&plane, &ca_pem(&plane), ENROL_ALPN, None).await.unwrap();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&[0x7f; 64]).await.unwrap();
    assert!(matches!(connection.closed().await, quinn::ConnectionError::ApplicationClosed(_)));
    still_fine(&plane, &mut good).await;
}

#[tokio::test]
async fn the_admin_api_wants_the_credential_and_json() {
    let plane = TestPlane::new().await;
    let base = format!("http://{}/v1/admin", plane.running.admin);
    let http = reqwest::Client::new();
    assert_eq!(http.get(format!("{base}/nodes")).send().await.unwrap().status(), 401);
    assert_eq!(http.get(format!("{base}/nodes")).bearer_auth("guess").send().await.unwrap().status(), 401);
    let credential = plane.dir.admin_token().unwrap();
    let ask = http.post(format!("{base}/tokens")).bearer_auth(credential.as_str());
    let answer = ask.header("content-type", "application/json").body("{").send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.unwrap().contains("bad_request"));
    let public = http.get(format!("http://{}/v1/admin/nodes", plane.running.api)).bearer_auth(credential.as_str());
    assert_eq!(public.send().await.unwrap().status(), 404, "not on the callers' address");
}
