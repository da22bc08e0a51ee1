//! The whole of Nearfield on one machine: what `cargo run --release` starts.
//!
//! The control plane and the agents run as processes of their own and speak QUIC over loopback, exactly as they would on
//! different machines; this crate only starts them, waits, places a call and stops them.

pub mod agent;
pub mod cli;
pub mod first_call;
pub mod home;
pub mod models;
pub mod plane;
pub mod process;
pub mod system;
