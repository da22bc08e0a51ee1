//! Convolution over time.

use burn::tensor::{Tensor, TensorData, module, ops::ConvOptions, s};
use nearfield_shared::gguf::{BlockType, Gguf};

use super::{LoadError, Resident, optional_vector};
use crate::{
    Device,
    ops::{self, Activations, Blocks},
};

/// One-dimensional convolution.
///
/// F16 weights of an ungrouped convolution stay in halves: the input is laid out as the rows of a matrix (one for each
/// output place) and multiplied by [`ops::q_linear`]. All others are kept as f32 and go through burn's convolution, which
/// has fast paths for depthwise and pointwise ones.
#[derive(Debug, Clone)]
pub struct Conv1d {
    weight: Weight,
    bias: Option<Tensor<1>>,
    kernel: usize,
    stride: usize,
    dilation: usize,
    padding: usize,
    groups: usize,
}

#[derive(Debug, Clone)]
enum Weight {
    /// `[out, in / groups, kernel]`.
    Dense(Tensor<3>),
    /// `[out, in · kernel]`.
    Blocks(Blocks),
}

impl Conv1d {
    /// Loads `PREFIX.weight` `[out, in / groups, kernel]` and, where there is one, `PREFIX.bias` `[out]`. `padding` zeros
    /// are put before and after.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(
        gguf: &Gguf,
        prefix: &str,
        stride: usize,
        dilation: usize,
        padding: usize,
        groups: usize,
        device: &Device,
    ) -> Result<Self, LoadError> {
        let view = gguf.tensor(&format!("{prefix}.weight"))?;
        let &[out, _, kernel] = view.shape.as_slice() else {
            return Err(LoadError::shape(&view, "[out, in / groups, kernel]"));
        };
        if groups == 0 || stride == 0 || dilation == 0 || out % groups != 0 {
            return Err(LoadError::Config(format!(
                "convolution {prefix:?}: stride {stride}, dilation {dilation}, {groups} groups of {out} outputs"
            )));
        }
        let weight = match view.block {
            BlockType::F16 if groups == 1 => Weight::Blocks(Blocks::from_view(&view, device)),
            BlockType::I8 => {
                return Err(LoadError::Block { name: view.name.to_owned(), expected: "weights", found: view.block });
            }
            _ => Weight::Dense(Tensor::from_data(TensorData::new(view.to_f32(), view.shape.clone()), device)),
        };
        let bias = optional_vector(gguf, &format!("{prefix}.bias"), out, device)?;
        Ok(Self { weight, bias, kernel, stride, dilation, padding, groups })
    }

    /// `[batch, in, t]` to `[batch, out, t']` with `t' = (t + 2 · padding - dilation · (kernel - 1) - 1) / stride + 1`.
    ///
    /// # Panics
    /// If the padded input is shorter than the kernel.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, channels, t] = x.dims();
        let reach = self.dilation * (self.kernel - 1) + 1;
        assert!(
            t + 2 * self.padding >= reach,
            "conv1d: {t} frames are shorter than a kernel that reaches over {reach}"
        );
        match &self.weight {
            Weight::Dense(w) => {
                let options = ConvOptions::new([self.stride], [self.padding], [self.dilation], self.groups);
                module::conv1d(x, w.clone(), self.bias.clone(), options)
            }
            Weight::Blocks(w) => {
                let places = (t + 2 * self.padding - reach) / self.stride + 1;
                let x = if self.padding > 0 { x.pad([(self.padding, self.padding)], 0.0) } else { x };
                // [batch, channels, places] for each of the kernel's taps, side by side as a row of the matrix.
                let taps = (0..self.kernel).map(|k| {
                    let from = k * self.dilation;
                    let to = from + (places - 1) * self.stride + 1;
                    x.clone().slice(s![.., .., from..to;self.stride as isize])
                });
                let rows = Tensor::stack::<4>(taps.collect(), 3)
                    .permute([0, 2, 1, 3])
                    .reshape([batch * places, channels * self.kernel]);
                let y = ops::q_linear(rows, w, Activations::Exact);
                let y = match &self.bias {
                    Some(b) => y + b.clone().unsqueeze::<2>(),
                    None => y,
                };
                y.reshape([batch, places, w.rows()]).swap_dims(1, 2)
            }
        }
    }
}

impl Resident for Conv1d {
    fn resident_bytes(&self) -> usize {
        let weight = match &self.weight {
            Weight::Dense(w) => w.resident_bytes(),
            Weight::Blocks(b) => b.resident_bytes(),
        };
        weight + self.bias.resident_bytes()
    }
}
