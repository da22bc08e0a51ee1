//! What was heard, as text and as the tokens that a later transcription can start from.

use crate::asr::SpokenWord;

/// A transcript, or the draft of one.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Transcript {
    /// What was heard.
    pub text: String,
    /// The same as the model's tokens: what [`EngineHandle::transcribe_after`](super::EngineHandle::transcribe_after) checks.
    pub tokens: Vec<u32>,
    /// Its words with their times, where they were asked for and the tokens make words.
    pub words: Vec<SpokenWord>,
}

/// The content belongs to a caller, so only its size is shown.
impl std::fmt::Debug for Transcript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transcript({} bytes, {} tokens)", self.text.len(), self.tokens.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_prints_its_size_alone() {
        let heard = Transcript { text: "my number is 4711".into(), tokens: vec![4711, 7], words: Vec::new() };
        assert_eq!(format!("{heard:?}"), "Transcript(17 bytes, 2 tokens)");
    }
}
