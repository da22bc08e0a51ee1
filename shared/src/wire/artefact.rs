//! Artefact streams: one request frame, one reply frame, then raw bytes until the stream ends.
//!
//! The receiver asks for the rest of a file from any byte on. It knows the size and the digests from the signed manifest
//! already and believes only those ([`crate::link::artefact::ArtefactReceiver`]).

use super::frame::{Frame, FrameError, Limit};
use crate::artefact::Digest;
use serde::{Deserialize, Serialize};

/// Kind of [`ArtefactRequest`].
pub const KIND_REQUEST: u8 = 1;
/// Kind of [`ArtefactReply::Here`].
pub const KIND_HERE: u8 = 1;
/// Kind of [`ArtefactReply::NotHere`].
pub const KIND_NOT_HERE: u8 = 2;
/// Kind of [`ArtefactReply::BadOffset`].
pub const KIND_BAD_OFFSET: u8 = 3;
/// Kind of [`ArtefactReply::Busy`].
pub const KIND_BUSY: u8 = 4;

/// Asks for an artefact from a byte on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtefactRequest {
    /// Which artefact.
    pub digest: Digest,
    /// The first byte wanted; everything after it follows.
    pub offset: u64,
}

/// What comes back before the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArtefactReply {
    /// This many bytes follow.
    Here {
        /// Bytes from the offset to the end of the file.
        bytes: u64,
    },
    /// This side does not hold the artefact.
    NotHere,
    /// The offset is beyond the end.
    BadOffset {
        /// Size of the whole file in bytes.
        size: u64,
    },
    /// This side gives as much as it may already. Only between nodes.
    Busy,
    /// A reply of a later version.
    Unknown(u8),
}

#[derive(Serialize, Deserialize)]
struct HereBody {
    bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct BadOffsetBody {
    size: u64,
}

impl ArtefactRequest {
    /// The frame's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        Frame::encode(KIND_REQUEST, self, Limit::ARTEFACT)
    }

    /// Reads a request; `None` where a later version asks for something that this one does not know.
    pub fn decode(frame: &Frame) -> Result<Option<Self>, FrameError> {
        if frame.kind == KIND_REQUEST { frame.json().map(Some) } else { Ok(None) }
    }
}

impl ArtefactReply {
    /// The frame's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        match *self {
            Self::Here { bytes } => Frame::encode(KIND_HERE, &HereBody { bytes }, Limit::ARTEFACT),
            Self::NotHere => Frame::encode(KIND_NOT_HERE, &(), Limit::ARTEFACT),
            Self::BadOffset { size } => Frame::encode(KIND_BAD_OFFSET, &BadOffsetBody { size }, Limit::ARTEFACT),
            Self::Busy => Frame::encode(KIND_BUSY, &(), Limit::ARTEFACT),
            Self::Unknown(kind) => Frame::encode(kind, &(), Limit::ARTEFACT),
        }
    }

    /// Reads a reply.
    pub fn decode(frame: &Frame) -> Result<Self, FrameError> {
        Ok(match frame.kind {
            KIND_HERE => Self::Here { bytes: frame.json::<HereBody>()?.bytes },
            KIND_NOT_HERE => Self::NotHere,
            KIND_BAD_OFFSET => Self::BadOffset { size: frame.json::<BadOffsetBody>()?.size },
            KIND_BUSY => Self::Busy,
            kind => Self::Unknown(kind),
        })
    }
}
