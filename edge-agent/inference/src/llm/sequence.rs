//! One conversation on the device.

use burn::tensor::{DType, Tensor, s};

use super::{Config, LlmError, Sampler, Sampling, Segment};
use crate::{Device, nn};

/// Caches grow by this many places: few different shapes, so that a GPU compiles few kernels, and 3 MB of SmolLM2 at a time.
const CACHE_STEP: usize = 128;

/// Tokens that may wait for a step: with eight queries attention becomes a matrix product, which adds in another order.
pub const PENDING_MAX: usize = 7;

/// What keys and values are kept as on this device.
pub(super) fn kept_as(device: &Device) -> DType {
    if nn::is_cpu(device) { DType::F16 } else { DType::F32 }
}

/// Keys and values of a conversation, its sampler, and the token to continue from.
///
/// The caches are written in place and grow in steps of [`CACHE_STEP`] places, each layer's when it is written: memory follows what
/// was said, not what might be. Downside: where a step begins, what is there is copied, some microseconds a token on average.
#[derive(Debug)]
pub struct Sequence {
    /// One for each layer, `[places so far, kv_heads · head_dim]`.
    keys: Vec<Tensor<2>>,
    values: Vec<Tensor<2>>,
    /// The most places there may ever be.
    places: usize,
    /// Places that are known to be needed: a cache that must grow grows to them at once.
    expected: usize,
    filled: usize,
    bytes_per_token: usize,
    /// What the next step feeds: the end of the prompt or the last token sampled. Not in the cache yet.
    pub(super) pending: Vec<u32>,
    pub(super) sampler: Sampler,
}

impl Sequence {
    pub(super) fn new(config: &Config, places: usize, sampling: Sampling, device: &Device) -> Self {
        let places = places.clamp(1, config.context);
        let kept = kept_as(device);
        // A tensor has at least one row; the first tokens bring the rest.
        let cache = || Tensor::zeros([1, config.kv_heads * config.head_dim], (device, kept));
        Self {
            keys: (0..config.layers).map(|_| cache()).collect(),
            values: (0..config.layers).map(|_| cache()).collect(),
            places,
            expected: 0,
            filled: 0,
            bytes_per_token: size_of::<u32>() + config.cache_bytes_per_token(kept.size()),
            pending: Vec::new(),
            sampler: Sampler::new(sampling),
        }
    }

    /// Says that `tokens` more will come for certain, so that the caches grow once for all of them.
    pub fn expect(&mut self, tokens: usize) {
        self.expected = self.tokens() + tokens;
    }

    /// Tokens that were fed or are about to be.
    pub fn tokens(&self) -> usize {
        self.filled + self.pending.len()
    }

    /// Tokens that can still be added.
    pub fn room(&self) -> usize {
        self.places - self.tokens()
    }

    /// Continues with this token instead of a sampled one (a forced answer, a comparison).
    pub fn accept(&mut self, token: u32) {
        self.sampler.saw(token);
        self.pending = vec![token];
    }

    /// Lets the next step feed these tokens, the end of a prompt, in the pass that chooses the first token of the answer.
    ///
    /// # Errors
    /// [`LlmError::Full`]; [`LlmError::Tokenise`] for more than [`PENDING_MAX`] of them.
    pub fn hold(&mut self, tokens: &[u32]) -> Result<(), LlmError> {
        self.check_room(self.pending.len() + tokens.len())?;
        if self.pending.len() + tokens.len() > PENDING_MAX {
            return Err(LlmError::Tokenise(format!("{} tokens end a prompt, more than {PENDING_MAX}", tokens.len())));
        }
        self.pending.extend_from_slice(tokens);
        Ok(())
    }

    /// A copy of the keys and values of the places from `from` on, which hold these tokens.
    pub fn copied(&self, from: usize, tokens: Vec<u32>) -> Segment {
        let to = from + tokens.len();
        assert!(to <= self.filled, "places {from} to {to} of {} are copied", self.filled);
        // Into a tensor of its own: a slice would share the whole cache, which could then not be written in place.
        let copy = |cache: &Tensor<2>| {
            let part = cache.clone().slice(s![from..to, ..]);
            Tensor::zeros(part.dims(), (&cache.device(), cache.dtype())).slice_assign(s![.., ..], part)
        };
        Segment { tokens, keys: self.keys.iter().map(copy).collect(), values: self.values.iter().map(copy).collect() }
    }

    /// Adds a copy of keys and values that were computed behind the same tokens as stand here.
    ///
    /// # Errors
    /// [`LlmError::Full`].
    pub fn append(&mut self, segment: &Segment) -> Result<(), LlmError> {
        self.check_room(segment.tokens.len())?;
        for (layer, (keys, values)) in segment.keys.iter().zip(&segment.values).enumerate() {
            self.store(layer, keys.clone(), values.clone());
        }
        self.advance(segment.tokens.len());
        Ok(())
    }

    /// Bytes of the caches as they stand now.
    pub fn cache_bytes(&self) -> usize {
        self.keys.iter().map(|k| 2 * k.dtype().size() * k.dims().iter().product::<usize>()).sum()
    }

    /// Bytes of a token and of its keys and values.
    pub(super) fn bytes_per_token(&self) -> usize {
        self.bytes_per_token
    }

    /// Places that hold something.
    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// Refuses `more` places that are not there.
    pub(super) fn check_room(&self, more: usize) -> Result<(), LlmError> {
        if self.filled + more > self.places {
            return Err(LlmError::Full { needed: self.filled + more, places: self.places });
        }
        Ok(())
    }

    /// Writes `[t, ..]` keys and values of a layer behind what is there and gives the whole caches, as they are kept.
    pub(super) fn store(&mut self, layer: usize, k: Tensor<2>, v: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let at = self.filled..self.filled + k.dims()[0];
        let wanted = at.end.max(self.expected).next_multiple_of(CACHE_STEP).min(self.places);
        let filled = self.filled;
        let put = |cache: &mut Tensor<2>, new: Tensor<2>| {
            // Taken out for the moment, so that it has one owner and is written in place.
            let none = Tensor::empty([1, 1], &new.device());
            let mut whole = std::mem::replace(cache, none);
            let ([there, width], kept) = (whole.dims(), whole.dtype());
            if at.end > there {
                let larger = Tensor::zeros([wanted, width], (&new.device(), kept));
                // A GPU has no tensor of no rows.
                whole = match filled {
                    0 => larger,
                    _ => larger.slice_assign(s![0..filled, ..], whole.slice(s![0..filled, ..])),
                };
            }
            *cache = whole.slice_assign(s![at.clone(), ..], new.cast(kept));
            cache.clone()
        };
        (put(&mut self.keys[layer], k), put(&mut self.values[layer], v))
    }

    /// Counts `t` places as filled, after every layer has stored them.
    pub(super) fn advance(&mut self, t: usize) {
        self.filled += t;
    }
}
