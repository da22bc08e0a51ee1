//! Neighbours: how a node finds others of its region that hold a model, and takes it from them instead of from the plane.
//!
//! On a stream of its control connection the node sends a [`NeighboursRequest`] frame and gets a [`Neighbours`] frame: a few addresses
//! of nodes of its own region that serve the model. It dials them with ALPN [`NEIGHBOUR_ALPN`], both sides with the certificates that
//! the plane's authority signed, and asks with the same frames as it would ask the plane ([`super::artefact`]). What comes is verified chunk by chunk
//! against the signed manifest, so a neighbour is trusted with nothing but its bandwidth.

use super::frame::{Frame, FrameError, Limit};
use crate::artefact::Digest;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// ALPN between nodes of one region.
pub const NEIGHBOUR_ALPN: &[u8] = b"nearfield-neighbour/1";

/// The name that a dial between nodes states. Nobody is told by it: a node's certificate names the node and its region.
pub const NEIGHBOUR_SERVER_NAME: &str = "node.nearfield.internal";

/// Neighbours that a plane names at most: more than a node asks before it turns to the plane.
pub const NEIGHBOURS_MAX: usize = 4;

/// Kind of [`NeighboursRequest`]; another than those of the other requests on a control connection.
pub const KIND_REQUEST: u8 = 3;
/// Kind of [`Neighbours`].
pub const KIND_NEIGHBOURS: u8 = 1;

/// Asks who else of the node's region serves a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighboursRequest {
    /// The model's file.
    pub digest: Digest,
}

/// Who does, best first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbours {
    /// Where they give it.
    pub addresses: Vec<SocketAddr>,
}

impl NeighboursRequest {
    /// The frame's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        Frame::encode(KIND_REQUEST, self, Limit::ARTEFACT)
    }
}

impl Neighbours {
    /// The frame's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        Frame::encode(KIND_NEIGHBOURS, self, Limit::ARTEFACT)
    }

    /// Reads a reply; `None` where a later version answers with something that this one does not know. Of more addresses than
    /// [`NEIGHBOURS_MAX`] the first are taken.
    pub fn decode(frame: &Frame) -> Result<Option<Self>, FrameError> {
        if frame.kind != KIND_NEIGHBOURS {
            return Ok(None);
        }
        let mut all: Self = frame.json()?;
        all.addresses.truncate(NEIGHBOURS_MAX);
        Ok(Some(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{artefact, renew};

    #[test]
    fn a_reply_survives_the_wire_and_is_bounded() {
        let address: SocketAddr = "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
        let all = Neighbours { addresses: vec![address; NEIGHBOURS_MAX] };
        let frame = |all: &Neighbours| {
            let bytes = all.encode().unwrap();
            Frame { kind: bytes[4], body: bytes[5..].to_vec() }
        };
        assert_eq!(Neighbours::decode(&frame(&all)), Ok(Some(all.clone())));
        let more = Neighbours { addresses: vec![address; NEIGHBOURS_MAX + 1] };
        assert_eq!(Neighbours::decode(&frame(&more)), Ok(Some(all)));
        assert_eq!(Neighbours::decode(&Frame { kind: 9, body: vec![] }), Ok(None));
        assert!(![artefact::KIND_REQUEST, renew::KIND_REQUEST].contains(&KIND_REQUEST));
    }
}
