//! A pronunciation dictionary as it lies in the model: word to phonemes, some words with several readings.

use nearfield_shared::table::Table;

use super::alphabet::{Alphabet, PAD};
use super::characters::capitalised;

/// Stands between a word and a part of speech in the keys of its readings.
pub const READING: char = '\t';

/// Words of one dictionary.
///
/// The value of a word is its pronunciation, a byte for each phoneme. A [`PAD`] in front says that the word has readings by
/// part of speech under the keys `word TAB tag`; an empty one says that the dictionary is silent for that tag and the word is
/// spelled.
#[derive(Debug)]
pub struct Dictionary {
    words: Table,
}

/// What a dictionary knows about a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key it stands under, which may be the capitalised or the small form of the word asked for.
    key: String,
    /// The reading that holds unless the part of speech has its own.
    pub phonemes: String,
    /// Whether there are readings by part of speech.
    pub has_readings: bool,
}

/// One reading of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// None for this part of speech: the default holds.
    Default,
    /// For this part of speech the word has to be spelled.
    Spell,
    /// Phonemes.
    Phonemes(String),
}

impl Dictionary {
    /// Over a table of words.
    pub fn new(words: Table) -> Self {
        Self { words }
    }

    /// Bytes in memory.
    pub fn resident_bytes(&self) -> usize {
        self.words.resident_bytes()
    }

    /// Number of entries, readings counted apart.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// A word as it stands; else a word in small letters also as its capitalised form, and the reverse.
    pub fn get(&self, word: &str, alphabet: &Alphabet) -> Option<Entry> {
        let (key, value) = self.find(word)?;
        let (has_readings, ids) = match value.split_first() {
            Some((&first, rest)) if u32::from(first) == PAD => (true, rest),
            _ => (false, value),
        };
        Some(Entry { key, phonemes: alphabet.text(ids), has_readings })
    }

    /// Whether [`Dictionary::get`] would find something.
    pub fn contains(&self, word: &str) -> bool {
        self.find(word).is_some()
    }

    /// The reading of an entry for a part of speech.
    pub fn reading(&self, entry: &Entry, tag: &str, alphabet: &Alphabet) -> Reading {
        match self.words.get(format!("{}{READING}{tag}", entry.key)) {
            None => Reading::Default,
            Some([]) => Reading::Spell,
            Some(ids) => Reading::Phonemes(alphabet.text(ids)),
        }
    }

    fn find(&self, word: &str) -> Option<(String, &[u8])> {
        // A tab would reach the keys of readings.
        if word.len() > self.words.longest_key() || word.contains(READING) {
            return None;
        }
        if let Some(value) = self.words.get(word) {
            return Some((word.to_string(), value));
        }
        word.chars().nth(1)?;
        let small = word.to_lowercase();
        let capital = capitalised(word);
        let other = if word == small {
            capital
        } else if word == capital {
            small
        } else {
            return None;
        };
        let value = self.words.get(&other)?;
        Some((other, value))
    }
}
