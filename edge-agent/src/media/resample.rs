//! Streaming conversion of sample rates.

use rubato::{
    Fft, FixedSync, Resampler as _, ResamplerConstructionError, audioadapter_buffers::direct::InterleavedSlice,
};

/// Chunks per second: 20 ms, short enough to be unheard as delay, long enough for a steep filter.
const CHUNKS_PER_SECOND: u32 = 50;

/// Converts one mono stream. What comes out begins where what goes in begins: the filter's delay is taken off.
pub struct Resampler {
    /// `None` where the rates are equal.
    fft: Option<Fft<f32>>,
    waiting: Vec<f32>,
    /// Samples of delay still to be taken off.
    skip: usize,
    /// Rates, from and to, in hertz.
    rates: (u32, u32),
    /// Samples that came in, and that came out.
    taken: u64,
    given: u64,
}

impl Resampler {
    /// A converter between two rates in hertz.
    pub fn new(from_hz: u32, to_hz: u32) -> Result<Self, ResamplerConstructionError> {
        if from_hz == to_hz {
            return Ok(Self { fft: None, waiting: Vec::new(), skip: 0, rates: (from_hz, to_hz), taken: 0, given: 0 });
        }
        let chunk = (from_hz / CHUNKS_PER_SECOND).max(1) as usize;
        let fft = Fft::new(from_hz as usize, to_hz as usize, chunk, 1, FixedSync::Input)?;
        let skip = fft.output_delay();
        Ok(Self { fft: Some(fft), waiting: Vec::new(), skip, rates: (from_hz, to_hz), taken: 0, given: 0 })
    }

    /// Takes samples, any number; returns those that are ready.
    pub fn push(&mut self, samples: &[f32]) -> Vec<f32> {
        let Some(fft) = &mut self.fft else { return samples.to_vec() };
        self.waiting.extend_from_slice(samples);
        self.taken += samples.len() as u64;
        let mut out = Vec::with_capacity((self.waiting.len() as f64 * fft.resample_ratio()) as usize + 1);
        let mut used = 0;
        loop {
            let wanted = fft.input_frames_next();
            let Some(chunk) = self.waiting.get(used..used + wanted) else { break };
            let input = InterleavedSlice::new(chunk, 1, wanted).expect("the slice has this length");
            let made = fft.process(&input, None).expect("the chunk has the length that was asked for").take_data();
            used += wanted;
            let skipped = self.skip.min(made.len());
            self.skip -= skipped;
            out.extend_from_slice(&made[skipped..]);
        }
        self.waiting.drain(..used);
        self.given += out.len() as u64;
        out
    }

    /// The end of the stream: returns what is still inside.
    pub fn flush(mut self) -> Vec<f32> {
        let Some(fft) = &self.fft else { return Vec::new() };
        let silence = vec![0.0; fft.input_frames_max()];
        let whole = self.taken * u64::from(self.rates.1) / u64::from(self.rates.0);
        let left = whole.saturating_sub(self.given) as usize;
        let mut out = Vec::with_capacity(left);
        // What is inside the filter, and in front of it, comes out when as much more has gone in.
        while out.len() < left {
            out.extend(self.push(&silence));
        }
        out.truncate(left);
        out
    }
}

/// Converts a whole clip; its duration stays as it is.
pub fn resample(samples: &[f32], from_hz: u32, to_hz: u32) -> Result<Vec<f32>, ResamplerConstructionError> {
    let mut resampler = Resampler::new(from_hz, to_hz)?;
    let mut out = resampler.push(samples);
    out.extend(resampler.flush());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(hz: f32, rate: u32, seconds: f32) -> Vec<f32> {
        (0..(rate as f32 * seconds) as usize)
            .map(|n| 0.5 * (std::f32::consts::TAU * hz * n as f32 / rate as f32).sin())
            .collect()
    }

    fn check(from: u32, to: u32) {
        let made = resample(&tone(440.0, from, 1.0), from, to).expect("rates");
        let expect = tone(440.0, to, 1.0);
        assert_eq!(made.len(), expect.len());
        let inner = to as usize / 10..to as usize * 9 / 10;
        let error = made[inner.clone()].iter().zip(&expect[inner]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error < 5e-3, "{from} to {to}: a tone is off by {error}");
    }

    #[test]
    fn a_tone_stays_the_tone_and_in_place() {
        for (from, to) in [(24_000, 16_000), (8_000, 16_000), (24_000, 8_000), (44_100, 24_000), (16_000, 16_000)] {
            check(from, to);
        }
    }

    #[test]
    fn the_end_of_a_stream_is_not_lost_at_any_rate() {
        for from in [8_000, 11_025, 12_000, 22_050, 32_000, 44_100, 48_000, 96_000] {
            let input = tone(300.0, from, 0.777);
            let mut resampler = Resampler::new(from, 16_000).expect("rates");
            let mut made = resampler.push(&input);
            made.extend(resampler.flush());
            assert_eq!(made.len() as u64, input.len() as u64 * 16_000 / u64::from(from), "{from} Hz");
            let loudest = made[made.len() - 100..].iter().fold(0.0f32, |max, s| max.max(s.abs()));
            assert!(loudest > 0.3, "{from} Hz: the last milliseconds are silent");
        }
    }

    #[test]
    fn what_the_new_rate_cannot_hold_is_filtered_out() {
        let made = resample(&tone(10_000.0, 24_000, 0.5), 24_000, 16_000).expect("rates");
        let loudest = made[800..7_000].iter().fold(0.0f32, |max, s| max.max(s.abs()));
        assert!(loudest < 0.01, "an alias of {loudest} is left");
    }

    #[test]
    fn pieces_make_the_same_stream_as_the_whole() {
        let input = tone(300.0, 24_000, 0.4);
        let mut whole = Resampler::new(24_000, 16_000).expect("rates");
        let expect = whole.push(&input);
        let mut pieces = Resampler::new(24_000, 16_000).expect("rates");
        let made: Vec<f32> = input.chunks(77).flat_map(|piece| pieces.push(piece)).collect();
        assert_eq!(made, expect);
    }
}
