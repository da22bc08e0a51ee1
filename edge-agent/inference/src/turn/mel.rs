//! Whisper's log-mel spectrum of the last eight seconds, as Smart Turn was trained on it.
//!
//! The arithmetic is that of transformers' `WhisperFeatureExtractor` with `do_normalize` (and of the copy of it in the package that
//! ships the network): zero mean and unit variance over the whole window, padding included; 400-sample periodic Hann windows every
//! 160 samples, mirrored at the ends; power; 80 triangular filters on Slaney's mel scale, normalised by area; log10, no more than
//! 8 below the maximum; `(x + 4) / 4`. In f64, because the logarithm of quiet bands shows every lost digit.

use rustfft::{Fft, FftPlanner, num_complex::Complex};
use std::{f64::consts::PI, sync::Arc};

/// Samples of the window: 8 s at 16 kHz.
pub const SAMPLES: usize = 128_000;
/// Frames: one each 10 ms.
pub const FRAMES: usize = 800;
/// Bands.
pub const BANDS: usize = 80;

const RATE: f64 = 16_000.0;
const FFT: usize = 400;
const HOP: usize = 160;
const BINS: usize = FFT / 2 + 1;
const FLOOR: f64 = 1e-10;
const VARIANCE_FLOOR: f64 = 1e-7;

/// Computes spectra; holds the transform's tables.
pub struct LogMel {
    fft: Arc<dyn Fft<f64>>,
    window: Vec<f64>,
    filters: Vec<Filter>,
}

/// A triangle: its first bin and its weights.
struct Filter {
    first: usize,
    weights: Vec<f64>,
}

impl LogMel {
    /// Prepares the tables.
    pub fn new() -> Self {
        let window = (0..FFT).map(|i| 0.5 - 0.5 * (2.0 * PI * i as f64 / FFT as f64).cos()).collect();
        Self { fft: FftPlanner::new().plan_fft_forward(FFT), window, filters: filters() }
    }

    /// The spectrum of the last [`SAMPLES`] of `pcm` (16 kHz, in [-1, 1]), silence before it where it is shorter:
    /// [`FRAMES`] rows of [`BANDS`].
    pub fn compute(&self, pcm: &[f32]) -> Vec<f32> {
        let padded = normalised(pcm);
        let mut logs = Vec::with_capacity(FRAMES * BANDS);
        let mut buffer = vec![Complex::default(); FFT];
        let mut scratch = vec![Complex::default(); self.fft.get_inplace_scratch_len()];
        for pair in 0..FRAMES / 2 {
            // Two real frames make one complex transform: the even part of its result belongs to the first.
            let [first, second] = [0, 1].map(|i| &padded[(2 * pair + i) * HOP..][..FFT]);
            for (out, ((a, b), w)) in buffer.iter_mut().zip(first.iter().zip(second).zip(&self.window)) {
                *out = Complex::new(a * w, b * w);
            }
            self.fft.process_with_scratch(&mut buffer, &mut scratch);
            let mut powers = [[0.0; BINS]; 2];
            for k in 0..BINS {
                let (x, mirrored) = (buffer[k], buffer[(FFT - k) % FFT].conj());
                powers[0][k] = (x + mirrored).norm_sqr() / 4.0;
                powers[1][k] = (x - mirrored).norm_sqr() / 4.0;
            }
            for power in &powers {
                logs.extend(self.filters.iter().map(|f| f.apply(power).max(FLOOR).log10()));
            }
        }
        let floor = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max) - 8.0;
        logs.into_iter().map(|v| ((v.max(floor) + 4.0) / 4.0) as f32).collect()
    }
}

impl Filter {
    fn apply(&self, power: &[f64; BINS]) -> f64 {
        self.weights.iter().zip(&power[self.first..]).map(|(w, p)| w * p).sum()
    }
}

/// Zero mean, unit variance, and half a transform mirrored at either end.
fn normalised(pcm: &[f32]) -> Vec<f64> {
    const MARGIN: usize = FFT / 2;
    let pcm = &pcm[pcm.len().saturating_sub(SAMPLES)..];
    let count = SAMPLES as f64;
    let mean = pcm.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
    let silence = (SAMPLES - pcm.len()) as f64;
    let spread = pcm.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() + silence * mean * mean;
    let scale = 1.0 / (spread / count + VARIANCE_FLOOR).sqrt();
    let mut padded = vec![-mean * scale; SAMPLES + 2 * MARGIN];
    let start = MARGIN + SAMPLES - pcm.len();
    for (out, v) in padded[start..].iter_mut().zip(pcm) {
        *out = (f64::from(*v) - mean) * scale;
    }
    for i in 0..MARGIN {
        padded[i] = padded[2 * MARGIN - i];
        padded[MARGIN + SAMPLES + i] = padded[MARGIN + SAMPLES - 2 - i];
    }
    padded
}

fn filters() -> Vec<Filter> {
    let top = mel(RATE / 2.0);
    let edges: Vec<f64> = (0..BANDS + 2).map(|i| hertz(top * i as f64 / (BANDS + 1) as f64)).collect();
    edges
        .windows(3)
        .map(|edge| {
            let [low, middle, high] = [edge[0], edge[1], edge[2]];
            let weight = |bin: usize| {
                let f = bin as f64 * RATE / FFT as f64;
                let up = (f - low) / (middle - low);
                let down = (high - f) / (high - middle);
                up.min(down).max(0.0) * 2.0 / (high - low)
            };
            let first = (0..BINS).find(|b| weight(*b) > 0.0).unwrap_or(0);
            Filter { first, weights: (first..BINS).map(weight).take_while(|w| *w > 0.0).collect() }
        })
        .collect()
}

/// Slaney's scale: linear below 1 kHz, logarithmic above.
fn mel(hertz: f64) -> f64 {
    if hertz < 1000.0 { 3.0 * hertz / 200.0 } else { 15.0 + (hertz / 1000.0).ln() * 27.0 / 6.4f64.ln() }
}

fn hertz(mel: f64) -> f64 {
    if mel < 15.0 { 200.0 * mel / 3.0 } else { 1000.0 * ((mel - 15.0) * 6.4f64.ln() / 27.0).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the package's own extractor for this signal.
    #[test]
    fn the_spectrum_of_a_chirp_equals_the_publishers() {
        let pcm: Vec<f32> = (0..40_000)
            .map(|i| {
                let t = i as f64 / RATE;
                (0.3 * (2.0 * PI * (200.0 + 900.0 * t) * t).sin()) as f32
            })
            .collect();
        let spectrum = LogMel::new().compute(&pcm);
        assert_eq!(spectrum.len(), FRAMES * BANDS);
        for (frame, band, expected) in CHIRP {
            let found = spectrum[frame * BANDS + band];
            assert!((found - expected).abs() < 2e-4, "frame {frame} band {band}: {found}, expected {expected}");
        }
    }

    #[test]
    fn audio_longer_than_the_window_counts_from_its_end() {
        let long: Vec<f32> = (0..SAMPLES + 5000).map(|i| ((i * i) as f32 * 1e-3).sin()).collect();
        let mel = LogMel::new();
        assert_eq!(mel.compute(&long), mel.compute(&long[5000..]));
        assert_eq!(mel.compute(&[]).len(), FRAMES * BANDS);
    }

    /// Frame, band, value.
    const CHIRP: [(usize, usize, f32); 12] = [
        (0, 0, -0.19743),
        (549, 10, 0.59106),
        (551, 5, 1.76173),
        (558, 11, 1.07408),
        (612, 24, -0.14167),
        (614, 32, 1.20983),
        (571, 2, -0.00578),
        (766, 60, 0.06558),
        (580, 24, 0.58331),
        (565, 22, 0.01768),
        (623, 43, -0.11649),
        (655, 41, 0.21026),
    ];
}
