//! Row by row operations divided among threads.

use super::team::{self, Out};

/// Values below which calling other threads costs more than it saves (some 3 µs of work).
const PARALLEL_VALUES_MIN: usize = 1 << 14;

/// A result `[.., width]` in parts of whole rows: `part` is given the number of its first row and the rows.
pub(in super::super) fn by_rows(out: &mut [f32], width: usize, part: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() < PARALLEL_VALUES_MIN {
        return part(0, out);
    }
    let rows = out.len() / width;
    let chunk = rows.div_ceil(team::threads() * 4);
    let (to, len) = (Out(out.as_mut_ptr()), out.len());
    team::run(rows.div_ceil(chunk), |c| {
        let range = c * chunk * width..len.min((c + 1) * chunk * width);
        // SAFETY: the parts are within the result and do not overlap.
        part(c * chunk, unsafe { std::slice::from_raw_parts_mut(to.at(range.start), range.len()) });
    });
}
