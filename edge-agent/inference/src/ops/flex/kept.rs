//! What keys and values are kept as between steps: f32, or halves where memory counts.

use super::attention::{Cache, Head};
use half::{f16, slice::HalfFloatSliceExt};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::cell::RefCell;

/// A kept value.
pub(super) trait Kept: Copy + Sync {
    /// Does this with the same head over values of 32 bits.
    fn widely(head: &Head<'_, Self>, work: impl FnOnce(&Head<'_, f32>));

    /// Sixteen values as f32, zeros where the mask has none; of those nothing is read.
    ///
    /// # Safety
    /// AVX-512 F, and the values of the mask are there.
    #[cfg(target_arch = "x86_64")]
    unsafe fn sixteen(mask: u16, from: *const Self) -> __m512;
}

impl Kept for f32 {
    fn widely(head: &Head<'_, Self>, work: impl FnOnce(&Head<'_, f32>)) {
        work(head);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn sixteen(mask: u16, from: *const Self) -> __m512 {
        // SAFETY: that of the caller.
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }
}

thread_local! {
    /// A head's keys and values in full, kept between calls: fresh memory is a page fault for every 4 KB.
    static WIDE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Kept for f16 {
    fn widely(head: &Head<'_, Self>, work: impl FnOnce(&Head<'_, f32>)) {
        let Cache { k, v, k_pitch, v_pitch, dim, visible, .. } = head.cache;
        let (_, at) = head.columns();
        WIDE.with_borrow_mut(|space| {
            let size = 2 * visible * dim;
            if space.len() < size {
                space.resize(size, 0.0);
            }
            let (keys, values) = space[..size].split_at_mut(visible * dim);
            for (from, pitch, to) in [(k, k_pitch, &mut *keys), (v, v_pitch, &mut *values)] {
                for (place, row) in to.chunks_exact_mut(dim).enumerate() {
                    from[place * pitch + at..][..dim].convert_to_f32_slice(row);
                }
            }
            // The head's own columns and no others, so that they begin at the first whichever head it is.
            let cache = Cache { k: keys, v: values, k_pitch: dim, v_pitch: dim, kv_heads: 1, dim, visible };
            work(&Head { q: head.q, cache, h: head.h, causal: head.causal, scale: head.scale });
        });
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn sixteen(mask: u16, from: *const Self) -> __m512 {
        // SAFETY: that of the caller; without a whole vector only what the mask has is read.
        unsafe {
            if mask == 0xffff {
                return _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()));
            }
            let mut there = [f16::ZERO; 16];
            std::ptr::copy_nonoverlapping(from, there.as_mut_ptr(), mask.count_ones() as usize);
            _mm512_cvtph_ps(_mm256_loadu_si256(there.as_ptr().cast()))
        }
    }
}
