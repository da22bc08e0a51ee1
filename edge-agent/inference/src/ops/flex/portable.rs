//! The kernels in plain Rust: for processors without AVX2, and the measure of the fast ones.

use half::f16;

use super::{
    quants::{Layout, Scales},
    rounded::{Integer, Rounded},
};

pub(super) fn half(bits: u32) -> f32 {
    f16::from_bits(bits as u16).to_f32()
}

/// One row of weights by row `t` of rounded activations.
pub(super) fn dot_rounded<L: Layout, I: Integer>(row: &[u32], x: &Rounded<I>, t: usize) -> f32 {
    let mut sum = 0.0;
    for (b, block) in row.chunks_exact(L::WORDS).enumerate() {
        for group in 0..L::GROUPS {
            let (q, scale, total) = x.group(t, b * L::GROUPS + group);
            let w = L::unpack(block, group);
            let Scales { low, high, min } = L::scales(block, group, half);
            let part = |r: std::ops::Range<usize>| -> i32 {
                w[r.clone()].iter().zip(&q[r]).map(|(&a, &b)| i32::from(a) * b.into()).sum()
            };
            sum += scale * (low * part(0..16) as f32 + high * part(16..32) as f32) + min * total;
        }
    }
    sum
}

/// One row of weights by one row of f32 activations.
pub(super) fn dot_exact<L: Layout>(row: &[u32], x: &[f32]) -> f32 {
    let mut sum = 0.0;
    for (b, block) in row.chunks_exact(L::WORDS).enumerate() {
        for group in 0..L::GROUPS {
            let x = &x[(b * L::GROUPS + group) * 32..][..32];
            let w = L::unpack(block, group);
            let Scales { low, high, min } = L::scales(block, group, half);
            let part = |r: std::ops::Range<usize>| -> f32 {
                w[r.clone()].iter().zip(&x[r]).map(|(&a, &b)| f32::from(a) * b).sum()
            };
            sum += low * part(0..16) + high * part(16..32) + min * x.iter().sum::<f32>();
        }
    }
    sum
}

/// A row of halves by one row of f32 activations.
pub(super) fn dot_f16(row: &[u32], x: &[f32]) -> f32 {
    x.iter().enumerate().map(|(i, x)| half(row[i / 2] >> (i % 2 * 16)) * x).sum()
}

/// A row of weights as f32.
pub(super) fn dequantise<L: Layout>(row: &[u32], out: &mut [f32]) {
    for (b, block) in row.chunks_exact(L::WORDS).enumerate() {
        for group in 0..L::GROUPS {
            let w = L::unpack(block, group);
            let Scales { low, high, min } = L::scales(block, group, half);
            let out = &mut out[(b * L::GROUPS + group) * 32..][..32];
            for (i, o) in out.iter_mut().enumerate() {
                *o = f32::from(w[i]) * if i < 16 { low } else { high } + min;
            }
        }
    }
}

/// A row of halves as f32.
pub(super) fn dequantise_f16(row: &[u32], out: &mut [f32]) {
    for (i, o) in out.iter_mut().enumerate() {
        *o = half(row[i / 2] >> (i % 2 * 16));
    }
}
