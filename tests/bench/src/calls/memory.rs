//! Whether a server's memory stays within what is promised, and whether it grows while it is called.

use serde::Serialize;
use std::time::Duration;

/// The most that an agent with six models may take on a CPU, in bytes.
pub const MEMORY_MAX: u64 = 450_000_000;

/// What the memory may rise, by its slope, and still count as not growing: a twentieth of [`MEMORY_MAX`]. How many answers are
/// being thought at a moment makes it waver by as much.
const GROWTH_MAX: f64 = MEMORY_MAX as f64 / 20.0;

/// The share of a level that is left out of the slope: caches fill.
const FILLING: f64 = 0.25;

/// Levels that are shorter do not tell: conversations' beginnings are kept up to a bound that some calls reach in minutes.
const TELLING: Duration = Duration::from_secs(600);

/// A server's memory over a level, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Course {
    /// When the level began.
    pub start: u64,
    /// The most that was seen.
    pub most: u64,
    /// When it ended.
    pub end: u64,
    /// How fast it rose, once caches had filled, in bytes a minute.
    pub slope_per_minute: f64,
    /// Whether it rose by more than it wavers; `None` where the level was too short to tell.
    pub grew: Option<bool>,
}

impl Course {
    /// The course through these samples, each with its time since the level began.
    pub fn of(samples: &[(Duration, u64)]) -> Self {
        let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return Self::default() };
        let most = samples.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
        let filled = last.0.mul_f64(FILLING);
        let points: Vec<(f64, f64)> = samples
            .iter()
            .filter(|(at, _)| *at >= filled)
            .map(|(at, bytes)| (at.as_secs_f64() / 60.0, *bytes as f64))
            .collect();
        let slope_per_minute = slope(&points);
        let growth = slope_per_minute * (last.0 - filled).as_secs_f64() / 60.0;
        let grew = (last.0 >= TELLING).then_some(growth > GROWTH_MAX);
        Self { start: first.1, most, end: last.1, slope_per_minute, grew }
    }
}

/// Of the line through points with the least squares; 0 where there is none.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len().max(1) as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let across: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    let along: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    if across > 0.0 { along / across } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample each second for half an hour.
    fn course(bytes: impl Fn(u64) -> u64) -> Course {
        Course::of(&(0..=1800).map(|s| (Duration::from_secs(s), bytes(s))).collect::<Vec<_>>())
    }

    #[test]
    fn a_leak_is_told_from_caches_that_fill_and_from_wavering() {
        let leak = course(|s| 300_000_000 + s * 20_000);
        assert!(leak.grew == Some(true) && (leak.slope_per_minute - 1.2e6).abs() < 1.0, "{leak:?}");
        assert_eq!((leak.start, leak.most, leak.end), (300_000_000, 336_000_000, 336_000_000));
        let fills = course(|s| 250_000_000 + 80_000_000 * s.min(300) / 300);
        assert!(fills.grew == Some(false) && fills.slope_per_minute.abs() < 1.0, "{fills:?}");
        let wavers = course(|s| 300_000_000 + s * 7_919 % 60 * 1_000_000);
        assert!(wavers.grew == Some(false) && wavers.slope_per_minute.abs() < 2e5, "{wavers:?}");
    }

    #[test]
    fn a_short_level_does_not_tell() {
        assert_eq!(Course::of(&[]), Course::default());
        assert_eq!(Course::of(&[(Duration::ZERO, 7)]).grew, None);
        assert_eq!(Course::of(&[(Duration::ZERO, 7), (Duration::from_secs(60), 7_000_000_000)]).grew, None);
    }
}
