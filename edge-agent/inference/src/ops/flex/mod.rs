//! The operations on the CPU, for burn's `Flex` backend.
//!
//! Few rows of activations (decoding) are bound by reading the weights: tiles of dot products straight from the blocks,
//! with rounded or f32 activations. Many rows (prefill, encoders) are bound by arithmetic: a panel of weight rows is
//! dequantised once into cache and multiplied as f32, so the activations are exact there whatever was asked for. Where the
//! processor has AVX-512 VNNI and the weights a type that can be interleaved ([`strips`]), one kernel of byte products does
//! both, several times as fast.

mod attention;
#[cfg(target_arch = "x86_64")]
mod attention512;
mod dense;
mod finish;
mod kept;
mod linear;
mod pointwise;
mod portable;
mod quants;
mod rounded;
mod row_tasks;
mod rows;
pub(super) mod strips;
mod taps;
pub(crate) mod team;
#[cfg(target_arch = "x86_64")]
mod vnni;
#[cfg(target_arch = "x86_64")]
mod x86;

use burn::{
    backend::{
        Flex,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, TensorData},
};
use burn_flex::FlexTensor;

use super::{Activations, QOps, blocks::layout};
use half::f16;
use kept::Kept;

pub use dense::Dense;
pub(super) use finish::Finish;
pub use linear::cpu_features;
pub(super) use linear::{multiply, takes_strips};
pub(super) use pointwise::gated;
pub(super) use row_tasks::by_rows;
pub(super) use rows::{Rows, in_rows};
pub(super) use taps::{add_taps, over_taps};

pub(super) fn tensor(values: Vec<f32>, shape: [usize; 2]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The values of a tensor that is made contiguous first.
pub(super) fn values(t: &FlexTensor) -> &[f32] {
    t.as_slice::<f32>().expect("the tensor was made contiguous and is f32: the engine computes in no other float type")
}

pub(super) fn words(t: &FlexTensor) -> &[u32] {
    t.as_slice::<u32>().expect("blocks are uploaded as contiguous u32 words")
}

/// See `ops::attend`, whatever keys and values are kept as.
fn attend_over<T: Kept>(
    q: Rows<'_>,
    k: Rows<'_, T>,
    v: Rows<'_, T>,
    heads: usize,
    visible: usize,
    causal: bool,
    scale: f32,
) -> Vec<f32> {
    let dim = q.width / heads;
    let cache = attention::Cache {
        k: k.values,
        v: v.values,
        k_pitch: k.pitch,
        v_pitch: v.pitch,
        kv_heads: k.width / dim,
        dim,
        visible,
    };
    let queries = attention::Queries { values: q.values, t: q.count, heads, pitch: q.pitch };
    attention::attend_each(&[(queries, cache)], causal, scale)
}

impl QOps for Flex {
    fn q_linear(
        x: FloatTensor<Self>,
        w: IntTensor<Self>,
        rows: usize,
        kind: u32,
        activations: u32,
    ) -> FloatTensor<Self> {
        let x = x.to_contiguous();
        let (t, cols) = (x.layout().shape()[0], x.layout().shape()[1]);
        let (activations, finish) = (Activations::from_code(activations), Finish::default());
        tensor(linear::multiply(values(&x), t, words(&w), rows, cols, layout(kind), activations, finish), [t, rows])
    }

    fn q_rows(
        w: IntTensor<Self>,
        ids: IntTensor<Self>,
        _like: FloatTensor<Self>,
        cols: usize,
        kind: u32,
    ) -> FloatTensor<Self> {
        let ids = ids.to_contiguous();
        let ids: Vec<usize> = match ids.dtype() {
            DType::U32 => words(&ids).iter().map(|&i| i as usize).collect(),
            _ => ids.into_data().iter::<i64>().map(|i| i as usize).collect(),
        };
        let (block, strips) = layout(kind);
        tensor(linear::rows(words(&w), &ids, cols, block, strips), [ids.len(), cols])
    }

    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
        visible: usize,
        causal: bool,
        scale: f32,
    ) -> FloatTensor<Self> {
        let (q, k, v) = (in_rows(q), in_rows(k), in_rows(v));
        let queries = Rows::of(&q);
        let out = match k.dtype() {
            DType::F16 => attend_over::<f16>(queries, Rows::of(&k), Rows::of(&v), heads, visible, causal, scale),
            _ => attend_over::<f32>(queries, Rows::of(&k), Rows::of(&v), heads, visible, causal, scale),
        };
        tensor(out, [queries.count, queries.width])
    }

    fn attend_within(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bounds: IntTensor<Self>,
        heads: usize,
        scale: f32,
    ) -> FloatTensor<Self> {
        let (q, k, v) = (in_rows(q), in_rows(k), in_rows(v));
        let (q, k, v): (Rows<'_>, Rows<'_>, Rows<'_>) = (Rows::of(&q), Rows::of(&k), Rows::of(&v));
        let (dim, bounds) = (q.width / heads, words(&bounds));
        let mut parts = Vec::new();
        let mut first = 0;
        while first < q.count {
            let t = bounds[2 * first + 1] as usize - first;
            let cache = attention::Cache {
                k: &k.values[first * k.pitch..],
                v: &v.values[first * v.pitch..],
                k_pitch: k.pitch,
                v_pitch: v.pitch,
                kv_heads: heads,
                dim,
                visible: t,
            };
            let queries = attention::Queries { values: &q.values[first * q.pitch..], t, heads, pitch: q.pitch };
            parts.push((queries, cache));
            first += t;
        }
        tensor(attention::attend_each(&parts, false, scale), [q.count, q.width])
    }

    fn rotate(
        x: FloatTensor<Self>,
        table: FloatTensor<Self>,
        positions: IntTensor<Self>,
        dim: usize,
        interleaved: bool,
    ) -> FloatTensor<Self> {
        let (x, table, positions) = (in_rows(x), table.to_contiguous(), positions.to_contiguous());
        let (x, dims) = (Rows::of(&x), table.layout().shape()[1]);
        let mut out = x.to_vec();
        pointwise::rotate(&mut out, x.width, values(&table), dims, words(&positions), dim, interleaved);
        tensor(out, [x.count, x.width])
    }

    fn norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f32,
        centred: bool,
    ) -> FloatTensor<Self> {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let shape = [x.layout().shape()[0], x.layout().shape()[1]];
        tensor(pointwise::norm(values(&x), shape[1], values(&weight), values(&bias), eps, centred), shape)
    }
}
