//! Text to tokens and back, from the vocabulary inside of the GGUF file.

use std::collections::HashMap;

use nearfield_shared::gguf::Gguf;
use tokenizers::{
    Tokenizer as Inner,
    models::bpe::{BPE, Vocab},
    pre_tokenizers::{PreTokenizerWrapper, byte_level::ByteLevel, digits::Digits, sequence::Sequence},
};

use super::{LlmError, bad};
use crate::nn::LoadError;

/// `tokenizer.ggml.token_type` of control tokens, which no text can produce.
const CONTROL: u32 = 3;
/// Longest text that is tokenised at once, in bytes; longer ones are the caller's to refuse.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Byte-pair encoding over bytes, as GPT-2 and SmolLM2 use it, with the ChatML template.
///
/// Control tokens are not in the encoder's vocabulary at all: a caller who says `<|im_end|>` has said those letters and
/// has not ended their turn.
pub struct Tokenizer {
    bpe: Inner,
    /// The bytes of every token; none for control tokens.
    bytes: Vec<Vec<u8>>,
    stops: Vec<u32>,
    turn_begin: u32,
    turn_end: u32,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("tokens", &self.bytes.len()).field("stops", &self.stops).finish()
    }
}

impl Tokenizer {
    /// Reads `tokenizer.*` of a file.
    ///
    /// # Errors
    /// [`LoadError`] for a tokenizer or a chat template of another kind, or a vocabulary that contradicts itself.
    pub fn read(gguf: &Gguf) -> Result<Self, LoadError> {
        let model = gguf.str("tokenizer.ggml.model")?;
        let pre = gguf.str("tokenizer.ggml.pre")?;
        if model != "gpt2" || !matches!(pre, "smollm" | "gpt-2" | "default") {
            return Err(bad(format!("the tokenizer {model:?} with pre-tokenizer {pre:?} is not supported")));
        }
        let tokens = gguf.strs("tokenizer.ggml.tokens")?;
        let types = gguf.u32s("tokenizer.ggml.token_type")?;
        if types.len() != tokens.len() {
            return Err(bad(format!("{} token types for {} tokens", types.len(), tokens.len())));
        }
        let merges = gguf
            .strs("tokenizer.ggml.merges")?
            .into_iter()
            .map(|m| m.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| bad("a merge in the vocabulary is no pair"))?;
        let is_control = |i: usize| types[i] == CONTROL;
        let plain = |(i, t): (usize, &&str)| (!is_control(i)).then(|| ((*t).to_owned(), i as u32));
        let vocab: Vocab = tokens.iter().enumerate().filter_map(plain).collect();
        let bpe = BPE::builder()
            .vocab_and_merges(vocab, merges)
            // It would keep ten thousand words that callers said, and a prompt is tokenised in less than a millisecond.
            .cache_capacity(0)
            .build()
            .map_err(|e| bad(format!("the vocabulary contradicts itself: {e}")))?;
        let mut bpe = Inner::new(bpe);
        let bytes_of_words = PreTokenizerWrapper::from(ByteLevel::new(false, false, true));
        bpe.with_pre_tokenizer(Some(if pre == "smollm" {
            // Digits one by one, then GPT-2's pattern.
            Sequence::new(vec![Digits::new(true).into(), bytes_of_words]).into()
        } else {
            bytes_of_words
        }));

        let letters = byte_letters();
        let bytes = tokens
            .iter()
            .enumerate()
            .map(|(i, t)| {
                if is_control(i) {
                    return Ok(Vec::new());
                }
                t.chars()
                    .map(|c| letters.get(&c).copied())
                    .collect::<Option<Vec<u8>>>()
                    .ok_or_else(|| bad(format!("token {i} holds a letter that stands for no byte")))
            })
            .collect::<Result<Vec<_>, _>>()?;

        let control = |text: &str| tokens.iter().position(|t| *t == text).filter(|&i| is_control(i)).map(|i| i as u32);
        let template = gguf.str("tokenizer.chat_template")?;
        let (Some(turn_begin), Some(turn_end), true) =
            (control("<|im_start|>"), control("<|im_end|>"), template.contains("<|im_start|>"))
        else {
            return Err(bad("the chat template is not ChatML, the only one supported"));
        };
        let mut stops: Vec<u32> = (0..tokens.len()).filter(|&i| is_control(i)).map(|i| i as u32).collect();
        let eos = gguf.u32("tokenizer.ggml.eos_token_id")?;
        if eos as usize >= tokens.len() {
            return Err(bad(format!("the end token {eos} is not in the vocabulary")));
        }
        if !stops.contains(&eos) {
            stops.push(eos);
        }
        Ok(Self { bpe, bytes, stops, turn_begin, turn_end })
    }

    /// Entries of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.bytes.len()
    }

    /// Plain text to tokens; nothing in it becomes a control token.
    ///
    /// # Errors
    /// [`LlmError::Tokenise`] for a text beyond 1 MiB.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, LlmError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(LlmError::Tokenise(format!("{} bytes are more than {TEXT_BYTES_MAX}", text.len())));
        }
        let encoding = self.bpe.encode_fast(text, false).map_err(|e| LlmError::Tokenise(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// A conversation as `(role, content)` in ChatML, ready for the assistant's answer.
    ///
    /// # Errors
    /// [`LlmError::Role`], [`LlmError::Tokenise`].
    pub fn chat<'a>(&self, messages: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Vec<u32>, LlmError> {
        let (turns, opening) = self.turns(messages)?;
        Ok([turns.concat(), opening].concat())
    }

    /// The same conversation cut where each message ends, and the opening of the answer.
    ///
    /// # Errors
    /// [`LlmError::Role`], [`LlmError::Tokenise`].
    pub fn turns<'a>(
        &self,
        messages: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<(Vec<Vec<u32>>, Vec<u32>), LlmError> {
        let newline = self.encode("\n")?;
        let turn = |(role, content): (&str, &str)| {
            if !matches!(role, "system" | "user" | "assistant") {
                return Err(LlmError::Role(role.to_owned()));
            }
            let mut tokens = vec![self.turn_begin];
            tokens.extend(self.encode(&format!("{role}\n{content}"))?);
            tokens.push(self.turn_end);
            tokens.extend_from_slice(&newline);
            Ok(tokens)
        };
        let turns = messages.into_iter().map(turn).collect::<Result<_, _>>()?;
        let mut opening = vec![self.turn_begin];
        opening.extend(self.encode("assistant\n")?);
        Ok((turns, opening))
    }

    /// Whether an answer ends with this token: the end token and every other control token.
    pub fn is_stop(&self, token: u32) -> bool {
        self.stops.contains(&token)
    }

    /// The bytes of a token, which may end inside of a character; none for control tokens.
    pub fn bytes(&self, token: u32) -> &[u8] {
        self.bytes.get(token as usize).map_or(&[], Vec::as_slice)
    }

    /// All of a text at once.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut stream = TextStream::default();
        let mut text: String = tokens.iter().map(|t| stream.push(self.bytes(*t))).collect();
        text.push_str(&stream.finish());
        text
    }

    /// How the text falls into words before it is encoded; for tests of the pattern.
    #[cfg(test)]
    fn words(&self, text: &str) -> Vec<String> {
        use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
        let mut pre = PreTokenizedString::from(text);
        let splitter = self.bpe.get_pre_tokenizer().expect("one is set above");
        splitter.pre_tokenize(&mut pre).unwrap();
        let splits = pre.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(_, (a, b), _)| text[a..b].to_owned()).collect()
    }
}

/// GPT-2 writes every byte as a printable letter; this is the way back.
fn byte_letters() -> HashMap<char, u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 256u32;
    (0..=255u8)
        .map(|b| {
            let code = if printable(b) {
                u32::from(b)
            } else {
                next += 1;
                next - 1
            };
            (char::from_u32(code).expect("codes below 512 are letters"), b)
        })
        .collect()
}

/// Puts the bytes of tokens together to text, holding back what is not a whole character yet.
#[derive(Debug, Default, Clone)]
pub struct TextStream {
    held: Vec<u8>,
}

impl TextStream {
    /// Adds bytes and gives the text that is complete. Bytes that can become no character are given as U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut out = String::new();
        loop {
            match std::str::from_utf8(&self.held) {
                Ok(text) => {
                    out.push_str(text);
                    self.held.clear();
                    return out;
                }
                Err(e) => {
                    let (whole, rest) = self.held.split_at(e.valid_up_to());
                    out.push_str(std::str::from_utf8(whole).expect("valid up to here"));
                    let rest = match e.error_len() {
                        // A character that has only begun.
                        None => {
                            self.held = rest.to_vec();
                            return out;
                        }
                        Some(broken) => rest[broken..].to_vec(),
                    };
                    out.push(char::REPLACEMENT_CHARACTER);
                    self.held = rest;
                }
            }
        }
    }

    /// What is left at the end: nothing, or U+FFFD for a character that was never finished.
    pub fn finish(&mut self) -> String {
        if self.held.is_empty() {
            return String::new();
        }
        self.held.clear();
        char::REPLACEMENT_CHARACTER.to_string()
    }
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
