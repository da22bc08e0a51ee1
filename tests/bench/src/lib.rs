//! How fast Nearfield is, measured beside the engines a user would pick instead, on the machine this runs on.
//!
//! [`stages`] runs each stage in turns with ONNX Runtime or llama.cpp on the same weights and prints ratios; [`quality`] shows that speed
//! was not paid for with errors; [`calls`] speaks the real protocol with real speech to a real node, and to a naive server beside it;
//! [`fleet`] has thousands of simulated nodes talk to one control plane.
//!
//! The other engines run in one Python process of their own ([`peer`]), in a virtual environment that is made once for each
//! user. Both sides take turns, so that whatever else the machine does falls on both.

pub mod calls;
pub mod fleet;
pub mod machine;
pub mod measure;
pub mod peer;
pub mod quality;
pub mod stages;
