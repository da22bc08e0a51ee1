//! A revoked node is out at once and stays out, until it is enrolled anew; and every region hears of it.

use super::{
    agent::{Agent, enrolled, renew_alone, renew_on},
    plane::TestPlane,
};
use nearfield_shared::wire::{PlaneToAgent, message::RefusedCode};
use x509_parser::{prelude::FromDer as _, revocation_list::CertificateRevocationList};

#[tokio::test]
async fn a_revoked_node_is_hung_up_on_and_not_let_in_again() {
    let plane = TestPlane::new().await;
    let mut agent = Agent::new(&plane, "eu", "a").await;
    let identity = agent.identity.clone();
    assert_eq!(plane.admin.revoke("a", Some("stolen".into())).await.unwrap().state, "revoked");
    assert_eq!(agent.refusal().await.code, RefusedCode::Revoked);

    let mut again = Agent::greeted(&plane, &identity).await;
    let refused = again.refusal().await;
    assert_eq!(refused.code, RefusedCode::Revoked);
    assert!(refused.reason.contains("enrol"), "{}", refused.reason);
    let node = plane.node("a").await;
    assert_eq!((node.state.as_str(), node.revoked_reason.as_deref()), ("revoked", Some("stolen")));

    let anew = enrolled(&plane, "eu", "a").await;
    Agent::connect(&plane, &anew, 0).await;
    plane.wait_for("a", |node| node.state != "revoked").await;
}

#[tokio::test]
async fn revoking_nobody_is_an_error() {
    let plane = TestPlane::new().await;
    assert!(plane.admin.revoke("nobody", None).await.unwrap_err().to_string().contains("node list"));
    assert!(plane.admin.revoke("../status", None).await.is_err());
}

#[tokio::test]
async fn an_agent_that_was_replaced_cannot_come_back_for_its_name() {
    let mut plane = TestPlane::new().await;
    let mut replaced = Agent::new(&plane, "eu", "a").await;
    let (old, unused) = (replaced.identity.clone(), renew_on(&replaced.connection, &replaced.identity).await.unwrap());
    let anew = enrolled(&plane, "eu", "a").await;
    assert_eq!(replaced.refusal().await.code, RefusedCode::Revoked, "it is hung up on at once");
    let _agent = Agent::connect(&plane, &anew, 1).await;
    plane.wait_for("a", |node| node.state == "up").await;
    for restarted in [false, true] {
        if restarted {
            plane.start_again().await;
        }
        for identity in [&old, &unused] {
            assert_eq!(Agent::greeted(&plane, identity).await.refusal().await.code, RefusedCode::Revoked);
            assert!(renew_alone(&plane, identity).await.unwrap_err().contains("newer certificate"));
        }
        let expect = if restarted { "returning" } else { "up" };
        assert_eq!(plane.node("a").await.state, expect, "whoever has its place keeps it");
    }
    drop(Agent::connect(&plane, &anew, 1).await);
}

#[tokio::test]
async fn a_revoked_node_gets_no_renewal_on_any_way() {
    let plane = TestPlane::new().await;
    let agent = Agent::new(&plane, "eu", "a").await;
    let next = renew_on(&agent.connection, &agent.identity).await.unwrap();
    plane.admin.revoke("a", None).await.unwrap();
    assert!(renew_on(&agent.connection, &agent.identity).await.is_err(), "the connection is cut");
    for identity in [&agent.identity, &next] {
        let refused = renew_alone(&plane, identity).await.unwrap_err();
        assert!(refused.contains("revoked"), "{refused}");
        let mut link = Agent::greeted(&plane, identity).await;
        assert_eq!(link.refusal().await.code, RefusedCode::Revoked);
    }
}

/// The serial numbers and the number of the next list that an agent is told.
async fn list(agent: &mut Agent) -> (Vec<String>, u64) {
    loop {
        if let PlaneToAgent::Revoked(told) = agent.hear().await.unwrap() {
            let der = x509_parser::pem::parse_x509_pem(told.crl_pem.as_bytes()).unwrap().1.contents;
            let (_, list) = CertificateRevocationList::from_der(&der).unwrap();
            let serials = list.iter_revoked_certificates().map(|entry| entry.serial().to_str_radix(16)).collect();
            return (serials, list.crl_number().unwrap().to_u64_digits()[0]);
        }
    }
}

#[tokio::test]
async fn every_region_is_told_which_certificates_are_revoked_and_a_restart_forgets_none() {
    let mut plane = TestPlane::new().await;
    let (mut other, _gone) = (Agent::new(&plane, "us", "b").await, Agent::new(&plane, "eu", "a").await);
    plane.admin.revoke("a", None).await.unwrap();
    let (first, number) = list(&mut other).await;
    assert_eq!((first.len(), number), (1, 1));
    // Enrolling a node again makes the certificate that it had before as bad as a revoked one.
    enrolled(&plane, "us", "c").await;
    enrolled(&plane, "us", "c").await;
    let (second, number) = list(&mut other).await;
    assert_eq!((second.len(), number), (2, 2));
    assert!(first.iter().all(|serial| second.contains(serial)));
    plane.start_again().await;
    let mut late = Agent::new(&plane, "eu", "d").await;
    assert_eq!(list(&mut late).await, (second, 2));
}
