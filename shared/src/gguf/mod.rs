//! GGUF version 3: the one weight format of the project.
//!
//! The importer turns every model into it and the agents read nothing else, so there is one loader, one set of block
//! types, and anyone's `gguf` tools can look inside. The format is the one of ggml
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>): a header, metadata as typed key-value pairs, tensor
//! descriptions, then aligned tensor data. A file comes over the network from a signed source but is parsed before anyone
//! can know that its content makes sense, so [`Gguf::parse`] checks every bound and answers nonsense with a [`GgufError`].
//!
//! Shapes here are **row-major, outermost first** (`[out, in]` of a linear layer), the reverse of the order in the file.
//!
//! Weights are read into memory, not mapped: what a model keeps is copied to its device anyway, and a mapped file that
//! somebody truncates kills the process. The downside is that a load needs the file's size in memory for a moment.

mod block;
mod dequantise;
mod quantise;
mod reader;
mod value;
mod writer;

pub use block::BlockType;
pub use dequantise::dequantise;
pub use quantise::quantise;
pub use reader::{Gguf, TensorView};
pub use value::Value;
pub use writer::GgufWriter;

#[cfg(test)]
mod tests;

/// Alignment of tensor data where the file does not name another one, in bytes.
pub const DEFAULT_ALIGNMENT: usize = 32;

/// Metadata key of the architecture ("llama", "silero-vad", …).
pub const ARCHITECTURE_KEY: &str = "general.architecture";

/// Why a GGUF file, a block or a value cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// File that was asked for.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file (it begins with {0:02x?}); import the model again")]
    Magic(Vec<u8>),
    /// A version of the format that this reader does not know.
    #[error("GGUF version {0} is not supported (2 and 3 are); convert the model again with a current tool")]
    Version(u32),
    /// The file ends inside of something.
    #[error(
        "the file ends at byte {have} inside {what}, which needs {need} bytes; it is damaged or cut: fetch it again"
    )]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes that were needed up to here.
        need: u64,
        /// Bytes that are there.
        have: u64,
    },
    /// A count or length beyond what any real model has.
    #[error("{what} is {found}, the limit is {limit}; the file is damaged or hostile")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// What the file says.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// Text that is not UTF-8.
    #[error("{0} is not UTF-8 text")]
    Text(&'static str),
    /// A metadata type that the format does not define.
    #[error("metadata {key:?} has the unknown type {id}")]
    ValueType {
        /// Metadata key.
        key: String,
        /// Type number in the file.
        id: u32,
    },
    /// A tensor block type that this project does not read.
    #[error(
        "tensor {name:?} has block type {id}, which is not supported; use F32, F16, I8, Q8_0, Q4_0, Q4_1, Q5_0, Q4_K or Q6_K"
    )]
    BlockType {
        /// Tensor name.
        name: String,
        /// ggml type number in the file.
        id: u32,
    },
    /// Two tensors or two metadata keys of the same name.
    #[error("{0:?} occurs twice")]
    Duplicate(String),
    /// The alignment is not a power of two from 8 to 65,536.
    #[error("general.alignment is {0}; it must be a power of two from 8 to 65536")]
    Alignment(u64),
    /// A tensor shape that makes no sense or does not fit its blocks.
    #[error("tensor {name:?} of shape {shape:?}: {why}")]
    Shape {
        /// Tensor name.
        name: String,
        /// Row-major shape.
        shape: Vec<usize>,
        /// What is wrong.
        why: String,
    },
    /// A key that must be there is not.
    #[error("metadata {0:?} is missing; import the model again with this version of the control plane")]
    NoMeta(String),
    /// A key holds another type than the reader needs.
    #[error("metadata {key:?} is {found}, expected {expected}")]
    MetaType {
        /// Metadata key.
        key: String,
        /// Type needed.
        expected: &'static str,
        /// Type in the file.
        found: &'static str,
    },
    /// No tensor of that name.
    #[error("tensor {0:?} is missing; import the model again with this version of the control plane")]
    NoTensor(String),
    /// A number of elements or bytes that is no whole number of blocks.
    #[error("{found} {unit} are no whole number of {block:?} blocks of {block_size}")]
    NotWholeBlocks {
        /// Block type.
        block: BlockType,
        /// "values" or "bytes".
        unit: &'static str,
        /// How many there are.
        found: usize,
        /// How many a block holds.
        block_size: usize,
    },
    /// A block type that this project reads but does not produce.
    #[error("cannot quantise to {0:?}; use Q8_0, Q4_1, Q5_0, Q4_0, F16 or F32")]
    CannotQuantise(BlockType),
    /// Not a number, infinite, or too large for the block's 16-bit scale.
    #[error("value {value} at position {at} cannot be stored as {block:?}")]
    Value {
        /// The value.
        value: f32,
        /// Its position among the values.
        at: usize,
        /// Block type asked for.
        block: BlockType,
    },
}
