//! Voice activity detection: the probability that a frame of 32 ms holds speech.
//!
//! The network is Silero VAD v6 for 16 kHz: a short-time spectrum of 640 samples (64 of context, the 512 of the frame, 64
//! mirrored), four small convolutions, an LSTM cell, a sigmoid. A call's memory is [`VadState`]: the context and the cell. It
//! lives on the host and goes to the device and back with each step, about 1 KB each way; in return any set of calls forms a
//! batch without gathering anything on the device, and a step has exactly one upload wave and one download, which
//! it needs anyway for the probability.
//!
//! A step is few operations, because at this size each costs more in overhead than in arithmetic. Four frames enter the convolutions
//! and one leaves them, so each convolution is unrolled into one dense matrix over all its frames (see [`unrolled`]); that
//! multiplies 1.6 times as much as a sliding window would and takes a fifth of the operations. Input and hidden weights of the
//! cell stand side by side in one matrix.
//!
//! When speech begins and ends (thresholds, hysteresis, padding) is the dialogue's matter.

use crate::{
    Device,
    nn::{self, LoadError, Resident},
};
use burn::tensor::{Tensor, TensorData, activation::sigmoid};
use nearfield_shared::gguf::Gguf;

/// Samples that a frame brings, at 16 kHz: 32 ms.
pub const FRAME_SAMPLES: usize = 512;

/// Samples of the frame before that the network looks back on.
const CONTEXT: usize = 64;
/// Window and stride of the spectrum, bins of it, windows in one frame.
const WINDOW: usize = 256;
const STRIDE: usize = 128;
const BINS: usize = 129;
const WINDOWS: usize = 4;
/// Context, frame, and as many mirrored samples again.
const PADDED: usize = CONTEXT + FRAME_SAMPLES + CONTEXT;
const HIDDEN: usize = 128;
const KERNEL: usize = 3;

/// What the network remembers of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct VadState {
    context: [f32; CONTEXT],
    hidden: [f32; HIDDEN],
    cell: [f32; HIDDEN],
}

impl VadState {
    /// Silence before the first frame.
    pub fn new() -> Self {
        Self { context: [0.0; CONTEXT], hidden: [0.0; HIDDEN], cell: [0.0; HIDDEN] }
    }
}

impl Default for VadState {
    fn default() -> Self {
        Self::new()
    }
}

/// Silero VAD on a device.
pub struct SileroVad {
    device: Device,
    /// [256, 258]: real parts, then imaginary parts.
    spectrum: Tensor<2>,
    /// Unrolled convolutions as [in frames × channels, out frames × channels].
    convolutions: Vec<(Tensor<2>, Tensor<2>)>,
    /// [256, 512] over (input, hidden); gates in the order input, output, forget, cell.
    gates: (Tensor<2>, Tensor<2>),
    /// [128, 1]
    output: (Tensor<2>, Tensor<2>),
    /// Batches are filled up to a power of two, so that a GPU sees few different shapes.
    fill_up: bool,
    bytes: usize,
}

impl SileroVad {
    /// Loads the weights.
    pub fn load(gguf: &Gguf, device: &Device) -> Result<Self, LoadError> {
        nn::expect_architecture(gguf, "silero-vad")?;
        let mut bytes = 0;
        let mut put = |values: Vec<f32>, rows: usize, columns: usize| {
            bytes += 4 * values.len();
            Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), device)
        };
        let read = |name: &str, shape: &[usize]| nn::values(gguf, name, shape);

        let spectrum = put(transposed(&read("stft.weight", &[2 * BINS, WINDOW])?, 2 * BINS, WINDOW), WINDOW, 2 * BINS);
        let mut convolutions = Vec::new();
        let mut frames = WINDOWS;
        for (i, (channels, outputs, stride)) in
            [(BINS, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1)].into_iter().enumerate()
        {
            let weight = read(&format!("encoder.{i}.weight"), &[outputs, channels, KERNEL])?;
            let bias = read(&format!("encoder.{i}.bias"), &[outputs])?;
            let out_frames = frames.div_ceil(stride);
            let matrix = unrolled(&weight, channels, outputs, stride, frames, out_frames);
            convolutions.push((
                put(matrix, frames * channels, out_frames * outputs),
                put(bias.repeat(out_frames), 1, out_frames * outputs),
            ));
            frames = out_frames;
        }
        let gates = read("lstm.weight", &[4 * HIDDEN, 2 * HIDDEN])?;
        let gates = (
            put(transposed(&gates, 4 * HIDDEN, 2 * HIDDEN), 2 * HIDDEN, 4 * HIDDEN),
            put(read("lstm.bias", &[4 * HIDDEN])?, 1, 4 * HIDDEN),
        );
        let output = (put(read("output.weight", &[HIDDEN])?, HIDDEN, 1), put(read("output.bias", &[1])?, 1, 1));
        Ok(Self { device: device.clone(), spectrum, convolutions, gates, output, fill_up: !nn::is_cpu(device), bytes })
    }

    /// One frame for each call: speech probabilities in the order of the calls, and the states moved on by a frame. Samples
    /// are floats in [-1, 1] at 16 kHz. `frames` and `states` are of the same length.
    pub fn step(&self, frames: &[[f32; FRAME_SAMPLES]], states: &mut [&mut VadState]) -> Vec<f32> {
        assert_eq!(frames.len(), states.len(), "each frame belongs to one call's state");
        if frames.is_empty() {
            return Vec::new();
        }
        let rows = if self.fill_up { frames.len().next_power_of_two() } else { frames.len() };
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

impl Resident for SileroVad {
    fn resident_bytes(&self) -> usize {
        self.bytes
    }
}

/// The windows, hidden values and cells of a batch, filled up with silence to `rows` calls.
fn gathered(frames: &[[f32; FRAME_SAMPLES]], states: &[&mut VadState], rows: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let mut windows = Vec::with_capacity(rows * WINDOWS * WINDOW);
    let mut hidden = Vec::with_capacity(rows * HIDDEN);
    let mut cell = Vec::with_capacity(rows * HIDDEN);
    let mut samples = [0.0; PADDED];
    for (frame, state) in frames.iter().zip(states) {
        let new = CONTEXT + FRAME_SAMPLES;
        samples[..CONTEXT].copy_from_slice(&state.context);
        samples[CONTEXT..new].copy_from_slice(frame);
        for i in 0..CONTEXT {
            samples[new + i] = samples[new - 2 - i];
        }
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
