//! Linear layers.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use nearfield_shared::gguf::{BlockType, Gguf, TensorView};

use super::{LoadError, Resident, is_cpu, optional_vector};
use crate::{
    Device,
    ops::{self, Activation, Activations, Blocks, Dense, Finish},
};

/// `x · weightᵀ + bias`. Weights of any block type; all but F32 stay in their blocks.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    /// `[1, out]`.
    bias: Option<Tensor<2>>,
    activations: Activations,
}

#[derive(Debug, Clone)]
pub(super) enum Weight {
    /// `[in, out]`: a transposed view of the file's `[out, in]`.
    Dense(Tensor<2>),
    Blocks(Blocks),
    /// F32 weights of a layer on the CPU.
    Host(Arc<Dense>),
}

impl Linear {
    /// Loads `PREFIX.weight` `[out, in]` and, where there is one, `PREFIX.bias` `[out]`.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(gguf: &Gguf, prefix: &str, device: &Device) -> Result<Self, LoadError> {
        Self::load_stacked(gguf, &[prefix], device)
    }

    /// Several layers over the same input as one: their outputs side by side, in the order given. One product of three
    /// is less work to start than three (query, key and value; gate and up).
    ///
    /// # Errors
    /// [`LoadError`]; the layers must agree in width and in block type, and all or none have a bias.
    pub fn load_stacked(gguf: &Gguf, prefixes: &[&str], device: &Device) -> Result<Self, LoadError> {
        let views =
            prefixes.iter().map(|p| Ok(gguf.tensor(&format!("{p}.weight"))?)).collect::<Result<Vec<_>, LoadError>>()?;
        let first = &views[0];
        for v in &views {
            let &[_, width] = v.shape.as_slice() else {
                return Err(LoadError::shape(v, "[out, in]"));
            };
            if width != first.shape[1] {
                return Err(LoadError::shape(v, format!("[out, {}] as its neighbours", first.shape[1])));
            }
            if v.block == BlockType::I8 {
                return Err(LoadError::Block { name: v.name.to_owned(), expected: "weights", found: v.block });
            }
        }
        let weight = if first.block != BlockType::F32 && views.iter().all(|v| v.block == first.block) {
            Weight::Blocks(Blocks::stacked(&views, device).expect("width and type were compared above"))
        } else if views.iter().all(|v| v.block == BlockType::F32) {
            if is_cpu(device) { Weight::host(&views) } else { Weight::dense(&views, device) }
        } else {
            // Stacking needs one type; a file that mixes them (K-quants do) loads the layers one by one.
            let odd = views.iter().find(|v| v.block != first.block).unwrap_or(first);
            let expected = "the same block type as its neighbours";
            return Err(LoadError::Block { name: odd.name.to_owned(), expected, found: odd.block });
        };
        let biases = prefixes
            .iter()
            .zip(&views)
            .map(|(p, v)| optional_vector(gguf, &format!("{p}.bias"), v.shape[0], device))
            .collect::<Result<Vec<_>, _>>()?;
        let bias = match biases.into_iter().collect::<Option<Vec<_>>>() {
            Some(all) => Some(Tensor::cat(all, 0).unsqueeze::<2>()),
            None if prefixes.iter().any(|p| gguf.has_tensor(&format!("{p}.bias"))) => {
                return Err(LoadError::Config(format!("of {prefixes:?} only some have a bias")));
            }
            None => None,
        };
        Ok(Self { weight, bias, activations: Activations::default() })
    }

    /// A layer without bias from f32 weights `[outputs, inputs]` that were rearranged after the file was read.
    pub fn from_values(values: Vec<f32>, [outputs, inputs]: [usize; 2], device: &Device) -> Self {
        Self::from_weight(if is_cpu(device) {
            Weight::Host(Arc::new(Dense::new(&values, outputs, inputs)))
        } else {
            Weight::Dense(Tensor::<2>::from_data(TensorData::new(values, [outputs, inputs]), device).transpose())
        })
    }

    /// A layer from blocks that are on the device already (a tied head).
    pub fn from_blocks(blocks: Blocks) -> Self {
        Self { weight: Weight::Blocks(blocks), bias: None, activations: Activations::default() }
    }

    pub(super) fn from_weight(weight: Weight) -> Self {
        Self { weight, bias: None, activations: Activations::default() }
    }

    /// Chooses how the CPU takes the activations of few rows (see [`Activations`]); F32 weights always take them exactly.
    #[must_use]
    pub fn with_activations(mut self, activations: Activations) -> Self {
        self.activations = activations;
        self
    }

    /// `[t, in]` to `[t, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.finished(x, Finish::default())
    }

    /// [`forward`](Self::forward), then [`gelu`](super::gelu).
    pub fn forward_gelu(&self, x: Tensor<2>) -> Tensor<2> {
        self.finished(x, Finish { activation: Activation::Gelu, ..Finish::default() })
    }

    /// [`forward`](Self::forward), then the hyperbolic tangent.
    pub fn forward_tanh(&self, x: Tensor<2>) -> Tensor<2> {
        self.finished(x, Finish { activation: Activation::Tanh, ..Finish::default() })
    }

    /// [`forward`](Self::forward), added to `residual` `[t, out]`.
    pub fn forward_add(&self, x: Tensor<2>, residual: Tensor<2>) -> Tensor<2> {
        self.finished(x, Finish { residual: Some(residual), ..Finish::default() })
    }

    /// [`forward`](Self::forward), each output times its `gamma` `[1, out]`, added to `residual` `[t, out]`.
    pub fn forward_scaled_add(&self, x: Tensor<2>, gamma: Tensor<2>, residual: Tensor<2>) -> Tensor<2> {
        self.finished(x, Finish { gamma: Some(gamma), residual: Some(residual), ..Finish::default() })
    }

    fn finished(&self, x: Tensor<2>, finish: Finish) -> Tensor<2> {
        let finish = Finish { bias: self.bias.clone(), ..finish };
        match &self.weight {
            Weight::Dense(w) => finish.apply(x.matmul(w.clone())),
            Weight::Blocks(w) => ops::q_linear_finished(x, w, self.activations, finish),
            Weight::Host(w) => ops::dense_finished(x, w, finish),
        }
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        match &self.weight {
            Weight::Dense(w) => w.dims()[1],
            Weight::Blocks(b) => b.rows(),
            Weight::Host(w) => w.rows(),
        }
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        match &self.weight {
            Weight::Dense(w) => w.dims()[0],
            Weight::Blocks(b) => b.cols(),
            Weight::Host(w) => w.cols(),
        }
    }
}

impl Weight {
    /// F32 matrices below one another.
    pub(super) fn dense(views: &[TensorView<'_>], device: &Device) -> Self {
        let cols = views[0].elems() / views[0].shape[0];
        let rows = views.iter().map(|v| v.shape[0]).sum::<usize>();
        let values: Vec<f32> = views.iter().flat_map(TensorView::to_f32).collect();
        Self::Dense(Tensor::<2>::from_data(TensorData::new(values, [rows, cols]), device).transpose())
    }
}

impl Weight {
    /// F32 matrices below one another, in host memory.
    fn host(views: &[TensorView<'_>]) -> Self {
        let cols = views[0].elems() / views[0].shape[0];
        let rows = views.iter().map(|v| v.shape[0]).sum::<usize>();
        let values: Vec<f32> = views.iter().flat_map(TensorView::to_f32).collect();
        Self::Host(Arc::new(Dense::new(&values, rows, cols)))
    }
}

impl Resident for Weight {
    fn resident_bytes(&self) -> usize {
        match self {
            Self::Dense(w) => w.resident_bytes(),
            Self::Blocks(b) => b.resident_bytes(),
            Self::Host(w) => w.resident_bytes(),
        }
    }
}

impl Resident for Linear {
    fn resident_bytes(&self) -> usize {
        self.weight.resident_bytes() + self.bias.resident_bytes()
    }
}
