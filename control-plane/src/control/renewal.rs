//! Renewal: a node that has a certificate gets its next one, signed for a key of its choice.

use super::{artefacts::read_frame, close, hang_up, identified};
use crate::{
    audit::{Act, Actor},
    ca::{CaError, NodeIdentity},
    plane::Plane,
};
use anyhow::Context as _;
use nearfield_shared::wire::{
    Frame, Limit, RenewReply, RenewRequest, Renewed,
    message::{Refused, RefusedCode},
};
use std::time::Duration;

/// Longest renewal on a connection of its own, from the end of the handshake.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Longest time for the reply to be taken.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves one renewal on a connection of its own, whatever the time in the certificate.
pub async fn serve(plane: &Plane, connection: quinn::Connection) {
    let Some(identity) = identified(&connection) else { return };
    let exchange = async {
        let (mut send, mut recv) = connection.accept_bi().await?;
        let frame = read_frame(&mut recv, Limit::ENROL).await.context("the request")?;
        answer(plane, &identity, &frame, &mut send).await?;
        // The reply must be there before the connection is closed. One that nobody takes is lost either way.
        tokio::time::timeout(REPLY_TIMEOUT, send.stopped()).await.ok();
        anyhow::Ok(())
    };
    match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(Ok(())) => hang_up(&connection, close::DONE, "done"),
        Ok(Err(error)) => {
            tracing::info!(node = %identity.node, error = format!("{error:#}"), "a renewal ended early");
            hang_up(&connection, close::PROTOCOL, "this is no renewal");
        }
        Err(_) => hang_up(&connection, close::SILENT, "the renewal took too long"),
    }
}

/// Answers one request on its stream.
pub(super) async fn answer(
    plane: &Plane,
    identity: &NodeIdentity,
    frame: &Frame,
    send: &mut quinn::SendStream,
) -> anyhow::Result<()> {
    let request: RenewRequest = frame.json()?;
    let reply = match renew(plane, identity, &request).await {
        Ok(renewed) => RenewReply::Renewed(renewed),
        Err(refused) => {
            tracing::warn!(node = %identity.node, reason = refused.reason, "a renewal was refused");
            RenewReply::Refused(refused)
        }
    };
    send.write_all(&reply.encode()?).await?;
    Ok(send.finish()?)
}

async fn renew(plane: &Plane, identity: &NodeIdentity, request: &RenewRequest) -> Result<Renewed, Refused> {
    plane.admit(identity).await?;
    let NodeIdentity { node, region, .. } = identity;
    let now = plane.now();
    // Asked and noted in one step, so that a revocation comes before it or finds the next certificate too.
    let renewed = plane
        .change(&Actor::Plane, |fleet| {
            let due = fleet.admit(identity).and_then(|()| fleet.may_renew(node, now));
            let signed = due.and_then(|()| {
                plane.ca.renew_node(&request.csr_pem, node, region, now).map_err(|error| match error {
                    CaError::BadRequest(_) => Refused { code: RefusedCode::WrongIdentity, reason: error.to_string() },
                    CaError::Broken(what) => failed(identity, &what),
                })
            });
            match signed {
                Ok(certificate) => {
                    let before = fleet.node_digest(node);
                    let writes = fleet.renewed(node, &certificate, now);
                    let act = Act {
                        what: "node.renew",
                        object: format!("node/{node}"),
                        detail: certificate.to_string(),
                        before,
                        after: fleet.node_digest(node),
                    };
                    (Ok(certificate), writes, Some(act))
                }
                Err(refused) => (Err(refused), Vec::new(), None),
            }
        })
        .await
        .map_err(|error| failed(identity, &error.to_string()))??;
    tracing::info!(%node, ends = crate::api::views::time(renewed.expires_unix_s), "renewed");
    Ok(Renewed { certificate_pem: renewed.pem })
}

fn failed(identity: &NodeIdentity, what: &str) -> Refused {
    tracing::error!(node = %identity.node, error = what, "a renewal failed");
    Refused { code: RefusedCode::Overloaded, reason: "the control plane failed; its log says how".into() }
}
