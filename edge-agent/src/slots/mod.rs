//! The models of a node: live ones that serve, and candidates beside them that must prove themselves first.
//!
//! One task owns this. A desired state is either made to serve as a whole or refused with a reason; until its last step
//! nothing that serves is touched:
//!
//! the agent's release that it wants runs ([`crate::update`]) -> signatures and interfaces -> files here and whole -> loaded beside the live -> golden results reproduced on this very device ->
//! a spoken call with them -> a share of live turns, where the state asks for that ([`crate::trial`]) -> last-known-good written and synced beside its place -> models swapped between turns -> last-known-good put in its place ->
//! told. A newer state ends an older one at any step before the swap.
//!
//! FAILURE LADDER: a refused candidate is discarded and the live model serves on. A swap that fails half way (the worker died)
//! puts the previous state in place again from disk. If even that fails the node says that it serves nothing, and the next
//! push or start tries again.
//!
//! At boot, and when it steps back, golden results alone are asked for: what is on the disk has served here, and a node should not be without
//! models for a doubt.

mod activation;
mod board;
#[cfg(feature = "inference")]
mod engine_host;
mod host;
mod last_known_good;
mod owner;
mod trying;

pub use activation::Refusal;
pub use board::Board;
#[cfg(feature = "inference")]
pub use engine_host::EngineHost;
pub use host::{Candidate, HostError, ModelHost, Unsupported};
pub use last_known_good::{LastKnownGood, LoadError};
pub use owner::{Activity, Outcome, Slots, SlotsParts, Wanted};
