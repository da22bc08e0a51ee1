//! Windows over the rows of sequences on the CPU.

use super::{row_tasks::by_rows, rows::Rows};

/// See `ops::over_taps`.
pub(in super::super) fn over_taps(x: Rows<'_>, taps: usize, lengths: &[usize]) -> Vec<f32> {
    let (channels, width) = (x.width, taps * x.width);
    let mut out = vec![0f32; x.count * width];
    let mut ends = Vec::with_capacity(x.count);
    for length in lengths {
        let start = ends.len();
        ends.extend(std::iter::repeat_n(start..start + length, *length));
    }
    by_rows(&mut out, width, |first, out| {
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            let (row, own) = (first + i, &ends[first + i]);
            for (tap, out) in out.chunks_exact_mut(channels).enumerate() {
                if let Some(at) = (row + tap).checked_sub(taps / 2).filter(|at| own.contains(at)) {
                    out.copy_from_slice(x.row(at));
                }
            }
        }
    });
    out
}
