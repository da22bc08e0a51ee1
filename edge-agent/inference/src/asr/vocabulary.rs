//! From token ids to text.

use crate::nn::LoadError;
use nearfield_shared::gguf::{Gguf, Value};

/// What stands for a space inside of a token, as SentencePiece writes it.
const SPACE: char = '\u{2581}';

/// Kinds of token that are not text, as GGUF numbers them: unknown, control, unused.
const MARKS: [i64; 3] = [2, 3, 5];
/// The kind of a token that is one byte, written `<0xNN>`.
const BYTE: i64 = 6;

pub(super) struct Vocabulary {
    /// The bytes of all tokens, one after the other; marks have none.
    bytes: Vec<u8>,
    /// Where each token ends.
    ends: Vec<u32>,
    /// The tokens that are text, in the order of their bytes.
    sorted: Vec<u32>,
    /// Bytes of the longest token.
    longest: usize,
}

impl Vocabulary {
    pub fn load(gguf: &Gguf) -> Result<Self, LoadError> {
        let tokens = gguf.strs("tokenizer.ggml.tokens")?;
        let kinds = gguf.meta("tokenizer.ggml.token_type").and_then(Value::as_array).unwrap_or_default();
        if kinds.len() != tokens.len() {
            return Err(LoadError::Config(format!("{} tokens have {} kinds", tokens.len(), kinds.len())));
        }
        let (sorted, ends) = (Vec::new(), Vec::with_capacity(tokens.len()));
        let mut vocabulary = Self { bytes: Vec::new(), ends, sorted, longest: 0 };
        for (token, kind) in tokens.into_iter().zip(kinds) {
            match kind {
                Value::I32(kind) if MARKS.contains(&i64::from(*kind)) => {}
                Value::I32(kind) if i64::from(*kind) == BYTE => vocabulary.bytes.push(byte(token)?),
                _ => vocabulary.bytes.extend(token.replace(SPACE, " ").as_bytes()),
            }
            let end = u32::try_from(vocabulary.bytes.len());
            vocabulary.ends.push(end.map_err(|_| LoadError::Config("the vocabulary is too large".into()))?);
        }
        vocabulary.sort();
        Ok(vocabulary)
    }

    fn sort(&mut self) {
        let mut sorted: Vec<u32> = (0..self.ends.len() as u32).filter(|token| !self.bytes(*token).is_empty()).collect();
        sorted.sort_by(|a, b| self.bytes(*a).cmp(self.bytes(*b)));
        self.longest = sorted.iter().map(|token| self.bytes(*token).len()).max().unwrap_or_default();
        self.sorted = sorted;
    }

    /// The bytes of a token; none of a mark or of what is no token.
    pub fn bytes(&self, token: u32) -> &[u8] {
        let Some(end) = self.ends.get(token as usize) else { return &[] };
        let start = token.checked_sub(1).map_or(0, |before| self.ends[before as usize]);
        &self.bytes[start as usize..*end as usize]
    }

    /// The tokens with which these bytes can begin, and how many bytes each of them is.
    pub fn beginnings<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = (u32, usize)> + 'a {
        (1..=bytes.len().min(self.longest)).filter_map(|length| {
            let found = self.sorted.binary_search_by(|token| self.bytes(*token).cmp(&bytes[..length])).ok()?;
            Some((self.sorted[found], length))
        })
    }

    /// A vocabulary of these texts.
    #[cfg(test)]
    pub fn of(texts: &[&str]) -> Self {
        let bytes: Vec<u8> = texts.iter().flat_map(|text| text.bytes()).collect();
        let ends = texts.iter().scan(0, |end, text| {
            *end += text.len() as u32;
            Some(*end)
        });
        let mut vocabulary = Self { bytes, ends: ends.collect(), sorted: Vec::new(), longest: 0 };
        vocabulary.sort();
        vocabulary
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Text of ids; ids that are not in the vocabulary have none.
    pub fn text(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| self.bytes(token)).copied().collect();
        // Byte tokens may spell half a character where the model was cut off.
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    /// Where the words of a transcript begin, as indices of its tokens: a word begins with the token that brings a space with it.
    /// `None` where that does not give the words of [`Vocabulary::text`].
    pub fn words(&self, tokens: &[u32]) -> Option<Vec<(String, std::ops::Range<usize>)>> {
        let mut words: Vec<(Vec<u8>, std::ops::Range<usize>)> = Vec::new();
        for (at, &token) in tokens.iter().enumerate() {
            let bytes = self.bytes(token);
            let begins = bytes.starts_with(b" ") || words.is_empty();
            match words.last_mut().filter(|(word, _)| !begins || word.is_empty()) {
                Some((word, range)) => {
                    word.extend(bytes.trim_ascii());
                    range.end = at + 1;
                }
                None => words.push((bytes.trim_ascii().to_vec(), at..at + 1)),
            }
        }
        words.retain(|(word, _)| !word.is_empty());
        let words: Option<Vec<_>> =
            words.into_iter().map(|(word, range)| Some((String::from_utf8(word).ok()?, range))).collect();
        words.filter(|words| words.iter().map(|(word, _)| word.as_str()).eq(self.text(tokens).split_whitespace()))
    }

    pub fn resident_bytes(&self) -> usize {
        self.bytes.len() + (self.ends.len() + self.sorted.len()) * size_of::<u32>()
    }
}

fn byte(token: &str) -> Result<u8, LoadError> {
    token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'))
        .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        .ok_or_else(|| LoadError::Config(format!("{token:?} is not a byte token")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_shared::gguf::GgufWriter;

    fn vocabulary(tokens: &[(&str, i32)]) -> Result<Vocabulary, LoadError> {
        let mut writer = GgufWriter::new("moonshine");
        writer.meta("tokenizer.ggml.tokens", tokens.iter().map(|(text, _)| *text).collect::<Vec<_>>());
        let kinds = tokens.iter().map(|(_, kind)| Value::I32(*kind)).collect();
        writer.meta("tokenizer.ggml.token_type", Value::Array(kinds));
        Vocabulary::load(&Gguf::parse(writer.to_bytes()).unwrap())
    }

    #[test]
    fn ids_become_text() {
        let tokens =
            [("<unk>", 2), ("<s>", 3), ("▁And", 1), ("▁so", 1), ("<0xC3>", 6), ("<0xA9>", 6), (".", 1), ("<0x41>", 1)];
        let vocabulary = vocabulary(&tokens).unwrap();
        let check = |ids: &[u32], text: &str| assert_eq!(vocabulary.text(ids), text, "{ids:?}");
        check(&[2, 3, 6], "And so.");
        check(&[1, 2, 0, 4, 5], "Andé");
        check(&[2, 4], "And\u{fffd}");
        check(&[7], "<0x41>");
        check(&[2, 99], "And");
        check(&[], "");
    }

    #[test]
    fn words_begin_with_the_token_that_brings_a_space() {
        let vocabulary = Vocabulary::of(&[" And", " so", "me", ".", " ", "5"]);
        let words = |tokens: &[u32]| {
            let words = vocabulary.words(tokens)?;
            Some(words.into_iter().map(|(word, range)| (word, range.start, range.end)).collect::<Vec<_>>())
        };
        let word = |word: &str, start, end| (word.to_owned(), start, end);
        assert_eq!(words(&[0, 1, 2, 3]), Some(vec![word("And", 0, 1), word("some.", 1, 4)]));
        assert_eq!(words(&[0, 4, 5]), Some(vec![word("And", 0, 1), word("5", 1, 3)]), "a space alone");
        assert_eq!(words(&[2, 1]), Some(vec![word("me", 0, 1), word("so", 1, 2)]));
        assert_eq!(words(&[]), Some(vec![]));
        assert_eq!(words(&[99]), Some(vec![]));
    }

    #[test]
    fn the_tokens_with_which_a_text_can_begin_are_found() {
        let vocabulary = Vocabulary::of(&["", " re", " renew", "new", " r", " rest"]);
        let found: Vec<_> = vocabulary.beginnings(b" renewal").collect();
        assert_eq!(found, [(4, 2), (1, 3), (2, 6)]);
        assert_eq!(vocabulary.beginnings(b"").count() + vocabulary.beginnings(b"x").count(), 0);
    }

    #[test]
    fn a_byte_token_that_is_none_is_refused() {
        assert!(matches!(vocabulary(&[("<0xZZ>", 6)]), Err(LoadError::Config(_))));
    }
}
