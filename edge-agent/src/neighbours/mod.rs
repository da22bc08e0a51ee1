//! Models between nodes of one region: this node gives what it has verified, and takes from others what it lacks.
//!
//! Off unless `agent.toml` names an address (`neighbours`). Both sides show the certificates of their control link, and each takes the other
//! for a member only if the plane's authority signed it for this region, it is not on the newest list of revoked certificates, and it is good
//! now by the plane's time ([`members`]). A node that has not heard the plane's time since it started gives nothing.
//!
//! What goes over such a connection are requests that name a digest, and bytes of model files. Nothing of a call can.
//!
//! BACKPRESSURE: [`give::CONNECTIONS_MAX`] connections, [`give::UPLOADS_MAX`] uploads and [`give::BYTES_PER_SECOND`] for all of them together, so that
//! callers notice nothing; whoever comes on top is sent away at once and asks the next.

pub mod find;
pub mod give;
pub mod members;

use crate::{artefacts::ArtefactStore, control::LinkState, control::revoked::RevokedList, state_dir::StateDir};
use find::Finder;
use give::Giver;
use members::Members;
use nearfield_shared::clock::Clock;
use std::{io, net::SocketAddr, net::UdpSocket, sync::Arc};
use tokio::sync::watch;

/// What neighbours are made of.
pub struct NeighbourParts {
    /// The node's folder, where its certificate is renewed.
    pub dir: StateDir,
    /// Who this node is.
    pub identity: crate::identity::Identity,
    /// What tells the time.
    pub clock: Arc<dyn Clock>,
    /// Certificates that are no longer good.
    pub revoked: Arc<RevokedList>,
    /// How the control link is; it tells the plane's time, and when the certificate was renewed.
    pub link: watch::Receiver<LinkState>,
    /// What is given.
    pub store: ArtefactStore,
}

/// One socket, for giving and for taking.
pub struct Neighbours {
    address: SocketAddr,
    finder: Finder,
    giver: Giver,
}

impl Neighbours {
    /// Binds the address.
    ///
    /// # Errors
    /// When it is taken, or the node's certificate cannot be used.
    pub fn bind(address: SocketAddr, parts: NeighbourParts) -> io::Result<Self> {
        let NeighbourParts { dir, identity, clock, revoked, link, store } = parts;
        let runtime = quinn::default_runtime().ok_or_else(|| io::Error::other("no async runtime"))?;
        let socket = UdpSocket::bind(address)?;
        let address = socket.local_addr()?;
        let members = Members::new(&identity, revoked, clock, link.clone()).map_err(io::Error::other)?;
        let credentials = members::Credentials::new(dir, members);
        let server = credentials.server().map_err(io::Error::other)?;
        let endpoint = quinn::Endpoint::new(quinn::EndpointConfig::default(), Some(server), socket, runtime)?;
        let finder = Finder::new(endpoint.clone(), credentials.clone());
        Ok(Self { address, finder, giver: Giver::new(endpoint, credentials, store, link) })
    }

    /// Where others reach it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The half that takes, and the half that gives.
    pub fn split(self) -> (Finder, Giver) {
        (self.finder, self.giver)
    }
}
