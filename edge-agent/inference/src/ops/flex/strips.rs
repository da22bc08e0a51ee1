//! Weights for the byte products of AVX-512 VNNI: sixteen rows interleaved to a strip, so that one vector holds four columns of
//! sixteen rows and every lane of an accumulator belongs to a row of its own.
//!
//! A strip is cut into groups of 32 columns. A group holds its quants, then sixteen scales and, where the layout has them,
//! sixteen minima, all as the f16 of the file. Eight-bit quants are stored with 128 added, because the product takes unsigned
//! weights; what that adds is taken off by starting the sum at `-128 · Σx`, which is exact in integers. Four-bit quants lie two
//! to a byte: byte `4r + i` of vector `j` holds columns `8j + i` and `8j + 4 + i` of row `r`. The bytes are as many as those of
//! the file's blocks; rows are filled up to whole strips with zeros.

use nearfield_shared::gguf::BlockType;

use super::portable::half;

/// Rows of a strip.
pub(in super::super) const ROWS: usize = 16;

/// Whether there is a strip layout for weights of that type.
pub(in super::super) fn supports(block: BlockType) -> bool {
    matches!(block, BlockType::Q8_0 | BlockType::Q4_0 | BlockType::Q4_1)
}

/// Bytes of quants in a group.
const fn quant_bytes(block: BlockType) -> usize {
    match block {
        BlockType::Q8_0 => 32 * ROWS,
        _ => 16 * ROWS,
    }
}

/// Bytes of a group.
pub(super) const fn group_bytes(block: BlockType) -> usize {
    let scales = match block {
        BlockType::Q4_1 => 4 * ROWS,
        _ => 2 * ROWS,
    };
    quant_bytes(block) + scales
}

/// Words of a matrix.
pub(in super::super) const fn words(block: BlockType, rows: usize, cols: usize) -> usize {
    rows.div_ceil(ROWS) * (cols / 32) * group_bytes(block) / 4
}

/// Columns of a group by their place in the strip: vector, byte within a row's four, and whether it is the upper nibble.
const fn place(block: BlockType, column: usize) -> (usize, usize, bool) {
    match block {
        BlockType::Q8_0 => (column / 4, column % 4, false),
        _ => (column / 8, column % 4, column % 8 >= 4),
    }
}

/// Interleaves rows of blocks as they stand in the file.
pub(in super::super) fn pack(block: BlockType, rows: usize, cols: usize, data: &[u8]) -> Vec<u32> {
    let (groups, size) = (cols / 32, group_bytes(block));
    let mut out = vec![0u32; words(block, rows, cols)];
    let bytes = as_bytes_mut(&mut out);
    let source = block.block_bytes();
    for (i, from) in data.chunks_exact(source).enumerate() {
        let (row, group) = (i / groups, i % groups);
        let (strip, lane) = (row / ROWS, row % ROWS);
        let to = &mut bytes[(strip * groups + group) * size..][..size];
        let head = if block == BlockType::Q4_1 { 4 } else { 2 };
        for (part, half) in from[..head].chunks_exact(2).enumerate() {
            to[quant_bytes(block) + part * 2 * ROWS + lane * 2..][..2].copy_from_slice(half);
        }
        for column in 0..32 {
            let (vector, byte, upper) = place(block, column);
            let quant = match block {
                BlockType::Q8_0 => from[head + column] ^ 0x80,
                _ => (from[head + column % 16] >> (column / 16 * 4) & 15) << if upper { 4 } else { 0 },
            };
            to[vector * 64 + lane * 4 + byte] |= quant;
        }
    }
    out
}

/// One row as f32.
pub(super) fn dequantise_row(block: BlockType, words: &[u32], row: usize, cols: usize, out: &mut [f32]) {
    let (groups, size, lane) = (cols / 32, group_bytes(block), row % ROWS);
    let strip = &as_bytes(words)[row / ROWS * groups * size..][..groups * size];
    for (group, out) in strip.chunks_exact(size).zip(out.chunks_exact_mut(32)) {
        let scale_at = |part: usize| {
            let at = quant_bytes(block) + part * 2 * ROWS + lane * 2;
            half(u32::from(u16::from_le_bytes([group[at], group[at + 1]])))
        };
        let scale = scale_at(0);
        let (offset, min) = match block {
            BlockType::Q8_0 => (128.0, 0.0),
            BlockType::Q4_0 => (8.0, 0.0),
            _ => (0.0, scale_at(1)),
        };
        for (column, out) in out.iter_mut().enumerate() {
            let (vector, byte, upper) = place(block, column);
            let quant = group[vector * 64 + lane * 4 + byte];
            let quant = match block {
                BlockType::Q8_0 => quant,
                _ => quant >> if upper { 4 } else { 0 } & 15,
            };
            *out = (f32::from(quant) - offset) * scale + min;
        }
    }
}

fn as_bytes(words: &[u32]) -> &[u8] {
    bytemuck::cast_slice(words)
}

fn as_bytes_mut(words: &mut [u32]) -> &mut [u8] {
    bytemuck::cast_slice_mut(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_shared::gguf::{dequantise, quantise};

    #[test]
    fn a_packed_row_is_the_row() {
        for block in [BlockType::Q8_0, BlockType::Q4_0, BlockType::Q4_1] {
            for (rows, cols) in [(16, 32), (37, 96), (1, 64)] {
                let values: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.37).sin()).collect();
                let data = quantise(block, &values).unwrap();
                let packed = pack(block, rows, cols, &data);
                assert_eq!(packed.len(), words(block, rows, cols));
                let expected = dequantise(block, &data).unwrap();
                let mut found = vec![0.0; cols];
                for row in 0..rows {
                    dequantise_row(block, &packed, row, cols, &mut found);
                    for (a, b) in found.iter().zip(&expected[row * cols..]) {
                        assert!((a - b).abs() < 1e-6, "{block} row {row}: {a} is not {b}");
                    }
                }
            }
        }
    }
}
