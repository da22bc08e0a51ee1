//! Sentence embeddings: all-MiniLM-L6-v2, a BERT of six layers whose mean over the words of a sentence says what it is about.
//!
//! Used to recognise a spoken question among those an assistant knows the answer to: cosine similarity is the dot product of two
//! results, which have unit length. WordPiece tokens by the `tokenizers` crate from the `tokenizer.json` inside the GGUF file;
//! cut at [`TOKENS_MAX`], as the model was trained.
//!
//! Sentences are computed in batches of equal length, shorter ones padded and masked, so that a batch gives what each sentence
//! gives alone. Lengths are rounded up to multiples of [`LENGTH_STEP`]: a GPU then sees few different shapes.

use burn::tensor::{Bool, Tensor, TensorData};
use nearfield_shared::gguf::{Gguf, GgufError};
use tokenizers::{Tokenizer, TruncationParams};

use crate::Device;
use crate::nn::{Embedding, LayerNorm, Linear, LoadError, Resident, attention, expect_architecture, gelu, tensor_f32};
use crate::ops::Activations;

/// `general.architecture` of the file.
pub const ARCHITECTURE: &str = "minilm";
/// Word pieces of a sentence that are read, `[CLS]` and `[SEP]` among them.
pub const TOKENS_MAX: usize = 256;
/// Characters looked at. 256 word pieces are rarely more than 1,500; the rest is not worth splitting.
const TEXT_CHARS_MAX: usize = 8_192;
/// Sentences computed at once. Activations of 16 times 256 tokens take 25 MB at their widest.
const BATCH_MAX: usize = 16;
/// Lengths are multiples of this; eight wastes little on the short questions people ask.
const LENGTH_STEP: usize = 8;
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
        if heads == 0 || !width.is_multiple_of(heads) || layers > LAYERS_MAX || places < TOKENS_MAX {
            let what = format!("{heads} heads, {layers} layers, {places} places of width {width} are no MiniLM");
            return Err(LoadError::Config(what).into());
        }
        expect(gguf, "token_types.weight", &[types.dims()[0].max(1), width])?;
        let vocabulary = tokenizer.get_vocab_size(true);
        expect(gguf, "token_embd.weight", &[vocabulary, width])?;
        let layer = |i: u32| {
            let name = |part: &str| format!("blk.{i}.{part}");
            let inner = gguf.tensor(&name("ffn_up.bias"))?.elems();
            // Exact, because 8-bit activations of short sentences cost as much of the cosine as the weights do (0.9994 for 0.9999),
            // make a sentence alone differ from itself in a batch, and save no time here.
            let linear = |part: &str, outputs: usize, inputs: usize| {
                expect(gguf, &format!("{}.weight", name(part)), &[outputs, inputs])?;
                Ok::<_, LoadError>(Linear::load(gguf, &name(part), device)?.with_activations(Activations::Exact))
            };
            let norm = |part: &str| norm(gguf, &name(part), width, eps, device);
            let qkv = ["attn_q", "attn_k", "attn_v"].map(name);
            for part in &qkv {
                expect(gguf, &format!("{part}.weight"), &[width, width])?;
            }
            Ok(Layer {
                qkv: Linear::load_stacked(gguf, &qkv.each_ref().map(String::as_str), device)?
                    .with_activations(Activations::Exact),
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
        let tokens: Vec<Vec<u32>> = texts.iter().map(|t| self.tokens(t)).collect();
        // Sentences of like length together, so that little is padded.
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|&i| tokens[i].len());
        let mut out = vec![Vec::new(); tokens.len()];
        for batch in order.chunks(BATCH_MAX) {
            let sentences: Vec<&[u32]> = batch.iter().map(|&i| tokens[i].as_slice()).collect();
            for (&i, embedding) in batch.iter().zip(self.batch(&sentences)) {
                out[i] = embedding;
            }
        }
        out
    }

    /// Word pieces of a text between `[CLS]` and `[SEP]`.
    fn tokens(&self, text: &str) -> Vec<u32> {
        let end = text.char_indices().nth(TEXT_CHARS_MAX).map_or(text.len(), |(i, _)| i);
        match self.tokenizer.encode(&text[..end], true) {
            Ok(encoding) => encoding.get_ids().to_vec(),
            // WordPiece has a token for what it does not know, so this does not happen; nothing said is still a sentence.
            Err(_) => Vec::new(),
        }
    }

    fn batch(&self, sentences: &[&[u32]]) -> Vec<Vec<f32>> {
        let count = sentences.len();
        let longest = sentences.iter().map(|s| s.len()).max().unwrap_or_default();
        let length = longest.next_multiple_of(LENGTH_STEP).clamp(LENGTH_STEP, TOKENS_MAX);
        let [_, width] = self.positions.dims();
        let mut ids = vec![0; count * length];
        // The share of each token in its sentence's mean; padding has none.
        let mut shares = vec![0f32; count * length];
        for (i, sentence) in sentences.iter().enumerate() {
            let sentence = &sentence[..sentence.len().min(length)];
            ids[i * length..][..sentence.len()].copy_from_slice(sentence);
            shares[i * length..][..sentence.len()].fill(1.0 / sentence.len().max(1) as f32);
        }
        let padded = sentences.iter().any(|s| s.len() < length);
        let mask = padded.then(|| {
            let unseen: Vec<bool> = shares.iter().map(|&s| s == 0.0).collect();
            let mask = Tensor::<4, Bool>::from_data(TensorData::new(unseen, [count, 1, 1, length]), &self.device);
            mask.expand([count, self.heads, length, length])
        });
        let positions = self.positions.clone().slice([0..length, 0..width]).unsqueeze::<3>();
        let words = self.words.rows(&ids).reshape([count, length, width]);
        let mut x = self.norm.forward((words + positions).reshape([count * length, width]));
        for layer in &self.layers {
            x = layer.forward(x, [count, length, self.heads], mask.as_ref());
        }
        let shares = Tensor::<3>::from_data(TensorData::new(shares, [count, length, 1]), &self.device);
        let means = (x.reshape([count, length, width]) * shares).sum_dim(1);
        let means = means.into_data().try_to_vec::<f32>().expect("the network computes in f32");
        means.chunks_exact(width).map(unit).collect()
    }
}

impl Layer {
    /// `[count * length, width]`; norms come after each half, as BERT has them.
    fn forward(&self, x: Tensor<2>, [count, length, heads]: [usize; 3], mask: Option<&Tensor<4, Bool>>) -> Tensor<2> {
        let [rows, width] = x.dims();
        let qkv = self.qkv.forward(x.clone());
        let part = |i: usize| {
            let part = qkv.clone().slice([0..rows, i * width..(i + 1) * width]);
            part.reshape([count, length, heads, width / heads]).swap_dims(1, 2)
        };
        let mixed = attention(part(0), part(1), part(2), mask.cloned()).swap_dims(1, 2).reshape([rows, width]);
        let x = self.attention_norm.forward(x + self.attention_output.forward(mixed));
        self.output_norm.forward(x.clone() + self.down.forward(gelu(self.up.forward(x))))
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
