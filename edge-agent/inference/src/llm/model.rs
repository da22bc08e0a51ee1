//! The decoder.

use burn::tensor::{Int, Tensor};
use nearfield_shared::gguf::Gguf;

use super::{Config, LlmError, Sampling, Sequence, Tokenizer, bad};
use crate::{
    Device,
    nn::{Embedding, Linear, LoadError, Resident, RmsNorm, Rope, RopePairs, silu},
    ops,
};

/// Tokens of a prompt that are fed at once. One chunk is one bounded step of the engine; longer chunks gain little, since
/// at this length a step is bound by arithmetic already.
pub const PREFILL_CHUNK: usize = 64;
/// Sequences in a step: up to here the CPU multiplies straight from the blocks, and each sequence gets bit for bit what it
/// would get alone.
pub const DECODE_BATCH_MAX: usize = 8;

/// A Llama decoder on a device.
#[derive(Debug)]
pub struct Llama {
    config: Config,
    tokenizer: Tokenizer,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
    /// Whether the head is the embedding, whose bytes count once.
    tied: bool,
    rope: Rope,
    device: Device,
}

#[derive(Debug)]
struct Layer {
    attention_norm: RmsNorm,
    /// Query, key and value.
    qkv: SideBySide,
    output: Linear,
    mlp_norm: RmsNorm,
    /// Gate and up.
    gate_up: SideBySide,
    down: Linear,
}

/// Layers over one input: one product where their block types agree, as many as there are where not (K-quant files).
#[derive(Debug)]
struct SideBySide(Vec<Linear>);

impl SideBySide {
    fn load(gguf: &Gguf, prefixes: &[String], device: &Device) -> Result<Self, LoadError> {
        let names: Vec<&str> = prefixes.iter().map(String::as_str).collect();
        let mut types = Vec::new();
        for n in &names {
            types.push(gguf.tensor(&format!("{n}.weight"))?.block);
        }
        Ok(Self(if types.iter().all(|t| *t == types[0]) {
            vec![Linear::load_stacked(gguf, &names, device)?]
        } else {
            names.iter().map(|n| Linear::load(gguf, n, device)).collect::<Result<_, _>>()?
        }))
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self.0.as_slice() {
            [one] => one.forward(x),
            several => Tensor::cat(several.iter().map(|l| l.forward(x.clone())).collect(), 1),
        }
    }

    fn outputs(&self) -> usize {
        self.0.iter().map(Linear::outputs).sum()
    }
}

impl Llama {
    /// Puts a model on a device. Weights stay in their blocks.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(gguf: &Gguf, device: &Device) -> Result<Self, LoadError> {
        let config = Config::read(gguf)?;
        let tokenizer = Tokenizer::read(gguf)?;
        let embedding = Embedding::load(gguf, "token_embd", device)?;
        if embedding.vocabulary() != tokenizer.vocabulary() {
            return Err(bad(format!(
                "the embedding has {} rows and the tokenizer {} tokens",
                embedding.vocabulary(),
                tokenizer.vocabulary()
            )));
        }
        let tied = !gguf.has_tensor("output.weight");
        let head = if tied { embedding.as_linear() } else { Linear::load(gguf, "output", device)? };
        let layers = (0..config.layers).map(|i| Layer::load(gguf, i, &config, device)).collect::<Result<_, _>>()?;
        let norm = RmsNorm::load(gguf, "output_norm", config.rms_eps, device)?;
        if (head.inputs(), head.outputs()) != (config.width, tokenizer.vocabulary()) {
            return Err(bad(format!("the head maps {} to {}", head.inputs(), head.outputs())));
        }
        // llama.cpp stores the query and key rows of Llama files so that neighbours turn together.
        let rope = Rope::new(config.context, config.rope_dims, config.rope_theta.into(), RopePairs::Neighbours, device);
        Ok(Self { config, tokenizer, embedding, layers, norm, head, tied, rope, device: device.clone() })
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Text to tokens and back.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// An empty conversation of at most `places` tokens (bounded by the model's context).
    pub fn sequence(&self, places: usize, sampling: Sampling) -> Sequence {
        Sequence::new(&self.config, places, sampling, &self.device)
    }

    /// Feeds tokens in chunks of [`PREFILL_CHUNK`]. The last token waits for [`Llama::decode`], which needs one to
    /// continue from. May be called again with more; an engine that wants bounded steps passes a chunk at a time.
    ///
    /// # Errors
    /// [`LlmError::Full`] or [`LlmError::Token`], before anything is fed; [`LlmError::Device`].
    pub fn prefill(&self, sequence: &mut Sequence, tokens: &[u32]) -> Result<(), LlmError> {
        self.check(tokens)?;
        let Some((&last, before)) = tokens.split_last() else {
            return Ok(());
        };
        sequence.check_room(sequence.tokens() - sequence.filled() + tokens.len())?;
        let feed: Vec<u32> = sequence.pending.take().into_iter().chain(before.iter().copied()).collect();
        for chunk in feed.chunks(PREFILL_CHUNK) {
            self.feed(sequence, chunk);
        }
        sequence.pending = Some(last);
        Ok(())
    }

    /// One step of every sequence: feeds its pending token and chooses the next, which becomes the pending one.
    ///
    /// # Errors
    /// [`LlmError::Full`] or [`LlmError::Empty`] if that holds for any of them, before anything is fed;
    /// [`LlmError::Device`].
    pub fn decode(&self, sequences: &mut [&mut Sequence]) -> Result<Vec<u32>, LlmError> {
        let logits = self.decode_logits(sequences)?;
        let mut tokens = Vec::with_capacity(sequences.len());
        for (sequence, logits) in sequences.iter_mut().zip(&logits) {
            let token = sequence.sampler.choose(logits);
            let token = token.ok_or_else(|| LlmError::Device("it computed something that is no number".to_owned()))?;
            sequence.accept(token);
            tokens.push(token);
        }
        Ok(tokens)
    }

    /// The scores of every sequence's next token, after feeding its pending one. The caller goes on with
    /// [`Sequence::accept`].
    ///
    /// # Errors
    /// Those of [`Llama::decode`].
    pub fn decode_logits(&self, sequences: &mut [&mut Sequence]) -> Result<Vec<Vec<f32>>, LlmError> {
        let mut tokens = Vec::with_capacity(sequences.len());
        for s in sequences.iter() {
            s.check_room(1)?;
            tokens.push(s.pending.ok_or(LlmError::Empty)?);
        }
        let vocabulary = self.tokenizer.vocabulary();
        let mut out = Vec::with_capacity(sequences.len());
        for (batch, tokens) in sequences.chunks_mut(DECODE_BATCH_MAX).zip(tokens.chunks(DECODE_BATCH_MAX)) {
            let x = self.step(batch, tokens);
            for s in batch.iter_mut() {
                s.pending = None;
                s.advance(1);
            }
            let logits = self.head.forward(self.norm.forward(x));
            // What went wrong on a GPU shows here.
            let data = logits.try_into_data().map_err(|e| LlmError::Device(format!("{e:?}")))?;
            let logits = data.try_to_vec::<f32>().map_err(|e| LlmError::Device(format!("{e:?}")))?;
            out.extend(logits.chunks_exact(vocabulary).map(<[f32]>::to_vec));
        }
        Ok(out)
    }

    fn check(&self, tokens: &[u32]) -> Result<(), LlmError> {
        let vocabulary = self.tokenizer.vocabulary();
        match tokens.iter().find(|t| **t as usize >= vocabulary) {
            Some(&token) => Err(LlmError::Token { token, vocabulary }),
            None => Ok(()),
        }
    }

    /// Consecutive tokens of one sequence into its cache.
    fn feed(&self, sequence: &mut Sequence, tokens: &[u32]) {
        let (start, t) = (sequence.filled(), tokens.len());
        let positions: Vec<u32> = (start..start + t).map(|p| p as u32).collect();
        let positions = self.rope.positions(&positions);
        let mut x = self.embedding.rows(tokens);
        let last = self.layers.len() - 1;
        for (i, layer) in self.layers.iter().enumerate() {
            let (q, k, v) = layer.project(&self.config, &self.rope, x.clone(), positions.clone());
            let (k, v) = sequence.store(i, k, v);
            if i == last {
                // Nobody reads what the last layer gives for a prompt: its keys and values are all that stays.
                break;
            }
            let attended = ops::attend(q, k, v, self.config.heads, start + t, true, self.config.scale());
            x = layer.finish(x, attended);
        }
        sequence.advance(t);
    }

    /// One token of each of several sequences through all layers: `[sequences, width]`.
    fn step(&self, sequences: &mut [&mut Sequence], tokens: &[u32]) -> Tensor<2> {
        let positions: Vec<u32> = sequences.iter().map(|s| s.filled() as u32).collect();
        let positions = self.rope.positions(&positions);
        let mut x = self.embedding.rows(tokens);
        for (i, layer) in self.layers.iter().enumerate() {
            let (q, k, v) = layer.project(&self.config, &self.rope, x.clone(), positions.clone());
            let rows = sequences.iter_mut().enumerate().map(|(row, sequence)| {
                let one = |t: &Tensor<2>| t.clone().narrow(0, row, 1);
                let (keys, values) = sequence.store(i, one(&k), one(&v));
                let visible = sequence.filled() + 1;
                ops::attend(one(&q), keys, values, self.config.heads, visible, true, self.config.scale())
            });
            let rows: Vec<Tensor<2>> = rows.collect();
            let attended = if rows.len() == 1 { rows.into_iter().next() } else { Some(Tensor::cat(rows, 0)) };
            x = layer.finish(x, attended.expect("a step has at least one sequence"));
        }
        x
    }
}

impl Config {
    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

impl Layer {
    fn load(gguf: &Gguf, i: usize, config: &Config, device: &Device) -> Result<Self, LoadError> {
        let name = |part: &str| format!("blk.{i}.{part}");
        let norm = |part: &str| RmsNorm::load(gguf, &name(part), config.rms_eps, device);
        let several =
            |parts: &[&str]| SideBySide::load(gguf, &parts.iter().map(|p| name(p)).collect::<Vec<_>>(), device);
        let layer = Self {
            attention_norm: norm("attn_norm")?,
            qkv: several(&["attn_q", "attn_k", "attn_v"])?,
            output: Linear::load(gguf, &name("attn_output"), device)?,
            mlp_norm: norm("ffn_norm")?,
            gate_up: several(&["ffn_gate", "ffn_up"])?,
            down: Linear::load(gguf, &name("ffn_down"), device)?,
        };
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let inner = layer.down.inputs();
        let fits = layer.qkv.outputs() == q + 2 * kv
            && layer.qkv.0.iter().chain(&layer.gate_up.0).all(|l| l.inputs() == config.width)
            && (layer.output.inputs(), layer.output.outputs()) == (q, config.width)
            && (layer.gate_up.outputs(), layer.down.outputs()) == (2 * inner, config.width);
        if !fits {
            return Err(bad(format!("the matrices of layer {i} do not fit a model of width {}", config.width)));
        }
        Ok(layer)
    }

    /// Queries, keys and values of `[t, width]`, the first two turned to their positions.
    fn project(
        &self,
        config: &Config,
        rope: &Rope,
        x: Tensor<2>,
        positions: Tensor<1, Int>,
    ) -> (Tensor<2>, Tensor<2>, Tensor<2>) {
        let qkv = self.qkv.forward(self.attention_norm.forward(x));
        let t = qkv.dims()[0];
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        // Queries and keys lie side by side and turn as one.
        let turned = rope.forward_at(qkv.clone().slice([0..t, 0..q + kv]), config.head_dim, positions);
        let v = qkv.slice([0..t, q + kv..q + 2 * kv]);
        (turned.clone().slice([0..t, 0..q]), turned.slice([0..t, q..q + kv]), v)
    }

    /// The rest of the layer after attention.
    fn finish(&self, x: Tensor<2>, attended: Tensor<2>) -> Tensor<2> {
        let x = x + self.output.forward(attended);
        let both = self.gate_up.forward(self.mlp_norm.forward(x.clone()));
        let [t, two] = both.dims();
        let gate = silu(both.clone().slice([0..t, 0..two / 2]));
        x + self.down.forward(gate * both.slice([0..t, two / 2..two]))
    }
}

impl Resident for SideBySide {
    fn resident_bytes(&self) -> usize {
        self.0.resident_bytes()
    }
}

impl Resident for Layer {
    fn resident_bytes(&self) -> usize {
        self.attention_norm.resident_bytes()
            + self.qkv.resident_bytes()
            + self.output.resident_bytes()
            + self.mlp_norm.resident_bytes()
            + self.gate_up.resident_bytes()
            + self.down.resident_bytes()
    }
}

impl Resident for Llama {
    fn resident_bytes(&self) -> usize {
        let head = if self.tied { 0 } else { self.head.resident_bytes() };
        self.embedding.resident_bytes()
            + head
            + self.layers.resident_bytes()
            + self.norm.resident_bytes()
            + self.rope.resident_bytes()
    }
}
