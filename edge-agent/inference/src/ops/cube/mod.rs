//! The operations on a GPU, for burn's `CubeBackend`: kernels in CubeCL, which become SPIR-V, MSL or WGSL.
//!
//! Sizes that differ from call to call (rows, lengths) are run-time arguments, so that a kernel is compiled once for a
//! block type and not once for a shape.

mod attention;
mod linear;
mod pointwise;

use burn::{
    backend::tensor::{FloatTensor, IntTensor},
    tensor::{DType, Shape},
};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use nearfield_shared::gguf::BlockType;

use super::QOps;

/// Greatest number of cubes along one axis that every GPU takes (WebGPU's limit is 65,535).
const AXIS_MAX: usize = 32_768;

fn f32_like(x: &CubeTensor, shape: [usize; 2]) -> CubeTensor {
    let buffer = x.client.empty(shape[0] * shape[1] * size_of::<f32>());
    CubeTensor::new_contiguous(x.client.clone(), x.device.clone(), Shape::from(shape), buffer, DType::F32)
}

fn block(kind: u32) -> BlockType {
    BlockType::from_ggml_id(kind).expect("the wrappers in ops pass the number of a block type")
}

impl QOps for CubeBackend {
    fn q_linear(x: FloatTensor<Self>, w: IntTensor<Self>, rows: usize, kind: u32, _: u32) -> FloatTensor<Self> {
        let x = into_contiguous(x);
        let (t, cols) = (x.meta.shape()[0], x.meta.shape()[1]);
        let out = f32_like(&x, [t, rows]);
        linear::multiply(x, w, out.clone(), t, rows, cols, block(kind));
        out
    }

    fn q_rows(
        w: IntTensor<Self>,
        ids: IntTensor<Self>,
        like: FloatTensor<Self>,
        cols: usize,
        kind: u32,
    ) -> FloatTensor<Self> {
        let ids = into_contiguous(ids);
        let n = ids.meta.shape()[0];
        let out = f32_like(&like, [n, cols]);
        linear::rows(w, ids, out.clone(), n, cols, block(kind));
        out
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
        assert_eq!(k.dtype, q.dtype, "attend: halves are for the CPU");
        let (q, k, v) = (into_contiguous(q), into_contiguous(k), into_contiguous(v));
        let shape = [q.meta.shape()[0], q.meta.shape()[1]];
        let out = f32_like(&q, shape);
        attention::attend(q, k, v, out.clone(), shape, heads, visible, causal, scale);
        out
    }

    fn attend_within(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bounds: IntTensor<Self>,
        heads: usize,
        scale: f32,
    ) -> FloatTensor<Self> {
        let (q, k, v) = (into_contiguous(q), into_contiguous(k), into_contiguous(v));
        let shape = [q.meta.shape()[0], q.meta.shape()[1]];
        let out = f32_like(&q, shape);
        attention::attend_within(q, k, v, into_contiguous(bounds), out.clone(), shape, heads, scale);
        out
    }

    fn rotate(
        x: FloatTensor<Self>,
        table: FloatTensor<Self>,
        positions: IntTensor<Self>,
        dim: usize,
        interleaved: bool,
    ) -> FloatTensor<Self> {
        let (x, table, positions) = (into_contiguous(x), into_contiguous(table), into_contiguous(positions));
        let shape = [x.meta.shape()[0], x.meta.shape()[1]];
        let out = f32_like(&x, shape);
        pointwise::rotate(x, table, positions, out.clone(), shape, dim, interleaved);
        out
    }

    fn norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f32,
        centred: bool,
    ) -> FloatTensor<Self> {
        let (x, weight, bias) = (into_contiguous(x), into_contiguous(weight), into_contiguous(bias));
        let shape = [x.meta.shape()[0], x.meta.shape()[1]];
        let out = f32_like(&x, shape);
        pointwise::norm(x, weight, bias, out.clone(), shape, eps, centred);
        out
    }
}
