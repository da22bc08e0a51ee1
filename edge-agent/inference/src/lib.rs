//! Inference: the only crate that knows burn.

pub mod engine;
