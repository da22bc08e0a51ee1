//! Products with weights in [`strips`](super::strips) by AVX-512 VNNI.
//!
//! A vector of weights holds four columns of sixteen rows; four activations, broadcast to all lanes, are multiplied with it and
//! added to sixteen sums at once, so nothing is summed across lanes. Activations of 16 bits are two bytes, multiplied apart and
//! put together as `256 · upper + lower` for each group of 32 columns: exact in integers. A tile is S strips by T rows of activations.
//! Every (row, activation) pair does the same operations in the same order whatever S and T are, so a batched step gives bit for
//! bit what a single one gives, and a prompt the same in chunks of any length.

use std::{arch::x86_64::*, ops::Range};

use nearfield_shared::gguf::BlockType;

use super::super::{Activation, gelu::C as GELU};
use super::{
    attention512::exp,
    finish::Finish,
    strips::{ROWS, group_bytes},
    team,
};

/// [`crate::ops::gelu`] of sixteen values.
#[target_feature(enable = "avx512f,avx512dq")]
fn gelu(x: __m512) -> __m512 {
    let magnitude = _mm512_abs_ps(x);
    let a = _mm512_mul_ps(magnitude, _mm512_set1_ps(std::f32::consts::FRAC_1_SQRT_2));
    let a = _mm512_min_ps(a, _mm512_set1_ps(10.0));
    let mut p = _mm512_set1_ps(GELU[5]);
    for c in [GELU[4], GELU[3], GELU[2], GELU[1], GELU[0], 1.0] {
        p = _mm512_fmadd_ps(p, a, _mm512_set1_ps(c));
    }
    for _ in 0..4 {
        p = _mm512_mul_ps(p, p);
    }
    // Its inverse, by an estimate and one step of Newton's, which takes less than a division.
    let estimate = _mm512_rcp14_ps(p);
    let inverse = _mm512_mul_ps(estimate, _mm512_fnmadd_ps(p, estimate, _mm512_set1_ps(2.0)));
    let half = _mm512_mul_ps(magnitude, _mm512_set1_ps(0.5));
    _mm512_fnmadd_ps(half, inverse, _mm512_max_ps(x, _mm512_setzero_ps()))
}

/// Hyperbolic tangent of sixteen values.
#[target_feature(enable = "avx512f")]
fn tanh(x: __m512) -> __m512 {
    let one = _mm512_set1_ps(1.0);
    // The exponential of what is not above 0 does not overflow.
    let e = exp(_mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(-2.0)));
    let magnitude = _mm512_div_ps(_mm512_sub_ps(one, e), _mm512_add_ps(one, e));
    // The sign of x.
    let sign = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MIN));
    _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(magnitude), sign))
}

/// Activations as the kernels read them, 32 to a scale.
pub(super) struct Codes {
    /// `[t, cols]`: all of 8-bit activations, the upper bytes of 16-bit ones.
    upper: Vec<i8>,
    /// `[t, cols]`, or nothing for 8-bit activations.
    lower: Vec<i8>,
    /// Of each group `[t, groups]`: what its sums start at, so that what was added to every quant is taken off; its scale; and the
    /// sum of its integers times the scale.
    starts: Vec<i32>,
    scales: Vec<f32>,
    totals: Vec<f32>,
    cols: usize,
}

/// The greatest magnitudes that the two kinds of activations have: the upper byte of the second stays within 127.
const PEAK_8: f32 = 127.0;
const PEAK_16: f32 = 127.0 * 256.0;

/// Rows of activations that all strips of a task go over before the next ones: with 1,536 columns of 16 bits they take 300 KB of the
/// second-level cache. A multiple of the tiles' heights.
const BLOCK_ROWS: usize = 96;

impl Codes {
    /// Room for `t` rows.
    fn empty(t: usize, cols: usize, wide: bool) -> Self {
        let groups = t * cols / 32;
        Self {
            upper: vec![0; t * cols],
            lower: vec![0; if wide { t * cols } else { 0 }],
            starts: vec![0; groups],
            scales: vec![0.0; groups],
            totals: vec![0.0; groups],
            cols,
        }
    }

    /// Rounds `[t, cols]`, `cols` a multiple of 32, for weights of one type. A group that holds a value that is no number gives no
    /// numbers.
    ///
    /// # Safety
    /// AVX-512 F, BW, VL and DQ.
    pub(super) unsafe fn new(x: &[f32], cols: usize, wide: bool, block: BlockType) -> Self {
        let mut codes = Self::empty(x.len() / cols, cols, wide);
        let groups = x.len() / 32;
        let to = Filling {
            upper: codes.upper.as_mut_ptr(),
            lower: codes.lower.as_mut_ptr(),
            starts: codes.starts.as_mut_ptr(),
            scales: codes.scales.as_mut_ptr(),
            totals: codes.totals.as_mut_ptr(),
            wide,
            offset: offset(block),
        };
        let fill = |range: Range<usize>| {
            // SAFETY: the processor has the features, and each task fills groups of its own.
            unsafe { Self::fill(to, x, range) };
        };
        if groups < PARALLEL_GROUPS_MIN {
            fill(0..groups);
        } else {
            let chunk = groups.div_ceil(team::threads() * 4);
            team::run(groups.div_ceil(chunk), |c| fill(c * chunk..groups.min((c + 1) * chunk)));
        }
        codes
    }

    /// Rounds some groups.
    ///
    /// # Safety
    /// AVX-512 F, BW, VL and DQ; nobody else touches these groups.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn fill(to: Filling, x: &[f32], range: Range<usize>) {
        let wide = to.wide;
        for g in range {
            // SAFETY: group g lies within x and within every array of the codes.
            unsafe {
                let from = x.as_ptr().add(g * 32);
                let (a, b) = (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)));
                let peak = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
                let most = if wide { PEAK_16 } else { PEAK_8 };
                let inverse = _mm512_set1_ps(if peak > 0.0 { most / peak } else { 0.0 });
                let a16 = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
                let b16 = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
                let upper = to.upper.add(g * 32).cast::<__m128i>();
                if wide {
                    let half = _mm512_set1_epi32(128);
                    let high = |v| _mm512_srai_epi32(_mm512_add_epi32(v, half), 8);
                    _mm_storeu_si128(upper, _mm512_cvtepi32_epi8(high(a16)));
                    _mm_storeu_si128(upper.add(1), _mm512_cvtepi32_epi8(high(b16)));
                    // What the upper byte leaves is the lower byte as it stands, read as a signed one.
                    let lower = to.lower.add(g * 32).cast::<__m128i>();
                    _mm_storeu_si128(lower, _mm512_cvtepi32_epi8(a16));
                    _mm_storeu_si128(lower.add(1), _mm512_cvtepi32_epi8(b16));
                } else {
                    _mm_storeu_si128(upper, _mm512_cvtepi32_epi8(a16));
                    _mm_storeu_si128(upper.add(1), _mm512_cvtepi32_epi8(b16));
                }
                let sum = _mm512_reduce_add_epi32(_mm512_add_epi32(a16, b16));
                let bad = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, b) != 0;
                let scale = if bad { f32::NAN } else { peak / most };
                *to.starts.add(g) = -to.offset * sum;
                *to.scales.add(g) = scale;
                *to.totals.add(g) = sum as f32 * scale;
            }
        }
    }
}

/// Where several threads write codes, each its own groups.
#[derive(Clone, Copy)]
struct Filling {
    upper: *mut i8,
    lower: *mut i8,
    starts: *mut i32,
    scales: *mut f32,
    totals: *mut f32,
    wide: bool,
    offset: i32,
}
// SAFETY: the threads write disjoint groups.
unsafe impl Send for Filling {}
// SAFETY: as above.
unsafe impl Sync for Filling {}

/// Groups below which calling other threads costs more than it saves (some 3 µs of work).
const PARALLEL_GROUPS_MIN: usize = 512;

/// What [`strips`](super::strips) add to every quant.
const fn offset(block: BlockType) -> i32 {
    match block {
        BlockType::Q8_0 => 128,
        BlockType::Q4_0 => 8,
        _ => 0,
    }
}

/// A strip layout as the kernel reads it.
trait Strip {
    const BLOCK: BlockType;
    const BYTES: usize = group_bytes(Self::BLOCK);
    /// What was added to every quant.
    const OFFSET: i32 = offset(Self::BLOCK);
    const MINS: bool = false;
    /// Vectors `2j` and `2j + 1` of the eight of a group.
    unsafe fn pair(group: *const u8, j: usize) -> [__m512i; 2];
}

struct Eight;
impl Strip for Eight {
    const BLOCK: BlockType = BlockType::Q8_0;
    #[inline(always)]
    unsafe fn pair(group: *const u8, j: usize) -> [__m512i; 2] {
        unsafe { [_mm512_loadu_si512(group.add(j * 128).cast()), _mm512_loadu_si512(group.add(j * 128 + 64).cast())] }
    }
}

#[inline(always)]
unsafe fn nibbles(group: *const u8, j: usize) -> [__m512i; 2] {
    unsafe {
        let q = _mm512_loadu_si512(group.add(j * 64).cast());
        let mask = _mm512_set1_epi8(15);
        [_mm512_and_si512(q, mask), _mm512_and_si512(_mm512_srli_epi16(q, 4), mask)]
    }
}

struct Four;
impl Strip for Four {
    const BLOCK: BlockType = BlockType::Q4_0;
    #[inline(always)]
    unsafe fn pair(group: *const u8, j: usize) -> [__m512i; 2] {
        unsafe { nibbles(group, j) }
    }
}

struct FourMin;
impl Strip for FourMin {
    const BLOCK: BlockType = BlockType::Q4_1;
    const MINS: bool = true;
    #[inline(always)]
    unsafe fn pair(group: *const u8, j: usize) -> [__m512i; 2] {
        unsafe { nibbles(group, j) }
    }
}

/// S strips from `strip` on by T rows of activations from `t0` on.
///
/// # Safety
/// AVX-512 F, BW, VL, DQ and VNNI; S strips of `codes.cols` columns at `w`, T rows of activations from `t0`.
// Indices: the accumulators must stay in registers.
#[allow(clippy::needless_range_loop)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[inline]
unsafe fn tile<L: Strip, const S: usize, const T: usize, const WIDE: bool>(
    w: *const u8,
    codes: &Codes,
    t0: usize,
) -> [[__m512; T]; S] {
    unsafe {
        let groups = codes.cols / 32;
        let strip = groups * L::BYTES;
        let mut acc = [[_mm512_setzero_ps(); T]; S];
        for g in 0..groups {
            let at: [usize; T] = std::array::from_fn(|t| (t0 + t) * groups + g);
            let start: [__m512i; T] = std::array::from_fn(|t| {
                if L::OFFSET == 0 {
                    _mm512_setzero_si512()
                } else {
                    _mm512_set1_epi32(*codes.starts.as_ptr().add(at[t]))
                }
            });
            let mut low: [[__m512i; T]; S] = [start; S];
            let mut high = [[_mm512_setzero_si512(); T]; S];
            let w = w.add(g * L::BYTES);
            if T < 4 {
                // Few rows of activations are bound by reading the weights: what the next tile reads is asked for now. Behind the last
                // strip there may be nothing, which a prefetch does not mind.
                for s in 0..S {
                    let next = w.wrapping_add((S + s) * strip).cast::<i8>();
                    for line in 0..L::BYTES.div_ceil(64) {
                        _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(line * 64));
                    }
                }
            }
            for j in 0..4 {
                let q: [[__m512i; 2]; S] = std::array::from_fn(|s| L::pair(w.add(s * strip), j));
                for part in 0..2 {
                    let offset = j * 8 + part * 4;
                    for t in 0..T {
                        let four = |codes: &Vec<i8>| {
                            _mm512_set1_epi32(codes.as_ptr().add(at[t] * 32 + offset).cast::<i32>().read_unaligned())
                        };
                        if WIDE {
                            let (x, y) = (four(&codes.upper), four(&codes.lower));
                            for s in 0..S {
                                high[s][t] = _mm512_dpbusd_epi32(high[s][t], q[s][part], x);
                                low[s][t] = _mm512_dpbusd_epi32(low[s][t], q[s][part], y);
                            }
                        } else {
                            let x = four(&codes.upper);
                            for s in 0..S {
                                low[s][t] = _mm512_dpbusd_epi32(low[s][t], q[s][part], x);
                            }
                        }
                    }
                }
            }
            for s in 0..S {
                let scales = w.add(s * strip + L::BYTES - if L::MINS { 64 } else { 32 });
                let scale = _mm512_cvtph_ps(_mm256_loadu_si256(scales.cast()));
                for t in 0..T {
                    let dot =
                        if WIDE { _mm512_add_epi32(_mm512_slli_epi32(high[s][t], 8), low[s][t]) } else { low[s][t] };
                    let scale = _mm512_mul_ps(scale, _mm512_set1_ps(*codes.scales.as_ptr().add(at[t])));
                    acc[s][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, acc[s][t]);
                }
                if L::MINS {
                    let min = _mm512_cvtph_ps(_mm256_loadu_si256(scales.add(32).cast()));
                    for t in 0..T {
                        let total = _mm512_set1_ps(*codes.totals.as_ptr().add(at[t]));
                        acc[s][t] = _mm512_fmadd_ps(min, total, acc[s][t]);
                    }
                }
            }
        }
        acc
    }
}

/// Strips by all rows of activations, into columns of a result `[t, rows]`.
///
/// # Safety
/// AVX-512 F, BW, VL, DQ and VNNI; `w` holds all strips of a matrix of `rows` rows, `strips` are some of them; `out` has room for
/// `[t, rows]` and nobody else writes the columns of these strips.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn multiply(
    block: BlockType,
    w: &[u32],
    codes: &Codes,
    rows: usize,
    strips: Range<usize>,
    finish: Finish<'_>,
    out: *mut f32,
) {
    assert!(finish.fits(codes.scales.len() / (codes.cols / 32), rows), "a part of the finish is of another size");
    unsafe {
        match (block, codes.lower.is_empty()) {
            (BlockType::Q8_0, true) => all::<Eight, false>(w, codes, rows, strips, finish, out),
            (BlockType::Q8_0, false) => all::<Eight, true>(w, codes, rows, strips, finish, out),
            (BlockType::Q4_0, true) => all::<Four, false>(w, codes, rows, strips, finish, out),
            (BlockType::Q4_0, false) => all::<Four, true>(w, codes, rows, strips, finish, out),
            (BlockType::Q4_1, true) => all::<FourMin, false>(w, codes, rows, strips, finish, out),
            (BlockType::Q4_1, false) => all::<FourMin, true>(w, codes, rows, strips, finish, out),
            (other, _) => unreachable!("{other} weights have no strips"),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn all<L: Strip, const WIDE: bool>(
    w: &[u32],
    codes: &Codes,
    rows: usize,
    strips: Range<usize>,
    finish: Finish<'_>,
    out: *mut f32,
) {
    unsafe {
        let t = codes.scales.len() / (codes.cols / 32);
        for first in (0..t).step_by(BLOCK_ROWS) {
            let block = first..t.min(first + BLOCK_ROWS);
            let mut strip = strips.start;
            while strip < strips.end {
                // A single row of activations needs more strips for as many independent sums.
                match strips.end - strip {
                    n if n >= 4 && t == 1 => {
                        some::<L, 4, 1, WIDE>(w, codes, rows, strip, 0, finish, out);
                        strip += 4;
                    }
                    n if n >= 2 => {
                        down::<L, 2, WIDE>(w, codes, rows, strip, block.clone(), finish, out);
                        strip += 2;
                    }
                    _ => {
                        down::<L, 1, WIDE>(w, codes, rows, strip, block.clone(), finish, out);
                        strip += 1;
                    }
                }
            }
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "a kernel's entry: the operands and their shape")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn down<L: Strip, const S: usize, const WIDE: bool>(
    w: &[u32],
    codes: &Codes,
    rows: usize,
    strip: usize,
    block: Range<usize>,
    finish: Finish<'_>,
    out: *mut f32,
) {
    unsafe {
        let mut t = block.start;
        while t < block.end {
            t += match block.end - t {
                1 => some::<L, S, 1, WIDE>(w, codes, rows, strip, t, finish, out),
                2 => some::<L, S, 2, WIDE>(w, codes, rows, strip, t, finish, out),
                3 => some::<L, S, 3, WIDE>(w, codes, rows, strip, t, finish, out),
                5 if !WIDE => some::<L, S, 5, WIDE>(w, codes, rows, strip, t, finish, out),
                n if n >= 6 && !WIDE => some::<L, S, 6, WIDE>(w, codes, rows, strip, t, finish, out),
                _ => some::<L, S, 4, WIDE>(w, codes, rows, strip, t, finish, out),
            };
        }
    }
}

/// One tile, written; gives T.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn some<L: Strip, const S: usize, const T: usize, const WIDE: bool>(
    w: &[u32],
    codes: &Codes,
    rows: usize,
    strip: usize,
    t0: usize,
    finish: Finish<'_>,
    out: *mut f32,
) -> usize {
    unsafe {
        let bytes = codes.cols / 32 * L::BYTES;
        debug_assert!(w.len() * 4 >= (strip + S) * bytes);
        let tile = tile::<L, S, T, WIDE>(w.as_ptr().cast::<u8>().add(strip * bytes), codes, t0);
        for (s, strip_sums) in tile.iter().enumerate() {
            let row = (strip + s) * ROWS;
            // The last strip may be filled up with rows that do not exist.
            let mask = if row + ROWS <= rows { 0xffff } else { (1u16 << (rows - row)) - 1 };
            let of = |part: Option<&[f32]>, at: usize| part.map(|p| _mm512_maskz_loadu_ps(mask, p.as_ptr().add(at)));
            let (bias, gamma) = (of(finish.bias, row), of(finish.gamma, row));
            for (t, sums) in strip_sums.iter().enumerate() {
                let at = (t0 + t) * rows + row;
                let mut y = *sums;
                if let Some(bias) = bias {
                    y = _mm512_add_ps(y, bias);
                }
                match finish.activation {
                    Activation::Identity => {}
                    Activation::Gelu => y = gelu(y),
                    Activation::Tanh => y = tanh(y),
                }
                if let Some(gamma) = gamma {
                    y = _mm512_mul_ps(y, gamma);
                }
                if let Some(residual) = of(finish.residual, at) {
                    y = _mm512_add_ps(y, residual);
                }
                _mm512_mask_storeu_ps(out.add(at), mask, y);
            }
        }
        T
    }
}
