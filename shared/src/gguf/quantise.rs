//! f32 to blocks: round to nearest with the scale as it will be read back (already rounded to f16).

use half::f16;

use super::{BlockType, GgufError};

/// The blocks that hold `values`, whose number must be a whole number of blocks.
///
/// # Errors
/// [`GgufError::NotWholeBlocks`]; [`GgufError::Value`] for a value that is not finite or beyond the block's range;
/// [`GgufError::CannotQuantise`] for the K types, which are read but not produced here, and for I8, which holds bytes.
pub fn quantise(block: BlockType, values: &[f32]) -> Result<Vec<u8>, GgufError> {
    let elems = block.block_elems();
    if !values.len().is_multiple_of(elems) {
        return Err(GgufError::NotWholeBlocks { block, unit: "values", found: values.len(), block_size: elems });
    }
    // The largest magnitude whose scale still fits an f16.
    let limit = match block {
        BlockType::F32 => f32::MAX,
        BlockType::F16 => 65504.0,
        BlockType::Q8_0 => 65504.0 * 127.0,
        BlockType::Q4_0 => 65504.0 * 8.0,
        BlockType::Q5_0 => 65504.0 * 16.0,
        // The minimum itself is stored as f16.
        BlockType::Q4_1 => 65504.0,
        BlockType::Q4K | BlockType::Q6K | BlockType::I8 => return Err(GgufError::CannotQuantise(block)),
    };
    if let Some(at) = values.iter().position(|v| !v.is_finite() || v.abs() > limit) {
        return Err(GgufError::Value { value: values[at], at, block });
    }
    let mut out = Vec::with_capacity(values.len() / elems * block.block_bytes());
    match block {
        BlockType::F32 => values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        BlockType::F16 => values.iter().for_each(|&v| push_half(&mut out, f16::from_f32(v))),
        BlockType::Q8_0 => values.chunks_exact(32).for_each(|b| q8_0(b, &mut out)),
        BlockType::Q4_0 => values.chunks_exact(32).for_each(|b| q4_0(b, &mut out)),
        BlockType::Q4_1 => values.chunks_exact(32).for_each(|b| q4_1(b, &mut out)),
        BlockType::Q5_0 => values.chunks_exact(32).for_each(|b| q5_0(b, &mut out)),
        BlockType::Q4K | BlockType::Q6K | BlockType::I8 => return Err(GgufError::CannotQuantise(block)),
    }
    Ok(out)
}

fn push_half(out: &mut Vec<u8>, v: f16) {
    out.extend_from_slice(&v.to_le_bytes());
}

/// The scale rounded to f16 and the factor that divides by it (0 for a block of zeros).
fn scale(d: f32) -> (f16, f32) {
    let h = f16::from_f32(d);
    let back = h.to_f32();
    (h, if back == 0.0 { 0.0 } else { 1.0 / back })
}

fn q8_0(b: &[f32], out: &mut Vec<u8>) {
    let peak = b.iter().fold(0f32, |m, v| m.max(v.abs()));
    let (d, inverse) = scale(peak / 127.0);
    push_half(out, d);
    out.extend(b.iter().map(|v| (v * inverse).round().clamp(-127.0, 127.0) as i8 as u8));
}

/// The value of greatest magnitude, with its sign: the symmetric types give it the end of the range with one more step.
fn signed_peak(b: &[f32]) -> f32 {
    b.iter().fold(0f32, |m, &v| if v.abs() > m.abs() { v } else { m })
}

fn q4_0(b: &[f32], out: &mut Vec<u8>) {
    let (d, inverse) = scale(signed_peak(b) / -8.0);
    push_half(out, d);
    let q = |v: f32| (v * inverse + 8.0).round().clamp(0.0, 15.0) as u8;
    out.extend((0..16).map(|i| q(b[i]) | q(b[i + 16]) << 4));
}

fn q4_1(b: &[f32], out: &mut Vec<u8>) {
    let least = b.iter().copied().fold(f32::INFINITY, f32::min);
    let most = b.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let min = f16::from_f32(least);
    let (d, inverse) = scale((most - min.to_f32()).max(0.0) / 15.0);
    push_half(out, d);
    push_half(out, min);
    let q = |v: f32| ((v - min.to_f32()) * inverse).round().clamp(0.0, 15.0) as u8;
    out.extend((0..16).map(|i| q(b[i]) | q(b[i + 16]) << 4));
}

fn q5_0(b: &[f32], out: &mut Vec<u8>) {
    let (d, inverse) = scale(signed_peak(b) / -16.0);
    push_half(out, d);
    let q = |v: f32| (v * inverse + 16.0).round().clamp(0.0, 31.0) as u8;
    let high = (0..32).fold(0u32, |bits, i| bits | u32::from(q(b[i]) >> 4) << i);
    out.extend_from_slice(&high.to_le_bytes());
    out.extend((0..16).map(|i| q(b[i]) & 15 | (q(b[i + 16]) & 15) << 4));
}
