//! Certificates are renewed while the link stands, come back from any absence, and survive clocks that jump.

use super::{
    agent::{Agent, ask_renewal, ca_pem, dial, enrolled, renew_alone, renew_on, renewal_request},
    manual_clock::ManualClock,
    plane::TestPlane,
};
use control_plane::config::Config;
use nearfield_shared::wire::{ALPN, CLOSE_RENEW, RENEW_ALPN, message::RefusedCode};
use std::sync::Arc;

const NOW: i64 = 1_800_000_000;

async fn plane() -> (TestPlane, Arc<ManualClock>) {
    let clock = ManualClock::at(NOW);
    let plane = TestPlane::at(clock.clone(), Config { heartbeat_s: 30.0, ..Config::on_loopback() }).await;
    plane.apply(&plane.files()).await;
    (plane, clock)
}

/// Whether a link is closed at once with the word that the certificate has to be renewed.
async fn must_renew(plane: &TestPlane, identity: &super::agent::Identity) -> bool {
    let (_endpoint, connection) = dial(plane, &ca_pem(plane), ALPN, Some(identity)).await.unwrap();
    matches!(connection.closed().await, quinn::ConnectionError::ApplicationClosed(closed) if closed.error_code == CLOSE_RENEW.into())
}

#[tokio::test]
async fn the_next_certificate_takes_over_with_its_first_use_and_the_one_before_ends() {
    let (mut plane, clock) = plane().await;
    let agent = Agent::new(&plane, "eu", "a").await;
    clock.pass_days(7);
    let next = renew_on(&agent.connection, &agent.identity).await.unwrap();
    let view = plane.node("a").await;
    assert_eq!((view.certificate.as_str(), view.certificate_issued_unix_s), ("renewing", NOW));
    plane.start_again().await;

    // Until it is used, both let the node in; the plane has not forgotten either.
    drop(Agent::connect(&plane, &agent.identity, 0).await);
    let _moved = Agent::connect(&plane, &next, 0).await;
    let view = plane.node("a").await;
    assert_eq!((view.certificate.as_str(), view.certificate_issued_unix_s), ("good", NOW + 7 * 86_400));
    let mut old = Agent::greeted(&plane, &agent.identity).await;
    let refused = old.refusal().await;
    assert!(refused.code == RefusedCode::Revoked && refused.reason.contains("newer certificate"), "{refused:?}");
    assert!(renew_alone(&plane, &agent.identity).await.unwrap_err().contains("newer certificate"));
}

#[tokio::test]
async fn a_lost_reply_leaves_both_certificates_good_and_only_the_last_next_one() {
    let (plane, _clock) = plane().await;
    let agent = Agent::new(&plane, "eu", "a").await;
    let lost = renew_on(&agent.connection, &agent.identity).await.unwrap();
    let next = renew_on(&agent.connection, &agent.identity).await.unwrap();
    let mut refused = Agent::greeted(&plane, &lost).await;
    assert_eq!(refused.refusal().await.code, RefusedCode::Revoked);
    drop(Agent::connect(&plane, &agent.identity, 0).await);
    drop(Agent::connect(&plane, &next, 0).await);
}

#[tokio::test]
async fn whoever_was_cut_off_for_long_renews_and_does_nothing_else_before() {
    let (plane, clock) = plane().await;
    let identity = enrolled(&plane, "eu", "a").await;
    clock.pass_days(400);
    assert_eq!(plane.node("a").await.certificate, "ended");
    assert!(must_renew(&plane, &identity).await);

    let (_endpoint, connection) = dial(&plane, &ca_pem(&plane), RENEW_ALPN, Some(&identity)).await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let hello = nearfield_shared::wire::Hello::OURS.to_bytes();
    send.write_all(&hello).await.unwrap();
    assert!(recv.read_to_end(1024).await.is_err(), "no control link there");

    let next = renew_alone(&plane, &identity).await.unwrap();
    let _back = Agent::connect(&plane, &next, 0).await;
    assert_eq!(plane.node("a").await.certificate, "good");
}

#[tokio::test]
async fn jumps_of_the_planes_clock_lock_nobody_out() {
    for days in [90, -90] {
        let (plane, clock) = plane().await;
        let agent = Agent::new(&plane, "eu", "a").await;
        clock.jump_days(days);
        // A link that stands goes on; a new one costs a renewal.
        let mut identity = renew_on(&agent.connection, &agent.identity).await.unwrap();
        drop(Agent::connect(&plane, &identity, 0).await);
        clock.jump_days(-days);
        assert!(must_renew(&plane, &identity).await, "{days}");
        identity = renew_alone(&plane, &identity).await.unwrap();
        drop(Agent::connect(&plane, &identity, 0).await);
    }
}

#[tokio::test]
async fn a_request_in_another_nodes_name_is_refused() {
    let (plane, _clock) = plane().await;
    let (agent, _other) = (Agent::new(&plane, "eu", "a").await, enrolled(&plane, "eu", "b").await);
    for (node, region) in [("b", "eu"), ("a", "us")] {
        let (csr, _key) = renewal_request(node, region);
        let refused = ask_renewal(&agent.connection, csr).await.unwrap_err();
        assert!(refused.contains("somebody else than node a"), "{refused}");
    }
    let refused = ask_renewal(&agent.connection, "not a request".into()).await.unwrap_err();
    assert!(refused.contains("cannot be used"), "{refused}");
    assert_eq!(plane.node("b").await.certificate, "good");
    assert!(renew_on(&agent.connection, &agent.identity).await.is_ok(), "nothing else is lost");
}

#[tokio::test]
async fn one_node_cannot_fill_the_audit_with_renewals() {
    use control_plane::fleet::certificates::RENEWALS_PER_DAY_MAX;
    let (plane, clock) = plane().await;
    let agent = Agent::new(&plane, "eu", "a").await;
    let other = Agent::new(&plane, "eu", "b").await;
    for _ in 0..RENEWALS_PER_DAY_MAX {
        renew_on(&agent.connection, &agent.identity).await.unwrap();
    }
    let lines = plane.admin.verify_audit().await.unwrap().lines;
    let refused = renew_on(&agent.connection, &agent.identity).await.unwrap_err();
    assert!(refused.contains("edge-agent doctor"), "{refused}");
    assert_eq!(plane.admin.verify_audit().await.unwrap().lines, lines);
    renew_on(&other.connection, &other.identity).await.unwrap();
    clock.pass_days(1);
    renew_on(&agent.connection, &agent.identity).await.unwrap();
}

/// The certificate that the plane shows.
async fn shown(plane: &TestPlane, identity: &super::agent::Identity) -> Vec<u8> {
    let (_endpoint, connection) = dial(plane, &ca_pem(plane), RENEW_ALPN, Some(identity)).await.unwrap();
    let chain =
        connection.peer_identity().unwrap().downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().unwrap();
    chain[0].to_vec()
}

#[tokio::test]
async fn the_planes_own_certificate_is_made_anew_while_it_serves() {
    let (plane, clock) = plane().await;
    let identity = enrolled(&plane, "eu", "a").await;
    let first = shown(&plane, &identity).await;
    assert_eq!(shown(&plane, &identity).await, first);
    clock.pass_days(1);
    let second = shown(&plane, &identity).await;
    assert_ne!(second, first);
    clock.jump_days(-1);
    assert_ne!(shown(&plane, &identity).await, second, "one from the future is not shown either");
}
