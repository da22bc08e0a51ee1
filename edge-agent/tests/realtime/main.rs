//! Calls over a real WebSocket on loopback, with scripted models.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

#[path = "../support/mod.rs"]
mod support;

mod ahead;
mod bad_input;
mod barge_in;
mod beside;
mod call_client;
mod capacity;
mod deadlines;
mod false_interruption;
mod functions;
mod given_audio;
mod hand_over;
mod keys;
mod language;
mod lost_work;
mod notice;
mod protocol;
mod sessions;
mod silence;
mod tools;
mod trial;
mod voice;
mod what_is_left;
