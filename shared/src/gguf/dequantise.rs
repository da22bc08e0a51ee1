//! Blocks back to f32: the plain, slow and exact reading of each layout that the kernels are measured against.

use half::f16;

use super::{BlockType, GgufError};

/// All values of `bytes`, which must be whole blocks.
///
/// # Errors
/// [`GgufError::NotWholeBlocks`].
pub fn dequantise(block: BlockType, bytes: &[u8]) -> Result<Vec<f32>, GgufError> {
    let size = block.block_bytes();
    if !bytes.len().is_multiple_of(size) {
        return Err(GgufError::NotWholeBlocks { block, unit: "bytes", found: bytes.len(), block_size: size });
    }
    let mut out = vec![0f32; bytes.len() / size * block.block_elems()];
    let blocks = bytes.chunks_exact(size).zip(out.chunks_exact_mut(block.block_elems()));
    let read: fn(&[u8], &mut [f32]) = match block {
        BlockType::F32 => |b, o| o[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        BlockType::F16 => |b, o| o[0] = half_at(b, 0),
        BlockType::I8 => |b, o| o[0] = f32::from(b[0] as i8),
        BlockType::Q8_0 => q8_0,
        BlockType::Q4_0 => q4_0,
        BlockType::Q4_1 => q4_1,
        BlockType::Q5_0 => q5_0,
        BlockType::Q4K => q4_k,
        BlockType::Q6K => q6_k,
    };
    blocks.for_each(|(b, o)| read(b, o));
    Ok(out)
}

fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

fn q8_0(b: &[u8], o: &mut [f32]) {
    let d = half_at(b, 0);
    for (o, &q) in o.iter_mut().zip(&b[2..]) {
        *o = f32::from(q as i8) * d;
    }
}

fn q4_0(b: &[u8], o: &mut [f32]) {
    let d = half_at(b, 0);
    for (i, &q) in b[2..].iter().enumerate() {
        o[i] = (f32::from(q & 15) - 8.0) * d;
        o[i + 16] = (f32::from(q >> 4) - 8.0) * d;
    }
}

fn q4_1(b: &[u8], o: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    for (i, &q) in b[4..].iter().enumerate() {
        o[i] = f32::from(q & 15) * d + m;
        o[i + 16] = f32::from(q >> 4) * d + m;
    }
}

fn q5_0(b: &[u8], o: &mut [f32]) {
    let d = half_at(b, 0);
    let high = u32::from_le_bytes([b[2], b[3], b[4], b[5]]);
    for (i, &q) in b[6..].iter().enumerate() {
        let fifth = |bit: usize| ((high >> bit) as u8 & 1) << 4;
        o[i] = (f32::from(q & 15 | fifth(i)) - 16.0) * d;
        o[i + 16] = (f32::from(q >> 4 | fifth(i + 16)) - 16.0) * d;
    }
}

/// Scale and minimum (six bits each) of group `j` of a Q4_K block, packed in twelve bytes.
fn q4_k_group(s: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (s[j + 4] & 15 | (s[j - 4] >> 6) << 4, s[j + 4] >> 4 | (s[j] >> 6) << 4)
    }
}

fn q4_k(b: &[u8], o: &mut [f32]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    let (scales, quants) = (&b[4..16], &b[16..]);
    for group in 0..8 {
        let (scale, min) = q4_k_group(scales, group);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        let shift = (group % 2) * 4;
        for i in 0..32 {
            o[group * 32 + i] = f32::from(quants[group / 2 * 32 + i] >> shift & 15) * scale - min;
        }
    }
}

fn q6_k(b: &[u8], o: &mut [f32]) {
    let (low, high, scales) = (&b[..128], &b[128..192], &b[192..208]);
    let d = half_at(b, 208);
    for half in 0..2 {
        for part in 0..4 {
            for i in 0..32 {
                let nibble = low[half * 64 + part % 2 * 32 + i] >> (part / 2 * 4) & 15;
                let top = high[half * 32 + i] >> (part * 2) & 3;
                let q = i32::from(nibble | top << 4) - 32;
                let scale = f32::from(scales[half * 8 + part * 2 + i / 16] as i8);
                o[half * 128 + part * 32 + i] = d * scale * q as f32;
            }
        }
    }
}
