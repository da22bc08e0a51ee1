//! Enrolment: a token and a certificate request come in, a certificate goes out.

use super::{artefacts::read_frame, close, hang_up};
use crate::{
    audit::{Act, Actor},
    ca::{CaError, NodeCertificate},
    fleet::tokens::Redeemable,
    plane::Plane,
};
use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use nearfield_shared::wire::{
    Limit,
    enrol::{EnrolRefusal, EnrolRefused, EnrolReply, EnrolRequest, Enrolled},
    message::{Refused, RefusedCode},
};
use std::time::Duration;

/// Longest enrolment from the end of the handshake.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Longest time for the reply to be taken.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves one enrolment.
pub async fn serve(plane: &Plane, connection: quinn::Connection) {
    let from = connection.remote_address();
    match tokio::time::timeout(TIMEOUT, exchange(plane, &connection)).await {
        Ok(Ok(())) => hang_up(&connection, close::DONE, "done"),
        Ok(Err(error)) => {
            tracing::info!(%from, error = format!("{error:#}"), "an enrolment ended early");
            hang_up(&connection, close::PROTOCOL, "this is no enrolment");
        }
        Err(_) => hang_up(&connection, close::SILENT, "the enrolment took too long"),
    }
}

/// Says that too many enrol at once.
pub async fn refuse_busy(connection: quinn::Connection) {
    let reason = "too many nodes enrol at once; try again in a minute".to_owned();
    let reply = EnrolReply::Refused(EnrolRefused { code: EnrolRefusal::Busy, reason });
    let exchange = async {
        let (send, _recv) = connection.accept_bi().await?;
        say(send, &reply).await
    };
    // Whoever does not listen learns from the closed connection.
    tokio::time::timeout(REPLY_TIMEOUT, exchange).await.ok();
    hang_up(&connection, close::OVERLOADED, "busy");
}

async fn exchange(plane: &Plane, connection: &quinn::Connection) -> anyhow::Result<()> {
    let (send, mut recv) = connection.accept_bi().await?;
    let frame = read_frame(&mut recv, Limit::ENROL).await.context("the request")?;
    let request = EnrolRequest::decode(&frame)?.context("a request of a later version")?;
    let reply = match enrol(plane, &request).await {
        Ok(enrolled) => {
            tracing::info!(node = %enrolled.node, region = %enrolled.region, "enrolled");
            EnrolReply::Enrolled(enrolled)
        }
        Err(refused) => {
            tracing::warn!(from = %connection.remote_address(), reason = refused.reason, "an enrolment was refused");
            EnrolReply::Refused(refused)
        }
    };
    say(send, &reply).await
}

async fn say(mut send: quinn::SendStream, reply: &EnrolReply) -> anyhow::Result<()> {
    send.write_all(&reply.encode()?).await?;
    send.finish()?;
    // The reply must be there before the connection is closed. One that nobody takes is lost either way.
    tokio::time::timeout(REPLY_TIMEOUT, send.stopped()).await.ok();
    Ok(())
}

async fn enrol(plane: &Plane, request: &EnrolRequest) -> Result<Enrolled, EnrolRefused> {
    let failed = |what: String| {
        tracing::error!(error = what, "an enrolment failed");
        EnrolRefused { code: EnrolRefusal::Failed, reason: "the control plane failed; its log says how".into() }
    };
    let now = plane.now();
    let mut suffix = [0; 4];
    aws_lc_rs::rand::fill(&mut suffix).map_err(|e| failed(e.to_string()))?;
    let suffix = u32::from_be_bytes(suffix);
    // Token, certificate and record change in one step, so that of two that use one token only one gets through.
    let taken: Result<(Redeemable, NodeCertificate), EnrolRefused> = plane
        .change(&Actor::Plane, |fleet| {
            let redeemed = fleet.redeem(&request.secret, request.node.as_ref(), suffix, now).and_then(|redeemable| {
                let signed = plane.ca.sign_node(&request.csr_pem, &redeemable.node, &redeemable.region, now);
                signed.map(|certificate| (redeemable, certificate)).map_err(|error| match error {
                    CaError::BadRequest(_) => EnrolRefused {
                        code: EnrolRefusal::BadRequest,
                        reason: format!("{error}; the token is still good"),
                    },
                    CaError::Broken(what) => failed(what),
                })
            });
            match redeemed {
                Err(refused) => (Err(refused), Vec::new(), None),
                Ok((used, certificate)) => {
                    let before = fleet.node_digest(&used.node);
                    let replaced: String = fleet.node(&used.node).map_or_else(String::new, |node| {
                        node.certificates().map(|(serial, _)| format!(", in place of {serial}")).collect()
                    });
                    let mut writes = fleet.token_used(&used);
                    writes.extend(fleet.enrolled(
                        used.node.clone(),
                        used.region.clone(),
                        certificate.serial.clone(),
                        certificate.expires_unix_s,
                        now,
                    ));
                    let act = Act {
                        what: "node.enrol",
                        object: format!("node/{}", used.node),
                        detail: format!("in {}, by token/{}: {certificate}{replaced}", used.region, &used.hash[..12]),
                        before,
                        after: fleet.node_digest(&used.node),
                    };
                    (Ok((used, certificate)), writes, Some(act))
                }
            }
        })
        .await
        .map_err(|error| failed(error.to_string()))?;
    let (used, certificate) = taken?;
    let reason = format!("node {} was enrolled again, so this certificate is no longer valid", used.node);
    plane.hang_up(&used.node, &Refused { code: RefusedCode::Revoked, reason });
    plane.publish_revoked();
    Ok(Enrolled {
        node: used.node,
        region: used.region,
        certificate_pem: certificate.pem,
        ca_pem: plane.ca.pem().to_owned(),
        signing_key: STANDARD.encode(&plane.signing_public_key),
        expires_unix_s: certificate.expires_unix_s,
        planes: plane.config.planes.clone(),
        registry_root: plane.registry_root(),
    })
}
