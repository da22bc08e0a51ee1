//! From the decoder's spectrum to samples: signal processing on the host, as the `hibari-tts` package does it in numpy.
//!
//! For each 12.5 ms frame the network gives five values per bin of a 1,200-point spectrum:
//!
//! `S = exp(lh) · e^{iπ·tanh(θ)} · STFT(pulses(f0)) + exp(ln) · noise + exp(lr) · e^{iφ}`
//!
//! a pulse train filtered into voice, noise filtered into breath and consonants, and a rest with a phase of its own. One inverse
//! transform with overlap-add makes the waveform. Real frames go through complex transforms in pairs, which halves their number.

use super::noise::Noise;
use crate::ops::elementary::{exp, sin_cos_turns, tanh};
use rustfft::{Fft, FftPlanner, num_complex::Complex};
use std::{f64::consts::TAU, sync::Arc};

/// Bins of a spectrum, and values per frame that the decoder gives.
pub const BINS: usize = FFT / 2 + 1;
/// Harmonic level and phase, noise level, rest level and phase, each for all bins.
pub const FRAME_VALUES: usize = 5 * BINS;

const RATE: f64 = 24_000.0;
const FFT: usize = 1_200;
/// Samples between frames: 12.5 ms.
pub const HOP: usize = 300;
const OVERLAP: usize = FFT / HOP;

/// Below this pitch (hertz) a frame is unvoiced.
const VOICED_MIN: f32 = 40.0;
/// Harmonics go up to here (hertz).
const HARMONICS_MAX: f32 = 11_000.0;
/// Levels are logarithms; above this one the network is extrapolating and `exp` would be deafening.
const LEVEL_MAX: f32 = 7.0;

/// The transforms' tables.
pub struct Vocoder {
    forward: Arc<dyn Fft<f32>>,
    inverse: Arc<dyn Fft<f32>>,
    window: Vec<f32>,
}

impl Vocoder {
    /// Prepares the tables.
    pub fn new() -> Self {
        let mut planner = FftPlanner::new();
        Self {
            forward: planner.plan_fft_forward(FFT),
            inverse: planner.plan_fft_inverse(FFT),
            window: (0..FFT).map(|i| (0.5 - 0.5 * (TAU * i as f64 / FFT as f64).cos()) as f32).collect(),
        }
    }

    /// `spectrum` holds [`FRAME_VALUES`] for each value of `f0` (hertz); the result [`HOP`] samples for each, in [-1, 1].
    pub fn synthesise(&self, spectrum: &[f32], f0: &[f32], seed: u64) -> Vec<f32> {
        let frames = f0.len();
        assert_eq!(spectrum.len(), frames * FRAME_VALUES, "one spectrum for each value of the pitch");
        if frames == 0 {
            return Vec::new();
        }
        let source = mirrored(&pulses(f0), FFT / 2);
        let mut sum = vec![0.0f32; (frames + OVERLAP - 1) * HOP];
        let mut weight = vec![0.0f32; sum.len()];
        let mut buffer = vec![Complex::default(); FFT];
        let mut scratch = vec![
            Complex::default();
            self.forward.get_inplace_scratch_len().max(self.inverse.get_inplace_scratch_len())
        ];
        let mut terms = [Terms::ZERO; 2];
        for first in (0..frames).step_by(2) {
            // An odd last frame is paired with itself, and its second copy ignored.
            let pair = [first, (first + 1).min(frames - 1)];
            let windows = pair.map(|f| &source[f * HOP..f * HOP + FFT]);
            for (out, ((a, b), w)) in buffer.iter_mut().zip(windows[0].iter().zip(windows[1]).zip(&self.window)) {
                *out = Complex::new(a * w, b * w);
            }
            self.forward.process_with_scratch(&mut buffer, &mut scratch);
            for (terms, frame) in terms.iter_mut().zip(pair) {
                terms
                    .compute(&spectrum[frame * FRAME_VALUES..(frame + 1) * FRAME_VALUES], Noise::of_frame(seed, frame));
            }
            shape(&mut buffer, &terms);
            self.inverse.process_with_scratch(&mut buffer, &mut scratch);
            for (i, frame) in pair.into_iter().enumerate().take(frames - first) {
                let from = frame * HOP;
                for ((out, sum_weight), (y, w)) in
                    sum[from..].iter_mut().zip(&mut weight[from..]).zip(buffer.iter().zip(&self.window))
                {
                    *out += w * if i == 0 { y.re } else { y.im } / FFT as f32;
                    *sum_weight += w * w;
                }
            }
        }
        let centre = FFT / 2;
        (centre..centre + frames * HOP).map(|i| (sum[i] / weight[i].max(1e-11)).clamp(-1.0, 1.0)).collect()
    }
}

/// What one frame multiplies its pulses by, and what it adds to them.
struct Terms {
    filter: [Complex<f32>; BINS],
    rest: [Complex<f32>; BINS],
}

impl Terms {
    const ZERO: Self = Self { filter: [Complex::new(0.0, 0.0); BINS], rest: [Complex::new(0.0, 0.0); BINS] };

    fn compute(&mut self, values: &[f32], noise: Noise) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was detected.
            return unsafe { self.compute_avx2(values, noise) };
        }
        self.compute_here(values, noise);
    }

    /// The same, compiled for wider vectors.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn compute_avx2(&mut self, values: &[f32], noise: Noise) {
        self.compute_here(values, noise);
    }

    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "one index into many arrays of one length is what becomes vectors")]
    fn compute_here(&mut self, values: &[f32], noise: Noise) {
        let [level, phase, noise_level, rest_level, rest_phase] =
            [0, 1, 2, 3, 4].map(|part| &values[part * BINS..(part + 1) * BINS]);
        for k in 0..BINS {
            let amplitude = exp(level[k].min(LEVEL_MAX));
            let (sin, cos) = sin_cos_turns(0.5 * tanh(phase[k]));
            self.filter[k] = Complex::new(amplitude * cos, amplitude * sin);
        }
        for k in 0..BINS {
            let random = noise.pair(k);
            let amplitude = exp(noise_level[k].min(LEVEL_MAX));
            self.rest[k] = Complex::new(amplitude * random.0, amplitude * random.1);
        }
        for k in 0..BINS {
            let amplitude = exp(rest_level[k].min(LEVEL_MAX));
            let (sin, cos) = sin_cos_turns(rest_phase[k] * std::f32::consts::FRAC_1_PI * 0.5);
            self.rest[k] += Complex::new(amplitude * cos, amplitude * sin);
        }
    }
}

/// Turns the transform of two frames of pulses (one in the real, one in the imaginary part) into the two spectra to transform back.
fn shape(buffer: &mut [Complex<f32>], terms: &[Terms; 2]) {
    // A unit cosine has its peak at half the window's sum: divided by it, exp(level) is the harmonic's amplitude.
    const UNIT: f32 = 4.0 / FFT as f32;
    for k in 0..BINS {
        let (x, mirror) = (buffer[k], buffer[(FFT - k) % FFT].conj());
        let (sum, difference) = (x + mirror, x - mirror);
        let pulses = [sum * (0.5 * UNIT), Complex::new(difference.im, -difference.re) * (0.5 * UNIT)];
        let [mut a, mut b] = [0, 1].map(|i| pulses[i] * terms[i].filter[k] + terms[i].rest[k]);
        if k == 0 || k == FFT / 2 {
            // The spectrum of a real signal is real at these two.
            (a.im, b.im) = (0.0, 0.0);
        }
        // a + ib, whose transform has one frame in its real and the other in its imaginary part.
        buffer[k] = Complex::new(a.re - b.im, a.im + b.re);
        if k > 0 && k < FFT / 2 {
            buffer[FFT - k] = Complex::new(a.re + b.im, b.re - a.im);
        }
    }
}

/// A train of pulses with the pitch `f0`: every harmonic up to [`HARMONICS_MAX`] with amplitude 1, nothing where it is unvoiced.
///
/// `Σ cos(h·t)` over h ≤ H is `sin((H + ½)·t) / (2·sin(t/2)) - ½`.
fn pulses(f0: &[f32]) -> Vec<f32> {
    let mut phase = 0.0f64;
    let mut out = Vec::with_capacity(f0.len() * HOP);
    for i in 0..f0.len() {
        let before = f0[i.saturating_sub(1)];
        let after = f0[(i + 1).min(f0.len() - 1)];
        for j in 0..HOP {
            // Sample j of a frame lies (j + ½)/300 - ½ frames from its middle.
            let place = (j as f32 + 0.5) / HOP as f32 - 0.5;
            let pitch = if place < 0.0 { f0[i] + (f0[i] - before) * place } else { f0[i] + (after - f0[i]) * place };
            let f = pitch.max(VOICED_MIN);
            phase = (phase + f64::from(f) / RATE).fract();
            if pitch <= VOICED_MIN {
                out.push(0.0);
                continue;
            }
            let t = (phase * TAU) as f32;
            let harmonics = (HARMONICS_MAX / f).floor() + 0.5;
            let below = 2.0 * (t * 0.5).sin();
            // At the pulse itself both sides of the fraction vanish; its limit is H + ½.
            let value = if below.abs() <= 2e-3 { harmonics } else { (harmonics * t).sin() / below };
            out.push(value - 0.5);
        }
    }
    out
}

/// The samples with `margin` of them mirrored at either end; one sample at the end itself is not repeated.
fn mirrored(samples: &[f32], margin: usize) -> Vec<f32> {
    let period = 2 * (samples.len() - 1);
    let at = |i: isize| {
        let i = i.unsigned_abs() % period;
        samples[if i < samples.len() { i } else { period - i }]
    };
    (0..samples.len() + 2 * margin).map(|i| at(i as isize - margin as isize)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const F0: [f32; 7] = [0.0, 90.0, 120.0, 200.0, 180.0, 30.0, 150.0];

    /// A spectrum by formula, without noise.
    fn spectrum() -> Vec<f32> {
        let mut spectrum = Vec::new();
        for t in 0..F0.len() {
            let t = t as f64;
            let parts: [&dyn Fn(f64) -> f64; 5] = [
                &|k| -4.0 + 1.5 * (k * 0.02 + t).cos(),
                &|k| (k * 0.11 + 0.5 * t).sin(),
                &|_| -100.0,
                &|k| -3.0 + (k * 0.05 - t).sin(),
                &|k| 0.37 * k + 1.1 * t,
            ];
            spectrum.extend(parts.iter().flat_map(|part| (0..BINS).map(|k| part(k as f64) as f32)));
        }
        spectrum
    }

    /// Values of the package's `dsp.synth` for the same spectrum.
    #[test]
    fn samples_equal_the_publishers() {
        let expected = [
            (0, -0.000009),
            (150, -0.000026),
            (299, -0.000006),
            (301, -0.000005),
            (450, -0.001684),
            (620, 0.000245),
            (777, 0.000395),
            (900, 0.002112),
            (1111, -0.000190),
            (1350, -0.000496),
            (1500, -0.000043),
            (1777, -0.000555),
            (1999, 0.000781),
            (2050, -0.000389),
            (2099, -0.000414),
        ];
        let samples = Vocoder::new().synthesise(&spectrum(), &F0, 1);
        assert_eq!(samples.len(), F0.len() * HOP);
        for (at, expected) in expected {
            assert!((samples[at] - expected).abs() < 3e-6, "sample {at}: {}, expected {expected}", samples[at]);
        }
        let peak = samples.iter().fold(0f32, |m, s| m.max(s.abs()));
        assert!((peak - 0.011495).abs() < 1e-5, "peak {peak}");
    }

    /// Values of the package's `dsp.pulses`.
    #[test]
    fn pulses_equal_the_publishers() {
        let pulses = pulses(&F0);
        let expected = [
            (100, 0.0),
            (400, -0.87702),
            (500, -1.34905),
            (600, -0.08469),
            (700, 29.12344),
            (801, -0.06396),
            (1200, -0.81994),
            (1600, -1.15829),
            (1900, 0.23962),
            (2000, -1.00213),
            (1691, 236.0),
        ];
        for (at, expected) in expected {
            assert!((pulses[at] - expected).abs() < 2e-2, "sample {at}: {}, expected {expected}", pulses[at]);
        }
    }

    #[test]
    fn one_frame_and_none_are_possible() {
        assert!(Vocoder::new().synthesise(&[], &[], 1).is_empty());
        assert_eq!(Vocoder::new().synthesise(&spectrum()[..FRAME_VALUES], &F0[1..2], 1).len(), HOP);
    }
}
