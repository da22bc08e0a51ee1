//! The QUIC side: one UDP port for the control links of agents, for enrolment and for renewals.
//!
//! They are told apart by ALPN. Enrolment has no client certificate by nature, so TLS asks for one without insisting, and
//! [`accept`] insists for `nearfield/1`: without a certificate of our own authority that connection ends before a byte of it is
//! read. One port was chosen over two because it is one hole in one firewall; the price is that the check is ours.
//!
//! # Certificates and time
//! TLS verifies a node's certificate as of its beginning. Whether it is good now, [`accept`] asks the plane's clock: if not, a control link is closed with
//! [`CLOSE_RENEW`], and the node comes back with ALPN [`RENEW_ALPN`], where it can have its next certificate signed and nothing else.
//! So a node returns from any absence without a person, and a clock that jumps, on either side, costs one more connection.
//!
//! What that gives away: an ended certificate does not become useless by itself. Its key still does, because each renewal brings a new key
//! and the first use of the new certificate ends the old one ([`crate::fleet::certificates`]): a copied disk serves until the node's next renewal, about a
//! week, unless the thief renews first, and then the node itself is refused, which a person sees. What ends a stolen node at once is `node revoke`; it
//! holds for renewals too. An expiry that nobody can come back from would stop no thief earlier, who renews as well, and would lock out every node that was cut off.
//!
//! BACKPRESSURE: at most [`HANDSHAKES_MAX`] handshakes, [`tls::WAITING_MAX`] connections that wait for one, `agents_max` links and
//! `enrolments_max` enrolments and renewals by ended certificates; whatever comes on top is refused at once. An address has to show
//! that it is real (QUIC retry) while more than a quarter of the handshakes are taken.

pub mod artefacts;
pub mod enrolment;
pub mod link;
pub mod renewal;
pub mod socket;
pub mod tls;
mod turned_away;

pub use turned_away::turn_away;

use crate::{
    ca::{self, NodeIdentity},
    plane::Plane,
};
use nearfield_shared::wire::{ALPN, CLOSE_RENEW, ENROL_ALPN, RENEW_ALPN};
use quinn::crypto::rustls::HandshakeData;
use rustls::pki_types::CertificateDer;
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Handshakes in progress at most: enough for 2,500 a second at a round trip of 100 ms, more than a core can compute.
pub const HANDSHAKES_MAX: usize = 256;

/// Longest handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Codes with which the plane closes a connection.
pub mod close {
    /// Nothing is wrong.
    pub const DONE: u32 = 0;
    /// The plane goes down; come back.
    pub const GOING_DOWN: u32 = 1;
    /// There is no certificate where one is needed.
    pub const NO_CERTIFICATE: u32 = 2;
    /// The other side broke the protocol.
    pub const PROTOCOL: u32 = 3;
    /// The node is not welcome; the message before says why.
    pub const REFUSED: u32 = 4;
    /// Nothing came for too long.
    pub const SILENT: u32 = 5;
    /// The plane has as much to do as it takes.
    pub const OVERLOADED: u32 = 6;
}

/// Hangs up.
pub(crate) fn hang_up(connection: &quinn::Connection, code: u32, reason: &str) {
    connection.close(code.into(), reason.as_bytes());
}

/// Serves the endpoint until the token fires, then lets every connection say goodbye.
pub async fn run(plane: Arc<Plane>, endpoint: quinn::Endpoint, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let enrolments = Arc::new(Semaphore::new(plane.config.enrolments_max));
    let links = Arc::new(Semaphore::new(plane.config.agents_max));
    loop {
        // Those that come meanwhile wait in the endpoint, which is bounded too: a fleet that comes back all at once is let in one after
        // the other, where a refusal would send each away for a growing while.
        let next = async {
            let permit = handshakes.clone().acquire_owned().await.ok()?;
            Some((permit, endpoint.accept().await?))
        };
        let next = tokio::select! {
            next = next => next,
            () = stop.cancelled() => break,
        };
        let Some((permit, incoming)) = next else { break };
        let busy = handshakes.available_permits() < HANDSHAKES_MAX * 3 / 4;
        if busy && !incoming.remote_address_validated() && incoming.may_retry() {
            // `may_retry` has just said that this works.
            incoming.retry().ok();
            continue;
        }
        let (plane, enrolments, links, stop) = (plane.clone(), enrolments.clone(), links.clone(), stop.clone());
        let of_links = tasks.clone();
        tasks.spawn(async move {
            let from = incoming.remote_address();
            let handshake = async { incoming.accept()?.await };
            let connection = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => return tracing::debug!(%from, %error, "a handshake failed"),
                Err(_) => return tracing::debug!(%from, "a handshake took too long"),
            };
            drop(permit);
            match protocol(&connection).as_deref() {
                // A task of its own, which is as small as a link at rest can be.
                Some(ALPN) => drop(of_links.spawn(accept(plane, connection, links, stop))),
                Some(ENROL_ALPN) => match enrolments.try_acquire_owned() {
                    Ok(_permit) => enrolment::serve(&plane, connection).await,
                    Err(_) => enrolment::refuse_busy(connection).await,
                },
                Some(RENEW_ALPN) => match enrolments.try_acquire_owned() {
                    Ok(_permit) => renewal::serve(&plane, connection).await,
                    Err(_) => hang_up(&connection, close::OVERLOADED, "too many renew at once; try again"),
                },
                // TLS has agreed on one of them already.
                _ => hang_up(&connection, close::PROTOCOL, "unknown protocol"),
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

fn protocol(connection: &quinn::Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

/// Who a connection's certificate names; a connection without a usable one is closed.
fn identified(connection: &quinn::Connection) -> Option<NodeIdentity> {
    let certificates = connection.peer_identity().and_then(|id| id.downcast::<Vec<CertificateDer<'static>>>().ok());
    let Some(certificate) = certificates.as_ref().and_then(|chain| chain.first()) else {
        hang_up(connection, close::NO_CERTIFICATE, "a node certificate is needed; enrol first");
        return None;
    };
    ca::identity(certificate).inspect_err(|error| hang_up(connection, close::NO_CERTIFICATE, &error.to_string())).ok()
}

/// Takes a control link in, if it shows a certificate that names a node and is good now.
async fn accept(plane: Arc<Plane>, connection: quinn::Connection, links: Arc<Semaphore>, stop: CancellationToken) {
    let Some(identity) = identified(&connection) else { return };
    let (begins, ends) = identity.valid_unix_s;
    if !(begins..ends).contains(&plane.now()) {
        tracing::info!(node = %identity.node, "its certificate is not good at this time; it has to renew it first");
        return hang_up(&connection, CLOSE_RENEW, "the certificate is not valid now; renew it");
    }
    let Ok(_permit) = links.try_acquire_owned() else {
        tracing::warn!(node = %identity.node, "turned away: agents_max links are open");
        return hang_up(&connection, close::OVERLOADED, "the plane has as many agents as it takes");
    };
    link::serve(plane, connection, identity, stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Thousands of links stand at rest at any time, and each holds its whole future.
    #[test]
    fn the_task_of_a_link_stays_small() {
        let bytes = future_bytes(accept);
        assert!(bytes <= 3 << 10, "{bytes} bytes");
    }
}
