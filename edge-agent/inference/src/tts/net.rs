//! Hibari's networks: phonemes to frames.
//!
//! Everything is time-major, `[frames, channels]`, so that linear layers need no transposing; convolutions over all channels
//! are matrix products over (tap, channel), and depthwise ones an operation of their own ([`ops::depthwise`]).
//!
//! Two text encoders of the same build read the phonemes: `pn` for durations and pitch, `m` for the sound. In both, one
//! transformer layer with the same weights is applied several times. What `pn` computes has 16-bit activations, because durations
//! are rounded to whole frames; 8-bit activations change one in 370. What is only heard, `m`, takes 8-bit activations.
//!
//! The rows of several phrases stand below one another ([`Spans`]): what a phrase becomes does not depend on those beside it.

use crate::{
    Device,
    nn::{self, Embedding, LayerNorm, Linear, LoadError, Resident},
    ops::{self, Activations, Spans},
};
use burn::tensor::Tensor;
use nearfield_shared::gguf::Gguf;

use super::vocoder::FRAME_VALUES;

const EPSILON: f32 = 1e-5;
/// Channels: of the text encoder for the sound, of everything for durations and pitch, of the decoder.
const SOUND: usize = 128;
const PROSODY: usize = 192;
const DECODER: usize = 256;
/// Pitch and energy.
const ACCENTS: usize = 2;
/// Phonemes, pitch and energy: what the decoder reads of each frame.
const DECODER_INPUTS: usize = SOUND + ACCENTS;
/// Rows of the embeddings: as many phonemes and marks as the alphabet has room for.
const PHONEMES: usize = 178;
const TEXT_BLOCKS: usize = 2;
const TEXT_TAPS: usize = 5;
/// The voices there are have 4 and 6; beyond this a file is damaged.
const REPETITIONS_MAX: usize = 24;
const PROSODY_BLOCKS: usize = 6;
const DECODER_BLOCKS: usize = 8;
/// Taps of the convolution that predicts durations, and of the decoder's first one.
const DURATION_TAPS: usize = 3;
const DECODER_TAPS: usize = 7;
/// Taps of the depthwise convolutions outside of the text encoders.
const BLOCK_TAPS: usize = 7;
/// The prosody network's first output is in units of this many hertz.
const F0_UNIT: f32 = 100.0;
/// A phoneme that the network gives more than ten seconds is a mistake of the network.
const DURATION_MAX: f32 = 400.0;

/// The networks on a device.
pub struct Net {
    device: Device,
    sound_text: TextEncoder,
    prosody_text: TextEncoder,
    duration: [Linear; 2],
    prosody_in: Linear,
    prosody: Vec<Block>,
    prosody_out: Linear,
    decoder_in: DecoderInput,
    decoder: Vec<Block>,
    decoder_norm: LayerNorm,
    head: Linear,
}

/// Phrases after the text encoders, one row for each phoneme.
pub struct Encoded {
    /// `[phonemes, 128]`
    pub sound: Tensor<2>,
    /// `[phonemes, 192]`
    pub prosody: Tensor<2>,
}

impl Net {
    /// Loads the weights.
    pub fn load(gguf: &Gguf, device: &Device) -> Result<Self, LoadError> {
        nn::expect_architecture(gguf, "hibari")?;
        nn::expect_linear(gguf, "pn.dur.0", DURATION_TAPS * PROSODY, PROSODY)?;
        nn::expect_linear(gguf, "pn.dur.2", PROSODY, 1)?;
        nn::expect_linear(gguf, "pn.pro_in", PROSODY, PROSODY)?;
        nn::expect_linear(gguf, "pn.pro_out", PROSODY, 4)?;
        nn::expect_linear(gguf, "m.dec_in", DECODER_TAPS * DECODER_INPUTS, DECODER)?;
        nn::expect_norm(gguf, "m.dec_norm", DECODER)?;
        nn::expect_linear(gguf, "m.head", DECODER, FRAME_VALUES)?;
        let linear = |name: &str| Linear::load(gguf, name, device);
        let heads = gguf.u32("hibari.attention.head_count")? as usize;
        let text = |name: &str, width, activations| TextEncoder::load(gguf, name, width, heads, activations, device);
        let (heard, timed) = if ops::rounds_alike() {
            (Activations::Int8, Activations::Int16)
        } else {
            // Where many rows are multiplied exactly, few are, too: else a short phrase would sound otherwise in a batch.
            (Activations::Exact, Activations::Exact)
        };
        let dilations = gguf.u32s("hibari.pn.pro.dilations")?;
        let odd = heads == 0 || !SOUND.is_multiple_of(heads) || !PROSODY.is_multiple_of(heads);
        if odd || dilations.len() != PROSODY_BLOCKS || dilations.contains(&0) {
            return Err(LoadError::Config(format!("{heads} attention heads, prosody dilations {dilations:?}")));
        }
        let prosody = dilations.iter().enumerate();
        Ok(Self {
            device: device.clone(),
            sound_text: text("m.text", SOUND, heard)?,
            prosody_text: text("pn.text", PROSODY, timed)?,
            duration: [linear("pn.dur.0")?, linear("pn.dur.2")?],
            prosody_in: linear("pn.pro_in")?,
            prosody: prosody
                .map(|(i, d)| {
                    let size = Size { channels: PROSODY, hidden: 2 * PROSODY, taps: BLOCK_TAPS, dilation: *d as usize };
                    Block::load(gguf, &format!("pn.pro.{i}"), size, timed, device)
                })
                .collect::<Result<_, _>>()?,
            prosody_out: linear("pn.pro_out")?,
            decoder_in: DecoderInput::load(gguf, device)?,
            decoder: (0..DECODER_BLOCKS)
                .map(|i| {
                    let size = Size { channels: DECODER, hidden: 3 * DECODER, taps: BLOCK_TAPS, dilation: 1 };
                    Block::load(gguf, &format!("m.dec.{i}"), size, heard, device)
                })
                .collect::<Result<_, _>>()?,
            decoder_norm: LayerNorm::load(gguf, "m.dec_norm", EPSILON, device)?,
            head: linear("m.head")?.with_activations(heard),
        })
    }

    /// How many phonemes the voice has.
    pub fn phonemes(&self) -> usize {
        self.sound_text.embedding.vocabulary().min(self.prosody_text.embedding.vocabulary())
    }

    /// Blocks of the decoder.
    pub fn decoder_blocks(&self) -> usize {
        self.decoder.len()
    }

    /// Sequences of these lengths.
    pub fn spans(&self, lengths: impl IntoIterator<Item = usize>) -> Spans {
        Spans::new(lengths, &self.device)
    }

    /// The text encoders. Every id is below [`Net::phonemes`].
    pub fn encode(&self, ids: &[u32], phrases: &Spans) -> Encoded {
        Encoded { sound: self.sound_text.forward(ids, phrases), prosody: self.prosody_text.forward(ids, phrases) }
    }

    /// Frames of 25 ms for each phoneme, at least one; a speed for each phrase.
    pub fn durations(&self, encoded: &Encoded, speeds: &[f32], phrases: &Spans) -> Vec<Vec<u32>> {
        let taps = ops::over_taps(encoded.prosody.clone(), DURATION_TAPS, phrases);
        let logs = nn::host(self.duration[1].forward(self.duration[0].forward_gelu(taps)));
        let mut logs = logs.into_iter();
        // Half-way values go to the even number, as in the publisher's graph.
        let frames =
            |log: f32, speed: f32| ((log.exp() - 1.0) / speed).round_ties_even().clamp(1.0, DURATION_MAX) as u32;
        let phrase = |(length, speed): (&usize, &f32)| logs.by_ref().take(*length).map(|l| frames(l, *speed)).collect();
        phrases.lengths().iter().zip(speeds).map(phrase).collect()
    }

    /// Pitch and energy as the decoder reads them, `[2 × frames, 2]`, and the pitch in hertz, two values for each frame of 25 ms. A
    /// duration for each phoneme of all phrases; `phrases` of frames.
    pub fn prosody(&self, encoded: &Encoded, durations: &[u32], phrases: &Spans) -> (Tensor<2>, Vec<f32>) {
        let frames = phrases.rows();
        // Of rows that repeat one another a linear layer makes rows that do.
        let sources = ops::ids(&repeated(durations, 1), &self.device);
        let x = self.prosody_in.forward(encoded.prosody.clone()).select(0, sources);
        let x = self.prosody.iter().fold(x, |x, block| block.forward(x, phrases));
        // A frame's four values are (pitch, energy) × (first half, second half).
        let out = self.prosody_out.forward(x).reshape([frames, 2, 2]).swap_dims(1, 2).reshape([2 * frames, 2]);
        let f0 = out.clone().narrow(1, 0, 1).mul_scalar(F0_UNIT);
        let pitch = f0.clone().clamp_min(0.0).log1p().div_scalar(5.0);
        // Energy is scaled by 5 at the one end and by 1/5 at the other.
        let energy = out.narrow(1, 1, 1);
        (Tensor::cat(vec![pitch, energy], 1), nn::host(f0))
    }

    /// The decoder's first convolution, `[2 × frames, 256]`: over the phonemes of all phrases, each as long as its duration, and
    /// over pitch and energy. `phrases` of 12.5 ms.
    pub fn decoder_input(
        &self,
        encoded: &Encoded,
        accents: Tensor<2>,
        durations: &[u32],
        phrases: &Spans,
    ) -> Tensor<2> {
        self.decoder_in.forward(encoded.sound.clone(), accents, &repeated(durations, 2), phrases)
    }

    /// One block of the decoder.
    pub fn decoder_block(&self, block: usize, frames: Tensor<2>, phrases: &Spans) -> Tensor<2> {
        self.decoder[block].forward(frames, phrases)
    }

    /// What the vocoder reads: [`FRAME_VALUES`] for each 12.5 ms.
    pub fn spectrum(&self, frames: Tensor<2>) -> Vec<f32> {
        let out = self.head.forward(self.decoder_norm.forward(frames));
        debug_assert_eq!(out.dims()[1], FRAME_VALUES);
        nn::host(out)
    }
}

impl Resident for Net {
    fn resident_bytes(&self) -> usize {
        let linears = [&self.prosody_in, &self.prosody_out, &self.head];
        self.sound_text.resident_bytes()
            + self.prosody_text.resident_bytes()
            + linears.into_iter().chain(&self.duration).map(Resident::resident_bytes).sum::<usize>()
            + self.prosody.iter().chain(&self.decoder).map(Resident::resident_bytes).sum::<usize>()
            + self.decoder_in.resident_bytes()
            + self.decoder_norm.resident_bytes()
    }
}

struct TextEncoder {
    embedding: Embedding,
    blocks: Vec<Block>,
    layer: Transformer,
    repetitions: usize,
    norm: LayerNorm,
}

impl TextEncoder {
    fn load(
        gguf: &Gguf,
        name: &str,
        width: usize,
        heads: usize,
        activations: Activations,
        device: &Device,
    ) -> Result<Self, LoadError> {
        nn::expect_shape(gguf, &format!("{name}.emb.weight"), &[PHONEMES, width])?;
        nn::expect_norm(gguf, &format!("{name}.norm"), width)?;
        let repetitions = gguf.u32(&format!("hibari.{name}.repetitions"))? as usize;
        if !(1..=REPETITIONS_MAX).contains(&repetitions) {
            return Err(LoadError::Config(format!("{repetitions} repetitions of {name}, at most {REPETITIONS_MAX}")));
        }
        let size = Size { channels: width, hidden: 2 * width, taps: TEXT_TAPS, dilation: 1 };
        Ok(Self {
            embedding: Embedding::load(gguf, &format!("{name}.emb"), device)?,
            blocks: (0..TEXT_BLOCKS)
                .map(|i| Block::load(gguf, &format!("{name}.convs.{i}"), size, activations, device))
                .collect::<Result<_, _>>()?,
            layer: Transformer::load(gguf, &format!("{name}.attn"), width, heads, activations, device)?,
            repetitions,
            norm: LayerNorm::load(gguf, &format!("{name}.norm"), EPSILON, device)?,
        })
    }

    fn forward(&self, ids: &[u32], phrases: &Spans) -> Tensor<2> {
        let x = self.blocks.iter().fold(self.embedding.rows(ids), |x, block| block.forward(x, phrases));
        self.norm.forward((0..self.repetitions).fold(x, |x, _| self.layer.forward(x, phrases)))
    }
}

impl Resident for TextEncoder {
    fn resident_bytes(&self) -> usize {
        self.embedding.resident_bytes()
            + self.blocks.iter().map(Resident::resident_bytes).sum::<usize>()
            + self.layer.resident_bytes()
            + self.norm.resident_bytes()
    }
}

/// A pre-norm transformer layer.
struct Transformer {
    heads: usize,
    norms: [LayerNorm; 2],
    in_projection: Linear,
    out_projection: Linear,
    up: Linear,
    down: Linear,
}

impl Transformer {
    fn load(
        gguf: &Gguf,
        name: &str,
        width: usize,
        heads: usize,
        activations: Activations,
        device: &Device,
    ) -> Result<Self, LoadError> {
        nn::expect_norm(gguf, &format!("{name}.norm1"), width)?;
        nn::expect_norm(gguf, &format!("{name}.norm2"), width)?;
        nn::expect_linear(gguf, &format!("{name}.self_attn.in_proj"), width, 3 * width)?;
        nn::expect_linear(gguf, &format!("{name}.self_attn.out_proj"), width, width)?;
        nn::expect_linear(gguf, &format!("{name}.linear1"), width, 2 * width)?;
        nn::expect_linear(gguf, &format!("{name}.linear2"), 2 * width, width)?;
        let linear =
            |part: &str| Linear::load(gguf, &format!("{name}.{part}"), device).map(|l| l.with_activations(activations));
        let norm = |part: &str| LayerNorm::load(gguf, &format!("{name}.{part}"), EPSILON, device);
        Ok(Self {
            heads,
            norms: [norm("norm1")?, norm("norm2")?],
            in_projection: linear("self_attn.in_proj")?,
            out_projection: linear("self_attn.out_proj")?,
            up: linear("linear1")?,
            down: linear("linear2")?,
        })
    }

    fn forward(&self, x: Tensor<2>, phrases: &Spans) -> Tensor<2> {
        let [_, width] = x.dims();
        let qkv = self.in_projection.forward(self.norms[0].forward(x.clone()));
        let [q, k, v] = [0, 1, 2].map(|i| qkv.clone().narrow(1, i * width, width));
        let scale = ((width / self.heads) as f32).sqrt().recip();
        let x = self.out_projection.forward_add(ops::attend_within(q, k, v, self.heads, phrases, scale), x);
        let y = self.up.forward_gelu(self.norms[1].forward(x.clone()));
        self.down.forward_add(y, x)
    }
}

impl Resident for Transformer {
    fn resident_bytes(&self) -> usize {
        let linears = [&self.in_projection, &self.out_projection, &self.up, &self.down];
        linears.into_iter().map(Resident::resident_bytes).sum::<usize>()
            + self.norms.iter().map(Resident::resident_bytes).sum::<usize>()
    }
}

/// What distinguishes one block from another.
#[derive(Clone, Copy)]
struct Size {
    channels: usize,
    hidden: usize,
    taps: usize,
    dilation: usize,
}

/// A ConvNeXt block: depthwise convolution, norm, two linear layers, scaled into the residual.
struct Block {
    dilation: usize,
    /// `[taps, channels]` and `[channels]`
    depthwise: (Tensor<2>, Tensor<1>),
    norm: LayerNorm,
    up: Linear,
    down: Linear,
    /// `[1, channels]`
    gamma: Tensor<2>,
}

impl Block {
    fn load(gguf: &Gguf, name: &str, size: Size, activations: Activations, device: &Device) -> Result<Self, LoadError> {
        let Size { channels, hidden, taps, dilation } = size;
        nn::expect_shape(gguf, &format!("{name}.dw.weight"), &[taps, channels])?;
        nn::expect_shape(gguf, &format!("{name}.dw.bias"), &[channels])?;
        nn::expect_shape(gguf, &format!("{name}.gamma"), &[channels])?;
        nn::expect_norm(gguf, &format!("{name}.norm"), channels)?;
        nn::expect_linear(gguf, &format!("{name}.pw1"), channels, hidden)?;
        nn::expect_linear(gguf, &format!("{name}.pw2"), hidden, channels)?;
        let linear =
            |part: &str| Linear::load(gguf, &format!("{name}.{part}"), device).map(|l| l.with_activations(activations));
        Ok(Self {
            dilation,
            depthwise: (
                nn::tensor_f32(gguf, &format!("{name}.dw.weight"), device)?,
                nn::tensor_f32(gguf, &format!("{name}.dw.bias"), device)?,
            ),
            norm: LayerNorm::load(gguf, &format!("{name}.norm"), EPSILON, device)?,
            up: linear("pw1")?,
            down: linear("pw2")?,
            gamma: nn::tensor_f32::<1>(gguf, &format!("{name}.gamma"), device)?.unsqueeze(),
        })
    }

    fn forward(&self, x: Tensor<2>, phrases: &Spans) -> Tensor<2> {
        let (weight, bias) = self.depthwise.clone();
        let y = self.norm.forward(ops::depthwise(x.clone(), weight, bias, self.dilation, phrases));
        self.down.forward_scaled_add(self.up.forward_gelu(y), self.gamma.clone(), x)
    }
}

impl Resident for Block {
    fn resident_bytes(&self) -> usize {
        let [taps, channels] = self.depthwise.0.dims();
        4 * channels * (taps + 2) + self.norm.resident_bytes() + self.up.resident_bytes() + self.down.resident_bytes()
    }
}

/// Number `i`, `durations[i] × times` times.
fn repeated(durations: &[u32], times: usize) -> Vec<u32> {
    let each = (0u32..).zip(durations);
    each.flat_map(|(i, d)| std::iter::repeat_n(i, *d as usize * times)).collect()
}

/// The decoder's first convolution. A phoneme stands in many frames after one another, so what it gives at each tap is computed once
/// for the phoneme and only added up for the frames: a fifth of the products.
struct DecoderInput {
    /// `[taps × 256, 128]`
    sound: Linear,
    /// `[256, taps × 2]`
    accents: Linear,
    /// `[1, 256]`
    bias: Tensor<2>,
}

impl DecoderInput {
    fn load(gguf: &Gguf, device: &Device) -> Result<Self, LoadError> {
        let all = nn::values(gguf, "m.dec_in.weight", &[DECODER, DECODER_TAPS * DECODER_INPUTS])?;
        // Output after output, tap after tap.
        let each = || all.chunks_exact(DECODER_INPUTS);
        let sound = (0..DECODER_TAPS).flat_map(|tap| each().skip(tap).step_by(DECODER_TAPS)).flat_map(|w| &w[..SOUND]);
        let accents = each().flat_map(|w| &w[SOUND..]);
        Ok(Self {
            sound: Linear::from_values(sound.copied().collect(), [DECODER_TAPS * DECODER, SOUND], device),
            accents: Linear::from_values(accents.copied().collect(), [DECODER, DECODER_TAPS * ACCENTS], device),
            bias: nn::tensor_f32::<1>(gguf, "m.dec_in.bias", device)?.unsqueeze(),
        })
    }

    /// `sound` of the phonemes `[phonemes, 128]`, of which `sources` names one for each row of `accents` `[t, 2]`.
    fn forward(&self, sound: Tensor<2>, accents: Tensor<2>, sources: &[u32], phrases: &Spans) -> Tensor<2> {
        let onto = self.accents.forward(ops::over_taps(accents, DECODER_TAPS, phrases)) + self.bias.clone();
        ops::add_taps(onto, self.sound.forward(sound), sources, phrases)
    }
}

impl Resident for DecoderInput {
    fn resident_bytes(&self) -> usize {
        self.sound.resident_bytes() + self.accents.resident_bytes() + self.bias.resident_bytes()
    }
}
