//! Products with blocks and look-ups of rows on a GPU.
//!
//! One cube computes one row of weights by up to eight rows of activations: its units take groups of 32 weights in turn,
//! unpack each once, multiply it with every row of activations, and add up at the end in shared memory.

// CubeCL's `comptime` arguments and its casts read as needless to clippy, which sees only the unexpanded function.
#![allow(clippy::too_many_arguments, clippy::useless_conversion)]

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use nearfield_shared::gguf::BlockType;

use super::{super::blocks::block_words, AXIS_MAX};

/// Units of a cube: the width of a subgroup on most GPUs.
const UNITS: usize = 32;
/// Rows of activations in a tile.
const TILE: usize = 8;

const Q4_0: u32 = BlockType::Q4_0.ggml_id();
const Q4_1: u32 = BlockType::Q4_1.ggml_id();
const Q5_0: u32 = BlockType::Q5_0.ggml_id();
const Q8_0: u32 = BlockType::Q8_0.ggml_id();
const Q4K: u32 = BlockType::Q4K.ggml_id();
const Q6K: u32 = BlockType::Q6K.ggml_id();
const F16: u32 = BlockType::F16.ggml_id();

/// The f16 in the low 16 bits, subnormal ones included.
#[cube]
fn half(bits: u32) -> f32 {
    let normal = f32::reinterpret(((bits & 0x7fff) << 13) + 0x3800_0000u32);
    // 2^-24 for each step below the least normal number.
    let small = f32::cast_from(bits & 0x3ff) * 5.960_464_5e-8;
    let magnitude = select((bits & 0x7c00) == 0, small, normal);
    select((bits & 0x8000) == 0, magnitude, -magnitude)
}

/// Byte `at` of the words from `base` on.
#[cube]
fn byte(w: &[u32], base: usize, at: usize) -> u32 {
    (w[base + at / 4] >> (u32::cast_from(at % 4) * 8)) & 0xff
}

#[cube]
fn signed_byte(b: u32) -> f32 {
    f32::cast_from(b) - select(b > 127, 256.0f32, 0.0f32)
}

/// Scale of the values `quad * 4 ..` of a group.
#[cube]
fn scale_of(w: &[u32], base: usize, group: usize, #[comptime] quad: usize, #[comptime] kind: u32) -> f32 {
    if comptime!(kind == Q4K) {
        let mut s = byte(w, base + 1, group) & 63;
        if group >= 4 {
            s = (byte(w, base + 1, group + 4) & 15) | ((byte(w, base + 1, group - 4) >> 6) << 4);
        }
        half(w[base] & 0xffff) * f32::cast_from(s)
    } else if comptime!(kind == Q6K) {
        let s = byte(w, base + 48, group * 2 + comptime!(quad / 4));
        half(w[base + 52] & 0xffff) * signed_byte(s)
    } else {
        half(w[base] & 0xffff)
    }
}

/// What is added to every scaled value of the quad.
#[cube]
fn min_of(w: &[u32], base: usize, group: usize, scale: f32, #[comptime] kind: u32) -> f32 {
    if comptime!(kind == Q4_0) {
        scale * comptime!(-8.0f32)
    } else if comptime!(kind == Q4_1) {
        half(w[base] >> 16)
    } else if comptime!(kind == Q5_0) {
        scale * comptime!(-16.0f32)
    } else if comptime!(kind == Q4K) {
        let mut m = byte(w, base + 1, group + 4) & 63;
        if group >= 4 {
            m = (byte(w, base + 1, group + 4) >> 4) | ((byte(w, base + 1, group) >> 6) << 4);
        }
        -half(w[base] >> 16) * f32::cast_from(m)
    } else if comptime!(kind == Q6K) {
        scale * comptime!(-32.0f32)
    } else {
        scale * comptime!(0.0f32)
    }
}

/// Four packed integers: value `quad * 4 + i` of the group in byte i of the result. Q8_0's are signed, the others not.
#[cube]
fn quants_of(w: &[u32], base: usize, group: usize, #[comptime] quad: usize, #[comptime] kind: u32) -> u32 {
    if comptime!(kind == Q8_0) {
        w[base + comptime!(1 + quad)]
    } else if comptime!(kind == Q4_0 || kind == Q4_1) {
        (w[base + comptime!(1 + quad % 4)] >> comptime!((quad / 4 * 4) as u32)) & 0x0f0f_0f0f
    } else if comptime!(kind == Q5_0) {
        let low = (w[base + comptime!(2 + quad % 4)] >> comptime!((quad / 4 * 4) as u32)) & 0x0f0f_0f0f;
        let high = w[base + 1] >> comptime!((quad * 4) as u32);
        low | ((high & 1) << 4) | ((high & 2) << 11) | ((high & 4) << 18) | ((high & 8) << 25)
    } else if comptime!(kind == Q4K) {
        let q = w[base + 4 + group / 2 * 8 + quad];
        (q >> (u32::cast_from(group % 2) * 4)) & 0x0f0f_0f0f
    } else {
        let (part, side) = (group % 4, group / 4);
        let low = w[base + side * 16 + part % 2 * 8 + quad] >> (u32::cast_from(part / 2) * 4);
        let high = w[base + 32 + side * 8 + quad] >> (u32::cast_from(part) * 2);
        (low & 0x0f0f_0f0f) | ((high & 0x0303_0303) << 4)
    }
}

/// Value `quad * 4 + i` before scaling.
#[cube]
fn value_of(quants: u32, #[comptime] i: usize, #[comptime] kind: u32) -> f32 {
    let b = (quants >> comptime!((i * 8) as u32)) & 0xff;
    if comptime!(kind == Q8_0) { signed_byte(b) } else { f32::cast_from(b) }
}

#[cube(launch_unchecked)]
fn multiply_kernel(
    x: &[f32],
    w: &[u32],
    out: &mut [f32],
    t: u32,
    rows: u32,
    cols: u32,
    #[comptime] kind: u32,
    #[comptime] words: usize,
    #[comptime] groups: usize,
    #[comptime] tile: usize,
    #[comptime] units: usize,
) {
    let (t, rows, cols) = (t as usize, rows as usize, cols as usize);
    // Cubes beyond the last row do the last one again, and write the same.
    let row = clamp_max(CUBE_POS_X as usize + CUBE_POS_Z as usize * AXIS_MAX, rows - 1);
    let first = CUBE_POS_Y as usize * tile;
    let unit = UNIT_POS as usize;
    let mut acc = Array::<f32>::new(tile);
    #[unroll]
    for i in 0..tile {
        acc[i] = 0.0;
    }
    if comptime!(kind == F16) {
        let pairs = cols.div_ceil(2);
        for p in range_stepped(unit, pairs, units) {
            let pair = w[row * pairs + p];
            let (a, b) = (half(pair & 0xffff), half(pair >> 16));
            #[unroll]
            for i in 0..tile {
                let at = clamp_max(first + i, t - 1) * cols + p * 2;
                acc[i] += a * x[at];
                if p * 2 + 1 < cols {
                    acc[i] += b * x[at + 1];
                }
            }
        }
    } else {
        let all = cols / 32;
        for g in range_stepped(unit, all, units) {
            let base = (row * (all / groups) + g / groups) * words;
            let group = g % groups;
            #[unroll]
            for quad in 0..8usize {
                let scale = scale_of(w, base, group, quad, kind);
                let min = min_of(w, base, group, scale, kind);
                let quants = quants_of(w, base, group, quad, kind);
                #[unroll]
                for j in 0..4usize {
                    let weight = value_of(quants, j, kind) * scale + min;
                    #[unroll]
                    for i in 0..tile {
                        let at = clamp_max(first + i, t - 1) * cols;
                        acc[i] += weight * x[at + g * 32 + comptime!(quad * 4 + j)];
                    }
                }
            }
        }
    }
    let mut shared = Shared::<[f32]>::new_slice(comptime!(units * tile));
    #[unroll]
    for i in 0..tile {
        shared[i * units + unit] = acc[i];
    }
    sync_cube();
    if unit < tile && first + unit < t {
        let mut total = 0.0f32;
        for u in 0..units {
            total += shared[unit * units + u];
        }
        out[(first + unit) * rows + row] = total;
    }
}

/// x `[t, cols]` by the transpose of w `[rows, cols]` into out `[t, rows]`.
pub(super) fn multiply(
    x: CubeTensor,
    w: CubeTensor,
    out: CubeTensor,
    t: usize,
    rows: usize,
    cols: usize,
    block: BlockType,
) {
    // Two kernels for each block type: one row of activations (decoding), or tiles of eight.
    let tile = if t == 1 { 1 } else { TILE };
    let count = CubeCount::Static(rows.min(AXIS_MAX) as u32, t.div_ceil(tile) as u32, rows.div_ceil(AXIS_MAX) as u32);
    let client = x.client.clone();
    // SAFETY: the kernel reads x and w and writes out within the shapes given; indices beyond are clamped or skipped.
    unsafe {
        multiply_kernel::launch_unchecked(
            &client,
            count,
            CubeDim::new_1d(UNITS as u32),
            x.into_buffer_arg(),
            w.into_buffer_arg(),
            out.into_buffer_arg(),
            t as u32,
            rows as u32,
            cols as u32,
            block.ggml_id(),
            block_words(block),
            (block.block_elems() / 32).max(1),
            tile,
            UNITS,
        );
    }
}

#[cube(launch_unchecked)]
fn rows_kernel(
    w: &[u32],
    ids: &[u32],
    out: &mut [f32],
    n: u32,
    cols: u32,
    #[comptime] kind: u32,
    #[comptime] words: usize,
    #[comptime] groups: usize,
) {
    let (n, cols) = (n as usize, cols as usize);
    let all = cols.div_ceil(32);
    let at = ABSOLUTE_POS;
    if at < n * all {
        let (i, g) = (at / all, at % all);
        let row = ids[i] as usize;
        let to = i * cols + g * 32;
        if comptime!(kind == F16) {
            let pairs = cols.div_ceil(2);
            for j in 0..32usize {
                if g * 32 + j < cols {
                    let pair = w[row * pairs + g * 16 + j / 2];
                    out[to + j] = half((pair >> (u32::cast_from(j % 2) * 16)) & 0xffff);
                }
            }
        } else {
            let base = (row * (all / groups) + g / groups) * words;
            let group = g % groups;
            #[unroll]
            for quad in 0..8usize {
                let scale = scale_of(w, base, group, quad, kind);
                let min = min_of(w, base, group, scale, kind);
                let quants = quants_of(w, base, group, quad, kind);
                #[unroll]
                for j in 0..4usize {
                    out[to + comptime!(quad * 4 + j)] = value_of(quants, j, kind) * scale + min;
                }
            }
        }
    }
}

/// The rows `ids` of w into out `[n, cols]`.
pub(super) fn rows(w: CubeTensor, ids: CubeTensor, out: CubeTensor, n: usize, cols: usize, block: BlockType) {
    let units = 64;
    let count = CubeCount::Static((n * cols.div_ceil(32)).div_ceil(units) as u32, 1, 1);
    let client = w.client.clone();
    // SAFETY: ids are rows of w (the caller has checked them), and positions beyond the result are skipped.
    unsafe {
        rows_kernel::launch_unchecked(
            &client,
            count,
            CubeDim::new_1d(units as u32),
            w.into_buffer_arg(),
            ids.into_buffer_arg(),
            out.into_buffer_arg(),
            n as u32,
            cols as u32,
            block.ggml_id(),
            block_words(block),
            (block.block_elems() / 32).max(1),
        );
    }
}
