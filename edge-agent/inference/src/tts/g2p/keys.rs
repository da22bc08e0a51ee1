//! Names under which the data lies in the GGUF file. The importer writes the same ones
//! (`control-plane/src/registry/convert/hibari_g2p.rs`).

/// Metadata: phoneme characters, their index is the id; empty where an id is unused.
pub const ALPHABET: &str = "g2p.alphabet";
/// Metadata: word tables of the normaliser, the package's JSON as it stands.
pub const WORDS: &str = "g2p.words";
/// Metadata: part-of-speech tags; tables refer to them by index.
pub const TAGS: &str = "g2p.tags";
/// Table: word → phonemes, checked by hand. See [`super::dictionary`] for the values.
pub const LEXICON_GOLD: &str = "g2p.lexicon.gold";
/// Table: word → phonemes, larger and less sure.
pub const LEXICON_SILVER: &str = "g2p.lexicon.silver";
/// Table: text → its tokens, separated by NUL.
pub const SPECIAL_TOKENS: &str = "g2p.tokens";
/// Table: word → one byte, the index of the tag it nearly always has.
pub const TAGGER_FIXED: &str = "g2p.tagger.fixed";
/// Table: words that stand for themselves in the tagger's features.
pub const TAGGER_VOCABULARY: &str = "g2p.tagger.vocabulary";
/// Table: feature → (tag index `u8`, weight in tenths `i16`) repeated.
pub const TAGGER_WEIGHTS: &str = "g2p.tagger.weights";
/// Metadata: characters the network for unknown words reads, its input ids from 1.
pub const UNKNOWN_INPUT: &str = "g2p.unknown.input";
/// Metadata: phonemes it writes, its output ids from 1; 0 is the blank.
pub const UNKNOWN_OUTPUT: &str = "g2p.unknown.output";
/// Metadata: attention heads of that network.
pub const UNKNOWN_HEADS: &str = "g2p.unknown.attention.head_count";
/// Metadata: its layers.
pub const UNKNOWN_LAYERS: &str = "g2p.unknown.block_count";
/// Prefix of its tensors.
pub const UNKNOWN: &str = "g2p.unknown";
