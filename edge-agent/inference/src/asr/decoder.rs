//! From frames to tokens: transformer layers that see what was written so far and the whole utterance.

use super::{AsrError, Config, Encoded};
use crate::Device;
use crate::nn::{Embedding, LayerNorm, Linear, LoadError, Resident, Rope, silu};
use crate::ops;
use burn::tensor::{Tensor, s};
use nearfield_shared::gguf::Gguf;

/// Caches are as long as the transcript may get, rounded up to this: few different shapes, so that a GPU compiles few kernels.
const CACHE_STEP: usize = 64;

/// A transcript being written.
pub struct Decoding {
    layers: Vec<Cache>,
    frames: usize,
    tokens: Vec<u32>,
    tokens_max: usize,
    ended: bool,
}

/// What one layer remembers of one transcript.
struct Cache {
    /// Keys and values of the tokens so far, `[places, width]`, of which the first count.
    written: Option<(Tensor<2>, Tensor<2>)>,
    /// Keys and values of the audio, `[frames, width]`.
    heard: (Tensor<2>, Tensor<2>),
}

impl Decoding {
    /// The tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The tokens, taken out.
    pub fn into_tokens(self) -> Vec<u32> {
        self.tokens
    }
}

pub(super) struct Decoder {
    embedding: Embedding,
    head: Linear,
    layers: Vec<Layer>,
    norm: LayerNorm,
    config: Config,
    device: Device,
}

struct Layer {
    self_norm: LayerNorm,
    self_qkv: Linear,
    self_output: Linear,
    cross_norm: LayerNorm,
    cross_query: Linear,
    cross_key: Linear,
    cross_value: Linear,
    cross_output: Linear,
    inner_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Decoder {
    pub fn load(gguf: &Gguf, config: &Config, device: &Device) -> Result<Self, LoadError> {
        let layers = (0..config.decoder_layers)
            .map(|i| {
                let at = |name: &str| format!("model.decoder.layers.{i}.{name}");
                let norm = |name: &str| LayerNorm::load(gguf, &at(name), config.eps, device);
                let stacked = |attention: &str, parts: &[&str]| {
                    let names: Vec<String> = parts.iter().map(|part| at(&format!("{attention}.{part}_proj"))).collect();
                    Linear::load_stacked(gguf, &names.iter().map(String::as_str).collect::<Vec<_>>(), device)
                };
                Ok(Layer {
                    self_norm: norm("input_layernorm")?,
                    self_qkv: stacked("self_attn", &["q", "k", "v"])?,
                    self_output: stacked("self_attn", &["o"])?,
                    cross_norm: norm("post_attention_layernorm")?,
                    cross_query: stacked("encoder_attn", &["q"])?,
                    // Apart, not stacked: halves of one result would be copied into their own rows at every token.
                    cross_key: stacked("encoder_attn", &["k"])?,
                    cross_value: stacked("encoder_attn", &["v"])?,
                    cross_output: stacked("encoder_attn", &["o"])?,
                    inner_norm: norm("final_layernorm")?,
                    fc1: Linear::load(gguf, &at("mlp.fc1"), device)?,
                    fc2: Linear::load(gguf, &at("mlp.fc2"), device)?,
                })
            })
            .collect::<Result<Vec<_>, LoadError>>()?;
        let embedding = Embedding::load(gguf, "model.decoder.embed_tokens", device)?;
        Ok(Self {
            head: embedding.as_linear(),
            embedding,
            layers,
            norm: LayerNorm::load(gguf, "model.decoder.norm", config.eps, device)?,
            config: config.clone(),
            device: device.clone(),
        })
    }

    /// Rows of the embedding table.
    pub fn vocabulary(&self) -> usize {
        self.embedding.vocabulary()
    }

    pub fn begin(&self, encoded: Encoded, tokens_max: usize) -> Decoding {
        let width = self.config.width;
        let places = (tokens_max + 1).next_multiple_of(CACHE_STEP);
        let empty = || Tensor::<2>::zeros([places, width], &self.device);
        let layers = self
            .layers
            .iter()
            .map(|layer| {
                let key = layer.cross_key.forward(encoded.hidden.clone());
                let value = layer.cross_value.forward(encoded.hidden.clone());
                Cache { written: Some((empty(), empty())), heard: (key, value) }
            })
            .collect();
        Decoding { layers, frames: encoded.frames(), tokens: Vec::new(), tokens_max, ended: false }
    }

    pub fn step(&self, decoding: &mut Decoding, rope: &Rope) -> Result<Option<u32>, AsrError> {
        let at = decoding.tokens.len();
        if decoding.ended || at >= decoding.tokens_max {
            decoding.ended = true;
            return Ok(None);
        }
        let last = decoding.tokens.last().copied().unwrap_or(self.config.bos);
        let position = rope.positions(&[at as u32]);
        let mut x = self.embedding.rows(&[last]);
        for (layer, cache) in self.layers.iter().zip(&mut decoding.layers) {
            let (heads, scale, width) = (self.config.heads, self.config.scale(), self.config.width);
            let qkv = layer.self_qkv.forward(layer.self_norm.forward(x.clone()));
            let qk = qkv.clone().slice(s![.., 0..2 * width]);
            let qk = rope.forward_at(qk, self.config.head(), position.clone());
            // Taken out, so that the cache is the only owner and is written in place.
            let (k, v) =
                cache.written.take().expect("it is put back below, and a step that failed in between ended the job");
            let k = k.slice_assign(s![at..at + 1, ..], qk.clone().slice(s![.., width..2 * width]));
            let v = v.slice_assign(s![at..at + 1, ..], qkv.slice(s![.., 2 * width..3 * width]));
            let q = qk.slice(s![.., 0..width]);
            let seen = ops::attend(q, k.clone(), v.clone(), heads, at + 1, false, scale);
            cache.written = Some((k, v));
            x = x + layer.self_output.forward(seen);

            let q = layer.cross_query.forward(layer.cross_norm.forward(x.clone()));
            let (k, v) = cache.heard.clone();
            x = x + layer.cross_output.forward(ops::attend(q, k, v, heads, decoding.frames, false, scale));

            let inner = layer.fc1.forward(layer.inner_norm.forward(x.clone()));
            let half = inner.dims()[1] / 2;
            let gate = silu(inner.clone().slice(s![.., half..2 * half]));
            x = x + layer.fc2.forward(gate * inner.slice(s![.., 0..half]));
        }
        let logits = self.head.forward(self.norm.forward(x));
        let data = logits.argmax(1).try_into_data().map_err(|error| AsrError::Device(format!("{error:?}")))?;
        let next = data.iter::<i64>().next().unwrap_or(-1);
        let next = u32::try_from(next).map_err(|_| AsrError::Device("it gave no token".into()))?;
        if next == self.config.eos {
            decoding.ended = true;
            return Ok(None);
        }
        decoding.tokens.push(next);
        Ok(Some(next))
    }
}

impl Resident for Decoder {
    fn resident_bytes(&self) -> usize {
        // The head shares the embedding's memory.
        self.embedding.resident_bytes() + self.layers.resident_bytes() + self.norm.resident_bytes()
    }
}

impl Resident for Layer {
    fn resident_bytes(&self) -> usize {
        let linears = [
            &self.self_qkv,
            &self.self_output,
            &self.cross_query,
            &self.cross_key,
            &self.cross_value,
            &self.cross_output,
            &self.fc1,
            &self.fc2,
        ];
        let norms = [&self.self_norm, &self.cross_norm, &self.inner_norm];
        linears.iter().map(|linear| linear.resident_bytes()).sum::<usize>()
            + norms.iter().map(|norm| norm.resident_bytes()).sum::<usize>()
    }
}
