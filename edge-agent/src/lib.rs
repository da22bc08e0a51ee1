//! The edge agent: the daemon of a node.
//!
//! It takes calls with the models of its region, keeps what callers say on the node, and does what the control plane
//! desires as far as it can be proven to work here. Without the control plane it goes on with the last state that did.

pub mod admin;
pub mod artefacts;
pub mod assistants;
pub mod call_client;
pub mod calls;
mod cli;
pub mod config;
pub mod control;
mod cors;
pub mod daemon;
pub mod doctor;
mod durable;
pub mod enrol;
mod first_byte;
pub mod hand_over;
pub mod http;
pub mod identity;
pub mod inference;
pub mod language;
pub mod media;
pub mod memory;
pub mod neighbours;
pub mod node;
pub mod outbound;
pub mod refusal;
pub mod registry;
pub mod rest;
pub mod run;
pub mod secrets;
pub mod slots;
pub mod speech;
pub mod state_dir;
pub mod status;
pub mod talk;
pub mod telemetry;
pub mod trial;
pub mod update;
pub mod vault;
pub mod wyoming;

pub use cli::main_from;
