//! The shape of a decoder, from the file's metadata.

use nearfield_shared::gguf::Gguf;

use super::bad;
use crate::nn::{LoadError, expect_architecture};

/// Longest context that is ever provided for, whatever a file says: rotary tables and caches are sized by it.
const CONTEXT_MAX: usize = 1 << 17;

/// Shape of a Llama decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads, shared by equal groups of query heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Columns of a head that turn with the position.
    pub rope_dims: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Added to the mean square in RMS norms.
    pub rms_eps: f32,
    /// Tokens that the model was trained to look back on.
    pub context: usize,
}

impl Config {
    /// Reads the keys `llama.*`.
    ///
    /// # Errors
    /// [`LoadError`] for another architecture, missing keys, or numbers that do not fit one another.
    pub fn read(gguf: &Gguf) -> Result<Self, LoadError> {
        expect_architecture(gguf, "llama")?;
        let number = |key: &str| -> Result<usize, LoadError> {
            match gguf.u32(&format!("llama.{key}"))? as usize {
                0 => Err(bad(format!("llama.{key} is 0"))),
                n if n > 1 << 20 => Err(bad(format!("llama.{key} is {n}"))),
                n => Ok(n),
            }
        };
        let optional = |key: &str, default: usize| {
            if gguf.meta(&format!("llama.{key}")).is_some() { number(key) } else { Ok(default) }
        };
        let width = number("embedding_length")?;
        let heads = number("attention.head_count")?;
        let kv_heads = optional("attention.head_count_kv", heads)?;
        let head_dim = optional("attention.key_length", width / heads)?;
        let rope_dims = optional("rope.dimension_count", head_dim)?;
        let theta = if gguf.meta("llama.rope.freq_base").is_some() { gguf.f32("llama.rope.freq_base")? } else { 1e4 };
        let config = Self {
            layers: number("block_count")?,
            width,
            heads,
            kv_heads,
            head_dim,
            rope_dims,
            rope_theta: theta,
            rms_eps: gguf.f32("llama.attention.layer_norm_rms_epsilon")?,
            context: number("context_length")?.min(CONTEXT_MAX),
        };
        if heads % kv_heads != 0 || head_dim == 0 || head_dim > 256 || rope_dims > head_dim || rope_dims % 2 != 0 {
            return Err(bad(format!(
                "{heads} heads of {head_dim} over {kv_heads} key-value heads with {rope_dims} rotary columns"
            )));
        }
        if !(theta.is_finite() && theta > 1.0 && config.rms_eps.is_finite() && config.rms_eps >= 0.0) {
            return Err(bad(format!("rotary base {theta}, norm epsilon {}", config.rms_eps)));
        }
        Ok(config)
    }

    /// Bytes of the keys and values of one token, over all layers, each value kept in `value` bytes.
    pub(super) fn cache_bytes_per_token(&self, value: usize) -> usize {
        2 * value * self.layers * self.kv_heads * self.head_dim
    }
}
