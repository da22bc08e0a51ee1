//! A whole node over real QUIC, real disk and real HTTP, with a scripted control plane and a scripted model host.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod activation;
mod artefacts;
mod command_line;
mod enrolment;
#[path = "../../../tests/environments/mod.rs"]
mod environments;
mod host;
mod listeners;
mod offline;
#[path = "../../../tests/openai/mod.rs"]
mod openai;
mod panics;
mod plane;
mod quiet;
mod registry;
mod reports;
mod rig;
mod secured_call;
#[path = "../signer/mod.rs"]
mod signer;
#[path = "../support/mod.rs"]
mod support;
mod trying;
mod updates;
mod vault;
