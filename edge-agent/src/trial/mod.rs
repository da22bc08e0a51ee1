//! Candidates are tried before they serve: first in a spoken call that the node makes to itself, then, where the region wants it, on a share of
//! the live turns.
//!
//! ```text
//! golden results ──▶ spoken call ──▶ share of live turns ──▶ swap
//!                        │                  │
//!                        └── wrong, slow ───┴── failures, delays, death ──▶ refused; the live models never stopped
//! ```
//!
//! What decides is pure ([`verdict`], [`spoken_call::judge`]): counts and times go in. The slots' owner runs both (`slots::trying`); calls ask
//! [`Trials`] at the beginning of each turn which side it is on, and keep to that.
//!
//! Invariant: a call never mixes models within a turn, and no trial costs a turn: what a candidate fails to do, the live model does, and it
//! counts against the candidate (`edge-agent/tests/realtime/trial.rs`).
//!
//! Not tried on live turns: the detector of voice activity, whose state runs through a whole call, and the embedder, whose vectors can only be
//! compared with its own. Both are proven by golden results and the spoken call alone.

mod share;
pub mod spoken_call;
mod tried;
mod turn_speech;
mod under_way;
pub mod verdict;

pub use share::side_of;
pub use tried::TriedTurn;
pub use under_way::{Begin, Ended, Trials, UnderWay};
pub use verdict::Side;

use nearfield_shared::artefact::Stage;

/// The stages whose candidates get live turns.
pub const TRIED: [Stage; 4] = [Stage::Turn, Stage::Asr, Stage::Llm, Stage::Tts];
