//! Model files on this node: named by their BLAKE3, verified while they arrive, resumed at the very byte after a cut.
//!
//! `HEX.gguf` is a whole, verified file and is never written to; `HEX.part` is what came so far of one. A part becomes a
//! file by a rename, after it was synced, so a file that has its final name is whole whenever the process died.

mod fetch;
mod store;

pub(crate) use fetch::read_frame;
pub use fetch::{Connections, FetchError, Fetcher, Progress};
pub use store::{ArtefactStore, Incoming, StoreError, free_bytes};
