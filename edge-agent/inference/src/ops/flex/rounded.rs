//! Activations rounded to integers, 32 to a scale.

/// What activations are rounded to.
pub(super) trait Integer: Copy + Default + Send + Sync + Into<i32> + 'static {
    /// The greatest magnitude, which a group's peak becomes.
    const PEAK: f32;
    /// The integer next to a value whose magnitude is at most [`Integer::PEAK`].
    fn nearest(v: f32) -> Self;
}

impl Integer for i8 {
    const PEAK: f32 = 127.0;
    fn nearest(v: f32) -> Self {
        // Adding half towards the sign and cutting off rounds to nearest, and vectorises where `round` does not.
        (v + 0.5f32.copysign(v)) as Self
    }
}

impl Integer for i16 {
    const PEAK: f32 = 32767.0;
    fn nearest(v: f32) -> Self {
        (v + 0.5f32.copysign(v)) as Self
    }
}

/// Rows of activations as integers.
pub(super) struct Rounded<I> {
    /// `[rows, cols]`.
    pub(super) q: Vec<I>,
    /// Scale of each group: `[rows, cols / 32]`.
    pub(super) scales: Vec<f32>,
    /// Sum of each group's values as rounded, which a layout's minimum is multiplied by.
    pub(super) totals: Vec<f32>,
    pub(super) cols: usize,
}

impl<I: Integer> Rounded<I> {
    /// Rounds `[rows, cols]`, `cols` a multiple of 32. A group that holds a value that is no number gives no numbers.
    pub(super) fn new(x: &[f32], cols: usize) -> Self {
        let groups = x.len() / 32;
        let (mut q, mut scales, mut totals) = (vec![I::default(); x.len()], vec![0f32; groups], vec![0f32; groups]);
        for (g, (x, q)) in x.chunks_exact(32).zip(q.chunks_exact_mut(32)).enumerate() {
            let peak = x.iter().fold(0f32, |m, v| m.max(v.abs()));
            let inverse = if peak > 0.0 { I::PEAK / peak } else { 0.0 };
            let mut total = 0i32;
            for (q, x) in q.iter_mut().zip(x) {
                *q = I::nearest(x * inverse);
                total += (*q).into();
            }
            let bad = x.iter().any(|v| v.is_nan());
            scales[g] = if bad { f32::NAN } else { peak / I::PEAK };
            totals[g] = total as f32 * scales[g];
        }
        Self { q, scales, totals, cols }
    }

    /// Group `g` of row `t`: integers, scale, sum.
    pub(super) fn group(&self, t: usize, g: usize) -> (&[I], f32, f32) {
        let at = t * self.cols / 32 + g;
        (&self.q[at * 32..][..32], self.scales[at], self.totals[at])
    }
}

/// Sums of 32 neighbours of f32 activations, which a layout's minimum is multiplied by.
#[cfg(target_arch = "x86_64")]
pub(super) fn group_totals(x: &[f32]) -> Vec<f32> {
    x.chunks_exact(32).map(|g| g.iter().sum()).collect()
}
