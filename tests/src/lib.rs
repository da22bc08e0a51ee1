//! Tests that need several crates at once: real models on real speech, the engine with all of them, a node under a real control plane,
//! and other people's clients. They stand in `tests/`, one file for each behaviour; this crate has no code of its own.
