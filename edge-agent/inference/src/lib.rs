//! Inference: burn lives here and nowhere else.
//!
//! Small speech and language models on one device, wgpu or CPU, chosen at run time: weights stay in their GGUF blocks and
//! are multiplied by our own operations ([`ops`]); [`nn`] has the layers that several stages share; a folder per stage
//! holds its network; [`engine`] owns the device.

pub mod asr;
pub mod device;
pub mod embed;
pub mod engine;
pub mod llm;
pub mod nn;
pub mod ops;
pub mod tts;
pub mod turn;
pub mod vad;

/// The device that tensors live on: `Device::flex()` or a wgpu adapter. See [`device`] for choosing one.
pub type Device = burn::tensor::Device;
