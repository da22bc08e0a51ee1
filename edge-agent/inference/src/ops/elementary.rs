//! Elementary functions as short polynomials without branches, so that a loop over them becomes vectors. The vocoder needs ten for
//! each bin of each frame, attention one for each pair of places; the C library computes them one by one.
//!
//! Accuracy is that of f32 to a few units in the last place of 1, far below what is heard. Nothing depends on the processor: the same
//! inputs give the same bits everywhere.

use std::f32::consts::{LN_2, LOG2_E, SQRT_2, TAU};

/// Rounds to the nearest integer for |x| below 2²²: adding 1.5 · 2²³ leaves no bits for a fraction.
#[inline(always)]
fn rounded(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC) - MAGIC
}

/// `eˣ`; beyond ±87 the value at ±87.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // The upper part of ln 2 has few bits, so that its multiples are exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = (std::f64::consts::LN_2 - LN_2_HIGH as f64) as f32;
    let x = x.clamp(-87.0, 87.0);
    let n = rounded(x * LOG2_E);
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let series =
        1.0 + r * (1.0 + r * (1.0 / 2.0 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0))))));
    series * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// Natural logarithm of a normal number above 0.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    const ONE: u32 = 0x3f80_0000;
    let bits = x.to_bits();
    let mantissa = f32::from_bits((bits & 0x007f_ffff) | ONE);
    let large = mantissa > SQRT_2;
    let m = if large { mantissa * 0.5 } else { mantissa };
    let exponent = (bits >> 23) as i32 - 127 + i32::from(large);
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    exponent as f32 * LN_2 + 2.0 * s * (1.0 + s2 * (1.0 / 3.0 + s2 * (1.0 / 5.0 + s2 * (1.0 / 7.0))))
}

/// Hyperbolic tangent.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// Sine and cosine of an angle in turns.
#[inline(always)]
pub fn sin_cos_turns(turns: f32) -> (f32, f32) {
    let t = turns - rounded(turns);
    // Both are the sine of an angle within a quarter turn.
    let magnitude = t.abs();
    let folded = if magnitude > 0.25 { 0.5 - magnitude } else { magnitude };
    (quarter_sine(folded.copysign(t)), quarter_sine(0.25 - magnitude))
}

/// Sine of an angle in turns, at most a quarter either way.
#[inline(always)]
fn quarter_sine(turns: f32) -> f32 {
    let x = turns * TAU;
    let y = x * x;
    let series =
        -1.0 / 6.0 + y * (1.0 / 120.0 + y * (-1.0 / 5_040.0 + y * (1.0 / 362_880.0 - y * (1.0 / 39_916_800.0))));
    x + x * y * series
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, x: f32, found: f32, expected: f64, relative: bool) {
        let scale = if relative { expected.abs() } else { expected.abs().max(1.0) };
        assert!((f64::from(found) - expected).abs() <= 5e-7 * scale, "{name}({x}) is {expected}, found {found}");
    }

    #[test]
    fn they_equal_the_exact_functions() {
        for i in -20_000..=20_000 {
            let x = i as f32 * 0.004;
            let exact = f64::from(x);
            check("exp", x, exp(x), exact.exp(), true);
            check("tanh", x, tanh(x), exact.tanh(), false);
            let (sin, cos) = sin_cos_turns(x);
            // Turns near 80 have a spacing of 8e-6; the fraction is exact all the same.
            let angle = (exact - exact.round()) * std::f64::consts::TAU;
            check("sin", x, sin, angle.sin(), false);
            check("cos", x, cos, angle.cos(), false);
        }
        for i in 1..=40_000 {
            let x = i as f32 / 40_000.0;
            check("ln", x, ln(x), f64::from(x).ln(), false);
        }
        check("ln", 1.0 / 16_777_216.0, ln(1.0 / 16_777_216.0), -24.0 * 2f64.ln(), false);
        assert_eq!((exp(-1e9), exp(1e9)), (exp(-87.0), exp(87.0)));
    }
}
