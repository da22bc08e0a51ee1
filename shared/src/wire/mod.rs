//! What crosses the wire between a node and the control plane.
//!
//! # The protocol, `nearfield/1`
//! The agent dials the plane over QUIC with ALPN [`ALPN`] and its own certificate, and opens one bidirectional stream, the
//! **control stream**. Both sides send the 16 [`hello`] bytes first and take the highest version that both speak. After that
//! the stream carries [`frame`]s: a big-endian `u32` length, one byte of kind, JSON. [`message`] lists the kinds.
//!
//! Every further bidirectional stream that the agent opens asks for one artefact: one [`artefact::ArtefactRequest`] frame goes
//! out, one [`artefact::ArtefactReply`] frame comes back, then raw bytes until the end of the stream. Or it asks for the node's next
//! certificate: see [`renew`], which also tells of ALPN [`RENEW_ALPN`]. Or it asks for neighbours that hold an artefact: see [`neighbour`].
//!
//! Of several planes that share a store one leads, and the others close each connection with [`CLOSE_NOT_LEADING`] after its handshake.
//!
//! A node that has no certificate yet speaks ALPN [`ENROL_ALPN`] on the same port: see [`enrol`].
//!
//! # Versions
//! 1. A state goes out whole, with the manifests of its models ([`message::Desired`]).
//! 2. A state names its manifests by their digests, and a node asks for those that it does not hold ([`message::State`]).
//!
//! A plane speaks both, so nodes can be upgraded one after the other; a node of version 2 takes either kind of state.
//!
//! Kinds that a side does not know are skipped ([`message::AgentToPlane::Unknown`]), so version N can talk to N+1.
//! JSON was chosen over a binary form because these messages are rare and small, and can be read in a capture; the cost is
//! about twice the bytes of a desired-state push, which models dwarf by five orders of magnitude.

pub mod artefact;
pub mod broadcast;
pub mod enrol;
pub mod frame;
pub mod hello;
pub mod message;
pub mod names;
pub mod neighbour;
pub mod renew;

pub use artefact::{ArtefactReply, ArtefactRequest};
pub use broadcast::Broadcast;
pub use frame::{Frame, FrameDecoder, FrameError, Limit};
pub use hello::{Hello, HelloError};
pub use message::{AgentToPlane, PlaneToAgent};
pub use names::{DeviceName, NodeName, PublicUrl, TargetName, VersionName};
pub use neighbour::{NEIGHBOUR_ALPN, Neighbours, NeighboursRequest};
pub use renew::{CLOSE_RENEW, RENEW_ALPN, RenewReply, RenewRequest, Renewed};

/// ALPN of the control link.
pub const ALPN: &[u8] = b"nearfield/1";

/// ALPN of enrolment, for nodes without a certificate.
pub const ENROL_ALPN: &[u8] = b"nearfield-enrol/1";

/// The name in the plane's server certificate. Fixed, because a plane is reached by many addresses and its identity is its CA.
pub const PLANE_SERVER_NAME: &str = "plane.nearfield.internal";

/// How the one URI in a node's certificate begins; its region, a `/` and its name follow.
pub const NODE_URI_SCHEME: &str = "nearfield://";

/// With this code a plane closes a connection of whatever kind while another plane leads: the node dials the next address that it knows, at once.
pub const CLOSE_NOT_LEADING: u32 = 8;

/// The port on which a plane listens for agents where nothing else is configured. From the unassigned range of IANA's list.
pub const DEFAULT_PLANE_PORT: u16 = 7443;
