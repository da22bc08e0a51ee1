//! From frames to tokens: transformer layers that see what was written so far and the whole utterance.

mod align;

use super::{AsrError, Config, Encoded, boost::Boost, vocabulary::Vocabulary};
use crate::Device;
use crate::nn::{Embedding, LayerNorm, Linear, LoadError, Resident, Rope};
use crate::ops;
pub use align::Aligning;
use burn::tensor::{Int, Tensor, s};
use nearfield_shared::gguf::Gguf;
use std::collections::VecDeque;

/// Caches are as long as the transcript may get, rounded up to this: few different shapes, so that a GPU compiles few kernels.
const CACHE_STEP: usize = 64;

/// Positions in a step, over all transcripts: up to here the CPU multiplies each row straight from the blocks, and what a row
/// gets is bit for bit what it would get alone.
pub const ROWS_MAX: usize = 8;

/// Positions of one transcript in a step: from eight queries on, attention is a matrix product that adds in another order.
const ROWS_OF_ONE_MAX: usize = 7;

/// A transcript being written.
pub struct Decoding {
    layers: Vec<Cache>,
    frames: usize,
    tokens: Vec<u32>,
    tokens_max: usize,
    ended: bool,
    /// What is expected to come next. It is checked, several tokens in a step, and forgotten at the first that differs.
    draft: VecDeque<u32>,
    /// Phrases that are likelier here than the network thinks.
    boost: Option<Boost>,
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

    /// Whether the transcript is complete.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Boosts phrases from here on.
    pub(super) fn boost(&mut self, boost: Option<Boost>) {
        self.boost = boost;
    }

    /// Takes what a step found after each of its rows: the likeliest tokens, and where phrases are boosted the rows' logits. A row's
    /// result counts as long as the row before it was fed the right token; what was fed beyond it is overwritten in the caches by the
    /// next step, and so is what a boosted transcript takes back.
    fn take(&mut self, found: &[u32], logits: &[f32], eos: u32, vocabulary: &Vocabulary) {
        let width = vocabulary.len();
        for (row, &likeliest) in found.iter().enumerate() {
            let mut token = likeliest;
            if let Some(boost) = &mut self.boost {
                let place = self.tokens.len();
                let logits = logits.get(row * width..(row + 1) * width).unwrap_or_default();
                token = boost.choose(place, likeliest, logits, vocabulary);
                let written = (token != eos).then_some(token);
                if let Some(back) = boost.wrote(place, written, token != likeliest, vocabulary) {
                    self.tokens.truncate(back);
                    boost.went_back(&self.tokens, vocabulary);
                    self.draft.clear();
                    return;
                }
            }
            if token == eos {
                self.ended = true;
                return;
            }
            self.tokens.push(token);
            if self.tokens.len() >= self.tokens_max {
                self.ended = true;
                return;
            }
            if self.draft.pop_front() != Some(token) {
                self.draft.clear();
                return;
            }
        }
    }

    /// Positions that the next step may compute: the next token's, and one more for each drafted token before another.
    fn rows_wanted(&self) -> usize {
        let room = self.tokens_max - self.tokens.len().min(self.tokens_max);
        if self.ended { 0 } else { (1 + self.draft.len()).min(ROWS_OF_ONE_MAX).min(room) }
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
        Decoding {
            layers,
            frames: encoded.frames(),
            tokens: Vec::new(),
            tokens_max,
            ended: tokens_max == 0,
            draft: VecDeque::new(),
            boost: None,
        }
    }

    /// Expects these tokens to come. Those that cannot come are left out: what follows a token of another vocabulary, and what
    /// is more than a transcript may have.
    pub fn expect(&self, decoding: &mut Decoding, draft: &[u32]) {
        let vocabulary = self.vocabulary();
        decoding.draft =
            draft.iter().copied().take_while(|t| (*t as usize) < vocabulary).take(decoding.tokens_max).collect();
    }

    /// One step of several transcripts, the most urgent first: each gets one token; where places are left, drafted tokens are
    /// checked in the same pass, and those that hold are written, too. Beyond [`ROWS_MAX`] transcripts the last ones wait.
    pub fn step(&self, decodings: &mut [&mut Decoding], rope: &Rope, vocabulary: &Vocabulary) -> Result<(), AsrError> {
        let mut steps = self.shared_out(decodings);
        if steps.is_empty() {
            return Ok(());
        }
        let tokens: Vec<u32> = steps.iter().flat_map(|step| self.fed(step)).collect();
        let places: Vec<u32> = steps.iter().flat_map(|step| step.at..step.at + step.rows).map(|p| p as u32).collect();
        let logits = self.forward(&tokens, &rope.positions(&places), &mut steps, rope);
        let failed = |error| AsrError::Device(format!("{error:?}"));
        // Only what is boosted is looked at here; the likeliest tokens are found on the device, for all alike.
        let boosted: Vec<Vec<f32>> = steps
            .iter()
            .map(|step| {
                let rows = step.decoding.boost.is_some().then(|| step.first..step.first + step.rows);
                let rows = rows.map(|rows| logits.clone().slice(s![rows, ..]).try_into_data().map_err(failed));
                Ok(rows.transpose()?.map(|data| data.iter::<f32>().collect()).unwrap_or_default())
            })
            .collect::<Result<_, AsrError>>()?;
        let data = logits.argmax(1).try_into_data().map_err(failed)?;
        let found = data
            .iter::<i64>()
            .map(|token| u32::try_from(token).map_err(|_| AsrError::Device("it gave no token".into())))
            .collect::<Result<Vec<_>, _>>()?;
        for (step, logits) in steps.into_iter().zip(boosted) {
            step.decoding.take(&found[step.first..step.first + step.rows], &logits, self.config.eos, vocabulary);
        }
        Ok(())
    }

    /// Who gets how many rows of a step: everyone one, then the drafts of the most urgent as many as are left.
    fn shared_out<'a>(&self, decodings: &'a mut [&mut Decoding]) -> Vec<Step<'a>> {
        let mut steps: Vec<Step<'a>> = decodings
            .iter_mut()
            .filter(|decoding| decoding.rows_wanted() > 0)
            .take(ROWS_MAX)
            .map(|decoding| Step { at: decoding.tokens.len(), first: 0, rows: 1, decoding })
            .collect();
        let (mut left, mut first) = (ROWS_MAX - steps.len(), 0);
        for step in &mut steps {
            let more = (step.decoding.rows_wanted() - 1).min(left);
            (step.first, step.rows, left) = (first, 1 + more, left - more);
            first += step.rows;
        }
        steps
    }

    /// The tokens that a step feeds: the last written one, and drafted ones as if they had been written.
    fn fed(&self, step: &Step<'_>) -> Vec<u32> {
        let last = step.decoding.tokens.last().copied().unwrap_or(self.config.bos);
        std::iter::once(last).chain(step.decoding.draft.iter().copied()).take(step.rows).collect()
    }

    /// The logits of what comes after each of `tokens`, whose rows belong to `steps` in their order.
    fn forward(&self, tokens: &[u32], places: &Tensor<1, Int>, steps: &mut [Step<'_>], rope: &Rope) -> Tensor<2> {
        let (heads, scale, width) = (self.config.heads, self.config.scale(), self.config.width);
        let mut x = self.embedding.rows(tokens);
        for (i, layer) in self.layers.iter().enumerate() {
            let qkv = layer.self_qkv.forward(layer.self_norm.forward(x.clone()));
            let qk = qkv.clone().slice(s![.., 0..2 * width]);
            let qk = rope.forward_at(qk, self.config.head(), places.clone());
            let seen = below_one_another(steps.iter_mut().map(|step| {
                let (at, rows, end) = (step.at, step.first..step.first + step.rows, step.at + step.rows);
                let cache = &mut step.decoding.layers[i];
                // Taken out, so that the cache is the only owner and is written in place.
                let (k, v) = cache
                    .written
                    .take()
                    .expect("it is put back below, and a step that failed in between ended the job");
                let k = k.slice_assign(s![at..end, ..], qk.clone().slice(s![rows.clone(), width..2 * width]));
                let v = v.slice_assign(s![at..end, ..], qkv.clone().slice(s![rows.clone(), 2 * width..3 * width]));
                let q = qk.clone().slice(s![rows, 0..width]);
                let seen = ops::attend(q, k.clone(), v.clone(), heads, end, true, scale);
                cache.written = Some((k, v));
                seen
            }));
            x = layer.self_output.forward_add(seen, x);

            let q = layer.cross_query.forward(layer.cross_norm.forward(x.clone()));
            let heard = below_one_another(steps.iter().map(|step| {
                let (k, v) = step.decoding.layers[i].heard.clone();
                let q = q.clone().slice(s![step.first..step.first + step.rows, ..]);
                ops::attend(q, k, v, heads, step.decoding.frames, false, scale)
            }));
            x = layer.cross_output.forward_add(heard, x);

            let inner = layer.fc1.forward(layer.inner_norm.forward(x.clone()));
            x = layer.fc2.forward_add(ops::gated(inner, false), x);
        }
        self.head.forward(self.norm.forward(x))
    }
}

/// One transcript's part of a step: `rows` rows from row `first` on, which stand at the places from `at` on.
struct Step<'a> {
    decoding: &'a mut Decoding,
    at: usize,
    first: usize,
    rows: usize,
}

/// Rows of several transcripts as one table.
fn below_one_another(parts: impl Iterator<Item = Tensor<2>>) -> Tensor<2> {
    let mut parts: Vec<Tensor<2>> = parts.collect();
    if parts.len() == 1 { parts.swap_remove(0) } else { Tensor::cat(parts, 0) }
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
