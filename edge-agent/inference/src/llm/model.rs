//! The decoder.

use burn::tensor::{Int, Tensor};
use nearfield_shared::gguf::Gguf;

use super::{Config, LlmError, Sampling, Sequence, Tokenizer, bad, sequence::kept_as};
use crate::{
    Device,
    nn::{Embedding, Linear, LoadError, Resident, RmsNorm, Rope, RopePairs},
    ops,
};

/// Tokens of a prompt that are fed at once. One chunk through one layer is one bounded step of the engine; longer chunks gain
/// little, since at this length a step is bound by arithmetic already.
pub const PREFILL_CHUNK: usize = 64;
/// Tokens in a step, over all sequences: up to here the CPU multiplies straight from the blocks, and each sequence gets bit
/// for bit what it would get alone.
pub const DECODE_BATCH_MAX: usize = 8;

/// Tokens of a prompt on their way through the layers.
#[derive(Debug)]
pub struct Feeding {
    x: Tensor<2>,
    positions: Tensor<1, Int>,
    tokens: usize,
    /// The layer that comes next.
    layer: usize,
}

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

    /// Bytes of the keys and values of one token of a conversation, over all layers.
    pub fn cache_bytes_per_token(&self) -> usize {
        self.config.cache_bytes_per_token(kept_as(&self.device).size())
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
        sequence.expect(tokens.len());
        let feed: Vec<u32> = sequence.pending.drain(..).chain(before.iter().copied()).collect();
        for chunk in feed.chunks(PREFILL_CHUNK) {
            let mut feeding = self.feed(sequence, chunk);
            while !self.feed_layer(sequence, &mut feeding) {}
        }
        sequence.pending.push(last);
        Ok(())
    }

    /// Begins to feed at most [`PREFILL_CHUNK`] tokens, none of which waits for [`Llama::decode`]. The sequence stays as it is
    /// until [`Llama::feed_layer`] says that it is done.
    ///
    /// # Errors
    /// [`LlmError::Full`] or [`LlmError::Token`].
    pub fn begin_feed(&self, sequence: &Sequence, tokens: &[u32]) -> Result<Feeding, LlmError> {
        assert!(!tokens.is_empty() && tokens.len() <= PREFILL_CHUNK && sequence.pending.is_empty());
        self.check(tokens)?;
        sequence.check_room(tokens.len())?;
        Ok(self.feed(sequence, tokens))
    }

    fn feed(&self, sequence: &Sequence, tokens: &[u32]) -> Feeding {
        let positions: Vec<u32> = (sequence.filled()..).take(tokens.len()).map(|p| p as u32).collect();
        let positions = self.rope.positions(&positions);
        Feeding { x: self.embedding.rows(tokens), positions, tokens: tokens.len(), layer: 0 }
    }

    /// Takes tokens through one more layer; true when they stand in the sequence's cache.
    pub fn feed_layer(&self, sequence: &mut Sequence, feeding: &mut Feeding) -> bool {
        let (i, t) = (feeding.layer, feeding.tokens);
        let layer = &self.layers[i];
        let (q, k, v) = layer.project(&self.config, &self.rope, feeding.x.clone(), feeding.positions.clone());
        let (k, v) = sequence.store(i, k, v);
        feeding.layer += 1;
        if feeding.layer == self.layers.len() {
            // Nobody reads what the last layer gives for a prompt: its keys and values are all that stays.
            sequence.advance(t);
            return true;
        }
        let visible = sequence.filled() + t;
        let attended = ops::attend(q, k, v, self.config.heads, visible, true, self.config.scale());
        feeding.x = layer.finish(feeding.x.clone(), attended);
        false
    }

    /// One step of every sequence: feeds what is pending and chooses the next token, which becomes the pending one.
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

    /// The scores of every sequence's next token, after feeding what is pending. The caller goes on with
    /// [`Sequence::accept`].
    ///
    /// # Errors
    /// Those of [`Llama::decode`].
    pub fn decode_logits(&self, sequences: &mut [&mut Sequence]) -> Result<Vec<Vec<f32>>, LlmError> {
        for s in sequences.iter() {
            s.check_room(s.pending.len())?;
            if s.pending.is_empty() {
                return Err(LlmError::Empty);
            }
        }
        let vocabulary = self.tokenizer.vocabulary();
        let mut out = Vec::with_capacity(sequences.len());
        let mut rest = sequences;
        while !rest.is_empty() {
            let (batch, later) = rest.split_at_mut(fitting(rest));
            rest = later;
            let x = self.step(batch);
            for s in batch.iter_mut() {
                let fed = s.pending.len();
                s.pending.clear();
                s.advance(fed);
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

    /// The pending tokens of several sequences through all layers: `[sequences, width]`, what each one's last token gave.
    fn step(&self, sequences: &mut [&mut Sequence]) -> Tensor<2> {
        let tokens: Vec<u32> = sequences.iter().flat_map(|s| s.pending.iter().copied()).collect();
        let places = sequences.iter().flat_map(|s| (s.filled()..).take(s.pending.len()));
        let positions = self.rope.positions(&places.map(|p| p as u32).collect::<Vec<_>>());
        let mut x = self.embedding.rows(&tokens);
        for (i, layer) in self.layers.iter().enumerate() {
            let (q, k, v) = layer.project(&self.config, &self.rope, x.clone(), positions.clone());
            let mut first = 0;
            let rows = sequences.iter_mut().map(|sequence| {
                let t = sequence.pending.len();
                let own = |table: &Tensor<2>| table.clone().narrow(0, first, t);
                let (keys, values) = sequence.store(i, own(&k), own(&v));
                let visible = sequence.filled() + t;
                let attended =
                    ops::attend(own(&q), keys, values, self.config.heads, visible, true, self.config.scale());
                first += t;
                attended
            });
            x = layer.finish(x, below_one_another(rows.collect()));
        }
        if tokens.len() == sequences.len() {
            return x;
        }
        let mut end = 0;
        let last = sequences.iter().map(|sequence| {
            end += sequence.pending.len();
            x.clone().narrow(0, end - 1, 1)
        });
        below_one_another(last.collect())
    }
}

/// How many of these sequences fit into one step, at least one.
fn fitting(sequences: &[&mut Sequence]) -> usize {
    let mut rows = 0;
    let fits = |sequence: &&&mut Sequence| {
        rows += sequence.pending.len();
        rows <= DECODE_BATCH_MAX
    };
    sequences.iter().take_while(fits).count().max(1)
}

/// Rows of several sequences as one table.
fn below_one_another(mut parts: Vec<Tensor<2>>) -> Tensor<2> {
    if parts.len() == 1 { parts.swap_remove(0) } else { Tensor::cat(parts, 0) }
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
        let x = self.output.forward_add(attended, x);
        let both = self.gate_up.forward(self.mlp_norm.forward(x.clone()));
        self.down.forward_add(ops::gated(both, true), x)
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
