//! Gaussian noise that depends on nothing but a seed and a frame's number, so that frames may be made in any order or number.

use crate::ops::elementary::{ln, sin_cos_turns};

/// SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>): a counter and a mixing function, good enough for noise that is only heard.
#[derive(Clone, Copy)]
pub struct Noise {
    start: u64,
}

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Noise {
    /// The noise of one frame.
    pub fn of_frame(seed: u64, frame: usize) -> Self {
        Self { start: mixed(seed ^ mixed((frame as u64).wrapping_mul(GOLDEN_GAMMA))) }
    }

    /// Two independent values of the standard normal distribution (Box and Muller), others for each index.
    #[inline(always)]
    pub fn pair(self, index: usize) -> (f32, f32) {
        let bits = mixed(self.start.wrapping_add((index as u64 + 1).wrapping_mul(GOLDEN_GAMMA)));
        // 24 bits are what an f32 holds. The first is in (0, 1], where the logarithm is finite.
        const UNIT: f32 = 1.0 / 16_777_216.0;
        let first = ((bits >> 40) as i32 + 1) as f32 * UNIT;
        let second = (bits & 0xff_ffff) as i32 as f32 * UNIT;
        let radius = (-2.0 * ln(first)).max(0.0).sqrt();
        let (sin, cos) = sin_cos_turns(second);
        (radius * cos, radius * sin)
    }
}

#[inline(always)]
fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_noise_is_gaussian_and_repeats_with_its_seed() {
        let values: Vec<f32> = (0..200)
            .flat_map(|frame| {
                let noise = Noise::of_frame(7, frame);
                (0..500).flat_map(move |i| <[f32; 2]>::from(noise.pair(i))).collect::<Vec<_>>()
            })
            .collect();
        let count = values.len() as f32;
        let moment = |power: i32| values.iter().map(|v| v.powi(power)).sum::<f32>() / count;
        assert!(moment(1).abs() < 0.01, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.02, "variance {}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.1, "fourth moment {}", moment(4));
        assert_eq!(Noise::of_frame(7, 3).pair(1), Noise::of_frame(7, 3).pair(1));
        assert_ne!(Noise::of_frame(7, 3).pair(1), Noise::of_frame(8, 3).pair(1));
    }
}
