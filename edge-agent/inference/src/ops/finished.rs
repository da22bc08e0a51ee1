//! A linear layer with what follows it, as one operation on the CPU.
//!
//! Between two products of a network stand a bias, an activation, a residual. On a GPU burn fuses them; on the CPU each would be a
//! tensor of its own, written to memory and read again, which for small networks takes as long as the products. So there they
//! are done while a product's values still stand in registers.

use burn::{
    backend::{BackendTensor, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind},
    tensor::{Tensor, activation::silu},
};
use burn_flex::FlexTensor;

use super::{
    Activations, Blocks,
    blocks::layout,
    flex::{self, Dense, Rows, in_rows},
    gelu, q_linear,
};

/// What a product goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// It stays as it is.
    #[default]
    Identity,
    /// [`gelu`].
    Gelu,
    /// Hyperbolic tangent.
    Tanh,
}

/// What follows a product: `residual + gamma · activation(product + bias)`, of which each may be missing.
#[derive(Debug, Clone, Default)]
pub struct Finish {
    /// `[1, out]`.
    pub bias: Option<Tensor<2>>,
    /// What the sum of product and bias goes through.
    pub activation: Activation,
    /// `[1, out]`.
    pub gamma: Option<Tensor<2>>,
    /// `[t, out]`.
    pub residual: Option<Tensor<2>>,
}

impl Finish {
    /// One operation after the other.
    pub fn apply(self, y: Tensor<2>) -> Tensor<2> {
        let y = match self.bias {
            Some(bias) => y + bias,
            None => y,
        };
        let y = match self.activation {
            Activation::Identity => y,
            Activation::Gelu => gelu(y),
            Activation::Tanh => y.tanh(),
        };
        let y = match self.gamma {
            Some(gamma) => y * gamma,
            None => y,
        };
        match self.residual {
            Some(residual) => residual + y,
            None => y,
        }
    }
}

/// [`q_linear`] and what follows it.
pub fn q_linear_finished(x: Tensor<2>, w: &Blocks, activations: Activations, finish: Finish) -> Tensor<2> {
    assert_eq!(x.dims()[1], w.cols(), "q_linear: the input's width is not the weight's");
    let Some(values) = on_cpu(x.clone()) else {
        return finish.apply(q_linear(x, w, activations));
    };
    let x = values.to_contiguous();
    let [t, cols] = [x.layout().shape()[0], x.layout().shape()[1]];
    let (words, rows, finish) = (blocks_on_cpu(w), w.rows(), OnCpu::new(finish));
    let (x, w, kind) = (flex::values(&x), flex::words(&words), layout(w.kind()));
    from_cpu(flex::tensor(flex::multiply(x, t, w, rows, cols, kind, activations, finish.parts()), [t, rows]))
}

/// The product with f32 weights in host memory, and what follows it. Only for tensors of the CPU; rows of x may overlap.
///
/// # Panics
/// If x stands on another device.
pub fn dense_finished(x: Tensor<2>, w: &Dense, finish: Finish) -> Tensor<2> {
    assert_eq!(x.dims()[1], w.cols(), "a dense product: the input's width is not the weight's");
    let x = in_rows(on_cpu(x).expect("weights in host memory are loaded for the CPU alone"));
    let (x, finish) = (Rows::of(&x), OnCpu::new(finish));
    from_cpu(flex::tensor(w.finished(x, finish.parts()), [x.count, w.rows()]))
}

/// A [`Finish`] whose tensors stand on the CPU.
struct OnCpu {
    bias: Option<FlexTensor>,
    activation: Activation,
    gamma: Option<FlexTensor>,
    residual: Option<FlexTensor>,
}

impl OnCpu {
    fn new(finish: Finish) -> Self {
        let part = |t: Option<Tensor<2>>| t.and_then(on_cpu).map(|t| t.to_contiguous());
        Self {
            bias: part(finish.bias),
            activation: finish.activation,
            gamma: part(finish.gamma),
            residual: part(finish.residual),
        }
    }

    fn parts(&self) -> flex::Finish<'_> {
        flex::Finish {
            bias: self.bias.as_ref().map(flex::values),
            activation: self.activation,
            gamma: self.gamma.as_ref().map(flex::values),
            residual: self.residual.as_ref().map(flex::values),
        }
    }
}

/// `silu(gate) · up` of rows `[t, 2 · n]` that hold both side by side, the gate first or last: `[t, n]`.
pub fn gated(x: Tensor<2>, gate_first: bool) -> Tensor<2> {
    let [t, both] = x.dims();
    let n = both / 2;
    let Some(values) = on_cpu(x.clone()) else {
        let [first, last] = [0, n].map(|at| x.clone().narrow(1, at, n));
        let (gate, up) = if gate_first { (first, last) } else { (last, first) };
        return silu(gate) * up;
    };
    let values = in_rows(values);
    from_cpu(flex::tensor(flex::gated(Rows::of(&values), gate_first), [t, n]))
}

/// The tensor as the CPU's backend has it, if it stands there.
pub(super) fn on_cpu(t: Tensor<2>) -> Option<FlexTensor> {
    match t.into_dispatch().kind {
        DispatchTensorKind::Flex(t) => Some(t.float()),
        _ => None,
    }
}

fn blocks_on_cpu(w: &Blocks) -> FlexTensor {
    match w.words().into_dispatch().kind {
        DispatchTensorKind::Flex(t) => t.int(),
        _ => unreachable!("weights stand on the device of the activations"),
    }
}

pub(super) fn from_cpu(t: FlexTensor) -> Tensor<2> {
    let kind = DispatchTensorKind::Flex(BackendTensor::Float(t));
    Tensor::from_dispatch(DispatchTensor { kind, autodiff: DispatchAutodiffContext::Disabled })
}
