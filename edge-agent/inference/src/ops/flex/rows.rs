//! Two-dimensional tensors of the CPU as rows, without a copy where the rows are parts of wider ones.

use burn::tensor::Element;
use burn_flex::FlexTensor;
use bytemuck::Pod;

/// Rows of `width` values, `pitch` apart.
#[derive(Clone, Copy)]
pub(in super::super) struct Rows<'a, T = f32> {
    pub(in super::super) values: &'a [T],
    pub(in super::super) count: usize,
    pub(in super::super) width: usize,
    pub(in super::super) pitch: usize,
}

/// The tensor itself where its rows are whole runs of memory, else a copy.
pub(in super::super) fn in_rows(t: FlexTensor) -> FlexTensor {
    let strides = t.layout().strides();
    if strides[1] == 1 && strides[0] >= 0 || t.is_contiguous() { t } else { t.to_contiguous() }
}

impl<'a, T: Element + Pod> Rows<'a, T> {
    /// Of a tensor of this type that went through [`in_rows`].
    pub(in super::super) fn of(t: &'a FlexTensor) -> Self {
        let layout = t.layout();
        let (count, width) = (layout.shape()[0], layout.shape()[1]);
        // Strides of a single row may be anything.
        let pitch = if count > 1 { layout.strides()[0] as usize } else { width };
        let reach = if count * width == 0 { 0 } else { (count - 1) * pitch + width };
        Self { values: &t.storage::<T>()[layout.start_offset()..][..reach], count, width, pitch }
    }
}

impl<'a> Rows<'a> {
    pub(in super::super) fn row(&self, i: usize) -> &'a [f32] {
        &self.values[i * self.pitch..][..self.width]
    }

    pub(in super::super) fn to_vec(self) -> Vec<f32> {
        if self.pitch == self.width {
            return self.values.to_vec();
        }
        let mut out = Vec::with_capacity(self.count * self.width);
        (0..self.count).for_each(|i| out.extend_from_slice(self.row(i)));
        out
    }
}
