//! Why links end.

use crate::wire::message::Refused;

/// Why a side hung up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// Nothing came for too long.
    Silent,
    /// The dial took too long.
    DialTimeout,
    /// The plane said that it goes down.
    GoAway,
    /// The plane will not talk to this node.
    Refused(Refused),
    /// The other side broke the protocol.
    Protocol(&'static str),
    /// This side goes down.
    Shutdown,
}
