//! Taking: which neighbours hold a model, and a connection to one of them.

use super::members::Credentials;
use crate::artefacts::read_frame;
use nearfield_shared::{
    artefact::Digest,
    wire::{Limit, Neighbours, NeighboursRequest, neighbour::NEIGHBOUR_SERVER_NAME},
};
use std::{net::SocketAddr, time::Duration};

/// Longest time for the plane to name neighbours. It only looks into its memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest dial: neighbours are near.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// The half that takes. Clones share the socket.
#[derive(Debug, Clone)]
pub struct Finder {
    endpoint: quinn::Endpoint,
    credentials: Credentials,
}

impl Finder {
    pub(super) fn new(endpoint: quinn::Endpoint, credentials: Credentials) -> Self {
        Self { endpoint, credentials }
    }

    /// Neighbours that serve a model, as the plane at this connection knows them; none where it is older than neighbours, or has ended.
    pub async fn find(&self, plane: &quinn::Connection, digest: Digest) -> Vec<SocketAddr> {
        let ask = async {
            let said = |e: &dyn std::fmt::Display| e.to_string();
            let (mut send, mut recv) = plane.open_bi().await.map_err(|e| said(&e))?;
            let request = NeighboursRequest { digest }.encode().map_err(|e| said(&e))?;
            send.write_all(&request).await.map_err(|e| said(&e))?;
            send.finish().map_err(|e| said(&e))?;
            let frame = read_frame(&mut recv, Limit::ARTEFACT).await?;
            let named = Neighbours::decode(&frame).map_err(|e| said(&e))?;
            Ok::<_, String>(named.map_or_else(Vec::new, |named| named.addresses))
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, ask).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(reason)) => {
                tracing::debug!(%reason, "the control plane names no neighbours");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }

    /// A connection to a neighbour.
    ///
    /// # Errors
    /// When it is not there, is no member of this region, or takes this node for none.
    pub async fn dial(&self, address: SocketAddr) -> Result<quinn::Connection, String> {
        let config = self.credentials.client().map_err(|e| e.to_string())?;
        let connecting =
            self.endpoint.connect_with(config, address, NEIGHBOUR_SERVER_NAME).map_err(|e| e.to_string())?;
        match tokio::time::timeout(DIAL_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(|e| e.to_string()),
            Err(_) => Err("it does not answer".to_owned()),
        }
    }
}
