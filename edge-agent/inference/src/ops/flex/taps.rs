//! Windows over the rows of sequences on the CPU.

use super::{row_tasks::by_rows, rows::Rows};
use crate::ops::Spans;

/// See `ops::over_taps`.
pub(in super::super) fn over_taps(x: Rows<'_>, taps: usize, spans: &Spans) -> Vec<f32> {
    let (channels, width) = (x.width, taps * x.width);
    let mut out = vec![0f32; x.count * width];
    by_rows(&mut out, width, |first, out| {
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            for (tap, out) in out.chunks_exact_mut(channels).enumerate() {
                if let Some(at) = spans.neighbour(first + i, tap, taps) {
                    out.copy_from_slice(x.row(at));
                }
            }
        }
    });
    out
}

/// See `ops::add_taps`.
pub(in super::super) fn add_taps(
    onto: Rows<'_>,
    parts: Rows<'_>,
    sources: &[u32],
    taps: usize,
    spans: &Spans,
) -> Vec<f32> {
    let width = onto.width;
    let mut out = onto.to_vec();
    by_rows(&mut out, width, |first, out| {
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            for tap in 0..taps {
                let Some(at) = spans.neighbour(first + i, tap, taps) else { continue };
                let part = &parts.row(sources[at] as usize)[tap * width..][..width];
                out.iter_mut().zip(part).for_each(|(sum, v)| *sum += v);
            }
        }
    });
    out
}
