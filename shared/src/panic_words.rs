//! What a panic says stays unsaid.
//!
//! The message of a panic may quote what a caller said: an index into a string does, an `expect` on a result does. The standard
//! hook prints it, so a daemon that keeps caller content out of its logs installs [`leave_out`] instead, which tells where it
//! happened and on which thread. The downside is that finding the cause takes the place and the source, never the message.

use std::{fmt, panic, thread};

/// What may be told of a panic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked {
    /// The name of the thread; `unnamed` where it has none.
    pub thread: String,
    /// `FILE:LINE:COLUMN` in the source.
    pub place: String,
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "thread `{}` panicked at {}; its message is left out, because it may quote a caller",
            self.thread, self.place
        )
    }
}

/// From now on, panics of this process are told to `tell` and to nobody else.
///
/// Whoever catches a panic still gets its message, and must not log it where callers' content may be in it.
pub fn leave_out(tell: impl Fn(&Panicked) + Send + Sync + 'static) {
    panic::set_hook(Box::new(move |panicked| {
        tell(&Panicked {
            thread: thread::current().name().unwrap_or("unnamed").to_owned(),
            place: panicked.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string),
        });
    }));
}
