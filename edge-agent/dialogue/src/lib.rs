//! One call as a pure state machine: listen, decide, think, speak, be interrupted.
//!
//! [`Call`](call::Call) does no IO, reads no clock and draws no random number. A shell tells it what happened ([`events::Input`],
//! [`events::Command`]) and when, then takes [`events::Output`]s until there are none, and calls again at
//! [`Call::deadline`](call::Call::deadline). Audio passes by position: the caller's samples stay with the shell, which is told
//! which range to transcribe and what may be thrown away.
//!
//! ```text
//! frames -> listen -> turn over -> Transcribe -> Match -> Speak (known answer)
//!                                                     \-> Generate -> phrases -> Speak -> Audio
//! ```
//!
//! Invariant: every response that was created ends exactly once, and no audio of it follows its end.
//! Invariant: every queue in here is bounded; the bounds are the `*_MAX` constants.
//! Invariant: of an interrupted answer the history holds only what was heard.

pub mod call;
pub mod events;
pub mod history;
pub mod ids;
pub mod keys;
pub mod ledger;
pub mod listen;
pub mod pauses;
pub mod phrases;
mod playback;
pub mod response;
pub mod sentiment;
pub mod settings;
pub mod tools;

pub use call::Call;
pub use events::{Command, Event, Input, Output};
