//! Products with f32 weights on the CPU, for layers that are small or must stay exact.
//!
//! Sixteen rows of weights are interleaved, so that a vector holds one column of sixteen rows and nothing is summed across
//! lanes. Rows of activations may overlap: a convolution is a product with windows that are one and the same memory. Every (row,
//! activation) pair is summed column by column whatever else is computed beside it, so a batch gives bit for bit what single
//! rows give.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::ops::Range;

use super::{
    finish::Finish,
    linear::Level,
    rows::Rows,
    team::{self, Out},
};

/// Rows of weights in a strip.
const LANES: usize = 16;
/// Multiply-adds below which calling other threads costs more than it saves.
const PARALLEL_WORK_MIN: usize = 1 << 18;

type Lanes = [f32; LANES];

/// A matrix `[rows, cols]` in host memory, in strips of sixteen rows.
#[derive(Debug, Clone)]
pub struct Dense {
    /// `[strips, cols]`, rows that do not exist are zeros.
    strips: Vec<Lanes>,
    rows: usize,
    cols: usize,
}

impl Dense {
    /// Interleaves `[rows, cols]`.
    ///
    /// # Panics
    /// If `values` is of another length.
    pub fn new(values: &[f32], rows: usize, cols: usize) -> Self {
        assert_eq!(values.len(), rows * cols, "values of a [{rows}, {cols}] matrix");
        let mut strips = vec![[0.0; LANES]; rows.div_ceil(LANES) * cols];
        for (row, values) in values.chunks_exact(cols.max(1)).enumerate() {
            for (to, v) in strips[row / LANES * cols..].iter_mut().zip(values) {
                to[row % LANES] = *v;
            }
        }
        Self { strips, rows, cols }
    }

    /// Number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes in memory.
    pub fn resident_bytes(&self) -> usize {
        self.strips.len() * size_of::<Lanes>()
    }

    /// x `[t, cols]` by the transpose of the matrix: `[t, rows]`. Row `i` of x begins at `x[i · pitch]`; rows may overlap.
    ///
    /// # Panics
    /// If x ends before its last row does, or `out` is not of `t · rows` values.
    pub fn multiply(&self, x: &[f32], t: usize, pitch: usize, out: &mut [f32]) {
        assert!(t == 0 || x.len() >= (t - 1) * pitch + self.cols, "{t} rows of {} values", self.cols);
        assert_eq!(out.len(), t * self.rows, "a result of [{t}, {}]", self.rows);
        let to = Out(out.as_mut_ptr());
        let count = self.rows.div_ceil(LANES);
        let run = |part: Range<usize>| self.strips_by(x, t, pitch, part, to);
        if t * self.rows * self.cols >= PARALLEL_WORK_MIN {
            let chunk = count.div_ceil(team::threads() * 4).next_multiple_of(2);
            team::run(count.div_ceil(chunk), |c| run(c * chunk..((c + 1) * chunk).min(count)));
        } else {
            run(0..count);
        }
    }

    /// [`multiply`](Self::multiply) and what follows it.
    pub(in super::super) fn finished(&self, x: Rows<'_>, finish: Finish<'_>) -> Vec<f32> {
        assert!(finish.fits(x.count, self.rows), "a part of the finish is of another size");
        let mut out = vec![0f32; x.count * self.rows];
        self.multiply(x.values, x.count, x.pitch, &mut out);
        finish.apply(&mut out, self.rows);
        out
    }

    fn strips_by(&self, x: &[f32], t: usize, pitch: usize, part: Range<usize>, to: Out) {
        #[cfg(target_arch = "x86_64")]
        match Level::detect() {
            Level::Portable => {}
            // SAFETY: the level says what the processor has.
            Level::Avx2 => return unsafe { self.strips_avx2(x, t, pitch, part, to) },
            // SAFETY: as above.
            Level::Vnni => return unsafe { self.strips_avx512(x, t, pitch, part, to) },
        }
        // SAFETY: plain numbers need nothing of the processor.
        unsafe { self.strips_of::<Lanes, 1>(x, t, pitch, part, to) };
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn strips_avx2(&self, x: &[f32], t: usize, pitch: usize, part: Range<usize>, to: Out) {
        // SAFETY: this function has what the vectors need.
        unsafe { self.strips_of::<[__m256; 2], 1>(x, t, pitch, part, to) };
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
    fn strips_avx512(&self, x: &[f32], t: usize, pitch: usize, part: Range<usize>, to: Out) {
        // SAFETY: as above.
        unsafe { self.strips_of::<__m512, 2>(x, t, pitch, part, to) };
    }

    /// `PAIR` strips at a time where there are several rows: as many sums as the registers hold.
    #[inline(always)]
    unsafe fn strips_of<V: Vector, const PAIR: usize>(
        &self,
        x: &[f32],
        t: usize,
        pitch: usize,
        part: Range<usize>,
        to: Out,
    ) {
        unsafe {
            let mut strip = part.start;
            while strip < part.end {
                let left = part.end - strip;
                // A single row needs more strips for as many independent sums.
                if t == 1 && left >= 8 && PAIR > 1 {
                    self.tile::<V, 8, 1>(x, pitch, strip, 0, to);
                    strip += 8;
                } else if t == 1 && left >= 4 {
                    self.tile::<V, 4, 1>(x, pitch, strip, 0, to);
                    strip += 4;
                } else if left >= PAIR {
                    self.down::<V, PAIR>(x, t, pitch, strip, to);
                    strip += PAIR;
                } else {
                    self.down::<V, 1>(x, t, pitch, strip, to);
                    strip += 1;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn down<V: Vector, const S: usize>(&self, x: &[f32], count: usize, pitch: usize, strip: usize, to: Out) {
        unsafe {
            let mut t = 0;
            while t < count {
                t += match count - t {
                    1 => self.tile::<V, S, 1>(x, pitch, strip, t, to),
                    2 => self.tile::<V, S, 2>(x, pitch, strip, t, to),
                    3 => self.tile::<V, S, 3>(x, pitch, strip, t, to),
                    4 | 5 => self.tile::<V, S, 4>(x, pitch, strip, t, to),
                    _ => self.tile::<V, S, 6>(x, pitch, strip, t, to),
                };
            }
        }
    }

    /// S strips by T rows, written; gives T.
    // Indices: the sums must stay in registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    unsafe fn tile<V: Vector, const S: usize, const T: usize>(
        &self,
        x: &[f32],
        pitch: usize,
        strip: usize,
        t0: usize,
        to: Out,
    ) -> usize {
        unsafe {
            let mut acc = [[V::zero(); T]; S];
            let w: [*const f32; S] =
                std::array::from_fn(|s| self.strips[(strip + s) * self.cols..][..self.cols].as_ptr().cast());
            let x: [*const f32; T] = std::array::from_fn(|t| x[(t0 + t) * pitch..][..self.cols].as_ptr());
            for c in 0..self.cols {
                let w: [V; S] = std::array::from_fn(|s| V::load(w[s].add(c * LANES)));
                for t in 0..T {
                    let x = *x[t].add(c);
                    for s in 0..S {
                        acc[s][t] = w[s].times_plus(x, acc[s][t]);
                    }
                }
            }
            for (s, sums) in acc.iter().enumerate() {
                let row = (strip + s) * LANES;
                let n = LANES.min(self.rows - row);
                for (t, sums) in sums.iter().enumerate() {
                    let sums = sums.values();
                    // `multiply` asserted the result's size, and nobody else writes these strips' columns.
                    std::ptr::copy_nonoverlapping(sums.as_ptr(), to.at((t0 + t) * self.rows + row), n);
                }
            }
            T
        }
    }
}

/// Sixteen values in registers.
trait Vector: Copy {
    unsafe fn zero() -> Self;
    /// Sixteen values from there on.
    unsafe fn load(from: *const f32) -> Self;
    /// `self · x + sum`.
    unsafe fn times_plus(self, x: f32, sum: Self) -> Self;
    unsafe fn values(self) -> Lanes;
}

impl Vector for Lanes {
    #[inline(always)]
    unsafe fn zero() -> Self {
        [0.0; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { from.cast::<Lanes>().read() }
    }
    #[inline(always)]
    unsafe fn times_plus(self, x: f32, sum: Self) -> Self {
        std::array::from_fn(|i| self[i] * x + sum[i])
    }
    #[inline(always)]
    unsafe fn values(self) -> Lanes {
        self
    }
}

#[cfg(target_arch = "x86_64")]
impl Vector for [__m256; 2] {
    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { [_mm256_setzero_ps(); 2] }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }
    #[inline(always)]
    unsafe fn times_plus(self, x: f32, sum: Self) -> Self {
        unsafe {
            let x = _mm256_set1_ps(x);
            [_mm256_fmadd_ps(self[0], x, sum[0]), _mm256_fmadd_ps(self[1], x, sum[1])]
        }
    }
    #[inline(always)]
    unsafe fn values(self) -> Lanes {
        let mut out = [0.0; LANES];
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), self[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), self[1]);
        }
        out
    }
}

#[cfg(target_arch = "x86_64")]
impl Vector for __m512 {
    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn times_plus(self, x: f32, sum: Self) -> Self {
        unsafe { _mm512_fmadd_ps(self, _mm512_set1_ps(x), sum) }
    }
    #[inline(always)]
    unsafe fn values(self) -> Lanes {
        let mut out = [0.0; LANES];
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self) };
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_product_and_batches_change_nothing() {
        for (rows, cols, t, pitch) in
            [(1, 5, 1, 5), (16, 8, 3, 8), (258, 256, 4, 128), (70, 33, 13, 40), (129, 300, 9, 300)]
        {
            let weights: Vec<f32> = (0..rows * cols).map(|i| (i as f32 * 0.37).sin()).collect();
            let x: Vec<f32> = (0..(t - 1) * pitch + cols).map(|i| (i as f32 * 0.73).cos()).collect();
            let dense = Dense::new(&weights, rows, cols);
            let mut out = vec![0.0; t * rows];
            dense.multiply(&x, t, pitch, &mut out);
            for (i, y) in out.iter().enumerate() {
                let (w, x) = (&weights[i % rows * cols..][..cols], &x[i / rows * pitch..][..cols]);
                let truth: f64 = w.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                assert!((f64::from(*y) - truth).abs() < 1e-4, "[{rows}, {cols}] value {i}: {y} is not {truth}");
            }
            for i in 0..t {
                let mut single = vec![0.0; rows];
                dense.multiply(&x[i * pitch..], 1, pitch, &mut single);
                assert_eq!(single, out[i * rows..][..rows]);
            }
        }
    }
}
