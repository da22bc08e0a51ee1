//! Norms over the last dimension.

use burn::tensor::Tensor;
use nearfield_shared::gguf::Gguf;

use super::{LoadError, Resident, optional_vector, tensor_f32};
use crate::{Device, ops};

/// Layer norm: each row about its mean, to unit variance, times weight, plus bias where there is one.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f32,
}

impl LayerNorm {
    /// Loads `PREFIX.weight` `[n]` and, where there is one, `PREFIX.bias` `[n]`.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(gguf: &Gguf, prefix: &str, eps: f32, device: &Device) -> Result<Self, LoadError> {
        let weight = tensor_f32::<1>(gguf, &format!("{prefix}.weight"), device)?;
        let n = weight.dims()[0];
        let bias = optional_vector(gguf, &format!("{prefix}.bias"), n, device)?;
        Ok(Self { weight, bias: bias.unwrap_or_else(|| Tensor::zeros([n], device)), eps })
    }

    /// `[t, n]` to `[t, n]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::norm(x, self.weight.clone(), self.bias.clone(), self.eps, true)
    }
}

impl Resident for LayerNorm {
    fn resident_bytes(&self) -> usize {
        self.weight.resident_bytes() + self.bias.resident_bytes()
    }
}

/// RMS norm: each row to a mean square of one, times weight.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor<1>,
    zero: Tensor<1>,
    eps: f32,
}

impl RmsNorm {
    /// Loads `PREFIX.weight` `[n]`.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(gguf: &Gguf, prefix: &str, eps: f32, device: &Device) -> Result<Self, LoadError> {
        let weight = tensor_f32::<1>(gguf, &format!("{prefix}.weight"), device)?;
        let zero = Tensor::zeros(weight.dims(), device);
        Ok(Self { weight, zero, eps })
    }

    /// `[t, n]` to `[t, n]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::norm(x, self.weight.clone(), self.zero.clone(), self.eps, false)
    }
}

impl Resident for RmsNorm {
    fn resident_bytes(&self) -> usize {
        self.weight.resident_bytes() + self.zero.resident_bytes()
    }
}
