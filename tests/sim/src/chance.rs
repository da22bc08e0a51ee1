//! All chance of a run: one generator, seeded once.

use nearfield_shared::link::Seed;
use std::time::Duration;

/// The generator.
#[derive(Debug, Clone)]
pub struct Chance(Seed);

impl Chance {
    /// Everything that follows depends on this number alone.
    pub fn new(seed: u64) -> Self {
        Self(Seed(seed))
    }

    /// 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// From zero to one less than `n`; zero where `n` is.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.next() % n }
    }

    /// From the first to the second, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// True once in `n` times; never where `n` is zero.
    pub fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }

    /// True so many times of a thousand.
    pub fn permille(&mut self, share: u64) -> bool {
        self.below(1000) < share
    }

    /// A time in milliseconds, both bounds included.
    pub fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.between(from * 1000, to * 1000))
    }

    /// A time in seconds, both bounds included.
    pub fn secs(&mut self, from: u64, to: u64) -> Duration {
        self.ms(from * 1000, to * 1000)
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len() as u64) as usize)
    }
}
