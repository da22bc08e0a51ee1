//! The edge agent: the daemon of a node.

pub mod speech;
