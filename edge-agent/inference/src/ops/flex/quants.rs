//! The block layouts as the CPU kernels see them: groups of 32 small integers, each group with scales and a minimum.
//!
//! Every layout is `value = scale · q + min`, with `q` unsigned where there is a minimum (the symmetric 4- and 5-bit types
//! subtract a constant, which is a minimum of `-8 · scale` or `-16 · scale`) and signed where there is none. Q6_K has two
//! scales in a group of 32, the others one.

use nearfield_shared::gguf::BlockType;

use super::super::blocks::block_words;

/// Scales of a group of 32: for its first and second sixteen, and the minimum added to each value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scales {
    pub(super) low: f32,
    pub(super) high: f32,
    pub(super) min: f32,
}

/// A block layout.
pub(super) trait Layout: Copy + Send + Sync + 'static {
    const BLOCK: BlockType;
    const WORDS: usize = block_words(Self::BLOCK);
    /// Groups of 32 in a block.
    const GROUPS: usize = Self::BLOCK.block_elems() / 32;
    /// Whether `q` is signed (and the minimum zero).
    const SIGNED: bool = false;
    /// Whether the group's halves have scales of their own.
    const TWO_SCALES: bool = false;
    /// The 32 values of a group.
    fn unpack(block: &[u32], group: usize) -> [i8; 32];
    /// The scales of a group; `half` reads the f16 in the low 16 bits of its argument.
    fn scales(block: &[u32], group: usize, half: impl Fn(u32) -> f32) -> Scales;
}

#[inline(always)]
fn byte(words: &[u32], at: usize) -> u32 {
    words[at / 4] >> (at % 4 * 8) & 0xff
}

#[inline(always)]
fn nibbles(words: &[u32]) -> [i8; 32] {
    std::array::from_fn(|i| (byte(words, i % 16) >> (i / 16 * 4) & 15) as i8)
}

#[derive(Clone, Copy)]
pub(super) struct Q8_0;
impl Layout for Q8_0 {
    const BLOCK: BlockType = BlockType::Q8_0;
    const SIGNED: bool = true;
    #[inline(always)]
    fn unpack(block: &[u32], _: usize) -> [i8; 32] {
        std::array::from_fn(|i| byte(&block[1..], i) as i8)
    }
    #[inline(always)]
    fn scales(block: &[u32], _: usize, half: impl Fn(u32) -> f32) -> Scales {
        let d = half(block[0]);
        Scales { low: d, high: d, min: 0.0 }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q4_0;
impl Layout for Q4_0 {
    const BLOCK: BlockType = BlockType::Q4_0;
    #[inline(always)]
    fn unpack(block: &[u32], _: usize) -> [i8; 32] {
        nibbles(&block[1..])
    }
    #[inline(always)]
    fn scales(block: &[u32], _: usize, half: impl Fn(u32) -> f32) -> Scales {
        let d = half(block[0]);
        Scales { low: d, high: d, min: -8.0 * d }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q4_1;
impl Layout for Q4_1 {
    const BLOCK: BlockType = BlockType::Q4_1;
    #[inline(always)]
    fn unpack(block: &[u32], _: usize) -> [i8; 32] {
        nibbles(&block[1..])
    }
    #[inline(always)]
    fn scales(block: &[u32], _: usize, half: impl Fn(u32) -> f32) -> Scales {
        let d = half(block[0]);
        Scales { low: d, high: d, min: half(block[0] >> 16) }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q5_0;
impl Layout for Q5_0 {
    const BLOCK: BlockType = BlockType::Q5_0;
    #[inline(always)]
    fn unpack(block: &[u32], _: usize) -> [i8; 32] {
        let low = nibbles(&block[2..]);
        std::array::from_fn(|i| low[i] | ((block[1] >> i & 1) << 4) as i8)
    }
    #[inline(always)]
    fn scales(block: &[u32], _: usize, half: impl Fn(u32) -> f32) -> Scales {
        let d = half(block[0]);
        Scales { low: d, high: d, min: -16.0 * d }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q4K;
impl Layout for Q4K {
    const BLOCK: BlockType = BlockType::Q4K;
    #[inline(always)]
    fn unpack(block: &[u32], group: usize) -> [i8; 32] {
        let quants = &block[4 + group / 2 * 8..];
        std::array::from_fn(|i| (byte(quants, i) >> (group % 2 * 4) & 15) as i8)
    }
    #[inline(always)]
    fn scales(block: &[u32], group: usize, half: impl Fn(u32) -> f32) -> Scales {
        let s = |i: usize| byte(&block[1..4], i);
        let (scale, min) = if group < 4 {
            (s(group) & 63, s(group + 4) & 63)
        } else {
            (s(group + 4) & 15 | s(group - 4) >> 6 << 4, s(group + 4) >> 4 | s(group) >> 6 << 4)
        };
        let d = half(block[0]) * scale as f32;
        Scales { low: d, high: d, min: -half(block[0] >> 16) * min as f32 }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q6K;
impl Layout for Q6K {
    const BLOCK: BlockType = BlockType::Q6K;
    const SIGNED: bool = true;
    const TWO_SCALES: bool = true;
    #[inline(always)]
    fn unpack(block: &[u32], group: usize) -> [i8; 32] {
        let (half, part) = (group / 4, group % 4);
        let low = &block[half * 16 + part % 2 * 8..];
        let high = &block[32 + half * 8..];
        std::array::from_fn(|i| {
            let q = byte(low, i) >> (part / 2 * 4) & 15 | (byte(high, i) >> (part * 2) & 3) << 4;
            q as i8 - 32
        })
    }
    #[inline(always)]
    fn scales(block: &[u32], group: usize, half: impl Fn(u32) -> f32) -> Scales {
        let d = half(block[52]);
        let s = |i: usize| d * f32::from(byte(&block[48..52], i) as i8);
        Scales { low: s(group * 2), high: s(group * 2 + 1), min: 0.0 }
    }
}
