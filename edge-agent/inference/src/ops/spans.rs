//! Sequences of any lengths, one below another in the rows of one tensor.
//!
//! Most operations go row by row and need not know where a sequence ends. Those that look at neighbours (attention, convolutions)
//! take a [`Spans`], so a batch needs no padding and no masks, and each is one launch whatever the lengths are.

use burn::tensor::{Int, Tensor, TensorData};

use super::{
    finished::{from_cpu, on_cpu},
    flex::{self, Rows, in_rows},
    ids,
};
use crate::Device;

/// Which rows belong to one sequence.
#[derive(Debug, Clone)]
pub struct Spans {
    lengths: Vec<usize>,
    /// For each row the first row of its sequence, and the one behind its last.
    bounds: Vec<u32>,
    on_device: Tensor<1, Int>,
}

impl Spans {
    /// Sequences of these lengths, in the order of their rows.
    pub fn new(lengths: impl IntoIterator<Item = usize>, device: &Device) -> Self {
        let lengths: Vec<usize> = lengths.into_iter().collect();
        let mut bounds = Vec::with_capacity(2 * lengths.iter().sum::<usize>());
        let mut start = 0;
        for length in &lengths {
            let end = start + *length as u32;
            (0..*length).for_each(|_| bounds.extend([start, end]));
            start = end;
        }
        let on_device = ids(&bounds, device);
        Self { lengths, bounds, on_device }
    }

    /// Rows of all sequences.
    pub fn rows(&self) -> usize {
        self.bounds.len() / 2
    }

    /// Rows of each sequence.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// `[2 · rows]`: for each row the first row of its sequence, and the one behind its last.
    pub(super) fn bounds(&self) -> Tensor<1, Int> {
        self.on_device.clone()
    }

    /// The row that tap `tap` of `taps` of a convolution sees at this row, where it is one of the same sequence.
    pub(super) fn neighbour(&self, row: usize, tap: usize, taps: usize) -> Option<usize> {
        let own = self.bounds[2 * row] as usize..self.bounds[2 * row + 1] as usize;
        (row + tap).checked_sub(taps / 2).filter(|at| own.contains(at))
    }

    /// For each tap of each row, in their order, the row that it sees.
    fn neighbours(&self, taps: usize) -> impl Iterator<Item = Option<usize>> + '_ {
        (0..self.rows()).flat_map(move |row| (0..taps).map(move |tap| self.neighbour(row, tap, taps)))
    }
}

/// Each row of x `[t, channels]` between its neighbours of the same sequence, zeros beyond the ends: `[t, taps · channels]`. A
/// convolution over all channels is a product with these.
pub fn over_taps(x: Tensor<2>, taps: usize, spans: &Spans) -> Tensor<2> {
    let [t, channels] = x.dims();
    assert!(taps % 2 == 1 && t == spans.rows(), "over_taps: {taps} taps have no middle, or spans are not of {t} rows");
    if let Some(values) = on_cpu(x.clone()) {
        let values = in_rows(values);
        return from_cpu(flex::tensor(flex::over_taps(Rows::of(&values), taps, spans), [t, taps * channels]));
    }
    // Row t is the one of zeros.
    let rows = spans.neighbours(taps).map(|at| at.unwrap_or(t));
    with_zeros(x).select(0, indices(rows, &spans.on_device.device())).reshape([t, taps * channels])
}

/// A convolution over rows that repeat one another, from what each different row gives at each tap: to every row of `onto` `[t, n]`
/// is added what the rows around it give. Row `i` is as row `sources[i]` of parts `[different, taps · n]`.
pub fn add_taps(onto: Tensor<2>, parts: Tensor<2>, sources: &[u32], spans: &Spans) -> Tensor<2> {
    let [t, n] = onto.dims();
    let [different, width] = parts.dims();
    let taps = width / n;
    assert!(
        taps % 2 == 1 && taps * n == width && sources.len() == t && t == spans.rows(),
        "add_taps: parts of {width} columns onto {n}, {} sources and {} rows for {t}",
        sources.len(),
        spans.rows()
    );
    assert!(sources.iter().all(|s| (*s as usize) < different), "add_taps: a source is beyond the {different} rows");
    if let (Some(onto), Some(parts)) = (on_cpu(onto.clone()), on_cpu(parts.clone())) {
        let (onto, parts) = (in_rows(onto), in_rows(parts));
        let sum = flex::add_taps(Rows::of(&onto), Rows::of(&parts), sources, taps, spans);
        return from_cpu(flex::tensor(sum, [t, n]));
    }
    let nothing = different * taps;
    let rows = spans.neighbours(taps).enumerate();
    let rows = rows.map(|(i, at)| at.map_or(nothing, |at| sources[at] as usize * taps + i % taps));
    let seen = with_zeros(parts.reshape([nothing, n])).select(0, indices(rows, &spans.on_device.device()));
    onto + seen.reshape([t, taps, n]).sum_dim(1).reshape([t, n])
}

/// The rows and one of zeros behind them.
fn with_zeros(x: Tensor<2>) -> Tensor<2> {
    let zeros = Tensor::zeros([1, x.dims()[1]], &x.device());
    Tensor::cat(vec![x, zeros], 0)
}

fn indices(rows: impl Iterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i32> = rows.map(|row| row as i32).collect();
    let count = rows.len();
    Tensor::from_data(TensorData::new(rows, [count]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{nn, ops};

    const LENGTHS: [usize; 4] = [1, 13, 2, 40];
    const WIDTH: usize = 24;

    fn values(rows: usize, step: f32) -> Vec<f32> {
        (0..rows * WIDTH).map(|i| (i as f32 * step).sin()).collect()
    }

    fn tensor(values: &[f32]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values.to_vec(), [values.len() / WIDTH, WIDTH]), &Device::flex())
    }

    /// What an operation makes of all sequences at once, and of one after the other.
    fn both(operation: impl Fn(Vec<f32>, &Spans) -> Tensor<2>) {
        let device = Device::flex();
        let all = values(LENGTHS.iter().sum(), 0.37);
        let together = nn::host(operation(all.clone(), &Spans::new(LENGTHS, &device)));
        let (mut alone, mut start) = (Vec::new(), 0);
        for length in LENGTHS {
            let own = all[start * WIDTH..(start + length) * WIDTH].to_vec();
            alone.extend(nn::host(operation(own, &Spans::new([length], &device))));
            start += length;
        }
        assert_eq!(together, alone);
        let one = nn::host(operation(all.clone(), &Spans::new([start], &device)));
        assert_ne!(together, one, "the borders are seen");
    }

    #[test]
    fn neighbours_of_another_sequence_are_not_seen() {
        both(|x, spans| over_taps(tensor(&x), 7, spans));
        let device = Device::flex();
        both(|x, spans| {
            let (kernel, bias) = (tensor(&values(5, 0.9)), Tensor::<1>::zeros([WIDTH], &device));
            ops::depthwise(tensor(&x), kernel, bias, 3, spans)
        });
        both(|x, spans| {
            let x = tensor(&x);
            ops::attend_within(x.clone(), x.clone() * 2.0, x, 2, spans, 0.4)
        });
    }

    #[test]
    fn a_convolution_of_repeated_rows_is_what_it_is_of_all() {
        let device = Device::flex();
        let sources = [0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 4, 4];
        let spans = Spans::new([6, 1, 5], &device);
        let different = tensor(&values(5, 0.37));
        // One output for each tap: weights [taps, channels].
        let weights = tensor(&values(7, 0.9));
        let all = different.clone().select(0, indices(sources.iter().map(|s| *s as usize), &device));
        let onto = Tensor::<2>::ones([12, 1], &device);
        let expected = ops::over_taps(all, 7, &spans).matmul(weights.clone().reshape([7 * WIDTH, 1])) + onto.clone();
        let found = add_taps(onto, different.matmul(weights.transpose()), &sources, &spans);
        for (a, b) in nn::host(found).iter().zip(nn::host(expected)) {
            assert!((a - b).abs() < 1e-5, "{a} and {b}");
        }
    }

    #[test]
    fn taps_are_side_by_side() {
        let x = Tensor::<2>::from_data(
            TensorData::new((1..=6).map(|v| v as f32).collect::<Vec<_>>(), [3, 2]),
            &Device::flex(),
        );
        let found = nn::host(over_taps(x, 3, &Spans::new([2, 1], &Device::flex())));
        assert_eq!(found, [0., 0., 1., 2., 3., 4., 1., 2., 3., 4., 0., 0., 0., 0., 5., 6., 0., 0.]);
    }

    #[test]
    fn attention_within_one_sequence_is_attention() {
        let x = tensor(&values(30, 0.37));
        let spans = Spans::new([30], &Device::flex());
        let within = ops::attend_within(x.clone(), x.clone(), x.clone(), 3, &spans, 0.3);
        assert_eq!(nn::host(within), nn::host(ops::attend(x.clone(), x.clone(), x, 3, 30, false, 0.3)));
    }
}
