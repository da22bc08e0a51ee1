//! The two halves of the control link as state machines without IO, clocks or randomness.
//!
//! A half is driven by one owner: call `handle_input(now, input)` for everything that happens, then take every
//! `poll_output()` and act on it, then sleep until `poll_timeout()` at the latest and hand in `Input::Tick`. `now` is a
//! [`Duration`] since any fixed moment of the owner's monotonic clock; it must not go backwards.
//!
//! What the pair guarantees, shown by the properties in [`tests`]:
//! - The generation that a node serves never goes backwards.
//! - A newer desired state pre-empts an older one that is still being activated.
//! - Reconnecting with nothing new changes nothing: no push, no activation.
//! - After faults end, every node serves the plane's newest state, or has told the plane why not.
//!
//! [`Duration`]: std::time::Duration

pub mod agent;
pub mod artefact;
pub mod backoff;
pub mod close;
pub mod offer;
pub mod plane;
pub mod renewal;
#[cfg(test)]
mod tests;

pub use agent::{AgentInput, AgentLink, AgentLinkConfig, AgentOutput};
pub use artefact::{ArtefactReceiver, Refusal, VerifiedChunk};
pub use backoff::{Backoff, BackoffConfig, Seed};
pub use close::CloseReason;
pub use offer::{Offer, RegistryOffer};
pub use plane::{Peer, PlaneEvent, PlaneInput, PlaneLink, PlaneLinkConfig, PlaneOutput};
pub use renewal::RenewalSchedule;
