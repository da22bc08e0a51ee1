//! Rotary embedding, norms and gates on the CPU.

use super::{linear::Level, row_tasks::by_rows, rows::Rows};
use crate::ops::elementary::exp;

/// See `ops::rotate`; in place.
pub(super) fn rotate(
    x: &mut [f32],
    width: usize,
    table: &[f32],
    dims: usize,
    positions: &[u32],
    dim: usize,
    interleaved: bool,
) {
    let half = dims / 2;
    for (row, &position) in x.chunks_exact_mut(width).zip(positions) {
        let (cos, sin) = table[position as usize * dims..][..dims].split_at(half);
        for head in row.chunks_exact_mut(dim) {
            for i in 0..half {
                let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + half) };
                let (x, y) = (head[a], head[b]);
                head[a] = x * cos[i] - y * sin[i];
                head[b] = y * cos[i] + x * sin[i];
            }
        }
    }
}

/// Sixteen running sums, so that the compiler may use vectors without changing the order of any one of them.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut acc = [0f32; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    let tail: f32 = rest.iter().map(|v| f(*v)).sum();
    for c in chunks {
        for i in 0..16 {
            acc[i] += f(c[i]);
        }
    }
    acc.iter().sum::<f32>() + tail
}

/// See `ops::norm`.
pub(super) fn norm(x: &[f32], n: usize, weight: &[f32], bias: &[f32], eps: f32, centred: bool) -> Vec<f32> {
    let mut out = vec![0f32; x.len()];
    let level = Level::detect();
    by_rows(&mut out, n, |first, out| {
        for (x, out) in x[first * n..].chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            match level {
                Level::Portable => norm_row(x, out, weight, bias, eps, centred),
                // SAFETY: the level says what the processor has.
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => unsafe { norm_avx2(x, out, weight, bias, eps, centred) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Level::Vnni => unsafe { norm_avx512(x, out, weight, bias, eps, centred) },
            }
        }
    });
    out
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn norm_avx2(x: &[f32], out: &mut [f32], weight: &[f32], bias: &[f32], eps: f32, centred: bool) {
    norm_row(x, out, weight, bias, eps, centred);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
fn norm_avx512(x: &[f32], out: &mut [f32], weight: &[f32], bias: &[f32], eps: f32, centred: bool) {
    norm_row(x, out, weight, bias, eps, centred);
}

#[inline(always)]
fn norm_row(x: &[f32], out: &mut [f32], weight: &[f32], bias: &[f32], eps: f32, centred: bool) {
    let n = x.len();
    let mean = if centred { sum(x, |v| v) / n as f32 } else { 0.0 };
    let variance = sum(x, |v| (v - mean) * (v - mean)) / n as f32;
    let inverse = 1.0 / (variance + eps).sqrt();
    for (((out, v), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = (v - mean) * inverse * w + b;
    }
}

/// See `ops::gated`.
pub(in super::super) fn gated(x: Rows<'_>, gate_first: bool) -> Vec<f32> {
    let n = x.width / 2;
    let mut out = vec![0f32; x.count * n];
    let level = Level::detect();
    by_rows(&mut out, n, |start, out| {
        for (i, out) in out.chunks_exact_mut(n).enumerate() {
            let (first, last) = x.row(start + i).split_at(n);
            let (gate, up) = if gate_first { (first, last) } else { (last, first) };
            match level {
                Level::Portable => gated_row(gate, up, out),
                // SAFETY: the level says what the processor has.
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => unsafe { gated_avx2(gate, up, out) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Level::Vnni => unsafe { gated_avx512(gate, up, out) },
            }
        }
    });
    out
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn gated_avx2(gate: &[f32], up: &[f32], out: &mut [f32]) {
    gated_row(gate, up, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
fn gated_avx512(gate: &[f32], up: &[f32], out: &mut [f32]) {
    gated_row(gate, up, out);
}

#[inline(always)]
fn gated_row(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_swaps_the_pair() {
        // Position 1 turns by 90 degrees, position 0 not at all. Two heads of 6, of which 4 columns turn.
        let table = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0];
        let row = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let check = |interleaved, head: [f32; 6]| {
            let mut x = [row, row].concat();
            rotate(&mut x, 12, &table, 4, &[0, 1], 6, interleaved);
            assert_eq!(x[..12], row);
            assert_eq!(x[12..], [head, head].concat());
        };
        check(true, [-2.0, 1.0, -4.0, 3.0, 5.0, 6.0]);
        check(false, [-3.0, -4.0, 1.0, 2.0, 5.0, 6.0]);
    }

    #[test]
    fn norms_are_what_they_are_called() {
        let x: Vec<f32> = (0..11).map(|v| v as f32).collect();
        let layer = norm(&x, 11, &[2.0; 11], &[1.0; 11], 0.0, true);
        // 0..=10 has mean 5 and variance 10.
        assert!((layer[10] - (5.0 / 10f32.sqrt() * 2.0 + 1.0)).abs() < 1e-6, "{layer:?}");
        let rms = norm(&x, 11, &[1.0; 11], &[0.0; 11], 0.0, false);
        // The mean square of 0..=10 is 35.
        assert!((rms[10] - 10.0 / 35f32.sqrt()).abs() < 1e-6, "{rms:?}");
    }
}
