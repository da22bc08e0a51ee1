//! Activations rounded to 8 bits, 32 to a scale.

/// Rows of activations as small integers.
pub(super) struct Int8Rows {
    /// `[rows, cols]`.
    pub(super) q: Vec<i8>,
    /// Scale of each group: `[rows, cols / 32]`.
    pub(super) scales: Vec<f32>,
    /// Sum of each group's values as rounded, which a layout's minimum is multiplied by.
    pub(super) totals: Vec<f32>,
    pub(super) cols: usize,
}

impl Int8Rows {
    /// Rounds `[rows, cols]`, `cols` a multiple of 32. A group that holds a value that is no number gives no numbers.
    pub(super) fn new(x: &[f32], cols: usize) -> Self {
        let groups = x.len() / 32;
        let (mut q, mut scales, mut totals) = (vec![0i8; x.len()], vec![0f32; groups], vec![0f32; groups]);
        for (g, (x, q)) in x.chunks_exact(32).zip(q.chunks_exact_mut(32)).enumerate() {
            let peak = x.iter().fold(0f32, |m, v| m.max(v.abs()));
            let scale = peak / 127.0;
            let inverse = if scale > 0.0 { 127.0 / peak } else { 0.0 };
            let mut total = 0i32;
            for (q, x) in q.iter_mut().zip(x) {
                // Adding half towards the sign and cutting off rounds to nearest, and vectorises where `round` does not.
                let v = (x * inverse + 0.5f32.copysign(*x)) as i32;
                total += v;
                *q = v as i8;
            }
            let bad = x.iter().any(|v| v.is_nan());
            scales[g] = if bad { f32::NAN } else { scale };
            totals[g] = total as f32 * scales[g];
        }
        Self { q, scales, totals, cols }
    }

    /// Group `g` of row `t`: integers, scale, sum.
    pub(super) fn group(&self, t: usize, g: usize) -> (&[i8], f32, f32) {
        let at = t * self.cols / 32 + g;
        (&self.q[at * 32..][..32], self.scales[at], self.totals[at])
    }
}

/// Sums of 32 neighbours of f32 activations, which a layout's minimum is multiplied by.
pub(super) fn group_totals(x: &[f32]) -> Vec<f32> {
    x.chunks_exact(32).map(|g| g.iter().sum()).collect()
}
