//! Our own tensor operations, as one burn backend extension with an implementation for each backend.
//!
//! burn's own quantised tensors are symmetric only, and its CPU backend dequantises the whole matrix at every call (10 to
//! 40 times slower than what stands here). So weights keep the blocks of the GGUF file ([`Blocks`]) and these operations
//! read them: [`q_linear`] multiplies, [`q_rows`] looks rows up. [`attend`] is attention over a preallocated key-value
//! cache whose filled part grows by one every step: as a plain tensor program that is a new shape every step, and a new
//! shape costs host time and, on wgpu, a new kernel. [`rotate`] and [`norm`] are one operation each instead of six or
//! more on tensors so small that the calls cost more than the arithmetic.
//!
//! The same call runs on wgpu (`cube`, CubeCL kernels) and on the CPU (`flex`, SIMD with run-time detection); the twin
//! tests hold one against the other.

mod blocks;
mod cube;
mod depthwise;
pub(crate) mod elementary;
mod finished;
mod flex;
mod gelu;
mod spans;

use burn::{
    backend::{
        Backend, Dispatch, backend_extension,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Int, Shape, Tensor, TensorData},
};

use nearfield_shared::gguf::BlockType;

pub use blocks::Blocks;
pub use depthwise::depthwise;
pub use finished::{Activation, Finish, dense_finished, gated, q_linear_finished};
pub(crate) use flex::team;
pub use flex::{Dense, cpu_features};
pub use gelu::gelu;
pub use spans::{Spans, add_taps, over_taps};

/// How precisely [`q_linear`] takes its activations on the CPU when they are few rows (many rows are always exact). On a
/// GPU they are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activations {
    /// Rounded to 8 bits with one scale for 32 of them: the fastest, relative error about 0.4 %. A decoder's close
    /// decisions feel it: of 217 greedy tokens of SmolLM2, 6 fell the other way by more than 0.1, against 1 without it.
    Int8,
    /// Rounded to 16 bits with one scale for 32 of them: relative error below 2e-5, as good as exact at two thirds of the
    /// instructions.
    #[default]
    Int16,
    /// Kept as f32.
    Exact,
}

impl Activations {
    /// All of them, coarsest first.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Int16, Self::Exact];

    fn from_code(code: u32) -> Self {
        Self::ALL[code as usize]
    }
}

/// The extension trait: what burn dispatches by device. Call the functions of the same names.
#[backend_extension(Cube, Flex, Fusion)]
pub trait QOps: Backend {
    /// See [`q_linear`]. `kind` is the ggml number of the block type, marked where the weights lie in strips (the CPU's alone),
    /// `activations` the place in [`Activations::ALL`].
    #[fusion(dtype = x, shape = Shape::from([x[0], *rows]))]
    fn q_linear(
        x: FloatTensor<Self>,
        w: IntTensor<Self>,
        rows: usize,
        kind: u32,
        activations: u32,
    ) -> FloatTensor<Self>;

    /// See [`q_rows`]. `like` only lends its type.
    #[fusion(dtype = like, shape = Shape::from([ids[0], *cols]))]
    fn q_rows(
        w: IntTensor<Self>,
        ids: IntTensor<Self>,
        like: FloatTensor<Self>,
        cols: usize,
        kind: u32,
    ) -> FloatTensor<Self>;

    /// See [`attend`].
    #[fusion(dtype = q, shape = q)]
    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
        visible: usize,
        causal: bool,
        scale: f32,
    ) -> FloatTensor<Self>;

    /// See [`attend_within`]. `bounds` are those of a [`Spans`].
    #[fusion(dtype = q, shape = q)]
    fn attend_within(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bounds: IntTensor<Self>,
        heads: usize,
        scale: f32,
    ) -> FloatTensor<Self>;

    /// See [`rotate`].
    #[fusion(dtype = x, shape = x)]
    fn rotate(
        x: FloatTensor<Self>,
        table: FloatTensor<Self>,
        positions: IntTensor<Self>,
        dim: usize,
        interleaved: bool,
    ) -> FloatTensor<Self>;

    /// See [`norm`].
    #[fusion(dtype = x, shape = x)]
    fn norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f32,
        centred: bool,
    ) -> FloatTensor<Self>;
}

/// `x · wᵀ`: x `[t, cols]`, w in blocks `[rows, cols]`, result `[t, rows]`.
pub fn q_linear(x: Tensor<2>, w: &Blocks, activations: Activations) -> Tensor<2> {
    assert_eq!(x.dims()[1], w.cols(), "q_linear: the input's width is not the weight's");
    Tensor::from_dispatch(Dispatch::q_linear(
        x.into_dispatch(),
        w.words().into_dispatch(),
        w.rows(),
        w.kind(),
        activations as u32,
    ))
}

/// The rows `ids` (each below `w.rows()`, which the caller has checked) of w as f32 `[ids, cols]`.
pub fn q_rows(w: &Blocks, ids: Tensor<1, Int>) -> Tensor<2> {
    let like = Tensor::<1>::zeros([1], &ids.device());
    Tensor::from_dispatch(Dispatch::q_rows(
        w.words().into_dispatch(),
        ids.into_dispatch(),
        like.into_dispatch(),
        w.cols(),
        w.kind(),
    ))
}

/// Attention of `t` queries over the first `visible` places of a cache.
///
/// q `[t, heads · dim]`, k and v `[places, kv_heads · dim]` (what a linear layer gives, a row for each place), result
/// `[t, heads · dim]`; heads share key-value heads in equal groups. With `causal`, the queries are the last `t` visible
/// places and each sees those up to its own. `scale` is multiplied into the scores. `dim` is at most 256. On the CPU, keys and
/// values may both be halves.
pub fn attend(
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    heads: usize,
    visible: usize,
    causal: bool,
    scale: f32,
) -> Tensor<2> {
    let [t, width] = q.dims();
    let [places, kv_width] = k.dims();
    assert_eq!(
        (v.dims(), v.dtype()),
        ([places, kv_width], k.dtype()),
        "attend: keys and values differ in shape or type"
    );
    let dim = width / heads;
    assert!(
        width.is_multiple_of(heads)
            && kv_width.is_multiple_of(dim)
            && heads.is_multiple_of(kv_width / dim)
            && dim <= 256,
        "attend: {heads} heads do not split {width} columns, or not over keys of {kv_width} columns"
    );
    assert!(
        0 < visible && visible <= places && (!causal || t <= visible),
        "attend: {visible} visible places of {places}, {t} queries"
    );
    Tensor::from_dispatch(Dispatch::attend(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        heads,
        visible,
        causal,
        scale,
    ))
}

/// Attention of every row over the rows of its own sequence: q, k and v `[t, heads · dim]`, `spans` of t rows, result
/// `[t, heads · dim]`. `scale` is multiplied into the scores. `dim` is at most 256.
pub fn attend_within(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, heads: usize, spans: &Spans, scale: f32) -> Tensor<2> {
    let [t, width] = q.dims();
    assert!(
        k.dims() == [t, width] && v.dims() == [t, width] && spans.rows() == t,
        "attend_within: queries, keys, values and spans differ in shape"
    );
    assert!(
        width.is_multiple_of(heads) && width / heads <= 256,
        "attend_within: {heads} heads do not split {width} columns"
    );
    Tensor::from_dispatch(Dispatch::attend_within(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        spans.bounds().into_dispatch(),
        heads,
        scale,
    ))
}

/// Rotary position embedding of x `[t, heads · dim]`: the first `dims` columns of every head are turned by its row's
/// position, an index into `table` `[places, dims]`, whose rows hold `dims / 2` cosines and as many sines.
/// Pairs are neighbours with `interleaved`, else column `i` and `i + dims / 2`.
pub fn rotate(x: Tensor<2>, table: Tensor<2>, positions: Tensor<1, Int>, dim: usize, interleaved: bool) -> Tensor<2> {
    let dims = table.dims()[1];
    assert!(
        dims.is_multiple_of(2) && dims <= dim && x.dims()[1].is_multiple_of(dim),
        "rotate: {dims} columns of heads of {dim}"
    );
    assert_eq!(positions.dims()[0], x.dims()[0], "rotate: a position for each row");
    Tensor::from_dispatch(Dispatch::rotate(
        x.into_dispatch(),
        table.into_dispatch(),
        positions.into_dispatch(),
        dim,
        interleaved,
    ))
}

/// Rows of x `[t, n]` brought to unit variance (`centred`: about their mean, a layer norm; else about zero, an RMS norm),
/// times weight `[n]` plus bias `[n]`.
pub fn norm(x: Tensor<2>, weight: Tensor<1>, bias: Tensor<1>, eps: f32, centred: bool) -> Tensor<2> {
    let n = x.dims()[1];
    assert!(weight.dims() == [n] && bias.dims() == [n], "norm: weight and bias have one value for each of {n} columns");
    Tensor::from_dispatch(Dispatch::norm(x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch(), eps, centred))
}

/// Whether the CPU's products with blocks of 8 bits round the activations of few rows and of many alike, so that a row is bit for bit
/// the same alone and among others.
pub(crate) fn rounds_alike() -> bool {
    flex::takes_strips(BlockType::Q8_0)
}

/// Token ids or positions on a device.
pub fn ids(values: &[u32], device: &crate::Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (device, DType::U32))
}
