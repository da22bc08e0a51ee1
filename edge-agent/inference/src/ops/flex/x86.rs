//! The kernels for x86-64 with AVX2, FMA and F16C, and with AVX-512 VNNI where the processor has it.
//!
//! A tile is R rows of weights by T rows of activations with one accumulator each: weights are unpacked once for T
//! products and several accumulators hide the latency of the multiply-adds. Every (row, activation) pair adds its groups
//! in the same order whatever R and T are, so a batched step gives bit for bit what a single one gives.

use std::arch::x86_64::*;

use super::{
    quants::{Layout, Q4_0, Q4_1, Q4K, Q5_0, Q6K, Q8_0, Scales},
    rounded::Rounded,
};

/// A layout that AVX2 can unpack.
pub(super) trait Avx2: Layout {
    /// The 32 values of a group as bytes.
    ///
    /// # Safety
    /// AVX2 is there and `block` holds [`Layout::WORDS`] words.
    unsafe fn load(block: *const u32, group: usize) -> __m256i;
}

#[inline(always)]
unsafe fn nibbles(p: *const u32) -> __m256i {
    unsafe {
        let q = _mm_loadu_si128(p.cast());
        _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(q, 4), q), _mm256_set1_epi8(15))
    }
}

impl Avx2 for Q8_0 {
    #[inline(always)]
    unsafe fn load(block: *const u32, _: usize) -> __m256i {
        unsafe { _mm256_loadu_si256(block.add(1).cast()) }
    }
}

impl Avx2 for Q4_0 {
    #[inline(always)]
    unsafe fn load(block: *const u32, _: usize) -> __m256i {
        unsafe { nibbles(block.add(1)) }
    }
}

impl Avx2 for Q4_1 {
    #[inline(always)]
    unsafe fn load(block: *const u32, _: usize) -> __m256i {
        unsafe { nibbles(block.add(1)) }
    }
}

impl Avx2 for Q5_0 {
    #[inline(always)]
    unsafe fn load(block: *const u32, _: usize) -> __m256i {
        unsafe {
            // Byte i of the vector tests bit i of the 32 high bits.
            let spread = _mm256_shuffle_epi8(
                _mm256_set1_epi32(*block.add(1) as i32),
                _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303),
            );
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
            _mm256_or_si256(nibbles(block.add(2)), _mm256_and_si256(set, _mm256_set1_epi8(16)))
        }
    }
}

impl Avx2 for Q4K {
    #[inline(always)]
    unsafe fn load(block: *const u32, group: usize) -> __m256i {
        unsafe {
            let q = _mm256_loadu_si256(block.add(4 + group / 2 * 8).cast());
            let q = _mm256_srl_epi16(q, _mm_cvtsi32_si128((group % 2 * 4) as i32));
            _mm256_and_si256(q, _mm256_set1_epi8(15))
        }
    }
}

impl Avx2 for Q6K {
    #[inline(always)]
    unsafe fn load(block: *const u32, group: usize) -> __m256i {
        unsafe {
            let (half, part) = (group / 4, group % 4);
            let low = _mm256_loadu_si256(block.add(half * 16 + part % 2 * 8).cast());
            let low = _mm256_srl_epi16(low, _mm_cvtsi32_si128((part / 2 * 4) as i32));
            let high = _mm256_loadu_si256(block.add(32 + half * 8).cast());
            let high = _mm256_srl_epi16(high, _mm_cvtsi32_si128((part * 2) as i32));
            let high = _mm256_slli_epi16(_mm256_and_si256(high, _mm256_set1_epi8(3)), 4);
            let q = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(15)), high);
            _mm256_sub_epi8(q, _mm256_set1_epi8(32))
        }
    }
}

#[inline(always)]
unsafe fn half(bits: u32) -> f32 {
    unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128((bits & 0xffff) as i32))) }
}

#[inline(always)]
unsafe fn scales<L: Layout>(block: *const u32, group: usize) -> Scales {
    // SAFETY: the caller's block holds WORDS words; F16C is there.
    unsafe { L::scales(std::slice::from_raw_parts(block, L::WORDS), group, |b| half(b)) }
}

#[inline(always)]
unsafe fn sum(v: __m256) -> f32 {
    unsafe {
        let h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        let h = _mm_add_ps(h, _mm_movehl_ps(h, h));
        _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)))
    }
}

/// Sums of products of unsigned `a` with signed `b`, four neighbours to a lane.
#[inline(always)]
unsafe fn dot_bytes<const VNNI: bool>(a: __m256i, b: __m256i) -> __m256i {
    unsafe {
        if VNNI {
            _mm256_dpbusd_epi32(_mm256_setzero_si256(), a, b)
        } else {
            // No saturation: at most 2 · 128 · 127 in a 16-bit lane.
            _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1))
        }
    }
}

#[inline(always)]
unsafe fn int8_body<L: Avx2, const VNNI: bool, const R: usize, const T: usize>(
    w: *const u32,
    row_words: usize,
    x: &Rounded<i8>,
    t0: usize,
) -> [[f32; T]; R] {
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); T]; R];
        let mut mins = [[0f32; T]; R];
        let groups = x.cols / 32;
        for b in 0..groups / L::GROUPS {
            for group in 0..L::GROUPS {
                let at: [usize; T] = std::array::from_fn(|t| (t0 + t) * groups + b * L::GROUPS + group);
                let xs: [__m256i; T] = std::array::from_fn(|t| _mm256_loadu_si256(x.q.as_ptr().add(at[t] * 32).cast()));
                for r in 0..R {
                    let block = w.add(r * row_words + b * L::WORDS);
                    let q = L::load(block, group);
                    let s = scales::<L>(block, group);
                    for t in 0..T {
                        let dot = if L::SIGNED {
                            dot_bytes::<VNNI>(_mm256_abs_epi8(q), _mm256_sign_epi8(xs[t], q))
                        } else {
                            dot_bytes::<VNNI>(q, xs[t])
                        };
                        let d = *x.scales.get_unchecked(at[t]);
                        let scale = if L::TWO_SCALES {
                            _mm256_set_m128(_mm_set1_ps(s.high * d), _mm_set1_ps(s.low * d))
                        } else {
                            _mm256_set1_ps(s.low * d)
                        };
                        acc[r][t] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dot), acc[r][t]);
                        if !L::SIGNED {
                            mins[r][t] += s.min * *x.totals.get_unchecked(at[t]);
                        }
                    }
                }
            }
        }
        std::array::from_fn(|r| std::array::from_fn(|t| sum(acc[r][t]) + mins[r][t]))
    }
}

/// R rows of weights from `w` on by T rows of 8-bit activations from `t0` on.
///
/// # Safety
/// AVX2, FMA, F16C; R rows of weights of `x.cols` columns at `w`; T rows of activations from `t0`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn int8_avx2<L: Avx2, const R: usize, const T: usize>(
    w: *const u32,
    row_words: usize,
    x: &Rounded<i8>,
    t0: usize,
) -> [[f32; T]; R] {
    unsafe { int8_body::<L, false, R, T>(w, row_words, x, t0) }
}

/// [`int8_avx2`] with the VNNI dot product.
///
/// # Safety
/// That of [`int8_avx2`], and AVX-512 VL and VNNI.
#[target_feature(enable = "avx2,fma,f16c,avx512vl,avx512vnni")]
pub(super) unsafe fn int8_vnni<L: Avx2, const R: usize, const T: usize>(
    w: *const u32,
    row_words: usize,
    x: &Rounded<i8>,
    t0: usize,
) -> [[f32; T]; R] {
    unsafe { int8_body::<L, true, R, T>(w, row_words, x, t0) }
}

/// Sums of products of neighbours.
#[inline(always)]
unsafe fn dot_words<const VNNI: bool>(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
    unsafe { if VNNI { _mm256_dpwssd_epi32(sum, a, b) } else { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) } }
}

#[inline(always)]
unsafe fn int16_body<L: Avx2, const VNNI: bool, const R: usize, const T: usize>(
    w: *const u32,
    row_words: usize,
    x: &Rounded<i16>,
    t0: usize,
) -> [[f32; T]; R] {
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); T]; R];
        let mut mins = [[0f32; T]; R];
        let groups = x.cols / 32;
        for b in 0..groups / L::GROUPS {
            for group in 0..L::GROUPS {
                let at: [usize; T] = std::array::from_fn(|t| (t0 + t) * groups + b * L::GROUPS + group);
                let xs: [[__m256i; 2]; T] = std::array::from_fn(|t| {
                    let x = x.q.as_ptr().add(at[t] * 32).cast::<__m256i>();
                    [_mm256_loadu_si256(x), _mm256_loadu_si256(x.add(1))]
                });
                for r in 0..R {
                    let block = w.add(r * row_words + b * L::WORDS);
                    let q = L::load(block, group);
                    let low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(q));
                    let high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(q, 1));
                    let s = scales::<L>(block, group);
                    for t in 0..T {
                        let zero = _mm256_setzero_si256();
                        let d = *x.scales.get_unchecked(at[t]);
                        let first = dot_words::<VNNI>(zero, low, xs[t][0]);
                        if L::TWO_SCALES {
                            let second = dot_words::<VNNI>(zero, high, xs[t][1]);
                            let (a, b) = (_mm256_set1_ps(s.low * d), _mm256_set1_ps(s.high * d));
                            acc[r][t] = _mm256_fmadd_ps(a, _mm256_cvtepi32_ps(first), acc[r][t]);
                            acc[r][t] = _mm256_fmadd_ps(b, _mm256_cvtepi32_ps(second), acc[r][t]);
                        } else {
                            let both = dot_words::<VNNI>(first, high, xs[t][1]);
                            let scale = _mm256_set1_ps(s.low * d);
                            acc[r][t] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(both), acc[r][t]);
                        }
                        if !L::SIGNED {
                            mins[r][t] += s.min * *x.totals.get_unchecked(at[t]);
                        }
                    }
                }
            }
        }
        std::array::from_fn(|r| std::array::from_fn(|t| sum(acc[r][t]) + mins[r][t]))
    }
}

/// R rows of weights from `w` on by T rows of 16-bit activations from `t0` on.
///
/// # Safety
/// That of [`int8_avx2`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn int16_avx2<L: Avx2, const R: usize, const T: usize>(
    w: *const u32,
    row_words: usize,
    x: &Rounded<i16>,
    t0: usize,
) -> [[f32; T]; R] {
    unsafe { int16_body::<L, false, R, T>(w, row_words, x, t0) }
}

/// [`int16_avx2`] with the VNNI dot product.
///
/// # Safety
/// That of [`int8_vnni`].
#[target_feature(enable = "avx2,fma,f16c,avx512vl,avx512vnni")]
pub(super) unsafe fn int16_vnni<L: Avx2, const R: usize, const T: usize>(
    w: *const u32,
    row_words: usize,
    x: &Rounded<i16>,
    t0: usize,
) -> [[f32; T]; R] {
    unsafe { int16_body::<L, true, R, T>(w, row_words, x, t0) }
}

/// The four quarters of 32 signed bytes as f32.
#[inline(always)]
unsafe fn widen(q: __m256i) -> [__m256; 4] {
    unsafe {
        let (low, high) = (_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
        [low, _mm_srli_si128(low, 8), high, _mm_srli_si128(high, 8)]
            .map(|v| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)))
    }
}

/// R rows of weights by T rows of f32 activations `[.., cols]` at `x`, with the sums of each 32 of them at `totals`.
///
/// # Safety
/// AVX2, FMA, F16C; the pointers hold R and T rows of `cols` columns.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn exact<L: Avx2, const R: usize, const T: usize>(
    w: *const u32,
    row_words: usize,
    x: *const f32,
    totals: *const f32,
    cols: usize,
) -> [[f32; T]; R] {
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); T]; R];
        let mut mins = [[0f32; T]; R];
        let groups = cols / 32;
        for b in 0..groups / L::GROUPS {
            for group in 0..L::GROUPS {
                let g = b * L::GROUPS + group;
                for r in 0..R {
                    let block = w.add(r * row_words + b * L::WORDS);
                    let q = widen(L::load(block, group));
                    let s = scales::<L>(block, group);
                    for t in 0..T {
                        let x = x.add(t * cols + g * 32);
                        let part = |i: usize| _mm256_loadu_ps(x.add(i * 8));
                        let low = _mm256_fmadd_ps(q[1], part(1), _mm256_mul_ps(q[0], part(0)));
                        if L::TWO_SCALES {
                            let high = _mm256_fmadd_ps(q[3], part(3), _mm256_mul_ps(q[2], part(2)));
                            acc[r][t] = _mm256_fmadd_ps(_mm256_set1_ps(s.low), low, acc[r][t]);
                            acc[r][t] = _mm256_fmadd_ps(_mm256_set1_ps(s.high), high, acc[r][t]);
                        } else {
                            let all = _mm256_fmadd_ps(q[3], part(3), _mm256_fmadd_ps(q[2], part(2), low));
                            acc[r][t] = _mm256_fmadd_ps(_mm256_set1_ps(s.low), all, acc[r][t]);
                        }
                        if !L::SIGNED {
                            mins[r][t] += s.min * *totals.add(t * groups + g);
                        }
                    }
                }
            }
        }
        std::array::from_fn(|r| std::array::from_fn(|t| sum(acc[r][t]) + mins[r][t]))
    }
}

/// R rows of halves by T rows of f32 activations.
///
/// # Safety
/// AVX2, FMA, F16C; the pointers hold R and T rows of `cols` columns.
// Indices, as in the kernels above: the accumulators must stay in registers.
#[allow(clippy::needless_range_loop)]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn exact_f16<const R: usize, const T: usize>(
    w: *const u32,
    row_words: usize,
    x: *const f32,
    cols: usize,
) -> [[f32; T]; R] {
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); T]; R];
        let mut tail = [[0f32; T]; R];
        let whole = cols / 8 * 8;
        for i in (0..whole).step_by(8) {
            for r in 0..R {
                let q = _mm256_cvtph_ps(_mm_loadu_si128(w.add(r * row_words + i / 2).cast()));
                for t in 0..T {
                    acc[r][t] = _mm256_fmadd_ps(q, _mm256_loadu_ps(x.add(t * cols + i)), acc[r][t]);
                }
            }
        }
        for i in whole..cols {
            for r in 0..R {
                let q = half(*w.add(r * row_words + i / 2) >> (i % 2 * 16));
                for t in 0..T {
                    tail[r][t] += q * *x.add(t * cols + i);
                }
            }
        }
        std::array::from_fn(|r| std::array::from_fn(|t| sum(acc[r][t]) + tail[r][t]))
    }
}

/// A row of weights as f32.
///
/// # Safety
/// AVX2, FMA, F16C; `row` and `out` are of one width.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn dequantise<L: Avx2>(row: &[u32], out: &mut [f32]) {
    unsafe {
        for (b, block) in row.chunks_exact(L::WORDS).enumerate() {
            for group in 0..L::GROUPS {
                let q = widen(L::load(block.as_ptr(), group));
                let s = scales::<L>(block.as_ptr(), group);
                let out = &mut out[(b * L::GROUPS + group) * 32..][..32];
                for (i, q) in q.into_iter().enumerate() {
                    let scale = _mm256_set1_ps(if i < 2 { s.low } else { s.high });
                    let v = _mm256_fmadd_ps(q, scale, _mm256_set1_ps(s.min));
                    _mm256_storeu_ps(out.as_mut_ptr().add(i * 8), v);
                }
            }
        }
    }
}

/// A row of halves as f32.
///
/// # Safety
/// AVX2, F16C; `row` holds as many halves as `out` values.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn dequantise_f16(row: &[u32], out: &mut [f32]) {
    unsafe {
        let whole = out.len() / 8 * 8;
        for i in (0..whole).step_by(8) {
            let v = _mm256_cvtph_ps(_mm_loadu_si128(row.as_ptr().add(i / 2).cast()));
            _mm256_storeu_ps(out.as_mut_ptr().add(i), v);
        }
        for (i, o) in out.iter_mut().enumerate().skip(whole) {
            *o = half(row[i / 2] >> (i % 2 * 16));
        }
    }
}
