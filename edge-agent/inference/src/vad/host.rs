//! The network on the CPU, a call after the other, on plain memory.
//!
//! A frame is 500,000 multiply-adds: less than what the overhead of twenty tensor operations costs. The weights, 1.2 MB, stay in
//! the second-level cache from call to call. Each convolution is one product with overlapping windows of its input, which stands
//! frame after frame with a frame of zeros at either end.

use super::{BINS, CONTEXT, FRAME_SAMPLES, HIDDEN, KERNEL, PADDED, STRIDE, VadState, WINDOW, WINDOWS, Weights};
use crate::ops::{
    Dense,
    elementary::{exp, tanh},
};

/// Frames that leave each convolution.
const FRAMES: [usize; 4] = [4, 2, 1, 1];

pub(super) struct HostNet {
    spectrum: Dense,
    convolutions: Vec<Convolution>,
    gates: Dense,
    gates_bias: Vec<f32>,
    output: Vec<f32>,
    output_bias: f32,
}

struct Convolution {
    /// `[outputs, taps · channels]`
    matrix: Dense,
    bias: Vec<f32>,
    /// Frames and channels that enter, frames from one window to the next, frames that leave.
    frames: usize,
    channels: usize,
    stride: usize,
    out_frames: usize,
}

impl HostNet {
    pub fn new(weights: Weights) -> Self {
        let mut frames = WINDOWS;
        let convolutions = weights.convolutions.into_iter().zip(FRAMES).map(|(c, out_frames)| {
            // [output, channel, tap] to [output, tap, channel], as the frames stand in memory.
            let mut matrix = vec![0.0; c.weight.len()];
            for (i, w) in c.weight.iter().enumerate() {
                let (output, channel, tap) = (i / KERNEL / c.channels, i / KERNEL % c.channels, i % KERNEL);
                matrix[(output * KERNEL + tap) * c.channels + channel] = *w;
            }
            let convolution = Convolution {
                matrix: Dense::new(&matrix, c.outputs, KERNEL * c.channels),
                bias: c.bias,
                frames,
                channels: c.channels,
                stride: c.stride,
                out_frames,
            };
            frames = out_frames;
            convolution
        });
        Self {
            spectrum: Dense::new(&weights.spectrum, 2 * BINS, WINDOW),
            convolutions: convolutions.collect(),
            gates: Dense::new(&weights.gates, 4 * HIDDEN, 2 * HIDDEN),
            gates_bias: weights.gates_bias,
            output: weights.output,
            output_bias: weights.output_bias,
        }
    }

    pub fn resident_bytes(&self) -> usize {
        let matrices = self.convolutions.iter().map(|c| &c.matrix).chain([&self.spectrum, &self.gates]);
        let biases = self.convolutions.iter().map(|c| c.bias.len()).sum::<usize>();
        matrices.map(Dense::resident_bytes).sum::<usize>()
            + 4 * (biases + self.gates_bias.len() + self.output.len() + 1)
    }

    /// One frame of one call: its speech probability, and its state moved on.
    pub fn step(&self, frame: &[f32; FRAME_SAMPLES], state: &mut VadState) -> f32 {
        let samples: [f32; PADDED] = super::padded(frame, state);
        let mut spectrum = [0.0; WINDOWS * 2 * BINS];
        self.spectrum.multiply(&samples, WINDOWS, STRIDE, &mut spectrum);
        // A frame of zeros, the frames, a frame of zeros.
        let mut input = vec![0.0; (WINDOWS + 2) * BINS];
        for (to, parts) in input[BINS..].chunks_exact_mut(BINS).zip(spectrum.chunks_exact(2 * BINS)) {
            let (real, imaginary) = parts.split_at(BINS);
            for ((to, a), b) in to.iter_mut().zip(real).zip(imaginary) {
                *to = (a * a + b * b).sqrt();
            }
        }
        for convolution in &self.convolutions {
            input = convolution.forward(&input);
        }
        // The one frame that is left lies between zeros; its channels and the hidden values enter the cell.
        let mut entering = [0.0; 2 * HIDDEN];
        entering[..HIDDEN].copy_from_slice(&input[HIDDEN..2 * HIDDEN]);
        entering[HIDDEN..].copy_from_slice(&state.hidden);
        let mut gates = [0.0; 4 * HIDDEN];
        self.gates.multiply(&entering, 1, 2 * HIDDEN, &mut gates);
        gates.iter_mut().zip(&self.gates_bias).for_each(|(g, b)| *g += b);
        let (open, new) = gates.split_at_mut(3 * HIDDEN);
        open.iter_mut().for_each(|g| *g = sigmoid(*g));
        new.iter_mut().for_each(|g| *g = tanh(*g));
        let mut score = self.output_bias;
        for i in 0..HIDDEN {
            let (input, output, forget) = (open[i], open[HIDDEN + i], open[2 * HIDDEN + i]);
            state.cell[i] = forget * state.cell[i] + input * new[i];
            state.hidden[i] = output * tanh(state.cell[i]);
            score += state.hidden[i].max(0.0) * self.output[i];
        }
        state.context.copy_from_slice(&frame[FRAME_SAMPLES - CONTEXT..]);
        sigmoid(score)
    }
}

impl Convolution {
    /// Frames between zeros to frames between zeros.
    fn forward(&self, input: &[f32]) -> Vec<f32> {
        debug_assert_eq!(input.len(), (self.frames + 2) * self.channels);
        let outputs = self.bias.len();
        let mut out = vec![0.0; (self.out_frames + 2) * outputs];
        let to = &mut out[outputs..(self.out_frames + 1) * outputs];
        self.matrix.multiply(input, self.out_frames, self.stride * self.channels, to);
        for frame in to.chunks_exact_mut(outputs) {
            frame.iter_mut().zip(&self.bias).for_each(|(y, b)| *y = (*y + b).max(0.0));
        }
        out
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}
