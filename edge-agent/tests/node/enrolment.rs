//! Enrolment over real QUIC: the node trusts the token's authority and nothing else.

use crate::{plane::Plane, rig};
use edge_agent::{
    enrol::{EnrolError, EnrolOrder, enrol},
    identity::Identity,
    state_dir::StateDir,
};
use nearfield_shared::wire::enrol::{EnrolRefusal, EnrolToken};
use std::os::unix::fs::PermissionsExt;

fn order(plane: &Plane, token: EnrolToken) -> EnrolOrder {
    EnrolOrder { planes: vec![plane.address()], token, node: None, url: None, again: false }
}

fn empty_dir() -> (tempfile::TempDir, StateDir) {
    let folder = tempfile::tempdir().unwrap();
    let dir = StateDir::open(&folder.path().join("node")).unwrap();
    (folder, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_makes_an_identity_once() {
    let (plane, _heard) = Plane::start().await;
    let (_folder, dir) = empty_dir();
    let planes = vec![plane.standing_by(), plane.address()];
    enrol(&dir, &EnrolOrder { planes: planes.clone(), ..order(&plane, plane.token()) }).await.unwrap();
    let identity = Identity::load(&dir).unwrap();
    assert_eq!(identity.node.as_str(), crate::plane::NODE);
    assert_eq!(std::fs::metadata(dir.node_key()).unwrap().permissions().mode() & 0o777, 0o600);
    let config = edge_agent::config::Config::read(&dir.config()).unwrap();
    assert_eq!(config.planes, planes, "whichever of them leads later");
    // An older agent left key and certificate in two files.
    let both = std::fs::read_to_string(dir.node_key()).unwrap();
    let (key, certificate) = both.split_at(both.find("-----BEGIN CERTIFICATE").unwrap());
    std::fs::write(dir.node_certificate(), certificate).unwrap();
    std::fs::write(dir.node_key(), key).unwrap();
    assert_eq!(Identity::load(&dir).unwrap(), identity);
    // The folder is taken, and the token is used up.
    let said = enrol(&dir, &order(&plane, plane.token())).await.expect_err("taken");
    assert!(matches!(said, EnrolError::Enrolled { .. }), "{said}");
    let (_folder, other) = empty_dir();
    let said = enrol(&other, &order(&plane, plane.token())).await.expect_err("used");
    assert!(matches!(&said, EnrolError::Refused(refused) if refused.code == EnrolRefusal::UsedToken), "{said}");
    assert!(Identity::load(&other).is_err() && !other.node_key().exists(), "nothing is left of the failed attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_and_a_wrong_authority_are_different_errors() {
    let (plane, _heard) = Plane::start().await;
    let (impostor, _heard) = Plane::start().await;
    let (_folder, dir) = empty_dir();
    let fingerprint = *plane.token().ca_fingerprint();
    let said = enrol(&dir, &order(&plane, EnrolToken::new([8; 24], fingerprint))).await.expect_err("wrong secret");
    assert!(matches!(&said, EnrolError::Refused(refused) if refused.code == EnrolRefusal::WrongToken), "{said}");
    // Somebody else answers at the address: the secret must not reach them.
    let said = enrol(&dir, &order(&impostor, plane.token())).await.expect_err("wrong authority").to_string();
    assert!(said.contains("certificate"), "{said}");
    assert!(!dir.identity().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_that_is_not_there_is_told_with_its_address() {
    let (plane, _heard) = Plane::start().await;
    let (_folder, dir) = empty_dir();
    let mut order = order(&plane, plane.token());
    order.planes = vec!["plane.invalid:7443".into()];
    let said = enrol(&dir, &order).await.expect_err("no such name").to_string();
    assert!(said.contains("plane.invalid:7443"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolled_node_is_welcomed() {
    let (plane, _heard) = Plane::start().await;
    let (_folder, dir) = empty_dir();
    enrol(&dir, &order(&plane, plane.token())).await.unwrap();
    let host = crate::host::FakeHost::new();
    let daemon = edge_agent::daemon::Daemon::start(rig::parts(dir, rig::config(&plane.address()), host)).await.unwrap();
    rig::until("connected", || daemon.status().link.connected).await;
    assert_eq!(
        daemon.status().link.plane_ahead_s.map(i64::abs).filter(|s| *s <= 2),
        daemon.status().link.plane_ahead_s
    );
    daemon.drain().await;
}
