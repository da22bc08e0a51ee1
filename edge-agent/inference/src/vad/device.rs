//! The network as tensor operations, a batch of calls at a time.
//!
//! The memory of the calls goes to the device and back with each step, about 1 KB each way; in return any set of calls forms a
//! batch without gathering anything on the device, and a step has exactly one upload wave and one download, which
//! it needs anyway for the probability.
//!
//! A step is few operations, because at this size each costs more in overhead than in arithmetic. Four frames enter the convolutions
//! and one leaves them, so each convolution is unrolled into one dense matrix over all its frames (see [`unrolled`]); that
//! multiplies 1.6 times as much as a sliding window would and takes a fifth of the operations. Input and hidden weights of the
//! cell stand side by side in one matrix.

use super::{BINS, CONTEXT, FRAME_SAMPLES, HIDDEN, KERNEL, STRIDE, VadState, WINDOW, WINDOWS, Weights};
use crate::{Device, nn};
use burn::tensor::{Tensor, TensorData, activation::sigmoid};

pub(super) struct DeviceNet {
    device: Device,
    /// [256, 258]: real parts, then imaginary parts.
    spectrum: Tensor<2>,
    /// Unrolled convolutions as [in frames × channels, out frames × channels].
    convolutions: Vec<(Tensor<2>, Tensor<2>)>,
    /// [256, 512] over (input, hidden); gates in the order input, output, forget, cell.
    gates: (Tensor<2>, Tensor<2>),
    /// [128, 1]
    output: (Tensor<2>, Tensor<2>),
    bytes: usize,
}

impl DeviceNet {
    pub fn new(weights: Weights, device: &Device) -> Self {
        let mut bytes = 0;
        let mut put = |values: Vec<f32>, rows: usize, columns: usize| {
            bytes += 4 * values.len();
            Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), device)
        };
        let spectrum = put(transposed(&weights.spectrum, 2 * BINS, WINDOW), WINDOW, 2 * BINS);
        let mut convolutions = Vec::new();
        let mut frames = WINDOWS;
        for c in weights.convolutions {
            let out_frames = frames.div_ceil(c.stride);
            let matrix = unrolled(&c.weight, c.channels, c.outputs, c.stride, frames, out_frames);
            convolutions.push((
                put(matrix, frames * c.channels, out_frames * c.outputs),
                put(c.bias.repeat(out_frames), 1, out_frames * c.outputs),
            ));
            frames = out_frames;
        }
        let gates = (
            put(transposed(&weights.gates, 4 * HIDDEN, 2 * HIDDEN), 2 * HIDDEN, 4 * HIDDEN),
            put(weights.gates_bias, 1, 4 * HIDDEN),
        );
        let output = (put(weights.output, HIDDEN, 1), put(vec![weights.output_bias], 1, 1));
        Self { device: device.clone(), spectrum, convolutions, gates, output, bytes }
    }

    pub fn resident_bytes(&self) -> usize {
        self.bytes
    }

    pub fn step(&self, frames: &[[f32; FRAME_SAMPLES]], states: &mut [&mut VadState]) -> Vec<f32> {
        if frames.is_empty() {
            return Vec::new();
        }
        // Filled up to a power of two, so that a GPU sees few different shapes.
        let rows = frames.len().next_power_of_two();
        let (windows, hidden, cell) = gathered(frames, states, rows);
        let out = self.forward(
            Tensor::from_data(TensorData::new(windows, [rows * WINDOWS, WINDOW]), &self.device),
            Tensor::from_data(TensorData::new(hidden, [rows, HIDDEN]), &self.device),
            Tensor::from_data(TensorData::new(cell, [rows, HIDDEN]), &self.device),
        );
        let out = nn::host(out);
        frames
            .iter()
            .zip(states.iter_mut())
            .zip(out.chunks_exact(2 * HIDDEN + 1))
            .map(|((frame, state), row)| {
                state.context.copy_from_slice(&frame[FRAME_SAMPLES - CONTEXT..]);
                state.hidden.copy_from_slice(&row[..HIDDEN]);
                state.cell.copy_from_slice(&row[HIDDEN..2 * HIDDEN]);
                row[2 * HIDDEN]
            })
            .collect()
    }

    /// [rows × 4, 256], [rows, 128], [rows, 128] to [rows, 257]: hidden, cell, probability.
    fn forward(&self, windows: Tensor<2>, hidden: Tensor<2>, cell: Tensor<2>) -> Tensor<2> {
        let rows = hidden.dims()[0];
        let spectrum = windows.matmul(self.spectrum.clone());
        let squared = spectrum.clone() * spectrum;
        let power = squared.clone().narrow(1, 0, BINS) + squared.narrow(1, BINS, BINS);
        let mut x = power.sqrt().reshape([rows, WINDOWS * BINS]);
        for (weight, bias) in &self.convolutions {
            x = burn::tensor::activation::relu(x.matmul(weight.clone()) + bias.clone());
        }
        let gates = Tensor::cat(vec![x, hidden], 1).matmul(self.gates.0.clone()) + self.gates.1.clone();
        let open = sigmoid(gates.clone().narrow(1, 0, 3 * HIDDEN));
        let [input, output, forget] = [0, 1, 2].map(|i| open.clone().narrow(1, i * HIDDEN, HIDDEN));
        let cell = forget * cell + input * gates.narrow(1, 3 * HIDDEN, HIDDEN).tanh();
        let hidden = output * cell.clone().tanh();
        let speech =
            burn::tensor::activation::relu(hidden.clone()).matmul(self.output.0.clone()) + self.output.1.clone();
        Tensor::cat(vec![hidden, cell, sigmoid(speech)], 1)
    }
}

/// The windows, hidden values and cells of a batch, filled up with silence to `rows` calls.
fn gathered(frames: &[[f32; FRAME_SAMPLES]], states: &[&mut VadState], rows: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let mut windows = Vec::with_capacity(rows * WINDOWS * WINDOW);
    let mut hidden = Vec::with_capacity(rows * HIDDEN);
    let mut cell = Vec::with_capacity(rows * HIDDEN);
    for (frame, state) in frames.iter().zip(states) {
        let samples = super::padded(frame, state);
        for w in 0..WINDOWS {
            windows.extend_from_slice(&samples[w * STRIDE..w * STRIDE + WINDOW]);
        }
        hidden.extend_from_slice(&state.hidden);
        cell.extend_from_slice(&state.cell);
    }
    windows.resize(rows * WINDOWS * WINDOW, 0.0);
    hidden.resize(rows * HIDDEN, 0.0);
    cell.resize(rows * HIDDEN, 0.0);
    (windows, hidden, cell)
}

/// A convolution [out, in, 3] with one frame of padding on either side, as one matrix from all frames to all frames: row
/// (frame, channel), column (frame, channel), zero where the kernel does not reach.
fn unrolled(
    weight: &[f32],
    channels: usize,
    outputs: usize,
    stride: usize,
    frames: usize,
    out_frames: usize,
) -> Vec<f32> {
    let columns = out_frames * outputs;
    let mut matrix = vec![0.0; frames * channels * columns];
    for to in 0..out_frames {
        for tap in 0..KERNEL {
            let Some(from) = (to * stride + tap).checked_sub(1).filter(|f| *f < frames) else { continue };
            for channel in 0..channels {
                for output in 0..outputs {
                    matrix[(from * channels + channel) * columns + to * outputs + output] =
                        weight[(output * channels + channel) * KERNEL + tap];
                }
            }
        }
    }
    matrix
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vad::{ConvolutionWeights, HostNet};

    /// Both networks with the same weights by formula, two calls at once.
    #[test]
    fn the_host_network_equals_the_tensor_operations() {
        let values = |n: usize, scale: f32, f: f32| (0..n).map(|i| (i as f32 * f).sin() * scale).collect::<Vec<_>>();
        let weights = || Weights {
            spectrum: values(2 * BINS * WINDOW, 0.1, 0.37),
            convolutions: [(BINS, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1)]
                .into_iter()
                .map(|(channels, outputs, stride)| ConvolutionWeights {
                    weight: values(outputs * channels * KERNEL, 0.1, 0.71),
                    bias: values(outputs, 0.2, 0.3),
                    channels,
                    outputs,
                    stride,
                })
                .collect(),
            gates: values(8 * HIDDEN * HIDDEN, 0.1, 1.3),
            gates_bias: values(4 * HIDDEN, 0.3, 0.9),
            output: values(HIDDEN, 0.5, 0.4),
            output_bias: 0.1,
        };
        let (host, device) = (HostNet::new(weights()), DeviceNet::new(weights(), &Device::flex()));
        let mut of_host = [VadState::new(), VadState::new()];
        let mut of_device = of_host.clone();
        for step in 0..4 {
            let frames: [[f32; FRAME_SAMPLES]; 2] =
                std::array::from_fn(|c| std::array::from_fn(|i| ((i + step * 512) as f32 * (0.05 + c as f32)).sin()));
            let found: Vec<f32> = frames.iter().zip(&mut of_host).map(|(f, s)| host.step(f, s)).collect();
            let expected = device.step(&frames, &mut of_device.each_mut());
            for (a, b) in found.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-4, "step {step}: {a} is not {b}");
            }
        }
        for (a, b) in of_host.iter().zip(&of_device) {
            assert!(a.hidden.iter().zip(&b.hidden).all(|(a, b)| (a - b).abs() < 1e-4));
        }
    }

    #[test]
    fn an_unrolled_convolution_equals_the_sliding_one() {
        let (channels, outputs, frames) = (3, 2, 4);
        let weight: Vec<f32> = (0..outputs * channels * KERNEL).map(|i| (i as f32 * 0.7).sin()).collect();
        let input: Vec<f32> = (0..frames * channels).map(|i| (i as f32 * 1.3).cos()).collect();
        for stride in [1, 2] {
            let out_frames = frames / stride;
            let matrix = unrolled(&weight, channels, outputs, stride, frames, out_frames);
            for to in 0..out_frames {
                for output in 0..outputs {
                    let column = to * outputs + output;
                    let dense: f32 =
                        input.iter().enumerate().map(|(i, x)| x * matrix[i * out_frames * outputs + column]).sum();
                    let sliding: f32 = (0..KERNEL)
                        .filter_map(|tap| (to * stride + tap).checked_sub(1).filter(|f| *f < frames).map(|f| (tap, f)))
                        .flat_map(|(tap, from)| (0..channels).map(move |c| (tap, from, c)))
                        .map(|(tap, from, c)| {
                            input[from * channels + c] * weight[(output * channels + c) * KERNEL + tap]
                        })
                        .sum();
                    assert!((dense - sliding).abs() < 1e-6, "stride {stride}: {dense} and {sliding}");
                }
            }
        }
    }
}
