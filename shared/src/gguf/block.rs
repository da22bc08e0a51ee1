//! Block types: how many weights share a scale and how many bytes that takes.

use serde::{Deserialize, Serialize};

/// How the numbers of a tensor are stored. Names and layouts are ggml's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BlockType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// Blocks of 32: one f16 scale, 32 signed bytes.
    Q8_0,
    /// Blocks of 32: one f16 scale, 32 nibbles around 8.
    Q4_0,
    /// Blocks of 32: f16 scale and f16 minimum, 32 nibbles.
    Q4_1,
    /// Blocks of 32: one f16 scale, 32 five-bit numbers around 16.
    Q5_0,
    /// Blocks of 256 in eight groups of 32: f16 scale and minimum, 6-bit scales and minima of the groups, nibbles.
    Q4K,
    /// Blocks of 256 in sixteen groups of 16: f16 scale, 8-bit scales of the groups, six-bit numbers around 32.
    Q6K,
    /// Raw bytes: not weights but what a model carries beside them (lexicons, vocabularies).
    I8,
}

impl BlockType {
    /// All of them, for tests and tables.
    pub const ALL: [Self; 9] =
        [Self::F32, Self::F16, Self::Q8_0, Self::Q4_0, Self::Q4_1, Self::Q5_0, Self::Q4K, Self::Q6K, Self::I8];

    /// The number of the type in a GGUF file.
    pub const fn ggml_id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q6K => 14,
            Self::I8 => 24,
        }
    }

    /// The type of that number, if this project reads it.
    pub fn from_ggml_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|b| b.ggml_id() == id)
    }

    /// Weights in a block.
    pub const fn block_elems(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::I8 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 => 32,
            Self::Q4K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::I8 => 1,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q4K => 144,
            Self::Q6K => 210,
        }
    }

    /// Bytes that `elems` numbers take; `None` where they are no whole number of blocks or overflow.
    pub const fn bytes_for(self, elems: usize) -> Option<usize> {
        if !elems.is_multiple_of(self.block_elems()) {
            return None;
        }
        (elems / self.block_elems()).checked_mul(self.block_bytes())
    }

    /// ggml's name of the type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q4K => "Q4_K",
            Self::Q6K => "Q6_K",
            Self::I8 => "I8",
        }
    }
}

impl std::fmt::Display for BlockType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
