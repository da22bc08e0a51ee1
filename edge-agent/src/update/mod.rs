//! The agent updates itself: another program is tried under supervision, and where it does not come up healthy, the one before returns.
//!
//! ```text
//! agent/book.json                     which program runs, which ran before, which is tried, what was given up and why
//! agent/versions/DIGEST/edge-agent    programs of releases: the current one, the one before, the one that is tried
//! ```
//! The program that is installed is always there and has no place in the folder. While it runs, a node is one process, as if there were no
//! updates. Any other program, and any trial, is the child of a supervisor, which is the installed program again.
//!
//! A new state wants another program: its file is fetched and verified -> it gets its place in the folder -> new calls are kept out and those in
//! progress end -> the trial is asked for, on disk -> the daemon goes -> the supervisor notes that the trial has begun, on disk, and
//! starts it -> it boots the last-known-good state, binds, and is welcomed by the control plane -> it is the current one, on disk -> only now it takes the new
//! state, and only then that is acknowledged.
//!
//! FAILURE LADDER: what cannot be fetched, verified or stored is a refused state, and the daemon that runs goes on. A trial that ends, hangs, is late, or
//! lost its supervisor or its power is over: what was current starts again and refuses the state. A current program that does not stay up for
//! ten minutes three times in a row is left for the one before it, and that for the installed one. A file that is damaged or cannot be started is treated as one
//! that ended. A book that cannot be read means the installed program.

mod book;
mod book_file;
mod cord;
mod daemon_side;
mod health;
mod shelf;
mod supervisor;

pub use book::{Book, Failure, Program, STARTS_MAX, Start, Terms, Trial, Why};
pub use book_file::BookFile;
pub use cord::{Cord, CordError, FromSupervisor, Handed, ToSupervisor};
pub use daemon_side::{Leave, ProgramReport, Ready, Updates, Way};
pub use shelf::Shelf;
pub use supervisor::{EXIT_HAND_OVER, Ended, Launch, STABLE_AFTER, Supervisor, exec_again};
