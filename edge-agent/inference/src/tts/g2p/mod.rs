//! English text to phonemes, for the Hibari voice.
//!
//! The way of a text: [`semiotic`] writes out addresses, telephone numbers and what else the package's rules do not know; sentences are
//! cut; [`normalise`] writes out times, dates, money and abbreviations; [`tokenise`] splits it; [`tagger`] gives
//! each token its part of speech; [`lexicon`] reads words and [`numeral`] numbers, in the light of their part of speech and of what
//! follows; [`unknown`], a small network, reads the letters of what is left; [`reading`] holds them together. The rules are those the
//! voice was trained with (misaki's, as the package `hibari-tts` has them), so that the phonemes here are the ones it knows.
//!
//! All data (two dictionaries, the tagger's weights, word tables, the network) comes from the model's one GGUF file under
//! [`keys`]. In memory it stays as it lies there: sorted byte tables, see [`nearfield_shared::table`].
//!
//! **Bounds.** A text is cut at [`TEXT_CHARS_MAX`] characters, a word at what the network takes, a phrase at
//! [`PHONEMES_MAX`] phonemes. No input panics; characters that no rule knows have no sound.
//!
//! **For whoever cuts a text into phrases before it comes here** (the dialogue, which speaks the first while the rest is still being
//! thought): each piece is read as if a pause followed, so the cut shows. "the", "to", "a" and "in" have other vowels before a pause,
//! "there", "can" and "have" other stress; cut behind punctuation and never behind such a word. Leave together what a rule reads as
//! one: a number and its unit, currency or scale ("5 km", "$3 million"), a time and its half of the day ("3 p.m."), day, month and
//! year, a title or initial and the name behind it, "Chapter IV". A full stop ends a sentence only where white space and no small
//! letter follow, and not after a title or a single capital.
//!
//! **What is different from the package**, on purpose: digits of other scripts are read as digits from the start; numbers beyond
//! the decillions are read digit by digit (the package fails); a phrase without any comma is cut all the same (the package passes
//! it whole to the network); a Roman numeral has at least one digit and is not a lone C or L (the package makes "Richard Clamp"
//! "Richard the zeroth Clamp", and "Type C" "Type 100"); what [`semiotic`] writes out; only the American voice is there.

mod alphabet;
mod characters;
mod dictionary;
pub mod keys;
mod lexicon;
mod normalise;
mod numbers;
mod numeral;
mod reading;
mod semiotic;
mod sentences;
mod stress;
mod subtokens;
mod tagger;
mod tokenise;
mod unknown;

use nearfield_shared::gguf::{BlockType, Gguf, GgufError};
use nearfield_shared::table::{Table, TableError};
use regex::Regex;

use crate::Device;
use crate::nn::{LoadError, Resident};

use alphabet::Alphabet;
use lexicon::Lexicon;
use normalise::Normaliser;
use reading::Token;
use semiotic::Semiotic;
pub use sentences::PHONEMES_MAX;
use tagger::Tagger;
use tokenise::Tokeniser;
use unknown::UnknownWords;

/// Characters of a text that are read; about ten minutes of speech. What follows is dropped: an answer that long is a fault of
/// whoever produced it, and must not hold up the others.
pub const TEXT_CHARS_MAX: usize = 10_000;

/// Why the data of a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum G2pError {
    /// A key or tensor is missing or of the wrong type.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A table is damaged.
    #[error("{name}: {source}")]
    Table {
        /// Tensor of the table.
        name: &'static str,
        /// What is wrong with it.
        source: TableError,
    },
    /// Data that is there but makes no sense.
    #[error("the voice's {name} cannot be used: {what}; import the model again with this version of the control plane")]
    Data {
        /// Which data.
        name: &'static str,
        /// What is wrong.
        what: String,
    },
    /// A weight of the network for unknown words.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Turns text into phonemes, and phonemes into the ids the voice takes.
#[derive(Debug)]
pub struct Phonemizer {
    semiotic: Semiotic,
    normaliser: Normaliser,
    tokeniser: Tokeniser,
    tagger: Tagger,
    lexicon: Lexicon,
    unknown: UnknownWords,
    /// `[text](/phonemes/)`, by which a text says how something is read; also the links of Markdown, of which the text is read.
    link: Regex,
}

impl Phonemizer {
    /// Takes the data out of the voice's GGUF file. The network for unknown words runs on `device`; it is so small and so rarely
    /// asked that the CPU device is the better choice even where the voice itself runs on a GPU.
    pub fn load(gguf: &Gguf, device: &Device) -> Result<Self, G2pError> {
        let alphabet = Alphabet::new(&gguf.strs(keys::ALPHABET)?)?;
        let tags = gguf.strs(keys::TAGS)?.into_iter().map(String::from).collect();
        let [fixed, vocabulary, weights] = [keys::TAGGER_FIXED, keys::TAGGER_VOCABULARY, keys::TAGGER_WEIGHTS];
        let link = Regex::new(r"\[([^\]]+)\]\(([^)]*)\)")
            .map_err(|e| G2pError::Data { name: "links", what: e.to_string() })?;
        Ok(Self {
            semiotic: Semiotic::new()?,
            normaliser: Normaliser::new(gguf.str(keys::WORDS)?)?,
            tokeniser: Tokeniser::new(table(gguf, keys::SPECIAL_TOKENS)?)?,
            tagger: Tagger::new(tags, table(gguf, fixed)?, table(gguf, vocabulary)?, table(gguf, weights)?)?,
            lexicon: Lexicon::new(table(gguf, keys::LEXICON_GOLD)?, table(gguf, keys::LEXICON_SILVER)?, alphabet),
            unknown: UnknownWords::load(gguf, device)?,
            link,
        })
    }

    /// The phonemes of a text, one string for each sentence or, where that is too long, each phrase of it. Empty for a text
    /// without anything to say.
    pub fn phonemes(&self, text: &str) -> Vec<String> {
        let end = text.char_indices().nth(TEXT_CHARS_MAX).map_or(text.len(), |(i, _)| i);
        let text = self.semiotic.write_out(&text[..end]);
        sentences::sentences(&text, |word| self.normaliser.is_title(word))
            .into_iter()
            .map(|sentence| self.sentence(sentence))
            .filter(|phonemes| !phonemes.is_empty())
            .flat_map(|phonemes| sentences::phrases(&phonemes))
            .collect()
    }

    /// Ids of one phrase of phonemes, between two pads, as the acoustic model takes them. Never more than [`PHONEMES_MAX`] + 2
    /// for what [`Phonemizer::phonemes`] gives.
    pub fn ids(&self, phonemes: &str) -> Vec<u32> {
        self.lexicon.alphabet.ids(phonemes)
    }

    /// Words in the dictionaries.
    pub fn words(&self) -> usize {
        self.lexicon.len()
    }

    fn sentence(&self, text: &str) -> String {
        let tokens = self.tokens(&self.normaliser.normalise(text));
        reading::phonemes(tokens, &self.lexicon, &|word| self.unknown.read(word))
    }

    /// Tokens with their parts of speech. The text around a link is tagged apart from it.
    fn tokens(&self, text: &str) -> Vec<Token> {
        let mut tokens = Vec::new();
        let mut read = 0;
        for link in self.link.captures_iter(text) {
            let (Some(whole), Some(shown), Some(target)) = (link.get(0), link.get(1), link.get(2)) else { continue };
            self.tag_into(&text[read..whole.start()], &mut tokens);
            let space = text[whole.end()..].starts_with(characters::is_space);
            let mut token = Token::new(shown.as_str(), "NN", space);
            let target = target.as_str();
            if target.len() > 1 && target.starts_with('/') && target.ends_with('/') {
                token.phonemes = Some(target[1..].trim_end_matches('/').to_string());
            }
            tokens.push(token);
            read = whole.end();
        }
        self.tag_into(&text[read..], &mut tokens);
        tokens
    }

    fn tag_into(&self, text: &str, tokens: &mut Vec<Token>) {
        let pieces = self.tokeniser.tokens(text);
        let words: Vec<&str> = pieces.iter().map(|(word, _)| word.as_str()).collect();
        let tags = self.tagger.tags(&words);
        tokens.extend(pieces.iter().zip(tags).map(|((word, space), tag)| Token::new(word.as_str(), tag, *space)));
    }
}

impl Resident for Phonemizer {
    fn resident_bytes(&self) -> usize {
        self.lexicon.resident_bytes()
            + self.tagger.resident_bytes()
            + self.tokeniser.resident_bytes()
            + self.unknown.resident_bytes()
    }
}

/// A byte table out of a tensor of raw bytes.
fn table(gguf: &Gguf, name: &'static str) -> Result<Table, G2pError> {
    let tensor = gguf.tensor(name)?;
    if tensor.block != BlockType::I8 {
        return Err(G2pError::Data { name, what: format!("it is {:?}, expected I8 (raw bytes)", tensor.block) });
    }
    Table::parse(tensor.data).map_err(|source| G2pError::Table { name, source })
}
