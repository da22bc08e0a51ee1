//! Attention over a cache on the CPU.

use rayon::prelude::*;

/// Keys and values `[places, kv_heads · dim]`, of which the first `visible` places count.
pub(super) struct Cache<'a> {
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) kv_heads: usize,
    pub(super) dim: usize,
    pub(super) visible: usize,
}

/// From this many queries on, a head is two matrix products; below, plain loops have less to set up.
const GEMM_QUERIES_MIN: usize = 8;
/// Multiply-adds below which other threads are not worth waking.
const PARALLEL_WORK_MIN: usize = 1 << 20;

/// See `ops::attend`.
pub(super) fn attend(q: &[f32], t: usize, cache: &Cache<'_>, causal: bool, scale: f32) -> Vec<f32> {
    let width = q.len() / t.max(1);
    let heads = width / cache.dim;
    // Head by head: the result's columns of one head lie apart, so each head writes its own buffer first.
    let one = |h: usize| {
        let mut out = vec![0f32; t * cache.dim];
        if t >= GEMM_QUERIES_MIN {
            head_gemm(q, t, width, h, heads, cache, causal, scale, &mut out);
        } else {
            head(q, t, width, h, heads, cache, causal, scale, &mut out);
        }
        out
    };
    let parts: Vec<Vec<f32>> =
        if heads * t * cache.visible * cache.dim >= PARALLEL_WORK_MIN && rayon::current_num_threads() > 1 {
            (0..heads).into_par_iter().map(one).collect()
        } else {
            (0..heads).map(one).collect()
        };
    let mut out = vec![0f32; q.len()];
    for (h, part) in parts.iter().enumerate() {
        for (i, row) in part.chunks_exact(cache.dim).enumerate() {
            out[i * width + h * cache.dim..][..cache.dim].copy_from_slice(row);
        }
    }
    out
}

fn places_of(i: usize, t: usize, visible: usize, causal: bool) -> usize {
    if causal { visible - t + i + 1 } else { visible }
}

fn softmax(scores: &mut [f32]) {
    let peak = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for s in scores.iter_mut() {
        *s = (*s - peak).exp();
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

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one head of one operation")]
fn head_body(
    q: &[f32],
    t: usize,
    width: usize,
    h: usize,
    heads: usize,
    cache: &Cache<'_>,
    causal: bool,
    scale: f32,
    out: &mut [f32],
) {
    let dim = cache.dim;
    let pitch = cache.kv_heads * dim;
    let at = h * cache.kv_heads / heads * dim;
    let (k, v) = (&cache.k[at..], &cache.v[at..]);
    let mut scores = vec![0f32; cache.visible];
    for i in 0..t {
        let q = &q[i * width + h * dim..][..dim];
        let seen = places_of(i, t, cache.visible, causal);
        let scores = &mut scores[..seen];
        for (s, k) in scores.iter_mut().zip(k.chunks(pitch)) {
            *s = dot(q, &k[..dim]) * scale;
        }
        softmax(scores);
        let out = &mut out[i * dim..][..dim];
        for (s, v) in scores.iter().zip(v.chunks(pitch)) {
            for (o, v) in out.iter_mut().zip(&v[..dim]) {
                *o += s * v;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[expect(clippy::too_many_arguments, reason = "one head of one operation")]
fn head_avx2(
    q: &[f32],
    t: usize,
    width: usize,
    h: usize,
    heads: usize,
    cache: &Cache<'_>,
    causal: bool,
    scale: f32,
    out: &mut [f32],
) {
    head_body(q, t, width, h, heads, cache, causal, scale, out);
}

#[expect(clippy::too_many_arguments, reason = "one head of one operation")]
fn head(
    q: &[f32],
    t: usize,
    width: usize,
    h: usize,
    heads: usize,
    cache: &Cache<'_>,
    causal: bool,
    scale: f32,
    out: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if super::linear::Level::detect() != super::linear::Level::Portable {
        // SAFETY: every level above the portable one has AVX2 and FMA.
        return unsafe { head_avx2(q, t, width, h, heads, cache, causal, scale, out) };
    }
    head_body(q, t, width, h, heads, cache, causal, scale, out);
}

#[expect(clippy::too_many_arguments, reason = "one head of one operation")]
fn head_gemm(
    q: &[f32],
    t: usize,
    width: usize,
    h: usize,
    heads: usize,
    cache: &Cache<'_>,
    causal: bool,
    scale: f32,
    out: &mut [f32],
) {
    let Cache { dim, visible, .. } = *cache;
    let pitch = cache.kv_heads * dim;
    let at = h * cache.kv_heads / heads * dim;
    let (k, v) = (&cache.k[at..], &cache.v[at..]);
    let q = &q[h * dim..];
    assert!(
        k.len().min(v.len()) >= (visible - 1) * pitch + dim && q.len() >= (t - 1) * width + dim && out.len() == t * dim
    );
    let mut scores = vec![0f32; t * visible];
    // SAFETY: q is t rows of dim, width apart; k and v are `visible` rows of dim, pitch apart; asserted above.
    unsafe {
        gemm::gemm(
            t,
            visible,
            dim,
            scores.as_mut_ptr(),
            1,
            visible as isize,
            false,
            q.as_ptr(),
            1,
            width as isize,
            k.as_ptr(),
            pitch as isize,
            1,
            0.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    for (i, row) in scores.chunks_exact_mut(visible).enumerate() {
        let seen = places_of(i, t, visible, causal);
        softmax(&mut row[..seen]);
        row[seen..].fill(0.0);
    }
    // SAFETY: as above; scores are [t, visible] and out is [t, dim].
    unsafe {
        gemm::gemm(
            t,
            dim,
            visible,
            out.as_mut_ptr(),
            1,
            dim as isize,
            false,
            scores.as_ptr(),
            1,
            visible as isize,
            v.as_ptr(),
            1,
            pitch as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn both_ways_agree_with_the_definition() {
        for (t, heads, kv_heads, dim, places, visible) in
            [(1, 9, 3, 64, 40, 17), (3, 4, 4, 36, 20, 20), (12, 4, 2, 36, 32, 29), (9, 2, 1, 10, 9, 9)]
        {
            let (q, k, v) =
                (noise(t * heads * dim, 1), noise(kv_heads * places * dim, 2), noise(kv_heads * places * dim, 3));
            let cache = Cache { k: &k, v: &v, kv_heads, dim, visible };
            for causal in [true, false] {
                let got = attend(&q, t, &cache, causal, 0.3);
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
