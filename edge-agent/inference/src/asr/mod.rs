//! Speech recognition: Moonshine, which reads raw samples and writes tokens.
//!
//! An [`encoder`] turns 16 kHz samples into about 41 frames a second of speech, a [`decoder`] writes one token after the
//! other while it looks at all frames. The two are separate steps for the engine: encode once, then a token at a time, so
//! that a more urgent caller can go between them. The network knows no padding: a second of speech costs a second's work.
//!
//! Source: Jeffries et al., "Moonshine: Speech Recognition for Live Transcription and Voice Commands" (2024); names and
//! shapes as in Hugging Face's transformers.

mod boost;
mod decoder;
mod encoder;
mod vocabulary;

use crate::Device;
use crate::nn::{LoadError, Resident, Rope, RopePairs, expect_architecture};
use boost::Boost;
use decoder::Decoder;
pub use decoder::{Aligning, Decoding, ROWS_MAX};
use encoder::Encoder;
pub use encoder::{Encoded, Encoding};
use nearfield_shared::gguf::Gguf;
use vocabulary::Vocabulary;

/// Samples per second of the input.
pub const RATE_HZ: usize = 16_000;

/// The longest audio that is taken, in seconds: beyond it the model adds words that nobody said.
pub const SECONDS_MAX: usize = 30;

/// The shortest audio that is encoded as it is; shorter audio is followed by silence up to this. A quarter of a second is the
/// shortest word, and well above the 895 samples that the convolutions need.
pub const SAMPLES_MIN: usize = RATE_HZ / 4;

/// Why audio was not transcribed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AsrError {
    /// There is more audio than the model was made for.
    #[error("{seconds:.1} s of audio are more than one transcription takes ({SECONDS_MAX} s); cut it at a pause")]
    TooLong {
        /// How much there was.
        seconds: f32,
    },
    /// The device did not give its result.
    #[error("the device failed while it transcribed: {0}; the agent's log has the driver's reason")]
    Device(String),
}

/// A word of a transcript, and when it was said.
#[derive(Clone, PartialEq, Eq)]
pub struct SpokenWord {
    /// As it is written, with its punctuation.
    pub text: String,
    /// Milliseconds from the beginning of the audio to its own. A pause before a word counts to it or to the word before.
    pub start_ms: u32,
    /// Milliseconds to its end.
    pub end_ms: u32,
}

/// The word belongs to a caller, so only its times are shown.
impl std::fmt::Debug for SpokenWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SpokenWord({} to {} ms)", self.start_ms, self.end_ms)
    }
}

/// A Moonshine model on a device.
pub struct Moonshine {
    encoder: Encoder,
    decoder: Decoder,
    vocabulary: Vocabulary,
    rope: Rope,
    config: Config,
}

/// The numbers that shape the network, from the file's metadata.
#[derive(Debug, Clone)]
struct Config {
    width: usize,
    heads: usize,
    encoder_layers: usize,
    decoder_layers: usize,
    eps: f32,
    bos: u32,
    eos: u32,
    tokens_per_second: f32,
}

impl Config {
    fn read(gguf: &Gguf) -> Result<Self, LoadError> {
        let number = |key: &str| -> Result<usize, LoadError> { Ok(gguf.u32(&format!("moonshine.{key}"))? as usize) };
        let config = Self {
            width: number("embedding_length")?,
            heads: number("attention.head_count")?,
            encoder_layers: number("encoder.block_count")?,
            decoder_layers: number("decoder.block_count")?,
            eps: gguf.f32("moonshine.attention.layer_norm_epsilon")?,
            bos: gguf.u32("tokenizer.ggml.bos_token_id")?,
            eos: gguf.u32("tokenizer.ggml.eos_token_id")?,
            tokens_per_second: gguf.f32("moonshine.tokens_per_second")?,
        };
        let sane = config.heads > 0
            && config.width > 0
            && config.width.is_multiple_of(config.heads)
            && config.head() <= 256
            && (1..=64).contains(&config.encoder_layers)
            && (1..=64).contains(&config.decoder_layers)
            && config.eps > 0.0
            && config.tokens_per_second > 0.0
            && config.tokens_per_second <= 50.0;
        if sane { Ok(config) } else { Err(LoadError::Config(format!("no Moonshine has these numbers: {config:?}"))) }
    }

    /// Columns of one head.
    fn head(&self) -> usize {
        self.width / self.heads
    }

    /// What scores are multiplied by.
    fn scale(&self) -> f32 {
        (self.head() as f32).sqrt().recip()
    }

    /// Tokens that so much audio may give. A word or two fit into the least.
    fn tokens_max(&self, samples: usize) -> usize {
        let seconds = samples as f64 / RATE_HZ as f64;
        ((seconds * f64::from(self.tokens_per_second)) as usize).max(6)
    }
}

impl Moonshine {
    /// Puts a model on the device.
    ///
    /// # Errors
    /// [`LoadError`] where the file is for another network, lacks a tensor, or has one of another shape.
    pub fn load(gguf: &Gguf, device: &Device) -> Result<Self, LoadError> {
        expect_architecture(gguf, "moonshine")?;
        let config = Config::read(gguf)?;
        let turned = gguf.u32("moonshine.rope.dimension_count")? as usize;
        let theta = f64::from(gguf.f32("moonshine.rope.freq_base")?);
        if turned == 0 || !turned.is_multiple_of(2) || turned > config.head() || theta.is_nan() || theta <= 1.0 {
            return Err(LoadError::Config(format!(
                "{turned} of a head's {} columns cannot turn by a base of {theta}",
                config.head()
            )));
        }
        let frames = encoder::frames(SECONDS_MAX * RATE_HZ);
        let places = config.tokens_max(SECONDS_MAX * RATE_HZ) + 1;
        let rope = Rope::new(frames.max(places), turned, theta, RopePairs::Neighbours, device);
        let encoder = Encoder::load(gguf, &config, device)?;
        let decoder = Decoder::load(gguf, &config, device)?;
        let vocabulary = Vocabulary::load(gguf)?;
        if vocabulary.len() != decoder.vocabulary() || config.bos.max(config.eos) as usize >= vocabulary.len() {
            return Err(LoadError::Config(format!(
                "{} tokens, an embedding table of {}, begin {} and end {} do not fit together",
                vocabulary.len(),
                decoder.vocabulary(),
                config.bos,
                config.eos
            )));
        }
        Ok(Self { encoder, decoder, vocabulary, rope, config })
    }

    /// Starts to read audio, 16 kHz, samples in [-1, 1). Less than [`SAMPLES_MIN`] is followed by silence.
    ///
    /// # Errors
    /// [`AsrError::TooLong`].
    pub fn listen(&self, pcm16k: &[f32]) -> Result<Encoding, AsrError> {
        if pcm16k.len() > SECONDS_MAX * RATE_HZ {
            return Err(AsrError::TooLong { seconds: pcm16k.len() as f32 / RATE_HZ as f32 });
        }
        Ok(self.encoder.begin(pcm16k, &self.rope))
    }

    /// Reads on by one layer; what was heard, when that was the last one.
    pub fn hear(&self, encoding: &mut Encoding) -> Option<Encoded> {
        self.encoder.advance(encoding, &self.rope)
    }

    /// All of [`Moonshine::listen`] and [`Moonshine::hear`] in one.
    ///
    /// # Errors
    /// [`AsrError::TooLong`].
    pub fn encode(&self, pcm16k: &[f32]) -> Result<Encoded, AsrError> {
        let mut encoding = self.listen(pcm16k)?;
        loop {
            if let Some(encoded) = self.hear(&mut encoding) {
                return Ok(encoded);
            }
        }
    }

    /// Prepares to write: the keys and values of the audio are computed here, once for all tokens.
    pub fn begin(&self, encoded: Encoded) -> Decoding {
        let tokens_max = self.config.tokens_max(encoded.samples());
        self.decoder.begin(encoded, tokens_max)
    }

    /// Expects the transcript to begin with these tokens, an earlier transcript of the beginning of the same audio. The steps
    /// check several of them at once, keep those that hold, and write the rest as always: a draft changes how long a
    /// transcript takes, never what stands in it.
    pub fn expect(&self, decoding: &mut Decoding, draft: &[u32]) {
        self.decoder.expect(decoding, draft);
    }

    /// Makes these words and phrases likelier in this transcript: what a caller of this assistant is likely to say and the network
    /// alone would write as something else. Others' transcripts in the same steps stay as they are, bit for bit. At most
    /// [`WORDS_MAX`](nearfield_shared::assistant::WORDS_MAX) of them count.
    pub fn boost(&self, decoding: &mut Decoding, words: &[String]) {
        decoding.boost(Boost::new(words, &self.vocabulary));
    }

    /// One step of several transcripts, the most urgent first. Each gets a token or its end, more where a draft holds; each
    /// gets exactly what it would get alone. Of more than [`ROWS_MAX`] the last ones wait.
    ///
    /// # Errors
    /// [`AsrError::Device`] where the device does not give its result.
    pub fn step(&self, decodings: &mut [&mut Decoding]) -> Result<(), AsrError> {
        self.decoder.step(decodings, &self.rope, &self.vocabulary)
    }

    /// Begins to look for when the words of a complete transcript were said.
    pub fn align(&self, decoding: Decoding) -> Aligning {
        self.decoder.begin_alignment(decoding, &self.rope)
    }

    /// Looks on by one layer; the words with their times, when that was the last one. Empty where the tokens do not make words.
    pub fn look(&self, aligning: &mut Aligning) -> Option<Vec<SpokenWord>> {
        let begins = self.decoder.align(aligning, &self.rope)?;
        let words = self.vocabulary.words(aligning.tokens()).unwrap_or_default();
        let ms = |frame: usize| (frame * encoder::FRAME_SAMPLES * 1_000 / RATE_HZ) as u32;
        let placed = words.into_iter().map(|(text, tokens)| SpokenWord {
            text,
            start_ms: ms(begins[tokens.start]),
            end_ms: ms(begins[tokens.end]),
        });
        Some(placed.collect())
    }

    /// The text of token ids, marks left out.
    pub fn text(&self, tokens: &[u32]) -> String {
        self.vocabulary.text(tokens)
    }

    /// All steps in one: the token ids of a transcript. The engine takes the steps one by one instead.
    ///
    /// # Errors
    /// As [`Moonshine::encode`] and [`Moonshine::step`].
    pub fn tokens(&self, pcm16k: &[f32]) -> Result<Vec<u32>, AsrError> {
        self.tokens_with(pcm16k, &[])
    }

    /// As [`Moonshine::tokens`], with words that are boosted.
    ///
    /// # Errors
    /// As [`Moonshine::tokens`].
    pub fn tokens_with(&self, pcm16k: &[f32], words: &[String]) -> Result<Vec<u32>, AsrError> {
        let mut decoding = self.begin(self.encode(pcm16k)?);
        self.boost(&mut decoding, words);
        while !decoding.is_ended() {
            self.step(&mut [&mut decoding])?;
        }
        Ok(decoding.into_tokens())
    }

    /// All steps in one: the text of a transcript.
    ///
    /// # Errors
    /// As [`Moonshine::tokens`].
    pub fn transcribe(&self, pcm16k: &[f32]) -> Result<String, AsrError> {
        Ok(self.text(&self.tokens(pcm16k)?))
    }
}

impl Resident for Moonshine {
    fn resident_bytes(&self) -> usize {
        self.encoder.resident_bytes()
            + self.decoder.resident_bytes()
            + self.rope.resident_bytes()
            + self.vocabulary.resident_bytes()
    }
}
