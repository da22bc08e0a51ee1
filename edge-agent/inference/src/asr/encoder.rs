//! From samples to frames: three convolutions, then transformer layers that see the whole utterance.

use super::{Config, SAMPLES_MIN};
use crate::Device;
use crate::nn::{LayerNorm, Linear, LoadError, Resident, Rope, tensor_f32};
use crate::ops;
use burn::tensor::{Int, Tensor, TensorData, s};
use nearfield_shared::gguf::Gguf;

/// Samples between two outputs of the first convolution.
const STRIDE_1: usize = 64;
/// Samples that one output of the first convolution hears.
const KERNEL_1: usize = 127;
/// Taps and stride of the second convolution.
const CONV_2: (usize, usize) = (7, 3);
/// Taps and stride of the third.
const CONV_3: (usize, usize) = (3, 2);
/// Samples from one frame to the next.
pub(super) const FRAME_SAMPLES: usize = STRIDE_1 * CONV_2.1 * CONV_3.1;
/// Added to the variance in the group norm.
const GROUP_NORM_EPS: f32 = 1e-5;

/// Audio on its way through the encoder's layers.
pub struct Encoding {
    x: Tensor<2>,
    positions: Tensor<1, Int>,
    /// The layer that comes next.
    layer: usize,
    samples: usize,
}

/// What the encoder heard: one row for each 24 ms.
pub struct Encoded {
    /// `[frames, width]`.
    pub(super) hidden: Tensor<2>,
    samples: usize,
}

impl Encoded {
    /// Rows there are.
    pub fn frames(&self) -> usize {
        self.hidden.dims()[0]
    }

    /// Samples that were heard, without silence added.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// The rows, for tests against a reference: `[frames, width]`.
    pub fn hidden(&self) -> &Tensor<2> {
        &self.hidden
    }
}

/// Outputs of a convolution without padding.
fn places(length: usize, (kernel, stride): (usize, usize)) -> usize {
    (length - kernel) / stride + 1
}

/// Frames that so many samples give, at least [`SAMPLES_MIN`].
pub(super) fn frames(samples: usize) -> usize {
    places(places(places(samples, (KERNEL_1, STRIDE_1)), CONV_2), CONV_3)
}

pub(super) struct Encoder {
    conv1: Linear,
    norm_weight: Tensor<2>,
    norm_bias: Tensor<2>,
    conv2: Linear,
    conv3: Linear,
    layers: Vec<Layer>,
    norm: LayerNorm,
    heads: usize,
    scale: f32,
    device: Device,
}

struct Layer {
    attention_norm: LayerNorm,
    qkv: Linear,
    output: Linear,
    inner_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Encoder {
    pub fn load(gguf: &Gguf, config: &Config, device: &Device) -> Result<Self, LoadError> {
        let at = |name: &str| format!("model.encoder.{name}");
        let conv = |name: &str, inputs: usize, outputs: Option<usize>| {
            let linear = Linear::load(gguf, &at(name), device)?;
            if linear.inputs() != inputs || outputs.is_some_and(|outputs| outputs != linear.outputs()) {
                return Err(LoadError::Config(format!(
                    "{name} multiplies {} by {} values, expected {inputs} by {outputs:?}",
                    linear.inputs(),
                    linear.outputs()
                )));
            }
            Ok(linear)
        };
        let width = config.width;
        let conv1 = conv("conv1", 2 * STRIDE_1, Some(width))?;
        let conv2 = conv("conv2", CONV_2.0 * width, None)?;
        let conv3 = conv("conv3", CONV_3.0 * conv2.outputs(), Some(width))?;
        let row = |name: &str| -> Result<Tensor<2>, LoadError> {
            Ok(tensor_f32::<1>(gguf, &at(name), device)?.unsqueeze::<2>())
        };
        let layers = (0..config.encoder_layers)
            .map(|i| {
                let at = |name: &str| format!("model.encoder.layers.{i}.{name}");
                let qkv = ["q_proj", "k_proj", "v_proj"].map(|part| at(&format!("self_attn.{part}")));
                Ok(Layer {
                    attention_norm: LayerNorm::load(gguf, &at("input_layernorm"), config.eps, device)?,
                    qkv: Linear::load_stacked(gguf, &qkv.each_ref().map(String::as_str), device)?,
                    output: Linear::load(gguf, &at("self_attn.o_proj"), device)?,
                    inner_norm: LayerNorm::load(gguf, &at("post_attention_layernorm"), config.eps, device)?,
                    fc1: Linear::load(gguf, &at("mlp.fc1"), device)?,
                    fc2: Linear::load(gguf, &at("mlp.fc2"), device)?,
                })
            })
            .collect::<Result<Vec<_>, LoadError>>()?;
        Ok(Self {
            conv1,
            norm_weight: row("groupnorm.weight")?,
            norm_bias: row("groupnorm.bias")?,
            conv2,
            conv3,
            layers,
            norm: LayerNorm::load(gguf, &at("layer_norm"), config.eps, device)?,
            heads: config.heads,
            scale: config.scale(),
            device: device.clone(),
        })
    }

    /// Starts with at least one and at most as many samples as the rope has positions for: the convolutions.
    pub fn begin(&self, pcm: &[f32], rope: &Rope) -> Encoding {
        let x = self.front(pcm);
        let positions: Vec<u32> = (0..x.dims()[0] as u32).collect();
        Encoding { x, positions: rope.positions(&positions), layer: 0, samples: pcm.len() }
    }

    /// One layer further; what was heard, after the last one.
    pub fn advance(&self, encoding: &mut Encoding, rope: &Rope) -> Option<Encoded> {
        let x = encoding.x.clone();
        if let Some(layer) = self.layers.get(encoding.layer) {
            encoding.x = layer.forward(x, rope, &encoding.positions, self.heads, self.scale);
            encoding.layer += 1;
            return None;
        }
        Some(Encoded { hidden: self.norm.forward(x), samples: encoding.samples })
    }

    /// The convolutions. Frames stand in rows, so that a window is a run of rows, and each convolution is one product of
    /// windows and weights.
    fn front(&self, pcm: &[f32]) -> Tensor<2> {
        let length = pcm.len().max(SAMPLES_MIN);
        let first = places(length, (KERNEL_1, STRIDE_1));
        // A window of 127 samples lies within two rows of 64; the 128th weight is zero. So the last row may end in a sample
        // that does not exist.
        let mut samples = pcm.to_vec();
        samples.resize((first + 1) * STRIDE_1, 0.0);
        let rows = Tensor::<2>::from_data(TensorData::new(samples, [first + 1, STRIDE_1]), &self.device);
        let windows = Tensor::cat(vec![rows.clone().slice(s![0..first, ..]), rows.slice(s![1..=first, ..])], 1);
        let x = self.conv1.forward_tanh(windows);

        // One group: mean and variance are those of the whole utterance.
        let mean = x.clone().mean().unsqueeze::<2>();
        let x = x - mean;
        let deviation = (x.clone().powi_scalar(2).mean() + GROUP_NORM_EPS).sqrt().unsqueeze::<2>();
        let x = x / deviation * self.norm_weight.clone() + self.norm_bias.clone();

        let x = self.conv2.forward_gelu(windows_of(x, CONV_2));
        self.conv3.forward_gelu(windows_of(x, CONV_3))
    }
}

/// Every window of `kernel` rows as one row: `[t, c]` to `[places, kernel · c]`.
fn windows_of(x: Tensor<2>, (kernel, stride): (usize, usize)) -> Tensor<2> {
    let places = places(x.dims()[0], (kernel, stride));
    let taps = (0..kernel).map(|tap| {
        let end = tap + (places - 1) * stride + 1;
        x.clone().slice(s![tap..end;stride as isize, ..])
    });
    Tensor::cat(taps.collect(), 1)
}

impl Layer {
    fn forward(&self, x: Tensor<2>, rope: &Rope, positions: &Tensor<1, Int>, heads: usize, scale: f32) -> Tensor<2> {
        let [frames, width] = x.dims();
        let qkv = self.qkv.forward(self.attention_norm.forward(x.clone()));
        // Queries and keys turn in one operation: they are heads beside heads.
        let qk = qkv.clone().slice(s![.., 0..2 * width]);
        let qk = rope.forward_at(qk, width / heads, positions.clone());
        let q = qk.clone().slice(s![.., 0..width]);
        let k = qk.slice(s![.., width..2 * width]);
        let v = qkv.slice(s![.., 2 * width..3 * width]);
        let x = self.output.forward_add(ops::attend(q, k, v, heads, frames, false, scale), x);
        let inner = self.fc1.forward_gelu(self.inner_norm.forward(x.clone()));
        self.fc2.forward_add(inner, x)
    }
}

impl Resident for Encoder {
    fn resident_bytes(&self) -> usize {
        [&self.conv1, &self.conv2, &self.conv3].iter().map(|conv| conv.resident_bytes()).sum::<usize>()
            + self.norm_weight.resident_bytes()
            + self.norm_bias.resident_bytes()
            + self.layers.resident_bytes()
            + self.norm.resident_bytes()
    }
}

impl Resident for Layer {
    fn resident_bytes(&self) -> usize {
        [&self.qkv, &self.output, &self.fc1, &self.fc2].iter().map(|linear| linear.resident_bytes()).sum::<usize>()
            + self.attention_norm.resident_bytes()
            + self.inner_norm.resident_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_as_the_convolutions_do() {
        // 7.1 s are 294 frames in the reference, 1.095 s are 44.
        assert_eq!(frames(113_600), 294);
        assert_eq!(frames(17_526), 44);
        assert_eq!(frames(895), 1);
    }

    #[test]
    fn windows_are_runs_of_rows() {
        let x = Tensor::<2>::from_data([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0], [8.0, 9.0]], &Device::flex());
        let found: Vec<f32> = windows_of(x, (3, 2)).into_data().try_to_vec().unwrap();
        assert_eq!(found, [0., 1., 2., 3., 4., 5., 4., 5., 6., 7., 8., 9.]);
    }
}
