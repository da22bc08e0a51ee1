//! Products with blocks: choice of kernel, division among threads.

use std::{cell::RefCell, marker::PhantomData, ops::Range, sync::OnceLock};

use nearfield_shared::gguf::BlockType;

#[cfg(not(target_arch = "x86_64"))]
use super::quants::Layout as Fast;
use super::team::Out;
use super::{
    super::{Activations, blocks::row_words},
    finish::Finish,
    portable,
    quants::{Q4_0, Q4_1, Q4K, Q5_0, Q6K, Q8_0},
    rounded::{self, Integer, Rounded},
    strips, team,
};
#[cfg(target_arch = "x86_64")]
use super::{
    vnni,
    x86::{self, Avx2 as Fast},
};

/// Up to this many rows of activations are multiplied straight from the blocks. Beyond, dequantising a panel once costs
/// less than unpacking every block for every four rows; measured between 8 and 16 on Zen 5 and left at the lower end.
const DIRECT_ROWS_MAX: usize = 8;
/// Weight rows in a panel: 64 rows of 1,536 columns are 400 KB, which a second-level cache holds.
const PANEL_ROWS: usize = 64;
/// Multiply-adds below which handing work to other threads costs more than it saves (some 20 µs of work).
const PARALLEL_WORK_MIN: usize = 1 << 20;
/// The same for strips, which take a fifth of the time (some 3 µs of work).
const PARALLEL_STRIPS_MIN: usize = 1 << 18;

/// What the processor offers, found once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Vnni,
}

impl Level {
    pub(super) fn detect() -> Self {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(|| *Self::available().last().expect("the portable level is always there"))
    }

    /// All levels of this processor, slowest first.
    pub(super) fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "only x86-64 adds to it")]
        let mut levels = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("fma")
            && std::is_x86_feature_detected!("f16c")
        {
            levels.push(Self::Avx2);
            if std::is_x86_feature_detected!("avx512vnni")
                && std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512vl")
                && std::is_x86_feature_detected!("avx512dq")
            {
                levels.push(Self::Vnni);
            }
        }
        levels
    }
}

/// The kernels that the CPU path runs on this processor, in words for a person.
pub fn cpu_features() -> &'static str {
    match Level::detect() {
        Level::Portable => "portable kernels",
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => "AVX2 kernels",
        #[cfg(target_arch = "x86_64")]
        Level::Vnni => "AVX-512 VNNI kernels",
    }
}

macro_rules! with_layout {
    ($block:expr, $L:ident => $body:expr) => {
        match $block {
            BlockType::Q8_0 => {
                type $L = Q8_0;
                $body
            }
            BlockType::Q4_0 => {
                type $L = Q4_0;
                $body
            }
            BlockType::Q4_1 => {
                type $L = Q4_1;
                $body
            }
            BlockType::Q5_0 => {
                type $L = Q5_0;
                $body
            }
            BlockType::Q4K => {
                type $L = Q4K;
                $body
            }
            BlockType::Q6K => {
                type $L = Q6K;
                $body
            }
            other => unreachable!("{other} weights do not stand in blocks of 32"),
        }
    };
}

/// x `[t, cols]` by the transpose of w `[rows, cols]`, finished: `[t, rows]`.
#[expect(clippy::too_many_arguments, reason = "a kernel's entry: the operands and their shape")]
pub(in super::super) fn multiply(
    x: &[f32],
    t: usize,
    w: &[u32],
    rows: usize,
    cols: usize,
    (block, strips): (BlockType, bool),
    activations: Activations,
    finish: Finish<'_>,
) -> Vec<f32> {
    assert!(finish.fits(t, rows), "a part of the finish is of another size");
    if strips {
        return multiply_strips(x, t, w, rows, cols, block, activations, finish);
    }
    let mut out = multiply_at(Level::detect(), x, t, w, rows, cols, block, activations);
    finish.apply(&mut out, rows);
    out
}

#[expect(clippy::too_many_arguments, reason = "a kernel's entry: the operands and their shape")]
pub(super) fn multiply_at(
    level: Level,
    x: &[f32],
    t: usize,
    w: &[u32],
    rows: usize,
    cols: usize,
    block: BlockType,
    activations: Activations,
) -> Vec<f32> {
    assert!(x.len() == t * cols && w.len() == rows * row_words(block, cols), "operands do not have the stated shape");
    let mut out = vec![0f32; t * rows];
    if t > DIRECT_ROWS_MAX {
        let width = row_words(block, cols);
        panels(x, t, rows, cols, &mut out, |row, out| dequantise_row(level, block, &w[row * width..][..width], out));
        return out;
    }
    let shape = Shape { t, rows, cols };
    if block == BlockType::F16 {
        match level {
            Level::Portable => sweep(&PortableF16 { w, x, cols }, shape, &mut out),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Vnni => sweep(&Avx2F16 { w, x, cols }, shape, &mut out),
        }
        return out;
    }
    match activations {
        Activations::Exact => with_layout!(block, L => match level {
            Level::Portable => sweep(&PortableExact::<L> { w, x, cols, layout: PhantomData }, shape, &mut out),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Vnni => {
                let totals = &rounded::group_totals(x);
                sweep(&Avx2Exact::<L> { w, x, totals, cols, layout: PhantomData }, shape, &mut out);
            }
        }),
        Activations::Int16 => {
            let x = &Rounded::<i16>::new(x, cols);
            with_layout!(block, L => match level {
                Level::Portable => sweep(&PortableInt::<L, i16> { w, x, layout: PhantomData }, shape, &mut out),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => sweep(&Int16::<L, false> { w, x, layout: PhantomData }, shape, &mut out),
                #[cfg(target_arch = "x86_64")]
                Level::Vnni => sweep(&Int16::<L, true> { w, x, layout: PhantomData }, shape, &mut out),
            });
        }
        Activations::Int8 => {
            let x = &Rounded::<i8>::new(x, cols);
            with_layout!(block, L => match level {
                Level::Portable => sweep(&PortableInt::<L, i8> { w, x, layout: PhantomData }, shape, &mut out),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => sweep(&Int8::<L, false> { w, x, layout: PhantomData }, shape, &mut out),
                #[cfg(target_arch = "x86_64")]
                Level::Vnni => sweep(&Int8::<L, true> { w, x, layout: PhantomData }, shape, &mut out),
            });
        }
    }
    out
}

/// Whether weights of this type stand in [`strips`] on this processor.
pub(in super::super) fn takes_strips(block: BlockType) -> bool {
    #[cfg(target_arch = "x86_64")]
    return Level::detect() == Level::Vnni && strips::supports(block);
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// [`multiply`] with weights in strips.
#[expect(clippy::too_many_arguments, reason = "a kernel's entry: the operands and their shape")]
fn multiply_strips(
    x: &[f32],
    t: usize,
    w: &[u32],
    rows: usize,
    cols: usize,
    block: BlockType,
    activations: Activations,
    finish: Finish<'_>,
) -> Vec<f32> {
    assert!(
        x.len() == t * cols && w.len() == strips::words(block, rows, cols) && takes_strips(block),
        "operands do not have the stated shape, or the processor has no kernel for strips"
    );
    if activations == Activations::Exact {
        let mut out = vec![0f32; t * rows];
        panels(x, t, rows, cols, &mut out, |row, out| strips::dequantise_row(block, w, row, cols, out));
        finish.apply(&mut out, rows);
        return out;
    }
    // Not filled with zeros first: that would be one more pass over memory.
    let mut out = Vec::with_capacity(t * rows);
    #[cfg(target_arch = "x86_64")]
    {
        let to = Out(out.as_mut_ptr());
        // SAFETY: the processor has the features.
        let codes = &unsafe { vnni::Codes::new(x, cols, activations == Activations::Int16, block) };
        let count = rows.div_ceil(strips::ROWS);
        // SAFETY: the processor has the features, w holds all strips, and each task writes the columns of its own strips.
        let run = |part: Range<usize>| unsafe { vnni::multiply(block, w, codes, rows, part, finish, to.at(0)) };
        if t * rows * cols >= PARALLEL_STRIPS_MIN {
            // Multiples of what a tile takes: four strips of a single row, two of several.
            let chunk = count.div_ceil(team::threads() * 4).next_multiple_of(if t == 1 { 4 } else { 2 });
            team::run(count.div_ceil(chunk), |c| run(c * chunk..((c + 1) * chunk).min(count)));
        } else {
            run(0..count);
        }
        // SAFETY: every strip wrote its columns of all rows.
        unsafe { out.set_len(t * rows) };
    }
    out
}

/// The rows `ids` of w as f32.
pub(super) fn rows(w: &[u32], ids: &[usize], cols: usize, block: BlockType, strips: bool) -> Vec<f32> {
    let width = row_words(block, cols);
    let mut out = vec![0f32; ids.len() * cols];
    for (&id, out) in ids.iter().zip(out.chunks_exact_mut(cols)) {
        if strips {
            strips::dequantise_row(block, w, id, cols, out);
        } else {
            dequantise_row(Level::detect(), block, &w[id * width..][..width], out);
        }
    }
    out
}

fn dequantise_row(level: Level, block: BlockType, row: &[u32], out: &mut [f32]) {
    match level {
        Level::Portable if block == BlockType::F16 => portable::dequantise_f16(row, out),
        Level::Portable => with_layout!(block, L => portable::dequantise::<L>(row, out)),
        // SAFETY: the level says what the processor has, and row and out are of one width.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::Vnni => unsafe {
            if block == BlockType::F16 {
                x86::dequantise_f16(row, out);
            } else {
                with_layout!(block, L => x86::dequantise::<L>(row, out));
            }
        },
    }
}

/// The product in f32, a panel of weights after the other; `dequantise` writes a row of them.
fn panels(
    x: &[f32],
    t: usize,
    rows: usize,
    cols: usize,
    out: &mut [f32],
    dequantise: impl Fn(usize, &mut [f32]) + Sync,
) {
    thread_local! {
        // Kept between calls: a fresh buffer of this size is a page fault for every 4 KB.
        static PANEL: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    let to = Out(out.as_mut_ptr());
    let threads = team::threads();
    let parallel = threads > 1 && t * rows * cols >= PARALLEL_WORK_MIN;
    let chunk = if parallel { rows.div_ceil(threads).min(PANEL_ROWS) } else { PANEL_ROWS };
    let run = |first: usize| {
        let n = chunk.min(rows - first);
        PANEL.with_borrow_mut(|panel| {
            panel.resize(panel.len().max(n * cols), 0.0);
            for (r, out) in panel[..n * cols].chunks_exact_mut(cols).enumerate() {
                dequantise(first + r, out);
            }
            // SAFETY: x is [t, cols], the panel [n, cols], and the result's columns first..first + n are this task's.
            unsafe {
                gemm::gemm(
                    t,
                    n,
                    cols,
                    to.at(0).add(first),
                    1,
                    rows as isize,
                    false,
                    x.as_ptr(),
                    1,
                    cols as isize,
                    panel.as_ptr(),
                    cols as isize,
                    1,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
        });
    };
    if parallel {
        team::run(rows.div_ceil(chunk), |c| run(c * chunk));
    } else {
        (0..rows).step_by(chunk).for_each(run);
    }
}

#[derive(Clone, Copy)]
struct Shape {
    t: usize,
    rows: usize,
    cols: usize,
}

/// A tile of R rows of weights by T rows of activations.
trait Tile: Sync {
    fn tile<const R: usize, const T: usize>(&self, row: usize, t: usize) -> [[f32; T]; R];
}

/// The whole product, tile by tile.
fn sweep<K: Tile>(kernel: &K, shape: Shape, out: &mut [f32]) {
    let Shape { t, rows, cols } = shape;
    assert_eq!(out.len(), t * rows);
    let to = Out(out.as_mut_ptr());
    let threads = team::threads();
    if threads > 1 && t * rows * cols >= PARALLEL_WORK_MIN {
        // Two parts a thread even out threads that are interrupted; multiples of four rows keep the tiles whole.
        let chunk = rows.div_ceil(threads * 2).next_multiple_of(4);
        team::run(rows.div_ceil(chunk), |c| {
            sweep_rows(kernel, c * chunk..((c + 1) * chunk).min(rows), shape, to);
        });
    } else {
        sweep_rows(kernel, 0..rows, shape, to);
    }
}

fn sweep_rows<K: Tile>(kernel: &K, range: Range<usize>, shape: Shape, to: Out) {
    let put = |r: usize, t: usize, v: f32| {
        debug_assert!(r < shape.rows && t < shape.t);
        // SAFETY: inside of the result, and this row of weights belongs to this thread.
        unsafe { *to.at(0).add(t * shape.rows + r) = v };
    };
    macro_rules! strip {
        ($R:literal, $T:literal, $t:expr) => {{
            let mut r = range.start;
            while r + $R <= range.end {
                let tile: [[f32; $T]; $R] = kernel.tile(r, $t);
                tile.iter().enumerate().for_each(|(i, row)| {
                    row.iter().enumerate().for_each(|(j, v)| put(r + i, $t + j, *v));
                });
                r += $R;
            }
            for r in r..range.end {
                let tile: [[f32; $T]; 1] = kernel.tile(r, $t);
                tile[0].iter().enumerate().for_each(|(j, v)| put(r, $t + j, *v));
            }
        }};
    }
    let mut t = 0;
    while t < shape.t {
        match shape.t - t {
            1 => {
                strip!(4, 1, t);
                t += 1;
            }
            2 | 3 => {
                strip!(2, 2, t);
                t += 2;
            }
            _ => {
                strip!(2, 4, t);
                t += 4;
            }
        }
    }
}

/// A tile as R · T single products.
fn each<const R: usize, const T: usize>(mut dot: impl FnMut(usize, usize) -> f32) -> [[f32; T]; R] {
    std::array::from_fn(|r| std::array::from_fn(|t| dot(r, t)))
}

struct PortableInt<'a, L, I> {
    w: &'a [u32],
    x: &'a Rounded<I>,
    layout: PhantomData<L>,
}

impl<L: Fast, I: Integer> Tile for PortableInt<'_, L, I> {
    fn tile<const R: usize, const T: usize>(&self, row: usize, t: usize) -> [[f32; T]; R] {
        let width = row_words(L::BLOCK, self.x.cols);
        each(|r, j| portable::dot_rounded::<L, I>(&self.w[(row + r) * width..][..width], self.x, t + j))
    }
}

struct PortableExact<'a, L> {
    w: &'a [u32],
    x: &'a [f32],
    cols: usize,
    layout: PhantomData<L>,
}

impl<L: Fast> Tile for PortableExact<'_, L> {
    fn tile<const R: usize, const T: usize>(&self, row: usize, t: usize) -> [[f32; T]; R] {
        let width = row_words(L::BLOCK, self.cols);
        each(|r, j| {
            portable::dot_exact::<L>(&self.w[(row + r) * width..][..width], &self.x[(t + j) * self.cols..][..self.cols])
        })
    }
}

struct PortableF16<'a> {
    w: &'a [u32],
    x: &'a [f32],
    cols: usize,
}

impl Tile for PortableF16<'_> {
    fn tile<const R: usize, const T: usize>(&self, row: usize, t: usize) -> [[f32; T]; R] {
        let width = row_words(BlockType::F16, self.cols);
        each(|r, j| {
            portable::dot_f16(&self.w[(row + r) * width..][..width], &self.x[(t + j) * self.cols..][..self.cols])
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod fast {
    use super::*;

    pub(super) struct Int8<'a, L, const VNNI: bool> {
        pub(super) w: &'a [u32],
        pub(super) x: &'a Rounded<i8>,
        pub(super) layout: PhantomData<L>,
    }

    impl<L: Fast, const VNNI: bool> Tile for Int8<'_, L, VNNI> {
        #[inline(always)]
        fn tile<const R: usize, const T: usize>(&self, row: usize, t: usize) -> [[f32; T]; R] {
            let width = row_words(L::BLOCK, self.x.cols);
            let w = self.w[row * width..][..R * width].as_ptr();
            // SAFETY: this kernel is chosen where the processor has the features; R rows of weights were just cut, and
            // `sweep` asks for no more activations than there are.
            unsafe {
                if VNNI {
                    x86::int8_vnni::<L, R, T>(w, width, self.x, t)
                } else {
                    x86::int8_avx2::<L, R, T>(w, width, self.x, t)
                }
            }
        }
    }

    pub(super) struct Int16<'a, L, const VNNI: bool> {
        pub(super) w: &'a [u32],
        pub(super) x: &'a Rounded<i16>,
        pub(super) layout: PhantomData<L>,
    }

    impl<L: Fast, const VNNI: bool> Tile for Int16<'_, L, VNNI> {
        #[inline(always)]
        fn tile<const R: usize, const T: usize>(&self, row: usize, t: usize) -> [[f32; T]; R] {
            let width = row_words(L::BLOCK, self.x.cols);
            let w = self.w[row * width..][..R * width].as_ptr();
            // SAFETY: this kernel is chosen where the processor has the features; R rows of weights were just cut, and
            // `sweep` asks for no more activations than there are.
            unsafe {
                if VNNI {
                    x86::int16_vnni::<L, R, T>(w, width, self.x, t)
                } else {
                    x86::int16_avx2::<L, R, T>(w, width, self.x, t)
                }
            }
        }
    }

    pub(super) struct Avx2Exact<'a, L> {
        pub(super) w: &'a [u32],
        pub(super) x: &'a [f32],
        pub(super) totals: &'a [f32],
        pub(super) cols: usize,
        pub(super) layout: PhantomData<L>,
    }

    impl<L: Fast> Tile for Avx2Exact<'_, L> {
        #[inline(always)]
        fn tile<const R: usize, const T: usize>(&self, row: usize, t: usize) -> [[f32; T]; R] {
            let width = row_words(L::BLOCK, self.cols);
            let w = self.w[row * width..][..R * width].as_ptr();
            let x = self.x[t * self.cols..][..T * self.cols].as_ptr();
            let totals = self.totals[t * self.cols / 32..][..T * self.cols / 32].as_ptr();
            // SAFETY: the processor has the features, and the slices just cut are what is read.
            unsafe { x86::exact::<L, R, T>(w, width, x, totals, self.cols) }
        }
    }

    pub(super) struct Avx2F16<'a> {
        pub(super) w: &'a [u32],
        pub(super) x: &'a [f32],
        pub(super) cols: usize,
    }

    impl Tile for Avx2F16<'_> {
        #[inline(always)]
        fn tile<const R: usize, const T: usize>(&self, row: usize, t: usize) -> [[f32; T]; R] {
            let width = row_words(BlockType::F16, self.cols);
            let w = self.w[row * width..][..R * width].as_ptr();
            let x = self.x[t * self.cols..][..T * self.cols].as_ptr();
            // SAFETY: the processor has the features, and the slices just cut are what is read.
            unsafe { x86::exact_f16::<R, T>(w, width, x, self.cols) }
        }
    }
}
#[cfg(target_arch = "x86_64")]
use fast::{Avx2Exact, Avx2F16, Int8, Int16};

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
