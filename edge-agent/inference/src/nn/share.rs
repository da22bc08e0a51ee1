//! Rows of several sequences in one tensor, between one step of a network and the next.

use std::{ops::Range, sync::Arc};

use burn::tensor::Tensor;

/// A sequence's rows, which may stand in one tensor with those of the sequences that were computed beside it.
///
/// Sequences that go on together are taken as they stand; only where one has left or come is anything copied.
#[derive(Debug, Clone)]
pub struct Share {
    of: Arc<Tensor<2>>,
    rows: Range<usize>,
}

impl Share {
    /// The rows of a batch, taken apart into sequences of these lengths, in their order.
    pub fn divided(batch: Tensor<2>, lengths: &[usize]) -> Vec<Self> {
        debug_assert_eq!(batch.dims()[0], lengths.iter().sum::<usize>(), "lengths of all sequences");
        let of = Arc::new(batch);
        let mut end = 0;
        let share = |length: &usize| {
            let start = end;
            end += length;
            Self { of: of.clone(), rows: start..end }
        };
        lengths.iter().map(share).collect()
    }

    /// The rows of all of them below one another.
    ///
    /// # Panics
    /// If there are none.
    pub fn joined(shares: &[Self]) -> Tensor<2> {
        let (first, last) = (&shares[0], &shares[shares.len() - 1]);
        let in_a_row = |pair: &[Self]| Arc::ptr_eq(&pair[0].of, &pair[1].of) && pair[0].rows.end == pair[1].rows.start;
        if shares.windows(2).all(in_a_row) {
            return first.rows_of_it(first.rows.start..last.rows.end);
        }
        Tensor::cat(shares.iter().map(|share| share.rows_of_it(share.rows.clone())).collect(), 0)
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn rows_of_it(&self, rows: Range<usize>) -> Tensor<2> {
        let all = (*self.of).clone();
        if rows == (0..all.dims()[0]) { all } else { all.narrow(0, rows.start, rows.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, nn};
    use burn::tensor::TensorData;

    #[test]
    fn sequences_that_leave_or_come_keep_their_own_rows() {
        let numbers = |from: usize, n: usize| (from..from + n).map(|v| v as f32).collect::<Vec<_>>();
        let tensor =
            |from: usize, n: usize| Tensor::<2>::from_data(TensorData::new(numbers(from, n), [n, 1]), &Device::flex());
        let shares = Share::divided(tensor(0, 6), &[1, 3, 2]);
        assert_eq!(shares.iter().map(Share::len).collect::<Vec<_>>(), [1, 3, 2]);
        let late = Share::divided(tensor(100, 2), &[2]).remove(0);
        let joined = |who: &[&Share]| nn::host(Share::joined(&who.iter().map(|s| (*s).clone()).collect::<Vec<_>>()));
        let [a, b, c] = [&shares[0], &shares[1], &shares[2]];
        assert_eq!(joined(&[a, b, c]), numbers(0, 6));
        assert_eq!(joined(&[b, c]), numbers(1, 5));
        assert_eq!(joined(&[a, c]), [0., 4., 5.]);
        assert_eq!(joined(&[c, a, b]), [4., 5., 0., 1., 2., 3.]);
        assert_eq!(joined(&[b, &late, a]), [1., 2., 3., 100., 101., 0.]);
    }
}
