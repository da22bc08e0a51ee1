//! Voice activity detection: the probability that a frame of 32 ms holds speech.
//!
//! The network is Silero VAD v6 for 16 kHz: a short-time spectrum of 640 samples (64 of context, the 512 of the frame, 64
//! mirrored), four small convolutions, an LSTM cell, a sigmoid. A call's memory is [`VadState`]: the context and the cell. It
//! lives on the host. On a GPU all calls form a batch ([`device`]); on the CPU the network runs on plain memory ([`host`]).
//!
//! When speech begins and ends (thresholds, hysteresis, padding) is the dialogue's matter.

mod device;
mod host;

use crate::{
    Device,
    nn::{self, LoadError, Resident},
};
use device::DeviceNet;
use host::HostNet;
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
    net: Net,
}

enum Net {
    Host(HostNet),
    Device(Box<DeviceNet>),
}

/// The file's weights.
struct Weights {
    /// [258, 256]: real parts, then imaginary parts.
    spectrum: Vec<f32>,
    convolutions: Vec<ConvolutionWeights>,
    /// [512, 256] over (input, hidden); gates in the order input, output, forget, cell.
    gates: Vec<f32>,
    gates_bias: Vec<f32>,
    output: Vec<f32>,
    output_bias: f32,
}

struct ConvolutionWeights {
    /// [outputs, channels, 3]
    weight: Vec<f32>,
    bias: Vec<f32>,
    channels: usize,
    outputs: usize,
    stride: usize,
}

impl Weights {
    fn read(gguf: &Gguf) -> Result<Self, LoadError> {
        nn::expect_architecture(gguf, "silero-vad")?;
        let read = |name: &str, shape: &[usize]| nn::values(gguf, name, shape);
        let sizes = [(BINS, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1)];
        let convolutions = sizes.into_iter().enumerate().map(|(i, (channels, outputs, stride))| {
            Ok(ConvolutionWeights {
                weight: read(&format!("encoder.{i}.weight"), &[outputs, channels, KERNEL])?,
                bias: read(&format!("encoder.{i}.bias"), &[outputs])?,
                channels,
                outputs,
                stride,
            })
        });
        Ok(Self {
            spectrum: read("stft.weight", &[2 * BINS, WINDOW])?,
            convolutions: convolutions.collect::<Result<_, LoadError>>()?,
            gates: read("lstm.weight", &[4 * HIDDEN, 2 * HIDDEN])?,
            gates_bias: read("lstm.bias", &[4 * HIDDEN])?,
            output: read("output.weight", &[HIDDEN])?,
            output_bias: read("output.bias", &[1])?[0],
        })
    }
}

impl SileroVad {
    /// Loads the weights.
    pub fn load(gguf: &Gguf, device: &Device) -> Result<Self, LoadError> {
        let weights = Weights::read(gguf)?;
        let net = if nn::is_cpu(device) {
            Net::Host(HostNet::new(weights))
        } else {
            Net::Device(Box::new(DeviceNet::new(weights, device)))
        };
        Ok(Self { net })
    }

    /// One frame for each call: speech probabilities in the order of the calls, and the states moved on by a frame. Samples
    /// are floats in [-1, 1] at 16 kHz. `frames` and `states` are of the same length.
    pub fn step(&self, frames: &[[f32; FRAME_SAMPLES]], states: &mut [&mut VadState]) -> Vec<f32> {
        assert_eq!(frames.len(), states.len(), "each frame belongs to one call's state");
        match &self.net {
            Net::Host(net) => frames.iter().zip(states).map(|(frame, state)| net.step(frame, state)).collect(),
            Net::Device(net) => net.step(frames, states),
        }
    }
}

impl Resident for SileroVad {
    fn resident_bytes(&self) -> usize {
        match &self.net {
            Net::Host(net) => net.resident_bytes(),
            Net::Device(net) => net.resident_bytes(),
        }
    }
}

/// Context, frame and mirrored samples.
fn padded(frame: &[f32; FRAME_SAMPLES], state: &VadState) -> [f32; PADDED] {
    let new = CONTEXT + FRAME_SAMPLES;
    let mut samples = [0.0; PADDED];
    samples[..CONTEXT].copy_from_slice(&state.context);
    samples[CONTEXT..new].copy_from_slice(frame);
    for i in 0..CONTEXT {
        samples[new + i] = samples[new - 2 - i];
    }
    samples
}
