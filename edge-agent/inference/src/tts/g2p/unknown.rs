//! Words that no dictionary knows: a small character transformer reads their letters.
//!
//! 0.73 million weights, four pre-norm layers over at most 24 characters, no recurrence. Each character gives four slots, each slot
//! a phoneme or the blank; repeats collapse and blanks vanish (CTC), so the whole word is read in one pass. It was trained on the
//! readings of espeak-ng.
//!
//! It is a transformer like the others here, so it runs on burn with the same layers. The caller should give it the CPU device:
//! one pass is 18 million multiplications, less than starting its hundred kernels on a GPU, and a GPU busy with somebody's answer
//! would make the text wait.

use burn::tensor::Tensor;
use nearfield_shared::gguf::Gguf;

use super::{G2pError, keys};
use crate::Device;
use crate::nn::{Embedding, LayerNorm, Linear, LoadError, Resident, attention, gelu, tensor_f32};

const NORM_EPS: f32 = 1e-5;
/// Layers and characters beyond this are no network of this kind.
const LAYERS_MAX: u32 = 64;
const CHARACTERS_MAX: usize = 256;

/// The network and its two alphabets.
#[derive(Debug)]
pub struct UnknownWords {
    /// Sorted characters with their ids.
    input: Vec<(char, u32)>,
    /// Phoneme of each output from 1.
    output: Vec<String>,
    embedding: Embedding,
    /// `[characters, width]`.
    positions: Tensor<2>,
    layers: Vec<Layer>,
    norm: LayerNorm,
    head: Linear,
    heads: usize,
}

#[derive(Debug)]
struct Layer {
    attention_norm: LayerNorm,
    qkv: Linear,
    attention_output: Linear,
    feed_norm: LayerNorm,
    up: Linear,
    down: Linear,
}

impl UnknownWords {
    /// Loads the network from the voice's file.
    pub fn load(gguf: &Gguf, device: &Device) -> Result<Self, G2pError> {
        let bad = |what: String| G2pError::Data { name: "network for unknown words", what };
        let name = |tensor: &str| format!("{}.{tensor}", keys::UNKNOWN);
        let output: Vec<String> = gguf.strs(keys::UNKNOWN_OUTPUT)?.into_iter().map(String::from).collect();
        let mut input = Vec::new();
        for (text, id) in gguf.strs(keys::UNKNOWN_INPUT)?.into_iter().zip(1..) {
            let mut chars = text.chars();
            match (chars.next(), chars.next()) {
                (Some(c), None) => input.push((c, id)),
                _ => return Err(bad(format!("input {id} is {text:?}, not one character"))),
            }
        }
        input.sort_unstable();
        let (heads, layers) = (gguf.u32(keys::UNKNOWN_HEADS)? as usize, gguf.u32(keys::UNKNOWN_LAYERS)?);
        let positions: Tensor<2> = tensor_f32(gguf, &name("position_embd.weight"), device)?;
        let [characters, width] = positions.dims();
        if heads == 0 || !width.is_multiple_of(heads) || layers > LAYERS_MAX || characters > CHARACTERS_MAX {
            return Err(bad(format!("{heads} heads, {layers} layers, {characters} places of width {width}")));
        }
        expect(gguf, &name("token_embd.weight"), &[input.len() + 1, width])?;
        let linear = |tensor: &str, outputs: usize, inputs: usize| {
            expect(gguf, &name(&format!("{tensor}.weight")), &[outputs, inputs])?;
            Linear::load(gguf, &name(tensor), device)
        };
        let norm = |tensor: &str| {
            expect(gguf, &name(&format!("{tensor}.weight")), &[width])?;
            LayerNorm::load(gguf, &name(tensor), NORM_EPS, device)
        };
        let layer = |i: u32| {
            let up_bias = name(&format!("blk.{i}.ffn_up.bias"));
            let inner = gguf.tensor(&up_bias)?.elems();
            Ok::<_, G2pError>(Layer {
                attention_norm: norm(&format!("blk.{i}.attn_norm"))?,
                qkv: linear(&format!("blk.{i}.attn_qkv"), 3 * width, width)?,
                attention_output: linear(&format!("blk.{i}.attn_output"), width, width)?,
                feed_norm: norm(&format!("blk.{i}.ffn_norm"))?,
                up: linear(&format!("blk.{i}.ffn_up"), inner, width)?,
                down: linear(&format!("blk.{i}.ffn_down"), width, inner)?,
            })
        };
        let slots = gguf.tensor(&name("output.bias"))?.elems();
        if slots == 0 || !slots.is_multiple_of(output.len() + 1) {
            return Err(bad(format!("{slots} outputs are no whole number of slots of {}", output.len() + 1)));
        }
        Ok(Self {
            embedding: Embedding::load(gguf, &name("token_embd"), device)?,
            layers: (0..layers).map(layer).collect::<Result<_, _>>()?,
            norm: norm("output_norm")?,
            head: linear("output", slots, width)?,
            input,
            output,
            positions,
            heads,
        })
    }

    /// The phonemes of a word; of a longer one than the network takes, of its beginning. `None` where it knows no character.
    pub fn read(&self, word: &str) -> Option<String> {
        let id = |c: char| self.input.binary_search_by_key(&c, |&(known, _)| known).ok().map(|i| self.input[i].1);
        let ids: Vec<u32> = word.chars().filter_map(id).take(self.positions.dims()[0]).collect();
        if ids.is_empty() {
            return None;
        }
        let scores = match self.forward(&ids).try_into_data().map(|d| d.try_to_vec::<f32>()) {
            Ok(Ok(scores)) => scores,
            // The word is the caller's, so the log does not have it.
            Ok(Err(e)) => return unreadable(&e),
            Err(e) => return unreadable(&e),
        };
        let mut phonemes = String::new();
        let mut before = 0;
        for slot in scores.chunks_exact(self.output.len() + 1) {
            let mut best = 0;
            for (i, score) in slot.iter().enumerate() {
                if *score > slot[best] {
                    best = i;
                }
            }
            if best != before && best > 0 {
                phonemes += &self.output[best - 1];
            }
            before = best;
        }
        Some(phonemes)
    }

    /// `[characters, slots * (phonemes + 1)]`.
    fn forward(&self, ids: &[u32]) -> Tensor<2> {
        let length = ids.len();
        let [_, width] = self.positions.dims();
        let mut x = self.embedding.rows(ids) + self.positions.clone().slice([0..length, 0..width]);
        for layer in &self.layers {
            let qkv = layer.qkv.forward(layer.attention_norm.forward(x.clone()));
            let part = |i: usize| {
                let part = qkv.clone().slice([0..length, i * width..(i + 1) * width]);
                part.reshape([1, length, self.heads, width / self.heads]).swap_dims(1, 2)
            };
            let mixed = attention(part(0), part(1), part(2), None).swap_dims(1, 2).reshape([length, width]);
            x = x + layer.attention_output.forward(mixed);
            x = x.clone() + layer.down.forward(gelu(layer.up.forward(layer.feed_norm.forward(x))));
        }
        self.head.forward(self.norm.forward(x))
    }
}

impl Resident for UnknownWords {
    fn resident_bytes(&self) -> usize {
        self.embedding.resident_bytes()
            + self.positions.resident_bytes()
            + self.layers.resident_bytes()
            + self.norm.resident_bytes()
            + self.head.resident_bytes()
    }
}

impl Resident for Layer {
    fn resident_bytes(&self) -> usize {
        self.attention_norm.resident_bytes()
            + self.qkv.resident_bytes()
            + self.attention_output.resident_bytes()
            + self.feed_norm.resident_bytes()
            + self.up.resident_bytes()
            + self.down.resident_bytes()
    }
}

fn unreadable(why: &dyn std::fmt::Debug) -> Option<String> {
    tracing::warn!(?why, "the device failed while reading an unknown word; it is left out");
    None
}

/// Refuses a tensor of another shape before a product could.
fn expect(gguf: &Gguf, name: &str, shape: &[usize]) -> Result<(), LoadError> {
    let view = gguf.tensor(name)?;
    if view.shape == shape {
        return Ok(());
    }
    Err(LoadError::Shape { name: name.to_owned(), expected: format!("{shape:?}"), found: view.shape })
}
