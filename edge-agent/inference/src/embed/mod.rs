//! Sentence embeddings: all-MiniLM-L6-v2, a BERT of six layers whose mean over the words of a sentence says what it is about.
//!
//! Used to recognise a spoken question among those an assistant knows the answer to: cosine similarity is the dot product of two
//! results, which have unit length. WordPiece tokens by the `tokenizers` crate from the `tokenizer.json` inside the GGUF file;
//! cut at [`TOKENS_MAX`], as the model was trained.
//!
//! The words of several sentences go through the layers as one table, one sentence below the other; only attention and the mean
//! look at each sentence apart. So nothing is padded, and a batch gives what each sentence gives alone.

use burn::tensor::Tensor;
use nearfield_shared::gguf::{Gguf, GgufError};
use tokenizers::{Tokenizer, TruncationParams};

use crate::Device;
use crate::nn::{Embedding, LayerNorm, Linear, LoadError, Resident, expect_architecture, host, tensor_f32};
use crate::ops::{self, Spans};

/// `general.architecture` of the file.
pub const ARCHITECTURE: &str = "minilm";
/// Word pieces of a sentence that are read, `[CLS]` and `[SEP]` among them.
pub const TOKENS_MAX: usize = 256;
/// Characters looked at. 256 word pieces are rarely more than 1,500; the rest is not worth splitting.
const TEXT_CHARS_MAX: usize = 8_192;
/// Word pieces computed at once; their activations take 25 MB at their widest. One sentence always fits.
const BATCH_TOKENS_MAX: usize = 4_096;
const LAYERS_MAX: u32 = 64;

/// Why a file holds no sentence embedding.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// A weight or number in it.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its tokenizer.
    #[error("the tokenizer of the embedding model cannot be used: {0}; import the model again")]
    Tokenizer(String),
}

impl From<GgufError> for EmbedError {
    fn from(e: GgufError) -> Self {
        Self::Load(e.into())
    }
}

/// The network and its tokenizer.
#[derive(Debug)]
pub struct MiniLm {
    tokenizer: Tokenizer,
    words: Embedding,
    /// `[places, width]`, the type of the first sentence added in.
    positions: Tensor<2>,
    norm: LayerNorm,
    layers: Vec<Layer>,
    heads: usize,
    device: Device,
}

#[derive(Debug)]
struct Layer {
    qkv: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    output_norm: LayerNorm,
}

impl MiniLm {
    /// Loads the model onto a device.
    ///
    /// # Errors
    /// [`EmbedError`].
    pub fn load(gguf: &Gguf, device: &Device) -> Result<Self, EmbedError> {
        expect_architecture(gguf, ARCHITECTURE)?;
        let tokenizer = tokenizer(gguf.str("tokenizer.huggingface.json")?)?;
        let heads = gguf.u32("minilm.attention.head_count")? as usize;
        let layers = gguf.u32("minilm.block_count")?;
        let eps = gguf.f32("minilm.attention.layer_norm_epsilon")?;
        let positions: Tensor<2> = tensor_f32(gguf, "position_embd.weight", device)?;
        let types: Tensor<2> = tensor_f32(gguf, "token_types.weight", device)?;
        let [places, width] = positions.dims();
        if heads == 0
            || !width.is_multiple_of(heads)
            || width / heads > 256
            || layers > LAYERS_MAX
            || places < TOKENS_MAX
        {
            let what = format!("{heads} heads, {layers} layers, {places} places of width {width} are no MiniLM");
            return Err(LoadError::Config(what).into());
        }
        expect(gguf, "token_types.weight", &[types.dims()[0].max(1), width])?;
        let vocabulary = tokenizer.get_vocab_size(true);
        expect(gguf, "token_embd.weight", &[vocabulary, width])?;
        let layer = |i: u32| {
            let name = |part: &str| format!("blk.{i}.{part}");
            let inner = gguf.tensor(&name("ffn_up.bias"))?.elems();
            // 16-bit activations, because 8-bit ones of short sentences cost as much of the cosine as the weights do (0.9994 for 0.9999).
            let linear = |part: &str, outputs: usize, inputs: usize| {
                expect(gguf, &format!("{}.weight", name(part)), &[outputs, inputs])?;
                Linear::load(gguf, &name(part), device)
            };
            let norm = |part: &str| norm(gguf, &name(part), width, eps, device);
            let qkv = ["attn_q", "attn_k", "attn_v"].map(name);
            for part in &qkv {
                expect(gguf, &format!("{part}.weight"), &[width, width])?;
            }
            Ok(Layer {
                qkv: Linear::load_stacked(gguf, &qkv.each_ref().map(String::as_str), device)?,
                attention_output: linear("attn_output", width, width)?,
                attention_norm: norm("attn_output_norm")?,
                up: linear("ffn_up", inner, width)?,
                down: linear("ffn_down", width, inner)?,
                output_norm: norm("layer_output_norm")?,
            })
        };
        Ok(Self {
            tokenizer,
            words: Embedding::load(gguf, "token_embd", device)?,
            positions: positions.slice([0..TOKENS_MAX, 0..width]) + types.slice([0..1, 0..width]),
            norm: norm(gguf, "token_embd_norm", width, eps, device)?,
            layers: (0..layers).map(layer).collect::<Result<_, LoadError>>()?,
            heads,
            device: device.clone(),
        })
    }

    /// One vector of unit length for each text, in their order.
    ///
    /// # Panics
    /// If the device fails; the engine catches it and tells those who wait.
    pub fn embed(&self, texts: &[&str]) -> Vec<Vec<f32>> {
        let mut out = Vec::with_capacity(texts.len());
        let (mut batch, mut size) = (Vec::new(), 0);
        for text in texts {
            let tokens = self.tokens(text);
            if size + tokens.len() > BATCH_TOKENS_MAX {
                out.extend(self.batch(&std::mem::take(&mut batch)));
                size = 0;
            }
            size += tokens.len();
            batch.push(tokens);
        }
        out.extend(self.batch(&batch));
        out
    }

    /// Word pieces of a text between `[CLS]` and `[SEP]`.
    fn tokens(&self, text: &str) -> Vec<u32> {
        let end = text.char_indices().nth(TEXT_CHARS_MAX).map_or(text.len(), |(i, _)| i);
        match self.tokenizer.encode(&text[..end], true) {
            Ok(encoding) if !encoding.is_empty() => encoding.get_ids().to_vec(),
            // WordPiece has a token for what it does not know, so this does not happen; nothing said is still a sentence.
            _ => vec![0],
        }
    }

    fn batch(&self, sentences: &[Vec<u32>]) -> Vec<Vec<f32>> {
        if sentences.is_empty() {
            return Vec::new();
        }
        let [_, width] = self.positions.dims();
        let spans = Spans::new(sentences.iter().map(Vec::len), &self.device);
        let words = self.words.rows(&sentences.concat());
        let positions = sentences.iter().map(|s| self.positions.clone().narrow(0, 0, s.len())).collect();
        let mut x = self.norm.forward(words + Tensor::cat(positions, 0));
        for layer in &self.layers {
            x = layer.forward(x, &spans, self.heads);
        }
        let mut end = 0;
        let mean = |sentence: &Vec<u32>| {
            let start = end;
            end += sentence.len();
            x.clone().narrow(0, start, sentence.len()).mean_dim(0)
        };
        let means = sentences.iter().map(mean).collect();
        host(Tensor::cat(means, 0)).chunks_exact(width).map(unit).collect()
    }
}

impl Layer {
    /// `[words, width]`; norms come after each half, as BERT has them. Words see those of their own sentence's rows.
    fn forward(&self, x: Tensor<2>, sentences: &Spans, heads: usize) -> Tensor<2> {
        let [_, width] = x.dims();
        let qkv = self.qkv.forward(x.clone());
        let scale = ((width / heads) as f32).sqrt().recip();
        let [q, k, v] = [0, 1, 2].map(|i| qkv.clone().narrow(1, i * width, width));
        let mixed = ops::attend_within(q, k, v, heads, sentences, scale);
        let x = self.attention_norm.forward(self.attention_output.forward_add(mixed, x));
        self.output_norm.forward(self.down.forward_add(self.up.forward_gelu(x.clone()), x))
    }
}

impl Resident for MiniLm {
    /// Of the weights; the tokenizer's tables take about 8 MB more.
    fn resident_bytes(&self) -> usize {
        self.words.resident_bytes()
            + self.positions.resident_bytes()
            + self.norm.resident_bytes()
            + self.layers.resident_bytes()
    }
}

impl Resident for Layer {
    fn resident_bytes(&self) -> usize {
        self.qkv.resident_bytes()
            + self.attention_output.resident_bytes()
            + self.attention_norm.resident_bytes()
            + self.up.resident_bytes()
            + self.down.resident_bytes()
            + self.output_norm.resident_bytes()
    }
}

fn tokenizer(json: &str) -> Result<Tokenizer, EmbedError> {
    let bad = |e: tokenizers::Error| EmbedError::Tokenizer(e.to_string());
    let mut tokenizer = Tokenizer::from_bytes(json.as_bytes()).map_err(bad)?;
    tokenizer.with_padding(None);
    let truncation = TruncationParams { max_length: TOKENS_MAX, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation)).map_err(bad)?;
    Ok(tokenizer)
}

fn norm(gguf: &Gguf, prefix: &str, width: usize, eps: f32, device: &Device) -> Result<LayerNorm, LoadError> {
    expect(gguf, &format!("{prefix}.weight"), &[width])?;
    LayerNorm::load(gguf, prefix, eps, device)
}

/// Refuses a tensor of another shape before a product could.
fn expect(gguf: &Gguf, name: &str, shape: &[usize]) -> Result<(), LoadError> {
    let view = gguf.tensor(name)?;
    if view.shape == shape {
        return Ok(());
    }
    Err(LoadError::Shape { name: name.to_owned(), expected: format!("{shape:?}"), found: view.shape })
}

/// The same direction at length one; what has no direction stays as it is.
fn unit(v: &[f32]) -> Vec<f32> {
    let length = v.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 { v.iter().map(|x| x / length).collect() } else { v.to_vec() }
}
