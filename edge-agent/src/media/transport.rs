//! The seam between a call and what carries it: a WebSocket, WebRTC, a telephone's stream.
//!
//! A transport implements [`Incoming`], sends on what the [`Outbox`] holds, and calls [`super::line::hold`]. One whose audio goes
//! another way than events gives a [`Track`], too. Nothing else of a call knows what carries it.

use super::{
    outbox::{Outbox, Overflow},
    session::WireError,
};
use nearfield_dialogue::ids::ResponseId;
use serde_json::Value;
use std::sync::Arc;

/// Codes of [`Goodbye`], which are those of a WebSocket's close frame.
pub mod code {
    /// The call is over.
    pub const NORMAL: u16 = 1000;
    /// The node goes down.
    pub const GOING_AWAY: u16 = 1001;
    /// A kind of message that is not part of the protocol.
    pub const UNSUPPORTED: u16 = 1003;
    /// A client that does not read.
    pub const POLICY: u16 = 1008;
    /// A message that is too large.
    pub const TOO_BIG: u16 = 1009;
    /// No room now; later there may be.
    pub const AGAIN: u16 = 1013;
}

/// Why a call was ended, other than by a caller who left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goodbye {
    /// One of [`code`].
    pub code: u16,
    /// Words for a person, with the remedy.
    pub reason: &'static str,
}

impl Goodbye {
    /// A goodbye.
    pub fn some(code: u16, reason: &'static str) -> Option<Self> {
        Some(Self { code, reason })
    }
}

/// What comes from a client.
#[derive(Debug)]
pub enum Arrived {
    /// An event of the Realtime API, as JSON.
    Event(String),
    /// Audio of the caller that came outside of events: 16 kHz samples in [-1, 1].
    Audio(Vec<f32>),
    /// The transport has something to tell the client, as an event without its id.
    Tell(Value),
    /// Something that cannot be taken; the client is told.
    Refused(WireError),
    /// The call is over; with a reason where it was not the client that left.
    Left(Option<Goodbye>),
}

/// Why a binary message is refused.
pub fn binary_message() -> WireError {
    WireError {
        code: "invalid_message",
        message: "events are JSON in text messages; send audio as base64 in input_audio_buffer.append".into(),
        param: None,
    }
}

/// Where what a client sends comes from.
pub trait Incoming: Send {
    /// Waits for the next thing. Dropping the future loses nothing. After [`Arrived::Left`] it is not called again.
    fn next(&mut self) -> impl Future<Output = Arrived> + Send;
}

/// Plays a call's audio to its caller at the speed of speech, where audio does not go in events. No method waits.
pub trait Track: Send {
    /// Adds audio of an answer behind all other: 24 kHz samples in [-1, 1].
    ///
    /// # Errors
    /// When more waits than the transport's bound, which ends the call.
    fn play(&mut self, response: &ResponseId, samples: &[f32]) -> Result<(), Overflow>;

    /// All audio of this answer is here.
    fn end(&mut self, response: &ResponseId);

    /// Drops what has not been played of this answer.
    fn take_back(&mut self, response: &ResponseId);

    /// Drops everything that has not been played: the caller speaks.
    fn clear(&mut self);
}

/// Where what a call says goes.
pub struct Outgoing {
    /// For events. The transport sends them on until [`Outbox::next`] returns `None`.
    pub outbox: Arc<Outbox>,
    /// For audio; without one it goes into the outbox as `response.output_audio.delta`.
    pub track: Option<Box<dyn Track>>,
}
