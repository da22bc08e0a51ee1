//! What a run did: a hash of every step, and words where somebody asks for them.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

/// The trace of one run.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    hash: DefaultHasher,
    steps: u64,
    printed: bool,
}

impl Trace {
    /// A trace that also goes to standard output in words.
    pub fn printed(printed: bool) -> Self {
        Self { printed, ..Self::default() }
    }

    /// A step begins.
    pub fn step(&mut self, at: Duration, event: &impl Hash) {
        self.steps += 1;
        at.hash(&mut self.hash);
        event.hash(&mut self.hash);
    }

    /// Something that is worth a line.
    pub fn say(&mut self, now: Duration, words: fmt::Arguments<'_>) {
        if self.printed {
            println!("{:>12.6}  {words}", now.as_secs_f64());
        }
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The hash of all steps so far: equal for two runs of one seed by one program.
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }
}
