//! From the decoder's spectrum to samples: signal processing on the host, as the `hibari-tts` package does it in numpy.
//!
//! For each 12.5 ms frame the network gives five values per bin of a 1,200-point spectrum:
//!
//! `S = exp(lh) · e^{iπ·tanh(θ)} · STFT(pulses(f0)) + exp(ln) · noise + exp(lr) · e^{iφ}`
//!
//! a pulse train filtered into voice, noise filtered into breath and consonants, and a rest with a phase of its own. One inverse
//! transform with overlap-add makes the waveform. Real frames go through complex transforms in pairs, which halves their number.

use super::noise::Noise;
use crate::ops::{
    elementary::{exp, sin_cos_turns, tanh},
    team,
};
use rustfft::{Fft, FftPlanner, num_complex::Complex};
use std::{cell::RefCell, f64::consts::TAU, sync::Arc};

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
        let mut windows = vec![[0.0f32; FFT]; BLOCK.min(frames.next_multiple_of(2))];
        for first in (0..frames).step_by(BLOCK) {
            let count = BLOCK.min(frames - first);
            // Pairs are computed by all threads, and added in the order of their frames whoever was ready first.
            let pairs = Pairs(windows.as_mut_ptr());
            team::run(count.div_ceil(2), |pair| {
                let frame = first + 2 * pair;
                // SAFETY: each pair has two windows of its own; there are as many as a block has frames, and an even number.
                let windows = unsafe { std::slice::from_raw_parts_mut(pairs.at(2 * pair), 2) };
                self.pair(spectrum, &source, frames, frame, seed, windows);
            });
            for (i, window) in windows.iter().enumerate().take(count) {
                let from = (first + i) * HOP;
                for ((out, sum_weight), (y, w)) in
                    sum[from..].iter_mut().zip(&mut weight[from..]).zip(window.iter().zip(&self.window))
                {
                    *out += y * w;
                    *sum_weight += w * w;
                }
            }
        }
        let centre = FFT / 2;
        (centre..centre + frames * HOP).map(|i| (sum[i] / weight[i].max(1e-11)).clamp(-1.0, 1.0)).collect()
    }

    /// The samples of frame `first` and the one after it, not yet windowed. An odd last frame is paired with itself.
    fn pair(&self, spectrum: &[f32], source: &[f32], frames: usize, first: usize, seed: u64, out: &mut [[f32; FFT]]) {
        thread_local! {
            static SPACE: RefCell<Vec<Complex<f32>>> = const { RefCell::new(Vec::new()) };
        }
        SPACE.with_borrow_mut(|space| {
            let scratch = self.forward.get_inplace_scratch_len().max(self.inverse.get_inplace_scratch_len());
            space.resize(FFT + scratch, Complex::default());
            let (buffer, scratch) = space.split_at_mut(FFT);
            let pair = [first, (first + 1).min(frames - 1)];
            let windows = pair.map(|f| &source[f * HOP..f * HOP + FFT]);
            for (out, ((a, b), w)) in buffer.iter_mut().zip(windows[0].iter().zip(windows[1]).zip(&self.window)) {
                *out = Complex::new(a * w, b * w);
            }
            self.forward.process_with_scratch(buffer, scratch);
            let terms = pair.map(|frame| {
                let mut terms = Terms::ZERO;
                let values = &spectrum[frame * FRAME_VALUES..(frame + 1) * FRAME_VALUES];
                terms.compute(values, Noise::of_frame(seed, frame));
                terms
            });
            shape(buffer, &terms);
            self.inverse.process_with_scratch(buffer, scratch);
            let [even, odd] = out else { unreachable!("a pair of windows") };
            for ((even, odd), y) in even.iter_mut().zip(odd).zip(buffer) {
                (*even, *odd) = (y.re / FFT as f32, y.im / FFT as f32);
            }
        });
    }
}

/// Frames that are transformed before their windows are added up: 150 KB of them.
const BLOCK: usize = 32;

/// The windows of a block; each pair is written by one thread.
#[derive(Clone, Copy)]
struct Pairs(*mut [f32; FFT]);
// SAFETY: the threads write disjoint pairs.
unsafe impl Send for Pairs {}
// SAFETY: as above.
unsafe impl Sync for Pairs {}

impl Pairs {
    fn at(self, i: usize) -> *mut [f32; FFT] {
        self.0.wrapping_add(i)
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
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
            {
                // SAFETY: the features were detected.
                return unsafe { self.compute_avx512(values, noise) };
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the feature was detected.
                return unsafe { self.compute_avx2(values, noise) };
            }
        }
        self.compute_here(values, noise);
    }

    /// The same, compiled for wider vectors, and for 64-bit products in them.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw")]
    fn compute_avx512(&mut self, values: &[f32], noise: Noise) {
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
    let (mut pitch, mut turns) = ([0.0f32; HOP], [0.0f64; HOP]);
    for i in 0..f0.len() {
        let before = f0[i.saturating_sub(1)];
        let after = f0[(i + 1).min(f0.len() - 1)];
        for (j, pitch) in pitch.iter_mut().enumerate() {
            // Sample j of a frame lies (j + ½)/300 - ½ frames from its middle.
            let place = (j as f32 + 0.5) / HOP as f32 - 0.5;
            *pitch = if place < 0.0 { f0[i] + (f0[i] - before) * place } else { f0[i] + (after - f0[i]) * place };
        }
        // The only part that goes sample by sample; a step is far less than a turn.
        for (pitch, turns) in pitch.iter().zip(&mut turns) {
            phase += f64::from(pitch.max(VOICED_MIN)) / RATE;
            if phase >= 1.0 {
                phase = phase.fract();
            }
            *turns = phase;
        }
        out.extend_from_slice(&train(&pitch, &turns));
    }
    out
}

/// The pulses of one frame, from the pitch and the place within a period of each sample.
fn train(pitch: &[f32; HOP], turns: &[f64; HOP]) -> [f32; HOP] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the feature was detected.
        return unsafe { train_avx2(pitch, turns) };
    }
    train_here(pitch, turns)
}

/// The same, compiled for wider vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn train_avx2(pitch: &[f32; HOP], turns: &[f64; HOP]) -> [f32; HOP] {
    train_here(pitch, turns)
}

#[inline(always)]
fn train_here(pitch: &[f32; HOP], turns: &[f64; HOP]) -> [f32; HOP] {
    /// Adding it leaves no bits for a fraction.
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    let mut out = [0.0; HOP];
    for i in 0..HOP {
        let harmonics = (HARMONICS_MAX / pitch[i].max(VOICED_MIN)).floor() + 0.5;
        // What lies beyond whole turns is small, so f32 holds it well.
        let many = f64::from(harmonics) * turns[i];
        let (above, _) = sin_cos_turns((many - ((many + MAGIC) - MAGIC)) as f32);
        let below = 2.0 * sin_cos_turns(turns[i] as f32 * 0.5).0;
        // At the pulse itself both sides of the fraction vanish; its limit is H + ½.
        let value = if below.abs() <= 2e-3 { harmonics } else { above / below };
        out[i] = if pitch[i] <= VOICED_MIN { 0.0 } else { value - 0.5 };
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
    let (start, end) = (-(margin as isize)..0, samples.len() as isize..(samples.len() + margin) as isize);
    let mut out = Vec::with_capacity(samples.len() + 2 * margin);
    out.extend(start.map(at));
    out.extend_from_slice(samples);
    out.extend(end.map(at));
    out
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
