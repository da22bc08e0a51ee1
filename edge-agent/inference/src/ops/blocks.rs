//! Quantised weights as they stand on a device: the blocks of the GGUF file, each padded to whole 32-bit words, or on a processor
//! with AVX-512 VNNI interleaved in strips of rows ([`flex::strips`](super::flex)).

use burn::tensor::{DType, Int, Tensor, TensorData};
use nearfield_shared::gguf::{BlockType, TensorView};

use super::flex;
use crate::Device;

/// A matrix `[rows, cols]` in blocks. Clones share the words.
///
/// GPUs address words, so a block that is no multiple of four bytes (Q8_0: 34) is padded to one (36); most CPU kernels read
/// the same layout. Cost: 6 % of Q8_0, 11 % of Q4_0, 9 % of Q5_0, 1 % of Q6_K. Strips cost nothing.
#[derive(Debug, Clone)]
pub struct Blocks {
    words: Tensor<1, Int>,
    block: BlockType,
    strips: bool,
    rows: usize,
    cols: usize,
}

impl Blocks {
    /// Whether weights of that type stay in blocks (F32 is multiplied densely, I8 is not for multiplying).
    pub fn supports(block: BlockType) -> bool {
        !matches!(block, BlockType::F32 | BlockType::I8)
    }

    /// Copies rows of blocks to a device. `data` is what a [`TensorView`] of `rows · cols` values holds.
    ///
    /// # Panics
    /// If the type is not [supported](Self::supports) or the data's length is not that of the shape.
    pub fn new(block: BlockType, rows: usize, cols: usize, data: &[u8], device: &Device) -> Self {
        assert!(Self::supports(block), "{block} weights do not stand in blocks");
        assert_eq!(block.bytes_for(rows * cols), Some(data.len()), "blocks of a [{rows}, {cols}] matrix");
        let strips = *device == Device::flex() && flex::takes_strips(block);
        let words = if strips { flex::strips::pack(block, rows, cols, data) } else { pack(block, rows, data) };
        let len = words.len();
        let words = Tensor::from_data(TensorData::new(words, [len]), (device, DType::U32));
        Self { words, block, strips, rows, cols }
    }

    /// The blocks of a tensor as the matrix `[first dimension, product of the others]`.
    pub fn from_view(view: &TensorView<'_>, device: &Device) -> Self {
        let rows = view.shape[0];
        Self::new(view.block, rows, view.elems() / rows, view.data, device)
    }

    /// The matrices below one another, for one product instead of several. All must have the same type and width.
    pub fn stacked(views: &[TensorView<'_>], device: &Device) -> Option<Self> {
        let first = views.first()?;
        let cols = first.elems() / first.shape[0];
        if views.iter().any(|v| v.block != first.block || v.elems() / v.shape[0] != cols) {
            return None;
        }
        let data: Vec<u8> = views.iter().flat_map(|v| v.data).copied().collect();
        let rows = views.iter().map(|v| v.shape[0]).sum();
        Some(Self::new(first.block, rows, cols, &data, device))
    }

    pub(super) fn words(&self) -> Tensor<1, Int> {
        self.words.clone()
    }

    /// What crosses the dispatch boundary: block type and layout in one number ([`layout`] takes it apart).
    pub(super) fn kind(&self) -> u32 {
        self.block.ggml_id() | if self.strips { STRIPS } else { 0 }
    }

    /// Block type.
    pub fn block(&self) -> BlockType {
        self.block
    }

    /// Rows (outputs).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns (inputs).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes on the device.
    pub fn resident_bytes(&self) -> usize {
        4 * if self.strips {
            flex::strips::words(self.block, self.rows, self.cols)
        } else {
            row_words(self.block, self.cols) * self.rows
        }
    }

    /// The device that holds them.
    pub fn device(&self) -> Device {
        self.words.device()
    }
}

/// Marks the strip layout in [`Blocks::kind`]; ggml's numbers stay far below.
const STRIPS: u32 = 1 << 16;

/// Block type, and whether the weights lie in strips, of [`Blocks::kind`].
pub(super) fn layout(kind: u32) -> (BlockType, bool) {
    let block = BlockType::from_ggml_id(kind & !STRIPS).expect("the wrappers in ops pass the number of a block type");
    (block, kind & STRIPS != 0)
}

/// Words of a padded block.
pub(super) const fn block_words(block: BlockType) -> usize {
    block.block_bytes().div_ceil(4)
}

/// Words of a row.
pub(super) const fn row_words(block: BlockType, cols: usize) -> usize {
    match block {
        // Two to a word; an odd row ends with half a word of zeros.
        BlockType::F16 => cols.div_ceil(2),
        _ => cols / block.block_elems() * block_words(block),
    }
}

fn pack(block: BlockType, rows: usize, data: &[u8]) -> Vec<u32> {
    // What is padded on its own: a block, or for F16 a row.
    let unit = if block == BlockType::F16 { data.len() / rows } else { block.block_bytes() };
    let word = |c: &[u8]| {
        let mut b = [0; 4];
        b[..c.len()].copy_from_slice(c);
        u32::from_le_bytes(b)
    };
    let mut words = Vec::with_capacity(data.len() / unit * unit.div_ceil(4));
    for unit in data.chunks_exact(unit) {
        match block {
            // A lone 16-bit scale gets a word to itself, so that the quants behind it are aligned.
            BlockType::Q8_0 | BlockType::Q4_0 | BlockType::Q5_0 => {
                words.push(word(&unit[..2]));
                words.extend(unit[2..].chunks(4).map(word));
            }
            _ => words.extend(unit.chunks(4).map(word)),
        }
    }
    words
}

/// [`pack`] for the tests of the kernels.
#[cfg(test)]
pub(super) fn tests_pack(block: BlockType, rows: usize, data: &[u8]) -> Vec<u32> {
    pack(block, rows, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_takes_the_words_that_its_layout_says() {
        for block in BlockType::ALL.into_iter().filter(|b| Blocks::supports(*b)) {
            let cols = block.block_elems().max(2) * 3;
            let data = vec![1u8; block.bytes_for(cols * 2).unwrap()];
            assert_eq!(pack(block, 2, &data).len(), row_words(block, cols) * 2, "{block}");
        }
        // An odd row of halves is padded on its own.
        assert_eq!(pack(BlockType::F16, 2, &[1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]), [0x2_0001, 3, 0x5_0004, 6]);
        // The scale of Q8_0 stands alone.
        let data: Vec<u8> = (0..34).collect();
        assert_eq!(pack(BlockType::Q8_0, 1, &data)[..2], [0x0100, 0x0504_0302]);
    }
}
