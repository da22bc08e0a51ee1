//! Attention over a cache on the CPU.

#[cfg(target_arch = "x86_64")]
use super::attention512;
use super::{
    kept::Kept,
    linear::Level,
    team::{self, Out},
};
use crate::ops::elementary::exp;

/// Queries `[t, heads · dim]`; rows may be parts of wider ones, `pitch` apart.
#[derive(Clone, Copy)]
pub(super) struct Queries<'a> {
    pub(super) values: &'a [f32],
    pub(super) t: usize,
    pub(super) heads: usize,
    pub(super) pitch: usize,
}

/// Keys and values `[places, kv_heads · dim]`, of which the first `visible` places count; rows may be parts of wider ones.
#[derive(Clone, Copy)]
pub(super) struct Cache<'a, T> {
    pub(super) k: &'a [T],
    pub(super) v: &'a [T],
    pub(super) k_pitch: usize,
    pub(super) v_pitch: usize,
    pub(super) kv_heads: usize,
    pub(super) dim: usize,
    pub(super) visible: usize,
}

/// From this many queries on, keys are turned and queries go over them several at a time; below, plain loops have less to set up.
const TILED_QUERIES_MIN: usize = 9;
/// Multiply-adds below which other threads are not worth calling.
const PARALLEL_WORK_MIN: usize = 1 << 18;

/// See `ops::attend`. Each part's queries look at its own cache; all have as many heads of one width. Results stand below one
/// another, and each is bit for bit what it is alone.
pub(super) fn attend_each<T: Kept>(parts: &[(Queries<'_>, Cache<'_, T>)], causal: bool, scale: f32) -> Vec<f32> {
    let Some((Queries { heads, .. }, Cache { dim, .. })) = parts.first() else { return Vec::new() };
    let (heads, width) = (*heads, heads * dim);
    let (mut firsts, mut rows, mut work) = (Vec::with_capacity(parts.len()), 0, 0);
    for (q, cache) in parts {
        let Cache { visible, kv_heads, .. } = *cache;
        let reach = |rows: usize, pitch: usize, width: usize| (rows - 1) * pitch + width;
        assert!(
            q.t > 0
                && q.heads == heads
                && cache.dim == *dim
                && q.values.len() >= reach(q.t, q.pitch, width)
                && cache.k.len() >= reach(visible, cache.k_pitch, kv_heads * dim)
                && cache.v.len() >= reach(visible, cache.v_pitch, kv_heads * dim),
            "operands do not have the stated shape"
        );
        firsts.push(rows);
        rows += q.t;
        work += q.t * visible * width;
    }
    let mut out = vec![0f32; rows * width];
    let to = Out(out.as_mut_ptr());
    let one = |i: usize| {
        let (part, h) = (i / heads, i % heads);
        let (q, cache) = &parts[part];
        let head = Head { q: *q, cache: *cache, h, causal, scale };
        let to = Out(to.at(firsts[part] * width));
        let is_few = q.t < TILED_QUERIES_MIN;
        match Level::detect() {
            #[cfg(target_arch = "x86_64")]
            Level::Vnni if is_few && attention512::is_narrow(*dim) => head.few_in_wide_vectors(to),
            #[cfg(target_arch = "x86_64")]
            Level::Vnni => T::widely(&head, |head| head.in_wide_vectors(to)),
            _ if is_few => T::widely(&head, |head| head.plain(to)),
            _ => T::widely(&head, |head| head.products(to)),
        }
    };
    if work >= PARALLEL_WORK_MIN {
        team::run(parts.len() * heads, one);
    } else {
        (0..parts.len() * heads).for_each(one);
    }
    out
}

/// One head of an operation.
#[derive(Clone, Copy)]
pub(super) struct Head<'a, T> {
    pub(super) q: Queries<'a>,
    pub(super) cache: Cache<'a, T>,
    pub(super) h: usize,
    pub(super) causal: bool,
    pub(super) scale: f32,
}

impl<T: Kept> Head<'_, T> {
    /// First columns of this head: of queries and result, and of keys and values.
    pub(super) fn columns(&self) -> (usize, usize) {
        let Cache { dim, kv_heads, .. } = self.cache;
        (self.h * dim, self.h * kv_heads / self.q.heads * dim)
    }

    /// Places that query `i` sees.
    fn seen(&self, i: usize) -> usize {
        if self.causal { self.cache.visible - self.q.t + i + 1 } else { self.cache.visible }
    }

    /// Few queries, each over the keys and values as they are kept.
    #[cfg(target_arch = "x86_64")]
    fn few_in_wide_vectors(&self, to: Out) {
        let (sizes, q, k, v, out, width) = self.operands(to);
        // SAFETY: `attend_each` asserted that all rows are there and looked at the width, the level has AVX-512, and nobody else
        // writes this head's columns.
        unsafe { attention512::attend_few(sizes, q, k, v, out, width) };
    }

    #[cfg(target_arch = "x86_64")]
    #[allow(clippy::type_complexity)]
    fn operands(
        &self,
        to: Out,
    ) -> (attention512::Sizes, attention512::Rows<f32>, attention512::Rows<T>, attention512::Rows<T>, *mut f32, usize)
    {
        let Cache { k, v, k_pitch, v_pitch, dim, visible, .. } = self.cache;
        let (at_q, at) = self.columns();
        let rows = |values: &[T], pitch| attention512::Rows { start: values[at..].as_ptr(), pitch };
        let q = attention512::Rows { start: self.q.values[at_q..].as_ptr(), pitch: self.q.pitch };
        let sizes = attention512::Sizes { queries: self.q.t, dim, visible, causal: self.causal, scale: self.scale };
        (sizes, q, rows(k, k_pitch), rows(v, v_pitch), to.at(at_q), self.q.heads * dim)
    }
}

impl Head<'_, f32> {
    #[cfg(target_arch = "x86_64")]
    fn in_wide_vectors(&self, to: Out) {
        let (sizes, q, k, v, out, width) = self.operands(to);
        // SAFETY: as in `few_in_wide_vectors`.
        unsafe { attention512::attend(sizes, q, k, v, out, width) };
    }

    fn plain(&self, to: Out) {
        #[cfg(target_arch = "x86_64")]
        match Level::detect() {
            Level::Portable => {}
            // SAFETY: every level above the portable one has AVX2 and FMA.
            Level::Avx2 | Level::Vnni => return unsafe { self.plain_avx2(to) },
        }
        self.plain_here(to);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn plain_avx2(&self, to: Out) {
        self.plain_here(to);
    }

    #[inline(always)]
    fn plain_here(&self, to: Out) {
        let Cache { k, v, k_pitch, v_pitch, dim, visible, .. } = self.cache;
        let (at_q, at) = self.columns();
        let mut scores = vec![0f32; visible];
        let mut mixed = [0f32; 256];
        for i in 0..self.q.t {
            let q = &self.q.values[i * self.q.pitch + at_q..][..dim];
            let scores = &mut scores[..self.seen(i)];
            for (j, s) in scores.iter_mut().enumerate() {
                *s = dot(q, &k[j * k_pitch + at..][..dim]) * self.scale;
            }
            softmax(scores);
            let mixed = &mut mixed[..dim];
            mixed.fill(0.0);
            for (j, s) in scores.iter().enumerate() {
                for (o, v) in mixed.iter_mut().zip(&v[j * v_pitch + at..][..dim]) {
                    *o += s * v;
                }
            }
            let row = i * self.q.heads * dim + at_q;
            // SAFETY: row i of the result, this head's columns, which nobody else writes.
            unsafe { std::ptr::copy_nonoverlapping(mixed.as_ptr(), to.at(row), dim) };
        }
    }

    /// As two matrix products.
    fn products(&self, to: Out) {
        let Cache { k, v, k_pitch, v_pitch, dim, visible, .. } = self.cache;
        let (at_q, at) = self.columns();
        let t = self.q.t;
        let mut scores = vec![0f32; t * visible];
        // SAFETY: `attend_each` asserted that q has t rows and k `visible` ones.
        unsafe {
            gemm::gemm(
                t,
                visible,
                dim,
                scores.as_mut_ptr(),
                1,
                visible as isize,
                false,
                self.q.values[at_q..].as_ptr(),
                1,
                self.q.pitch as isize,
                k[at..].as_ptr(),
                k_pitch as isize,
                1,
                0.0,
                self.scale,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
        for (i, row) in scores.chunks_exact_mut(visible).enumerate() {
            let (seen, unseen) = row.split_at_mut(self.seen(i));
            softmax(seen);
            unseen.fill(0.0);
        }
        // SAFETY: as above; scores are [t, visible], and nobody else writes this head's columns of the result.
        unsafe {
            gemm::gemm(
                t,
                dim,
                visible,
                to.at(at_q),
                1,
                (self.q.heads * dim) as isize,
                false,
                scores.as_ptr(),
                1,
                visible as isize,
                v[at..].as_ptr(),
                1,
                v_pitch as isize,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

#[inline(always)]
fn softmax(scores: &mut [f32]) {
    let mut peaks = [f32::NEG_INFINITY; 16];
    let (whole, rest) = scores.as_chunks::<16>();
    for s in whole {
        for i in 0..16 {
            peaks[i] = peaks[i].max(s[i]);
        }
    }
    let peak = peaks.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let mut totals = [0f32; 16];
    let (whole, rest) = scores.as_chunks_mut::<16>();
    for s in whole {
        for i in 0..16 {
            s[i] = exp(s[i] - peak);
            totals[i] += s[i];
        }
    }
    let mut total: f32 = totals.iter().sum();
    for s in rest {
        *s = exp(*s - peak);
        total += *s;
    }
    let inverse = 1.0 / total;
    scores.iter_mut().for_each(|s| *s *= inverse);
}

/// Sixteen running sums, so that the compiler may use vectors without changing the order of any one of them.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut acc = [0f32; 16];
    let (a16, b16) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = a16.remainder().iter().zip(b16.remainder()).map(|(x, y)| x * y).sum();
    for (a, b) in a16.zip(b16) {
        for i in 0..16 {
            acc[i] += a[i] * b[i];
        }
    }
    acc.iter().sum::<f32>() + tail
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..n)
            .map(|_| {
                s ^= s << 13;
                s ^= s >> 7;
                s ^= s << 17;
                (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    /// One query, one head, in f64, from the definition.
    fn plain(q: &[f32], k: &[f32], v: &[f32], dim: usize, pitch: usize, seen: usize, scale: f32) -> Vec<f64> {
        let score: Vec<f64> = (0..seen)
            .map(|j| (0..dim).map(|d| f64::from(q[d]) * f64::from(k[j * pitch + d])).sum::<f64>() * f64::from(scale))
            .map(f64::exp)
            .collect();
        let total: f64 = score.iter().sum();
        (0..dim).map(|d| (0..seen).map(|j| score[j] / total * f64::from(v[j * pitch + d])).sum()).collect()
    }

    #[test]
    fn halves_give_what_the_same_values_give_in_full() {
        for (t, heads, kv_heads, dim, places, visible) in
            [(1, 9, 3, 64, 40, 17), (3, 4, 4, 36, 20, 20), (12, 4, 2, 36, 32, 29), (70, 3, 3, 64, 70, 70)]
        {
            let halves =
                |seed| -> Vec<f16> { noise(kv_heads * places * dim, seed).into_iter().map(f16::from_f32).collect() };
            let (q, k, v) = (noise(t * heads * dim, 1), halves(2), halves(3));
            let full = |values: &[f16]| -> Vec<f32> { values.iter().map(|v| v.to_f32()).collect() };
            let (k32, v32) = (full(&k), full(&v));
            let pitch = kv_heads * dim;
            let queries = Queries { values: &q, t, heads, pitch: heads * dim };
            for causal in [true, false] {
                let half = Cache { k: &k, v: &v, k_pitch: pitch, v_pitch: pitch, kv_heads, dim, visible };
                let whole = Cache { k: &k32, v: &v32, k_pitch: pitch, v_pitch: pitch, kv_heads, dim, visible };
                let from_halves = attend_each(&[(queries, half)], causal, 0.3);
                assert_eq!(from_halves, attend_each(&[(queries, whole)], causal, 0.3), "{t} queries");
            }
        }
    }

    #[test]
    fn both_ways_agree_with_the_definition() {
        for (t, heads, kv_heads, dim, places, visible) in [
            (1, 9, 3, 64, 40, 17),
            (3, 4, 4, 36, 20, 20),
            (12, 4, 2, 36, 32, 29),
            (9, 2, 1, 10, 9, 9),
            (70, 3, 3, 64, 70, 70),
            (25, 2, 2, 96, 90, 83),
        ] {
            let (q, k, v) =
                (noise(t * heads * dim, 1), noise(kv_heads * places * dim, 2), noise(kv_heads * places * dim, 3));
            let pitch = kv_heads * dim;
            let cache = Cache { k: &k, v: &v, k_pitch: pitch, v_pitch: pitch, kv_heads, dim, visible };
            for causal in [true, false] {
                let queries = Queries { values: &q, t, heads, pitch: heads * dim };
                let got = attend_each(&[(queries, cache)], causal, 0.3);
                for i in 0..t {
                    for h in 0..heads {
                        let at = h / (heads / kv_heads) * dim;
                        let seen = if causal { visible - t + i + 1 } else { visible };
                        let at_q = (i * heads + h) * dim;
                        let truth = plain(&q[at_q..], &k[at..], &v[at..], dim, kv_heads * dim, seen, 0.3);
                        for (a, b) in got[at_q..].iter().zip(truth) {
                            assert!(
                                (f64::from(*a) - b).abs() < 1e-5,
                                "query {i} head {h} causal {causal}: {a} is not {b}"
                            );
                        }
                    }
                }
            }
        }
    }
}
