//! Attention over a cache on a GPU: one cube for each head and query. Its units walk the visible places in turn, each
//! with a softmax of its own that is corrected as greater scores appear, and are joined in shared memory at the end.

// CubeCL's `comptime` arguments and its casts read as needless to clippy, which sees only the unexpanded function.
#![allow(clippy::too_many_arguments, clippy::useless_conversion)]

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Below any score that a network produces, and finite: an infinity minus itself is no number.
const LEAST: f32 = -1.0e30;

/// What the query at `q_at` makes of the places `first..end`; written where the query stands.
#[cube]
fn mix(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    q_at: usize,
    kv_at: usize,
    pitch: usize,
    first: usize,
    end: usize,
    scale: f32,
    #[comptime] dim: usize,
    #[comptime] units: usize,
) {
    let unit = UNIT_POS as usize;
    let mut peak = LEAST.runtime();
    let mut total = 0.0f32;
    let mut acc = Array::<f32>::new(dim);
    for d in 0..dim {
        acc[d] = 0.0;
    }
    for place in range_stepped(first + unit, end, units) {
        let at = kv_at + place * pitch;
        let mut score = 0.0f32;
        for d in 0..dim {
            score += q[q_at + d] * k[at + d];
        }
        score *= scale;
        let now = max(peak, score);
        let keep = (peak - now).exp();
        let share = (score - now).exp();
        total = total * keep + share;
        for d in 0..dim {
            acc[d] = acc[d] * keep + share * v[at + d];
        }
        peak = now;
    }

    let mut peaks = Shared::<[f32]>::new_slice(units);
    let mut totals = Shared::<[f32]>::new_slice(units);
    let mut parts = Shared::<[f32]>::new_slice(comptime!(units * dim));
    peaks[unit] = peak;
    totals[unit] = total;
    for d in 0..dim {
        parts[unit * dim + d] = acc[d];
    }
    sync_cube();
    let mut top = LEAST.runtime();
    for u in 0..units {
        top = max(top, peaks[u]);
    }
    let mut sum = 0.0f32;
    for u in 0..units {
        sum += totals[u] * (peaks[u] - top).exp();
    }
    for d in range_stepped(unit, dim, units) {
        let mut value = 0.0f32;
        for u in 0..units {
            value += parts[u * dim + d] * (peaks[u] - top).exp();
        }
        out[q_at + d] = value / sum;
    }
}

#[cube(launch_unchecked)]
fn attend_kernel(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    t: u32,
    heads: u32,
    kv_heads: u32,
    visible: u32,
    causal: u32,
    scale: f32,
    #[comptime] dim: usize,
    #[comptime] units: usize,
) {
    let (t, heads, kv_heads) = (t as usize, heads as usize, kv_heads as usize);
    let visible = visible as usize;
    let h = CUBE_POS_X as usize;
    let i = CUBE_POS_Y as usize;
    let kv_at = h * kv_heads / heads * dim;
    let seen = select(causal == 1, visible - t + i + 1, visible);
    mix(q, k, v, out, (i * heads + h) * dim, kv_at, kv_heads * dim, 0, seen, scale, dim, units);
}

#[cube(launch_unchecked)]
fn attend_within_kernel(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    bounds: &[u32],
    out: &mut [f32],
    heads: u32,
    scale: f32,
    #[comptime] dim: usize,
    #[comptime] units: usize,
) {
    let heads = heads as usize;
    let h = CUBE_POS_X as usize;
    let i = CUBE_POS_Y as usize;
    let (first, end) = (bounds[2 * i] as usize, bounds[2 * i + 1] as usize);
    mix(q, k, v, out, (i * heads + h) * dim, h * dim, heads * dim, first, end, scale, dim, units);
}

/// Units of a cube. Each one's part of the result stands in shared memory, of which 16 KB are certain.
fn units(dim: usize) -> usize {
    if dim <= 64 { 32 } else { 8 }
}

/// See `ops::attend`. `shape` is the queries' `[t, heads · dim]`.
pub(super) fn attend(
    q: CubeTensor,
    k: CubeTensor,
    v: CubeTensor,
    out: CubeTensor,
    shape: [usize; 2],
    heads: usize,
    visible: usize,
    causal: bool,
    scale: f32,
) {
    let dim = shape[1] / heads;
    let kv_heads = k.meta.shape()[1] / dim;
    let units = units(dim);
    let client = q.client.clone();
    // SAFETY: heads and queries are the grid, and visible places are within the cache (the wrapper has checked).
    unsafe {
        attend_kernel::launch_unchecked(
            &client,
            CubeCount::Static(heads as u32, shape[0] as u32, 1),
            CubeDim::new_1d(units as u32),
            q.into_buffer_arg(),
            k.into_buffer_arg(),
            v.into_buffer_arg(),
            out.into_buffer_arg(),
            shape[0] as u32,
            heads as u32,
            kv_heads as u32,
            visible as u32,
            u32::from(causal),
            scale,
            dim,
            units,
        );
    }
}

/// See `ops::attend_within`. `shape` is that of all operands, `[t, heads · dim]`.
pub(super) fn attend_within(
    q: CubeTensor,
    k: CubeTensor,
    v: CubeTensor,
    bounds: CubeTensor,
    out: CubeTensor,
    shape: [usize; 2],
    heads: usize,
    scale: f32,
) {
    let dim = shape[1] / heads;
    let units = units(dim);
    let client = q.client.clone();
    // SAFETY: heads and queries are the grid, and the bounds of every row are rows (`ops::Spans` makes them).
    unsafe {
        attend_within_kernel::launch_unchecked(
            &client,
            CubeCount::Static(heads as u32, shape[0] as u32, 1),
            CubeDim::new_1d(units as u32),
            q.into_buffer_arg(),
            k.into_buffer_arg(),
            v.into_buffer_arg(),
            bounds.into_buffer_arg(),
            out.into_buffer_arg(),
            heads as u32,
            scale,
            dim,
            units,
        );
    }
}
