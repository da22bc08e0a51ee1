//! Figures about calls, and what becomes of them.
//!
//! Two kinds are kept apart. [`Tally`] counts calls in a window and leaves the node only as an
//! `AnonymisedReport`, which exists only for groups that are large enough. What is about the machine alone (is the link
//! up, how many calls are in progress) is shown to programs on this machine alone.

mod tally;

pub use tally::Tally;
