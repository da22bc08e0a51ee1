//! The control plane: knows every node, says what each region should run, and gets only anonymised figures back.

pub mod ca;
pub mod config;
pub mod definition;
pub mod fleet;
pub mod registry;
pub mod secret_file;
pub mod state_dir;
pub mod store;
