//! Speech from text.

pub mod g2p;
