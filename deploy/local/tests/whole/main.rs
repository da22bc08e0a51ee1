//! The whole system as a user starts it: real processes, real models, real QUIC, real speech.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod control_plane_lost;
mod egress;
mod first_call;
mod support;
mod tap;
