//! Calls over WebRTC, from outside: a client of its own on real UDP, scripted models.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod caller;
mod refused;
mod talking;
mod what_is_left;
