//! Renewal: how a node that has a certificate gets its next one.
//!
//! One exchange, on a bidirectional stream that the node opens: a [`RenewRequest`] frame goes out, a [`RenewReply`] frame comes back. It
//! is the same in two places:
//!
//! * on the connection of the control link, beside the artefact streams, while the node's certificate is good;
//! * on a connection of its own with ALPN [`RENEW_ALPN`], for a node whose certificate ended while it was cut off, or whose
//!   plane believes so. Nothing else can be asked there.
//!
//! The connection proves that the node holds the old key, the certificate request that it holds the new one.

use super::{
    frame::{Frame, FrameError, Limit},
    message::Refused,
};
use serde::{Deserialize, Serialize};

/// ALPN of a connection on which a certificate can be renewed and nothing else.
pub const RENEW_ALPN: &[u8] = b"nearfield-renew/1";

/// Code with which the plane closes a link whose certificate is not valid at the plane's time: renew it, then come back.
pub const CLOSE_RENEW: u32 = 7;

/// Kind of [`RenewRequest`]; another than that of an artefact request, with which it shares a connection.
pub const KIND_REQUEST: u8 = 2;
/// Kind of [`RenewReply::Renewed`].
pub const KIND_RENEWED: u8 = 1;
/// Kind of [`RenewReply::Refused`].
pub const KIND_REFUSED: u8 = 2;

/// Asks for the next certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// PKCS#10 certificate request, PEM. If it names anyone, it must be the node of the connection.
    pub csr_pem: String,
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RenewReply {
    /// The next certificate.
    Renewed(Renewed),
    /// There is none.
    Refused(Refused),
    /// A reply of a later version.
    Unknown(u8),
}

/// The next certificate. The one before stays good until this one is used for the first time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// PEM.
    pub certificate_pem: String,
}

impl RenewRequest {
    /// The frame's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        Frame::encode(KIND_REQUEST, self, Limit::ENROL)
    }
}

impl RenewReply {
    /// The frame's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        match self {
            Self::Renewed(body) => Frame::encode(KIND_RENEWED, body, Limit::ENROL),
            Self::Refused(body) => Frame::encode(KIND_REFUSED, body, Limit::ENROL),
            Self::Unknown(kind) => Frame::encode(*kind, &(), Limit::ENROL),
        }
    }

    /// Reads a reply.
    pub fn decode(frame: &Frame) -> Result<Self, FrameError> {
        Ok(match frame.kind {
            KIND_RENEWED => Self::Renewed(frame.json()?),
            KIND_REFUSED => Self::Refused(frame.json()?),
            kind => Self::Unknown(kind),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{artefact, message::RefusedCode};

    #[test]
    fn replies_survive_the_wire_and_a_request_is_no_artefact_request() {
        let refused = Refused { code: RefusedCode::Revoked, reason: "gone".into() };
        for reply in [RenewReply::Renewed(Renewed { certificate_pem: "pem".into() }), RenewReply::Refused(refused)] {
            let bytes = reply.encode().unwrap();
            let frame = Frame { kind: bytes[4], body: bytes[5..].to_vec() };
            assert_eq!(RenewReply::decode(&frame), Ok(reply));
        }
        assert_ne!(KIND_REQUEST, artefact::KIND_REQUEST);
        assert_eq!(RENEW_ALPN, b"nearfield-renew/1", "a deployed node dials exactly this");
    }
}
