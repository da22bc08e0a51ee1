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
}

impl Vocabulary {
    pub fn load(gguf: &Gguf) -> Result<Self, LoadError> {
        let tokens = gguf.strs("tokenizer.ggml.tokens")?;
        let kinds = gguf.meta("tokenizer.ggml.token_type").and_then(Value::as_array).unwrap_or_default();
        if kinds.len() != tokens.len() {
            return Err(LoadError::Config(format!("{} tokens have {} kinds", tokens.len(), kinds.len())));
        }
        let mut vocabulary = Self { bytes: Vec::new(), ends: Vec::with_capacity(tokens.len()) };
        for (token, kind) in tokens.into_iter().zip(kinds) {
            match kind {
                Value::I32(kind) if MARKS.contains(&i64::from(*kind)) => {}
                Value::I32(kind) if i64::from(*kind) == BYTE => vocabulary.bytes.push(byte(token)?),
                _ => vocabulary.bytes.extend(token.replace(SPACE, " ").as_bytes()),
            }
            let end = u32::try_from(vocabulary.bytes.len());
            vocabulary.ends.push(end.map_err(|_| LoadError::Config("the vocabulary is too large".into()))?);
        }
        Ok(vocabulary)
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Text of ids; ids that are not in the vocabulary have none.
    pub fn text(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens
            .iter()
            .filter_map(|&token| {
                let end = *self.ends.get(token as usize)? as usize;
                let start = token.checked_sub(1).map_or(0, |before| self.ends[before as usize] as usize);
                Some(&self.bytes[start..end])
            })
            .flatten()
            .copied()
            .collect();
        // Byte tokens may spell half a character where the model was cut off.
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    pub fn resident_bytes(&self) -> usize {
        self.bytes.len() + self.ends.len() * size_of::<u32>()
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
    fn a_byte_token_that_is_none_is_refused() {
        assert!(matches!(vocabulary(&[("<0xZZ>", 6)]), Err(LoadError::Config(_))));
    }
}
