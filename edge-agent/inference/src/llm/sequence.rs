//! One conversation on the device.

use burn::tensor::{Tensor, s};

use super::{Config, LlmError, Sampler, Sampling, Segment};
use crate::Device;

/// Tokens that may wait for a step: with eight queries attention becomes a matrix product, which adds in another order.
pub const PENDING_MAX: usize = 7;

/// Keys and values of a conversation, its sampler, and the token to continue from.
///
/// The caches are allocated whole when the sequence is made and written in place, so a step neither allocates nor changes
/// any shape. Downside: memory for the longest conversation from the first token on (on the CPU the system commits pages
/// only as they are written).
#[derive(Debug)]
pub struct Sequence {
    /// One for each layer, `[places, kv_heads · head_dim]`.
    keys: Vec<Tensor<2>>,
    values: Vec<Tensor<2>>,
    places: usize,
    filled: usize,
    /// What the next step feeds: the end of the prompt or the last token sampled. Not in the cache yet.
    pub(super) pending: Vec<u32>,
    pub(super) sampler: Sampler,
}

impl Sequence {
    pub(super) fn new(config: &Config, places: usize, sampling: Sampling, device: &Device) -> Self {
        let places = places.clamp(1, config.context);
        let cache = || Tensor::zeros([places, config.kv_heads * config.head_dim], device);
        Self {
            keys: (0..config.layers).map(|_| cache()).collect(),
            values: (0..config.layers).map(|_| cache()).collect(),
            places,
            filled: 0,
            pending: Vec::new(),
            sampler: Sampler::new(sampling),
        }
    }

    /// Forgets the conversation and keeps the memory.
    pub fn clear(&mut self, sampling: Sampling) {
        self.filled = 0;
        self.pending.clear();
        self.sampler = Sampler::new(sampling);
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
            Tensor::zeros(part.dims(), &cache.device()).slice_assign(s![.., ..], part)
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

    /// Bytes of the caches.
    pub fn cache_bytes(&self) -> usize {
        self.keys.iter().map(|k| 2 * 4 * k.dims().iter().product::<usize>()).sum()
    }

    /// Bytes of a token and of its keys and values.
    pub(super) fn bytes_per_token(&self) -> usize {
        4 + self.cache_bytes() / self.places
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

    /// Writes `[t, ..]` keys and values of a layer behind what is there and gives the whole caches.
    pub(super) fn store(&mut self, layer: usize, k: Tensor<2>, v: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let at = self.filled..self.filled + k.dims()[0];
        let put = |cache: &mut Tensor<2>, new: Tensor<2>| {
            // Taken out for the moment, so that it has one owner and is written in place.
            let none = Tensor::empty([1, 1], &new.device());
            *cache = std::mem::replace(cache, none).slice_assign(s![at.clone(), ..], new);
            cache.clone()
        };
        (put(&mut self.keys[layer], k), put(&mut self.values[layer], v))
    }

    /// Counts `t` places as filled, after every layer has stored them.
    pub(super) fn advance(&mut self, t: usize) {
        self.filled += t;
    }
}
