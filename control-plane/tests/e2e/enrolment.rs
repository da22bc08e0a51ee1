//! One token lets one node in, once and in time.

use super::{
    agent::{Agent, ca_pem, dial, enrol, enrol_with, enrolled},
    plane::TestPlane,
};
use control_plane::control::close;
use nearfield_shared::wire::{
    ALPN, ENROL_ALPN,
    enrol::{EnrolRefusal, EnrolReply, EnrolToken},
};
use std::time::Duration;

fn csr() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
}

#[tokio::test]
async fn a_node_enrols_and_is_welcomed() {
    let plane = TestPlane::new().await;
    let token = plane.token("eu", None, 60).await;
    let identity = enrol(&plane, &token, Some("fra-1")).await.unwrap();
    assert_eq!((identity.enrolled.node.as_str(), identity.enrolled.region.as_str()), ("fra-1", "eu"));
    use base64::Engine as _;
    let key = base64::engine::general_purpose::STANDARD.decode(&identity.enrolled.signing_key).unwrap();
    assert_eq!(key, plane.dir.signing_public_key().unwrap());
    assert_eq!(plane.node("fra-1").await.state, "down");
    let _agent = Agent::connect(&plane, &identity, 0).await;
    plane.wait_for("fra-1", |node| node.state == "connected").await;
}

#[tokio::test]
async fn wrong_reused_and_expired_tokens_are_refused_with_the_remedy() {
    let plane = TestPlane::new().await;
    let fingerprint = *plane.token("eu", None, 60).await.ca_fingerprint();
    let refused = enrol(&plane, &EnrolToken::new([1; 24], fingerprint), None).await.err().unwrap();
    assert_eq!(refused.code, EnrolRefusal::WrongToken);
    assert!(refused.reason.contains("control-plane token create"), "{refused}");

    let token = plane.token("eu", None, 60).await;
    enrol(&plane, &token, None).await.unwrap();
    assert_eq!(enrol(&plane, &token, None).await.err().unwrap().code, EnrolRefusal::UsedToken);

    let token = plane.token("eu", None, 1).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(enrol(&plane, &token, None).await.err().unwrap().code, EnrolRefusal::ExpiredToken);
    assert_eq!(plane.admin.nodes().await.unwrap().len(), 1);
}

#[tokio::test]
async fn of_two_that_use_one_token_at_once_one_gets_in() {
    let plane = TestPlane::new().await;
    let token = plane.token("eu", None, 60).await;
    let tries = futures_util::future::join_all((0..8).map(|_| enrol(&plane, &token, None))).await;
    assert_eq!(tries.iter().filter(|result| result.is_ok()).count(), 1);
    assert_eq!(plane.admin.nodes().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_bad_request_does_not_use_the_token_up() {
    let plane = TestPlane::new().await;
    let token = plane.token("eu", None, 60).await;
    for bad in ["", "not a request", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"] {
        let EnrolReply::Refused(refused) = enrol_with(&plane, &token.secret_text(), bad, None).await else {
            panic!("{bad}")
        };
        assert_eq!(refused.code, EnrolRefusal::BadRequest);
    }
    let good = enrol_with(&plane, &token.secret_text(), &csr(), None).await;
    assert!(matches!(good, EnrolReply::Enrolled(_)), "{good:?}");
}

#[tokio::test]
async fn a_taken_name_is_refused_unless_the_admin_named_it() {
    let plane = TestPlane::new().await;
    let first = enrolled(&plane, "eu", "fra-1").await;
    let token = plane.token("eu", None, 60).await;
    assert_eq!(enrol(&plane, &token, Some("fra-1")).await.err().unwrap().code, EnrolRefusal::NameTaken);
    let again = enrolled(&plane, "eu", "fra-1").await;
    let mut old = Agent::greeted(&plane, &first).await;
    assert!(old.refusal().await.reason.contains("no longer valid"));
    Agent::connect(&plane, &again, 0).await;
}

#[tokio::test]
async fn a_secret_is_not_in_the_store() {
    let mut plane = TestPlane::new().await;
    let token = plane.token("eu", None, 60).await;
    plane.stop().await;
    let secret = token.secret_text();
    for file in walk(plane.dir.root()) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "{}", file.display());
    }
}

pub fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = vec![];
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test]
async fn without_a_certificate_there_is_no_control_link() {
    let plane = TestPlane::new().await;
    let (_endpoint, connection) = dial(&plane, &ca_pem(&plane), ALPN, None).await.unwrap();
    let quinn::ConnectionError::ApplicationClosed(closed) = connection.closed().await else { panic!("closed") };
    assert_eq!(closed.error_code, close::NO_CERTIFICATE.into());
}

#[tokio::test]
async fn a_certificate_of_another_plane_is_refused() {
    let (plane, other) = (TestPlane::new().await, TestPlane::new().await);
    let stranger = enrolled(&other, "eu", "fra-1").await;
    enrolled(&plane, "eu", "fra-1").await;
    // In TLS 1.3 a client may be done before the server has looked at its certificate.
    let ended = match dial(&plane, &ca_pem(&plane), ALPN, Some(&stranger)).await {
        Err(error) => error,
        Ok((_endpoint, connection)) => connection.closed().await,
    };
    assert!(matches!(ended, quinn::ConnectionError::ConnectionClosed(_)), "{ended}");
}

#[tokio::test]
async fn a_plane_with_another_authority_is_not_trusted() {
    let (plane, other) = (TestPlane::new().await, TestPlane::new().await);
    assert!(dial(&plane, &ca_pem(&other), ENROL_ALPN, None).await.is_err());
}
