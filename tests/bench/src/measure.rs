//! Times, and what is said about many of them.

use serde::Serialize;
use std::time::Instant;

/// One measured run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Run {
    /// Time that passed.
    pub wall_ms: f64,
    /// Time that all threads of the process computed, which other work on the machine hardly moves.
    pub cpu_ms: f64,
}

/// Measures what a piece of work takes.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Run, T) {
    let (wall, cpu) = (Instant::now(), cpu_ms());
    let found = work();
    (Run { wall_ms: wall.elapsed().as_secs_f64() * 1e3, cpu_ms: cpu_ms() - cpu }, found)
}

/// What all threads of this process have computed so far.
pub fn cpu_ms() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on every system this builds for, and `time` is a valid place for its value.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

/// Least, middle and greatest of some values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of these values; all zero where there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut v: Vec<f64> = values.into_iter().collect();
        v.sort_by(f64::total_cmp);
        if v.is_empty() {
            return Self { min: 0.0, median: 0.0, max: 0.0 };
        }
        let n = v.len();
        Self { min: v[0], median: (v[(n - 1) / 2] + v[n / 2]) / 2.0, max: v[n - 1] }
    }
}

/// The value that this share of all values does not exceed; `None` where there are none.
pub fn percentile(values: &[f64], share: f64) -> Option<f64> {
    let mut v = values.to_vec();
    v.sort_by(f64::total_cmp);
    let at = (share * v.len() as f64).ceil() as usize;
    v.get(at.max(1) - 1).copied()
}

/// How two sides compare that took turns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ratio {
    /// Of each pair of neighbouring runs: our time over theirs.
    pub wall: Spread,
    /// Our best time over their best.
    pub best: f64,
    /// Of each pair: computing time of all threads, ours over theirs.
    pub cpu: Spread,
}

impl Ratio {
    /// Pairs run by run.
    pub fn of(ours: &[Run], theirs: &[Run]) -> Self {
        let pairs = || ours.iter().zip(theirs);
        let least = |runs: &[Run]| runs.iter().map(|r| r.wall_ms).fold(f64::INFINITY, f64::min);
        Self {
            wall: Spread::of(pairs().map(|(a, b)| a.wall_ms / b.wall_ms)),
            best: least(ours) / least(theirs),
            cpu: Spread::of(pairs().map(|(a, b)| a.cpu_ms / b.cpu_ms)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_and_percentiles() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { min: 1.0, median: 2.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0]).median, 2.5);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 0.95), Some(95.0));
        assert_eq!(percentile(&[7.0], 0.5), Some(7.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn a_ratio_pairs_neighbours() {
        let run = |wall_ms| Run { wall_ms, cpu_ms: wall_ms };
        // The machine slows down by half in the middle: the pairs do not notice.
        let ratio = Ratio::of(&[run(1.0), run(2.0)], &[run(2.0), run(4.0)]);
        assert_eq!((ratio.wall.min, ratio.wall.max, ratio.best), (0.5, 0.5, 0.5));
    }
}
