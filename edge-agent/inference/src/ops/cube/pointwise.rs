//! Rotary embedding and norms on a GPU.

// CubeCL's `comptime` arguments and its casts read as needless to clippy, which sees only the unexpanded function.
#![allow(clippy::too_many_arguments, clippy::useless_conversion)]

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Units of a cube in both kernels.
const UNITS: usize = 64;

/// One unit turns one pair, or copies two columns that are not turned.
#[cube(launch_unchecked)]
fn rotate_kernel(
    x: &[f32],
    table: &[f32],
    positions: &[u32],
    out: &mut [f32],
    pairs: u32,
    heads: u32,
    dim: u32,
    dims: u32,
    #[comptime] interleaved: bool,
) {
    let (pairs, heads, dim, dims) = (pairs as usize, heads as usize, dim as usize, dims as usize);
    let at = ABSOLUTE_POS;
    if at < pairs {
        let per_head = dim.div_ceil(2);
        let head = at / per_head;
        let i = at % per_head;
        let base = head * dim;
        let half = dims / 2;
        if i < half {
            let row = positions[head / heads] as usize * dims;
            let (cos, sin) = (table[row + i], table[row + half + i]);
            let mut a = base + i;
            let mut b = base + i + half;
            if comptime!(interleaved) {
                a = base + i * 2;
                b = a + 1;
            }
            let (p, q) = (x[a], x[b]);
            out[a] = p * cos - q * sin;
            out[b] = q * cos + p * sin;
        } else {
            let a = base + i * 2;
            out[a] = x[a];
            if i * 2 + 1 < dim {
                out[a + 1] = x[a + 1];
            }
        }
    }
}

/// See `ops::rotate`. `shape` is `[t, heads · dim]`.
pub(super) fn rotate(
    x: CubeTensor,
    table: CubeTensor,
    positions: CubeTensor,
    out: CubeTensor,
    shape: [usize; 2],
    dim: usize,
    interleaved: bool,
) {
    let heads = shape[1] / dim;
    let pairs = shape[0] * heads * dim.div_ceil(2);
    let dims = table.meta.shape()[1];
    let client = x.client.clone();
    // SAFETY: positions are rows of the table (the caller has checked them), units beyond the last pair do nothing.
    unsafe {
        rotate_kernel::launch_unchecked(
            &client,
            CubeCount::Static(pairs.div_ceil(UNITS) as u32, 1, 1),
            CubeDim::new_1d(UNITS as u32),
            x.into_buffer_arg(),
            table.into_buffer_arg(),
            positions.into_buffer_arg(),
            out.into_buffer_arg(),
            pairs as u32,
            heads as u32,
            dim as u32,
            dims as u32,
            interleaved,
        );
    }
}

/// The sum over a cube of each unit's value; `scratch` holds one place for each unit.
#[cube]
fn cube_sum(scratch: &mut Shared<[f32]>, value: f32, #[comptime] units: usize) -> f32 {
    // What an earlier sum left must have been read by all before it is overwritten.
    sync_cube();
    scratch[UNIT_POS as usize] = value;
    sync_cube();
    let mut total = 0.0f32;
    for u in 0..units {
        total += scratch[u];
    }
    total
}

/// One cube norms one row.
#[cube(launch_unchecked)]
fn norm_kernel(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    out: &mut [f32],
    n: u32,
    eps: f32,
    #[comptime] centred: bool,
    #[comptime] units: usize,
) {
    let n = n as usize;
    let base = CUBE_POS_X as usize * n;
    let unit = UNIT_POS as usize;
    let mut scratch = Shared::<[f32]>::new_slice(units);
    let count = f32::cast_from(n as u32);
    let mut mean = 0.0f32;
    if comptime!(centred) {
        let mut part = 0.0f32;
        for i in range_stepped(unit, n, units) {
            part += x[base + i];
        }
        mean = cube_sum(&mut scratch, part, units) / count;
    }
    let mut part = 0.0f32;
    for i in range_stepped(unit, n, units) {
        let d = x[base + i] - mean;
        part += d * d;
    }
    let inverse = 1.0 / (cube_sum(&mut scratch, part, units) / count + eps).sqrt();
    for i in range_stepped(unit, n, units) {
        out[base + i] = (x[base + i] - mean) * inverse * weight[i] + bias[i];
    }
}

/// See `ops::norm`. `shape` is `[t, n]`.
pub(super) fn norm(
    x: CubeTensor,
    weight: CubeTensor,
    bias: CubeTensor,
    out: CubeTensor,
    shape: [usize; 2],
    eps: f32,
    centred: bool,
) {
    let client = x.client.clone();
    // SAFETY: a cube for each row; weight and bias have a value for each column (the wrapper has checked).
    unsafe {
        norm_kernel::launch_unchecked(
            &client,
            CubeCount::Static(shape[0] as u32, 1, 1),
            CubeDim::new_1d(UNITS as u32),
            x.into_buffer_arg(),
            weight.into_buffer_arg(),
            bias.into_buffer_arg(),
            out.into_buffer_arg(),
            shape[1] as u32,
            eps,
            centred,
            UNITS,
        );
    }
}
