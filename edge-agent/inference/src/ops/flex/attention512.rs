//! One head of attention for several queries by AVX-512: scores, softmax and mixing without leaving the cache.
//!
//! Keys are turned once per head so that a vector holds one column of sixteen places; queries go over them six at a time. Every
//! query's result depends on nothing but its own places, in their order: not on how many queries come at once, nor on how
//! many places lie behind those it sees.

use super::kept::Kept;
use std::{arch::x86_64::*, cell::RefCell};

/// Queries of a tile: with two vectors of places, twelve sums in registers.
const QUERIES: usize = 6;
/// Columns that are mixed at once, in vectors.
const MIXED: usize = 4;

thread_local! {
    /// Turned keys and scores, kept between calls: fresh memory is a page fault for every 4 KB.
    static SPACE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Where a head's rows stand: first value, and values from row to row.
#[derive(Clone, Copy)]
pub(super) struct Rows<T> {
    pub(super) start: *const T,
    pub(super) pitch: usize,
}

impl<T: Copy> Rows<T> {
    #[inline(always)]
    unsafe fn row(self, i: usize) -> *const T {
        unsafe { self.start.add(i * self.pitch) }
    }
}

/// What a head is made of.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) queries: usize,
    pub(super) dim: usize,
    pub(super) visible: usize,
    pub(super) causal: bool,
    pub(super) scale: f32,
}

/// `eˣ` for x up to 0; below -87 the value at -87.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn exp(x: __m512) -> __m512 {
    let x = _mm512_max_ps(x, _mm512_set1_ps(-87.0));
    let n = _mm512_roundscale_ps::<0>(_mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E)));
    // The upper part of ln 2 has few bits, so that its multiples are exact.
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693_359_4), x);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.121_944_4e-4), r);
    let mut series = _mm512_set1_ps(1.0 / 720.0);
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = _mm512_fmadd_ps(series, r, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(series, n)
}

/// See `ops::attend`, for one head; `out` has rows of `dim` values, `out_pitch` apart.
///
/// # Safety
/// AVX-512 F; q has `queries` rows, k and v `visible` rows, `out` `queries` rows of `dim` values each, and nobody else writes them.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn attend(head: Sizes, q: Rows<f32>, k: Rows<f32>, v: Rows<f32>, out: *mut f32, out_pitch: usize) {
    SPACE.with_borrow_mut(|space| {
        // Two vectors of places at a time.
        let places = head.visible.next_multiple_of(32);
        let keys = places * head.dim;
        let size = keys + QUERIES * places;
        if space.len() < size {
            space.resize(size, 0.0);
        }
        let (turned, scores) = space[..size].split_at_mut(keys);
        // SAFETY: that of the caller; the buffers were just cut to size.
        unsafe {
            turn(head, k, turned);
            let mut i = 0;
            while i < head.queries {
                let out = out.add(i * out_pitch);
                i += match head.queries - i {
                    1 => tile::<1>(head, i, q, turned, v, scores, out, out_pitch),
                    2 => tile::<2>(head, i, q, turned, v, scores, out, out_pitch),
                    3 => tile::<3>(head, i, q, turned, v, scores, out, out_pitch),
                    4 => tile::<4>(head, i, q, turned, v, scores, out, out_pitch),
                    5 => tile::<5>(head, i, q, turned, v, scores, out, out_pitch),
                    _ => tile::<QUERIES>(head, i, q, turned, v, scores, out, out_pitch),
                };
            }
        }
    });
}

/// Vectors of the widest head whose rows [`attend_few`] holds in registers.
const FEW_VECTORS: usize = 4;

/// Whether [`attend_few`] takes heads of this width.
pub(super) fn is_narrow(dim: usize) -> bool {
    dim <= 16 * FEW_VECTORS
}

/// The same for few queries: each of them by itself over the keys as they are kept.
///
/// # Safety
/// That of [`attend`], and the head [is narrow](is_narrow).
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn attend_few<T: Kept>(
    head: Sizes,
    q: Rows<f32>,
    k: Rows<T>,
    v: Rows<T>,
    out: *mut f32,
    out_pitch: usize,
) {
    unsafe {
        match head.dim.div_ceil(16) {
            1 => few::<T, 1>(head, q, k, v, out, out_pitch),
            2 => few::<T, 2>(head, q, k, v, out, out_pitch),
            3 => few::<T, 3>(head, q, k, v, out, out_pitch),
            _ => few::<T, FEW_VECTORS>(head, q, k, v, out, out_pitch),
        }
    }
}

/// [`attend_few`] with rows of C vectors.
// Indices: the sums must stay in registers.
#[allow(clippy::needless_range_loop)]
#[target_feature(enable = "avx512f")]
unsafe fn few<T: Kept, const C: usize>(
    head: Sizes,
    q: Rows<f32>,
    k: Rows<T>,
    v: Rows<T>,
    out: *mut f32,
    out_pitch: usize,
) {
    SPACE.with_borrow_mut(|scores| {
        let places = head.visible.next_multiple_of(16);
        if scores.len() < places {
            scores.resize(places, 0.0);
        }
        let scores = &mut scores[..places];
        // SAFETY: that of the caller; of a row's last vector only what is there is read and written.
        unsafe {
            let mask: [u16; C] = std::array::from_fn(|c| match head.dim - c * 16 {
                n if n >= 16 => 0xffff,
                n => (1 << n) - 1,
            });
            for i in 0..head.queries {
                let seen = if head.causal { head.visible - head.queries + i + 1 } else { head.visible };
                let load =
                    |from: *const T| -> [__m512; C] { std::array::from_fn(|c| T::sixteen(mask[c], from.add(c * 16))) };
                let query: [__m512; C] = std::array::from_fn(|c| f32::sixteen(mask[c], q.row(i).add(c * 16)));
                for place in 0..seen {
                    let key = load(k.row(place));
                    let mut sum = _mm512_mul_ps(query[0], key[0]);
                    for c in 1..C {
                        sum = _mm512_fmadd_ps(query[c], key[c], sum);
                    }
                    scores[place] = _mm512_reduce_add_ps(sum) * head.scale;
                }
                scores[seen..].fill(f32::NEG_INFINITY);
                let shares = scores[..seen.next_multiple_of(16)].as_mut_ptr();
                let mut peak = _mm512_set1_ps(f32::NEG_INFINITY);
                for first in (0..seen).step_by(16) {
                    peak = _mm512_max_ps(peak, _mm512_loadu_ps(shares.add(first)));
                }
                let peak = _mm512_set1_ps(_mm512_reduce_max_ps(peak));
                let mut total = _mm512_setzero_ps();
                for first in (0..seen).step_by(16) {
                    let share = exp(_mm512_sub_ps(_mm512_loadu_ps(shares.add(first)), peak));
                    let mask = if seen - first >= 16 { 0xffff } else { (1u16 << (seen - first)) - 1 };
                    let share = _mm512_maskz_mov_ps(mask, share);
                    total = _mm512_add_ps(total, share);
                    _mm512_storeu_ps(shares.add(first), share);
                }
                let inverse = _mm512_set1_ps(1.0 / _mm512_reduce_add_ps(total));
                // Two sums for each vector, so that one multiply-add need not wait for the one before.
                let (mut even, mut odd) = ([_mm512_setzero_ps(); C], [_mm512_setzero_ps(); C]);
                for place in (0..seen).step_by(2) {
                    let (value, share) = (load(v.row(place)), _mm512_set1_ps(*shares.add(place)));
                    for c in 0..C {
                        even[c] = _mm512_fmadd_ps(value[c], share, even[c]);
                    }
                    if place + 1 < seen {
                        let (value, share) = (load(v.row(place + 1)), _mm512_set1_ps(*shares.add(place + 1)));
                        for c in 0..C {
                            odd[c] = _mm512_fmadd_ps(value[c], share, odd[c]);
                        }
                    }
                }
                for c in 0..C {
                    let value = _mm512_mul_ps(_mm512_add_ps(even[c], odd[c]), inverse);
                    _mm512_mask_storeu_ps(out.add(i * out_pitch + c * 16), mask[c], value);
                }
            }
        }
    });
}

/// Keys `[visible, dim]` as `[places / 32, dim, 32]`, zeros for places that do not exist.
#[target_feature(enable = "avx512f")]
unsafe fn turn(head: Sizes, k: Rows<f32>, turned: &mut [f32]) {
    unsafe {
        let rows = _mm512_mullo_epi32(
            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
            _mm512_set1_epi32(k.pitch as i32),
        );
        for (block, to) in turned.chunks_exact_mut(32 * head.dim).enumerate() {
            for half in 0..2 {
                let first = block * 32 + half * 16;
                let there = head.visible.saturating_sub(first).min(16);
                let mask = ((1u32 << there) - 1) as u16;
                // Of places that do not exist nothing is read.
                let from = if there > 0 { k.row(first) } else { k.start };
                for d in 0..head.dim {
                    let column = _mm512_mask_i32gather_ps::<4>(_mm512_setzero_ps(), mask, rows, from.add(d));
                    _mm512_storeu_ps(to.as_mut_ptr().add(d * 32 + half * 16), column);
                }
            }
        }
    }
}

/// Q queries from `i` on; gives Q.
// Indices: the accumulators must stay in registers.
#[allow(clippy::needless_range_loop, clippy::too_many_arguments)]
#[target_feature(enable = "avx512f")]
unsafe fn tile<const Q: usize>(
    head: Sizes,
    i: usize,
    q: Rows<f32>,
    turned: &[f32],
    v: Rows<f32>,
    scores: &mut [f32],
    out: *mut f32,
    out_pitch: usize,
) -> usize {
    unsafe {
        let Sizes { dim, visible, .. } = head;
        // Places that the last of these queries sees, and each of them.
        let seen: [usize; Q] =
            std::array::from_fn(|j| if head.causal { visible - head.queries + i + j + 1 } else { visible });
        let most = seen[Q - 1];
        let places = scores.len() / QUERIES;
        let scale = _mm512_set1_ps(head.scale);
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let mut peak = [_mm512_set1_ps(f32::NEG_INFINITY); Q];
        for block in 0..most.div_ceil(32) {
            let keys = turned.as_ptr().add(block * 32 * dim);
            let mut acc = [[_mm512_setzero_ps(); 2]; Q];
            for d in 0..dim {
                let (a, b) = (_mm512_loadu_ps(keys.add(d * 32)), _mm512_loadu_ps(keys.add(d * 32 + 16)));
                for j in 0..Q {
                    let x = _mm512_set1_ps(*q.row(i + j).add(d));
                    acc[j][0] = _mm512_fmadd_ps(a, x, acc[j][0]);
                    acc[j][1] = _mm512_fmadd_ps(b, x, acc[j][1]);
                }
            }
            for j in 0..Q {
                for half in 0..2 {
                    let first = block * 32 + half * 16;
                    let limit = _mm512_set1_epi32(seen[j] as i32 - first as i32);
                    let mask = _mm512_cmplt_epi32_mask(lanes, limit);
                    let score = _mm512_mask_mul_ps(_mm512_set1_ps(f32::NEG_INFINITY), mask, acc[j][half], scale);
                    peak[j] = _mm512_max_ps(peak[j], score);
                    _mm512_storeu_ps(scores.as_mut_ptr().add(j * places + first), score);
                }
            }
        }
        let mut inverse = [0f32; Q];
        for j in 0..Q {
            let peak = _mm512_set1_ps(_mm512_reduce_max_ps(peak[j]));
            let mut total = _mm512_setzero_ps();
            for first in (0..most).step_by(16) {
                let at = scores.as_mut_ptr().add(j * places + first);
                let mask = _mm512_cmplt_epi32_mask(lanes, _mm512_set1_epi32(seen[j] as i32 - first as i32));
                let share = _mm512_maskz_mov_ps(mask, exp(_mm512_sub_ps(_mm512_loadu_ps(at), peak)));
                total = _mm512_add_ps(total, share);
                _mm512_storeu_ps(at, share);
            }
            inverse[j] = 1.0 / _mm512_reduce_add_ps(total);
        }
        for column in (0..dim).step_by(16 * MIXED) {
            let left = dim - column;
            let mask: [u16; MIXED] = std::array::from_fn(|c| match left.saturating_sub(c * 16) {
                n if n >= 16 => 0xffff,
                n => (1 << n) - 1,
            });
            match left.div_ceil(16) {
                1 => mix::<Q, 1>(seen, scores, places, v, column, mask, inverse, out, out_pitch),
                2 => mix::<Q, 2>(seen, scores, places, v, column, mask, inverse, out, out_pitch),
                3 => mix::<Q, 3>(seen, scores, places, v, column, mask, inverse, out, out_pitch),
                _ => mix::<Q, MIXED>(seen, scores, places, v, column, mask, inverse, out, out_pitch),
            }
        }
        Q
    }
}

/// C vectors of columns of the values, mixed by Q rows of shares.
#[allow(clippy::needless_range_loop, clippy::too_many_arguments)]
#[target_feature(enable = "avx512f")]
unsafe fn mix<const Q: usize, const C: usize>(
    seen: [usize; Q],
    shares: &[f32],
    places: usize,
    v: Rows<f32>,
    column: usize,
    mask: [u16; MIXED],
    inverse: [f32; Q],
    out: *mut f32,
    out_pitch: usize,
) {
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); C]; Q];
        // A query's shares of places that it does not see are zeros.
        for place in 0..seen[Q - 1] {
            let row = v.row(place).add(column);
            let values: [__m512; C] = std::array::from_fn(|c| _mm512_maskz_loadu_ps(mask[c], row.add(c * 16)));
            for j in 0..Q {
                let share = _mm512_set1_ps(*shares.as_ptr().add(j * places + place));
                for c in 0..C {
                    acc[j][c] = _mm512_fmadd_ps(values[c], share, acc[j][c]);
                }
            }
        }
        for j in 0..Q {
            for c in 0..C {
                let mixed = _mm512_mul_ps(acc[j][c], _mm512_set1_ps(inverse[j]));
                _mm512_mask_storeu_ps(out.add(j * out_pitch + column + c * 16), mask[c], mixed);
            }
        }
    }
}
