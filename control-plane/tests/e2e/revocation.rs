//! A revoked node is out at once and stays out, until it is enrolled anew.

use super::{
    agent::{Agent, enrolled},
    plane::TestPlane,
};
use nearfield_shared::wire::message::RefusedCode;

#[tokio::test]
async fn a_revoked_node_is_hung_up_on_and_not_let_in_again() {
    let plane = TestPlane::new().await;
    let mut agent = Agent::new(&plane, "eu", "a").await;
    let identity = agent.identity.clone();
    assert_eq!(plane.admin.revoke("a").await.unwrap().state, "revoked");
    assert_eq!(agent.refusal().await.code, RefusedCode::Revoked);

    let mut again = Agent::greeted(&plane, &identity).await;
    let refused = again.refusal().await;
    assert_eq!(refused.code, RefusedCode::Revoked);
    assert!(refused.reason.contains("enrol"), "{}", refused.reason);
    assert_eq!(plane.node("a").await.state, "revoked");

    let anew = enrolled(&plane, "eu", "a").await;
    Agent::connect(&plane, &anew, 0).await;
    plane.wait_for("a", |node| node.state != "revoked").await;
}

#[tokio::test]
async fn revoking_nobody_is_an_error() {
    let plane = TestPlane::new().await;
    assert!(plane.admin.revoke("nobody").await.unwrap_err().to_string().contains("node list"));
    assert!(plane.admin.revoke("../status").await.is_err());
}
