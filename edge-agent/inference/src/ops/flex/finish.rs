//! What is done to a product before it is written, so that its values do not travel through memory for each small step.

use crate::ops::{Activation, elementary::tanh, gelu::one as gelu};

/// `residual + gamma · activation(product + bias)`, of which each may be missing.
#[derive(Clone, Copy, Default)]
pub(in super::super) struct Finish<'a> {
    /// One for each row of the weights.
    pub(in super::super) bias: Option<&'a [f32]>,
    pub(in super::super) activation: Activation,
    /// As the bias.
    pub(in super::super) gamma: Option<&'a [f32]>,
    /// Of the result's shape.
    pub(in super::super) residual: Option<&'a [f32]>,
}

impl Finish<'_> {
    /// Whether all parts are of the sizes of a result `[t, rows]`.
    pub(super) fn fits(&self, t: usize, rows: usize) -> bool {
        let ends = |of: Option<&[f32]>, len: usize| of.is_none_or(|f| f.len() == len);
        ends(self.bias, rows) && ends(self.gamma, rows) && ends(self.residual, t * rows)
    }

    /// Finishes a product `[t, rows]` that stands in memory.
    pub(super) fn apply(&self, out: &mut [f32], rows: usize) {
        #[cfg(target_arch = "x86_64")]
        if super::linear::Level::detect() != super::linear::Level::Portable {
            // SAFETY: every level above the portable one has AVX2 and FMA.
            return unsafe { self.apply_avx2(out, rows) };
        }
        self.apply_here(out, rows);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn apply_avx2(&self, out: &mut [f32], rows: usize) {
        self.apply_here(out, rows);
    }

    #[inline(always)]
    fn apply_here(&self, out: &mut [f32], rows: usize) {
        for (t, row) in out.chunks_exact_mut(rows).enumerate() {
            if let Some(bias) = self.bias {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
            match self.activation {
                Activation::Identity => {}
                Activation::Gelu => row.iter_mut().for_each(|y| *y = gelu(*y)),
                Activation::Tanh => row.iter_mut().for_each(|y| *y = tanh(*y)),
            }
            if let Some(gamma) = self.gamma {
                row.iter_mut().zip(gamma).for_each(|(y, g)| *y *= g);
            }
            if let Some(residual) = self.residual {
                row.iter_mut().zip(&residual[t * rows..]).for_each(|(y, r)| *y += r);
            }
        }
    }
}
