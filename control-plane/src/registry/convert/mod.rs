//! From the files a model is published as to the one GGUF file that the agents load.
//!
//! Every network architecture has one converter: a plain function from [`Sources`] (the pinned files, already checked
//! against their sha256) to a [`GgufWriter`]. Readers turn each published format into one vocabulary first:
//! [`onnx`] and [`ort`] both give a [`graph::Graph`], [`safetensors`] gives [`graph::Tensor`]s, and GGUF is read by
//! [`nearfield_shared::gguf`]. Readers take hostile input: they answer with an error, never with a panic and never with an
//! allocation that the size of the input does not justify.
//!
//! What a converter must put into the file: every weight under a stable name, row-major `[out, in]`; everything else the
//! stage needs at run time (vocabulary, lexicon, tables) as metadata or tensors, because one file is one model.
//! Golden cases are attached afterwards, by the import, for all architectures alike.

pub mod graph;
pub mod hibari;
pub mod hibari_g2p;
pub mod int8;
pub mod minilm;
pub mod moonshine;
pub mod onnx;
pub mod ort;
pub mod passthrough;
pub mod safetensors;
pub mod silero;
pub mod smart_turn;

use nearfield_shared::gguf::{BlockType, GgufError, GgufWriter};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// Turns the source files of one architecture into a GGUF file.
pub type Convert = fn(&Sources, Quantise) -> Result<GgufWriter, ConvertError>;

/// One entry of the table of converters.
#[derive(Clone, Copy)]
pub struct Converter {
    /// The catalogue's `architecture`, also GGUF's `general.architecture`.
    pub architecture: &'static str,
    /// The function.
    pub convert: Convert,
}

/// Every architecture that this control plane can import. A new converter is one module and one line here.
pub const CONVERTERS: &[Converter] = &[
    Converter { architecture: "llama", convert: passthrough::convert },
    Converter { architecture: "minilm", convert: minilm::convert },
    Converter { architecture: "moonshine", convert: moonshine::convert },
    Converter { architecture: "silero-vad", convert: silero::convert },
    Converter { architecture: "smart-turn", convert: smart_turn::convert },
    Converter { architecture: "hibari", convert: hibari::convert },
];

/// The converter of an architecture.
pub fn converter(architecture: &str) -> Result<&'static Converter, ConvertError> {
    CONVERTERS.iter().find(|c| c.architecture == architecture).ok_or_else(|| ConvertError::UnknownArchitecture {
        architecture: architecture.to_owned(),
        known: CONVERTERS.iter().map(|c| c.architecture).collect::<Vec<_>>().join(", "),
    })
}

/// The files a converter reads, by the role that the catalogue gives them, for example `encoder`.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    files: BTreeMap<String, Vec<u8>>,
}

impl Sources {
    /// No files yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file under its role.
    pub fn insert(&mut self, role: impl Into<String>, bytes: Vec<u8>) {
        self.files.insert(role.into(), bytes);
    }

    /// The file with this role.
    pub fn get(&self, role: &str) -> Result<&[u8], ConvertError> {
        self.files.get(role).map(Vec::as_slice).ok_or_else(|| ConvertError::MissingSource { role: role.to_owned() })
    }

    /// The file with this role, as UTF-8 text.
    pub fn text(&self, role: &str) -> Result<&str, ConvertError> {
        std::str::from_utf8(self.get(role)?)
            .map_err(|e| ConvertError::Malformed { what: role.to_owned(), why: format!("it is not UTF-8: {e}") })
    }

    /// Every role, in alphabetical order.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }
}

impl<R: Into<String>> FromIterator<(R, Vec<u8>)> for Sources {
    fn from_iter<I: IntoIterator<Item = (R, Vec<u8>)>>(iter: I) -> Self {
        Self { files: iter.into_iter().map(|(role, bytes)| (role.into(), bytes)).collect() }
    }
}

/// How the import stores the weight matrices of a model. Vectors (norms, biases) and convolutions stay in F32 unless
/// a converter's own documentation says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantise {
    /// As the source has them: only for sources that are GGUF already.
    Keep,
    /// 32-bit floats: the reference.
    F32,
    /// 16-bit floats.
    F16,
    /// 8 bits, blocks of 32 with one scale: the default choice.
    Q8_0,
    /// 5 bits, symmetric.
    Q5_0,
    /// 4 bits with scale and minimum; embeddings take 8 bits, without which small models lose words.
    Q4_1,
    /// 4 bits, symmetric; embeddings take 8 bits.
    Q4_0,
}

impl Quantise {
    /// Every value, for messages.
    pub const ALL: [Quantise; 7] =
        [Quantise::Keep, Quantise::F32, Quantise::F16, Quantise::Q8_0, Quantise::Q5_0, Quantise::Q4_1, Quantise::Q4_0];

    /// The name used in the catalogue and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Quantise::Keep => "keep",
            Quantise::F32 => "f32",
            Quantise::F16 => "f16",
            Quantise::Q8_0 => "q8_0",
            Quantise::Q5_0 => "q5_0",
            Quantise::Q4_1 => "q4_1",
            Quantise::Q4_0 => "q4_0",
        }
    }

    /// The block type of weight matrices whose rows hold `columns` elements. Rows that do not divide into whole blocks
    /// fall back to F16 (F32 when F32 was asked for), as ggml's own tools do. [`Quantise::Keep`] counts as F32 here.
    pub fn matrix(self, columns: usize) -> BlockType {
        let wanted = match self {
            Quantise::Keep | Quantise::F32 => BlockType::F32,
            Quantise::F16 => BlockType::F16,
            Quantise::Q8_0 => BlockType::Q8_0,
            Quantise::Q5_0 => BlockType::Q5_0,
            Quantise::Q4_1 => BlockType::Q4_1,
            Quantise::Q4_0 => BlockType::Q4_0,
        };
        if columns.is_multiple_of(wanted.block_elems()) { wanted } else { BlockType::F16 }
    }

    /// The block type of an embedding table with rows of `columns` elements: like [`Quantise::matrix`], but never below 8 bits.
    pub fn embedding(self, columns: usize) -> BlockType {
        match self {
            Quantise::Q5_0 | Quantise::Q4_1 | Quantise::Q4_0 => Quantise::Q8_0.matrix(columns),
            other => other.matrix(columns),
        }
    }
}

impl fmt::Display for Quantise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Quantise {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Quantise::ALL
            .into_iter()
            .find(|q| q.as_str() == s.to_ascii_lowercase())
            .ok_or_else(|| format!("`{s}` is not a quantisation; use keep, f32, f16, q8_0, q5_0, q4_1 or q4_0"))
    }
}

/// Why a source could not be converted. Each of these is a fault of the file or of the catalogue entry, never of the network
/// or the disk.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// No converter has this name.
    #[error("no converter for architecture `{architecture}`; this control plane converts: {known}")]
    UnknownArchitecture {
        /// What the catalogue asked for.
        architecture: String,
        /// What there is.
        known: String,
    },
    /// The catalogue entry lacks a file that the converter needs.
    #[error(
        "the catalogue entry has no source with role `{role}`, which this architecture needs; add it to the entry's sources"
    )]
    MissingSource {
        /// The role.
        role: String,
    },
    /// A file breaks its format.
    #[error("{what} is damaged or not of the expected format: {why}")]
    Malformed {
        /// Which file or part.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// A weight is not in the file.
    #[error("{what} has no tensor `{name}`; this converter was written for another version of the model")]
    MissingTensor {
        /// Which file or graph.
        what: String,
        /// The tensor.
        name: String,
    },
    /// A weight has another shape than the architecture has.
    #[error(
        "tensor `{name}` has shape {found:?}, expected {expected}; this converter was written for another version of the model"
    )]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// What was expected, in words.
        expected: String,
    },
    /// The file is sound, but uses something the converter does not handle.
    #[error("{what}: {why} is not supported")]
    Unsupported {
        /// Where.
        what: String,
        /// What.
        why: String,
    },
    /// Reading or writing GGUF failed.
    #[error("GGUF: {0}")]
    Gguf(String),
}

impl From<GgufError> for ConvertError {
    fn from(error: GgufError) -> Self {
        Self::Gguf(error.to_string())
    }
}

impl ConvertError {
    /// A [`ConvertError::Malformed`].
    pub fn malformed(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::Malformed { what: what.into(), why: why.to_string() }
    }

    /// A [`ConvertError::Unsupported`].
    pub fn unsupported(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::Unsupported { what: what.into(), why: why.to_string() }
    }
}

#[cfg(test)]
pub(super) mod tests;
