//! The control plane: knows every node, says what each region should run, and gets only anonymised figures back.
//!
//! Pure: [`fleet`] (what is known, and every change of it) and [`definition`] (what stands in `regions/`). Shells around
//! them: [`control`] (QUIC), [`api`] (HTTP), [`store`] and [`audit`] (disk), [`cli`]. [`plane`] is what they share.

pub mod admin_client;
pub mod api;
pub mod audit;
pub mod backup;
pub mod ca;
pub mod cli;
pub mod config;
pub mod control;
pub mod dashboard;
pub mod definition;
pub mod fleet;
pub mod offers;
pub mod peer;
pub mod plane;
pub mod registry;
pub mod rollout;
pub mod secret_file;
pub mod serve;
pub mod state_dir;
pub mod store;
