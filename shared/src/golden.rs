//! Golden results: what a model must produce on a device before it may serve there.
//!
//! The importer writes them into the GGUF file under the metadata key [`GOLDEN_KEY`] as JSON, so they are covered by the
//! artefact's digest. Expected values come from float32 references of the networks, not from our own engine.

use serde::{Deserialize, Serialize};

/// GGUF metadata key that holds `Vec<GoldenCase>` as JSON.
pub const GOLDEN_KEY: &str = "nearfield.golden";

/// Mono PCM, 16-bit little endian, base64 on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pcm16 {
    /// Samples per second.
    pub rate_hz: u32,
    /// Base64 of the samples.
    pub base64: String,
}

impl Pcm16 {
    /// Packs samples.
    pub fn new(rate_hz: u32, samples: &[i16]) -> Self {
        use base64::Engine as _;
        let bytes: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
        Self { rate_hz, base64: base64::engine::general_purpose::STANDARD.encode(bytes) }
    }

    /// The samples as floats in [-1, 1).
    pub fn samples(&self) -> Result<Vec<f32>, String> {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD.decode(&self.base64).map_err(|e| e.to_string())?;
        if bytes.len() % 2 != 0 {
            return Err("an odd number of bytes is not 16-bit PCM".into());
        }
        Ok(bytes.chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32768.0).collect())
    }
}

/// One thing a model must reproduce.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum GoldenCase {
    /// Speech probabilities of consecutive 32 ms frames.
    Vad {
        /// 16 kHz input.
        pcm: Pcm16,
        /// One probability for each frame of 512 samples.
        probabilities: Vec<f32>,
        /// Greatest absolute difference allowed.
        tolerance: f32,
    },
    /// Probability that the caller has finished.
    Turn {
        /// 16 kHz input.
        pcm: Pcm16,
        /// Expected probability.
        probability: f32,
        /// Greatest absolute difference allowed.
        tolerance: f32,
    },
    /// Token ids of a transcript.
    Asr {
        /// 16 kHz input.
        pcm: Pcm16,
        /// Token ids of the float32 reference, without begin and end marks.
        tokens: Vec<u32>,
        /// Edits allowed between these and the device's tokens (0 for float32 weights).
        edits_max: u32,
    },
    /// Greedy continuation of a prompt.
    Llm {
        /// Token ids of the prompt.
        prompt_tokens: Vec<u32>,
        /// Greedy continuation.
        greedy: Vec<u32>,
        /// How many of the first tokens must be equal.
        exact_first: u32,
        /// Where the two best logits are closer than this, the other choice is a tie and not an error.
        tie_logit: f32,
    },
    /// Durations and pitch of a phrase.
    Tts {
        /// Phoneme ids.
        phoneme_ids: Vec<u32>,
        /// Frames for each phoneme.
        durations: Vec<u32>,
        /// Fundamental frequency contour in hertz.
        f0: Vec<f32>,
        /// Least Pearson correlation with that contour.
        f0_correlation_min: f32,
    },
    /// Embedding of a sentence.
    Embed {
        /// The sentence.
        text: String,
        /// Unit-length embedding.
        embedding: Vec<f32>,
        /// Least cosine similarity with it.
        cosine_min: f32,
    },
}
