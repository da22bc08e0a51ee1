//! The operations on the CPU, for burn's `Flex` backend.
//!
//! Few rows of activations (decoding) are bound by reading the weights: tiles of dot products straight from the blocks,
//! with rounded or f32 activations. Many rows (prefill, encoders) are bound by arithmetic: a panel of weight rows is
//! dequantised once into cache and multiplied as f32, so the activations are exact there whatever was asked for.

mod attention;
mod linear;
mod pointwise;
mod portable;
mod quants;
mod rounded;
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
use nearfield_shared::gguf::BlockType;

use super::{Activations, QOps, blocks::row_words};

pub use linear::cpu_features;

/// A block type from the number that crossed the dispatch boundary.
fn block(kind: u32) -> BlockType {
    BlockType::from_ggml_id(kind).expect("the wrappers in ops pass the number of a block type")
}

fn tensor(values: Vec<f32>, shape: [usize; 2]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The values of a tensor that is made contiguous first.
fn values(t: &FlexTensor) -> &[f32] {
    t.as_slice::<f32>().expect("the tensor was made contiguous and is f32: the engine computes in no other float type")
}

fn words(t: &FlexTensor) -> &[u32] {
    t.as_slice::<u32>().expect("blocks are uploaded as contiguous u32 words")
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
        let block = block(kind);
        let activations = Activations::from_code(activations);
        debug_assert_eq!(words(&w).len(), rows * row_words(block, cols));
        tensor(linear::multiply(values(&x), t, words(&w), rows, cols, block, activations), [t, rows])
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
        tensor(linear::rows(words(&w), &ids, cols, block(kind)), [ids.len(), cols])
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
        let (q, k, v) = (q.to_contiguous(), k.to_contiguous(), v.to_contiguous());
        let shape = [q.layout().shape()[0], q.layout().shape()[1]];
        let dim = shape[1] / heads;
        let kv_heads = k.layout().shape()[1] / dim;
        let cache = attention::Cache { k: values(&k), v: values(&v), kv_heads, dim, visible };
        tensor(attention::attend(values(&q), shape[0], &cache, causal, scale), shape)
    }

    fn rotate(
        x: FloatTensor<Self>,
        table: FloatTensor<Self>,
        positions: IntTensor<Self>,
        dim: usize,
        interleaved: bool,
    ) -> FloatTensor<Self> {
        let (x, table, positions) = (x.to_contiguous(), table.to_contiguous(), positions.to_contiguous());
        let (shape, dims) = ([x.layout().shape()[0], x.layout().shape()[1]], table.layout().shape()[1]);
        let mut out = values(&x).to_vec();
        pointwise::rotate(&mut out, shape[1], values(&table), dims, words(&positions), dim, interleaved);
        tensor(out, shape)
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
