//! Frames: a big-endian `u32` that counts the bytes after it, one byte of kind, then JSON.
//!
//! The decoder holds at most one frame of the permitted size and refuses a length above it before it has read the body, so
//! a peer cannot make us allocate what it only announces.

use serde::{Serialize, de::DeserializeOwned};

/// Bytes before the JSON: four of length, one of kind.
pub const HEADER_BYTES: usize = 5;

/// The largest frame that a receiver takes, in bytes of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(pub u32);

impl Limit {
    /// What an agent may send: its largest message is a status of six models, about 1 KiB. 64 KiB leaves room for versions.
    pub const FROM_AGENT: Limit = Limit(64 << 10);
    /// What a plane may send: a desired state with six manifests is about 25 KiB, the routes of 10,000 nodes about 1 MiB.
    pub const FROM_PLANE: Limit = Limit(4 << 20);
    /// Requests and headers of artefact streams.
    pub const ARTEFACT: Limit = Limit(1 << 10);
    /// Enrolment: a certificate request or a short chain in PEM.
    pub const ENROL: Limit = Limit(16 << 10);
}

/// One frame as it came off the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the body is.
    pub kind: u8,
    /// JSON, not yet parsed.
    pub body: Vec<u8>,
}

/// Why bytes are not frames. The stream cannot be used after any of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Larger than the limit of this stream.
    #[error("a frame of {bytes} bytes is over the limit of {limit} on this stream")]
    TooLarge {
        /// Bytes of JSON announced or about to be sent.
        bytes: u64,
        /// The limit.
        limit: u32,
    },
    /// A length of zero leaves no room for the kind.
    #[error("a frame states a length of 0, but the kind alone needs 1 byte")]
    Empty,
    /// The JSON does not fit the kind.
    #[error("the body of a frame of kind {kind} cannot be read: {detail}")]
    Malformed {
        /// The frame's kind.
        kind: u8,
        /// What the JSON parser says; names fields, never repeats values.
        detail: String,
    },
}

impl Frame {
    /// Parses the body.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        serde_json::from_slice(&self.body).map_err(|e| FrameError::Malformed { kind: self.kind, detail: e.to_string() })
    }

    /// The bytes of one frame, if its body is within `limit`.
    pub fn encode<T: Serialize + ?Sized>(kind: u8, body: &T, limit: Limit) -> Result<Vec<u8>, FrameError> {
        let mut bytes = vec![0, 0, 0, 0, kind];
        serde_json::to_writer(&mut bytes, body).map_err(|e| FrameError::Malformed { kind, detail: e.to_string() })?;
        let json = (bytes.len() - HEADER_BYTES) as u64;
        match u32::try_from(json) {
            Ok(json) if json <= limit.0 => bytes[..4].copy_from_slice(&(json + 1).to_be_bytes()),
            _ => return Err(FrameError::TooLarge { bytes: json, limit: limit.0 }),
        }
        Ok(bytes)
    }

    /// Reads the length and kind of a frame: the number of JSON bytes that follow, and the kind.
    pub fn parse_header(header: [u8; HEADER_BYTES], limit: Limit) -> Result<(usize, u8), FrameError> {
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let json = length.checked_sub(1).ok_or(FrameError::Empty)?;
        if json > limit.0 {
            return Err(FrameError::TooLarge { bytes: u64::from(json), limit: limit.0 });
        }
        Ok((json as usize, header[4]))
    }
}

/// Cuts a byte stream into frames.
#[derive(Debug)]
pub struct FrameDecoder {
    limit: Limit,
    buffer: Vec<u8>,
    broken: Option<FrameError>,
}

impl FrameDecoder {
    /// A decoder for a stream with this limit.
    pub fn new(limit: Limit) -> Self {
        Self { limit, buffer: Vec::new(), broken: None }
    }

    /// Takes bytes as they arrive. Read out the frames with [`FrameDecoder::next_frame`] after each call, so that no
    /// more than one incomplete frame and these bytes are held.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next whole frame, `None` where more bytes are needed. An error is final.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            // A length of zero is wrong before the kind has arrived.
            if self.buffer.len() == 4 && self.buffer == [0; 4] {
                return Err(self.fail(FrameError::Empty));
            }
            return Ok(None);
        };
        let (json, kind) = match Frame::parse_header(*header, self.limit) {
            Ok(header) => header,
            Err(error) => return Err(self.fail(error)),
        };
        if self.buffer.len() < HEADER_BYTES + json {
            return Ok(None);
        }
        let body = self.buffer[HEADER_BYTES..HEADER_BYTES + json].to_vec();
        self.buffer.drain(..HEADER_BYTES + json);
        Ok(Some(Frame { kind, body }))
    }

    fn fail(&mut self, error: FrameError) -> FrameError {
        self.buffer = Vec::new();
        self.broken = Some(error.clone());
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_refused_before_the_body_arrives() {
        let mut decoder = FrameDecoder::new(Limit(10));
        decoder.receive(&[0xff, 0xff, 0xff, 0xff, 1]);
        let error = decoder.next_frame().expect_err("too large");
        assert_eq!(error, FrameError::TooLarge { bytes: 0xffff_fffe, limit: 10 });
        decoder.receive(b"anything after it");
        assert_eq!(decoder.next_frame(), Err(error), "the error is final");

        let mut decoder = FrameDecoder::new(Limit(10));
        decoder.receive(&[0, 0, 0, 0]);
        assert_eq!(decoder.next_frame(), Err(FrameError::Empty));
    }

    #[test]
    fn the_limit_counts_the_json_alone() {
        assert!(Frame::encode(1, "12345678", Limit(10)).is_ok());
        assert_eq!(Frame::encode(1, "123456789", Limit(10)), Err(FrameError::TooLarge { bytes: 11, limit: 10 }));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            bodies in prop::collection::vec((any::<u8>(), ".{0,40}"), 0..8),
            cuts in prop::collection::vec(1_usize..9, 0..200),
        ) {
            let mut stream = Vec::new();
            for (kind, body) in &bodies {
                stream.extend(Frame::encode(*kind, body, Limit::FROM_AGENT).expect("small"));
            }
            let mut decoder = FrameDecoder::new(Limit::FROM_AGENT);
            let mut found = Vec::new();
            let mut rest = &stream[..];
            let mut cuts = cuts.into_iter();
            while !rest.is_empty() {
                let n = cuts.next().unwrap_or(64).min(rest.len());
                decoder.receive(&rest[..n]);
                rest = &rest[n..];
                while let Some(frame) = decoder.next_frame().expect("valid") {
                    found.push((frame.kind, frame.json::<String>().expect("a string")));
                }
            }
            prop_assert_eq!(found, bodies);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = FrameDecoder::new(Limit(64));
            decoder.receive(&bytes);
            while let Ok(Some(frame)) = decoder.next_frame() {
                let _ = crate::wire::AgentToPlane::decode(&frame);
                let _ = crate::wire::PlaneToAgent::decode(&frame);
            }
        }
    }
}
