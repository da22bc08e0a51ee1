//! The QUIC side: one UDP port for the control links of agents and for enrolment.
//!
//! The two are told apart by ALPN. Enrolment has no client certificate by nature, so TLS asks for one without insisting, and
//! [`accept`] insists for `nearfield/1`: without a certificate of our own authority that connection ends before a byte of it is
//! read. One port was chosen over two because it is one hole in one firewall; the price is that the check is ours.
//!
//! BACKPRESSURE: at most [`HANDSHAKES_MAX`] handshakes, `agents_max` links and `enrolments_max` enrolments; whatever comes on top is
//! refused at once. An address has to show that it is real (QUIC retry) while more than a quarter of the handshakes are taken.

pub mod artefacts;
pub mod enrolment;
pub mod link;
pub mod tls;

use crate::{ca, plane::Plane};
use nearfield_shared::wire::{ALPN, ENROL_ALPN};
use quinn::crypto::rustls::HandshakeData;
use rustls::pki_types::CertificateDer;
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Handshakes in progress at most. A handshake costs about 1 ms of one core, so this is half a second of work.
pub const HANDSHAKES_MAX: usize = 512;

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
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = stop.cancelled() => break,
        };
        let Some(incoming) = incoming else { break };
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let busy = handshakes.available_permits() < HANDSHAKES_MAX * 3 / 4;
        if busy && !incoming.remote_address_validated() && incoming.may_retry() {
            // `may_retry` has just said that this works.
            incoming.retry().ok();
            continue;
        }
        let (plane, enrolments, links, stop) = (plane.clone(), enrolments.clone(), links.clone(), stop.clone());
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
                Some(ALPN) => accept(plane, connection, links, stop).await,
                Some(ENROL_ALPN) => match enrolments.try_acquire_owned() {
                    Ok(_permit) => enrolment::serve(&plane, connection).await,
                    Err(_) => enrolment::refuse_busy(connection).await,
                },
                // TLS has agreed on one of the two already.
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

/// Takes a control link in, if it shows a certificate that names a node.
async fn accept(plane: Arc<Plane>, connection: quinn::Connection, links: Arc<Semaphore>, stop: CancellationToken) {
    let certificates = connection.peer_identity().and_then(|id| id.downcast::<Vec<CertificateDer<'static>>>().ok());
    let Some(certificate) = certificates.as_ref().and_then(|chain| chain.first()) else {
        return hang_up(&connection, close::NO_CERTIFICATE, "a node certificate is needed; enrol first");
    };
    let identity = match ca::identity(certificate) {
        Ok(identity) => identity,
        Err(error) => return hang_up(&connection, close::NO_CERTIFICATE, &error.to_string()),
    };
    let Ok(_permit) = links.try_acquire_owned() else {
        tracing::warn!(node = %identity.node, "turned away: agents_max links are open");
        return hang_up(&connection, close::OVERLOADED, "the plane has as many agents as it takes");
    };
    link::serve(plane, connection, identity, stop).await;
}
