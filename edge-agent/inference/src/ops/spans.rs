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
    bounds: Tensor<1, Int>,
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
        Self { lengths, bounds: ids(&bounds, device) }
    }

    /// Rows of all sequences.
    pub fn rows(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Rows of each sequence.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// `[2 · rows]`: for each row the first row of its sequence, and the one behind its last.
    pub(super) fn bounds(&self) -> Tensor<1, Int> {
        self.bounds.clone()
    }
}

/// Each row of x `[t, channels]` between its neighbours of the same sequence, zeros beyond the ends: `[t, taps · channels]`. A
/// convolution over all channels is a product with these.
pub fn over_taps(x: Tensor<2>, taps: usize, spans: &Spans) -> Tensor<2> {
    let [t, channels] = x.dims();
    assert!(taps % 2 == 1 && t == spans.rows(), "over_taps: {taps} taps have no middle, or spans are not of {t} rows");
    if let Some(values) = on_cpu(x.clone()) {
        let values = in_rows(values);
        return from_cpu(flex::tensor(flex::over_taps(Rows::of(&values), taps, &spans.lengths), [t, taps * channels]));
    }
    let device = x.device();
    // Row t is the one of zeros.
    let mut rows = Vec::with_capacity(t * taps);
    let mut start = 0;
    for length in &spans.lengths {
        for i in 0..*length {
            let seen = |tap: usize| (i + tap).checked_sub(taps / 2).filter(|at| at < length);
            rows.extend((0..taps).map(|tap| seen(tap).map_or(t, |at| start + at) as i32));
        }
        start += length;
    }
    let x = Tensor::cat(vec![x, Tensor::zeros([1, channels], &device)], 0);
    let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [t * taps]), &device);
    x.select(0, rows).reshape([t, taps * channels])
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
