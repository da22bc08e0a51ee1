//! Rotary position embedding.

use burn::tensor::{Int, Tensor, TensorData};

use super::Resident;
use crate::{Device, ops};

/// Which columns of a head are turned together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairs {
    /// `i` and `i + dims / 2` (Hugging Face's Llama, NeoX).
    Halves,
    /// `2i` and `2i + 1` (the original paper; llama.cpp's Llama; Moonshine).
    Neighbours,
}

/// Cosines and sines of every position.
#[derive(Debug, Clone)]
pub struct Rope {
    table: Tensor<2>,
    pairs: RopePairs,
    positions: usize,
}

impl Rope {
    /// For `positions` positions; the first `dims` columns of a head turn, by `position / theta^(2i / dims)`.
    pub fn new(positions: usize, dims: usize, theta: f64, pairs: RopePairs, device: &Device) -> Self {
        let half = dims / 2;
        let angle = |p: usize, i: usize| p as f64 / theta.powf(2.0 * i as f64 / dims as f64);
        let values: Vec<f32> = (0..positions)
            .flat_map(|p| {
                let cos = (0..half).map(move |i| angle(p, i).cos() as f32);
                cos.chain((0..half).map(move |i| angle(p, i).sin() as f32))
            })
            .collect();
        let table = Tensor::from_data(TensorData::new(values, [positions, dims]), device);
        Self { table, pairs, positions }
    }

    /// Turns the heads of x `[t, heads · dim]`, whose rows stand at consecutive positions from `start` on.
    pub fn forward(&self, x: Tensor<2>, dim: usize, start: usize) -> Tensor<2> {
        let positions: Vec<u32> = (start..start + x.dims()[0]).map(|p| p as u32).collect();
        self.forward_at(x, dim, self.positions(&positions))
    }

    /// Turns the heads of x `[t, heads · dim]`; `positions` has one for each row and comes from [`Rope::positions`].
    pub fn forward_at(&self, x: Tensor<2>, dim: usize, positions: Tensor<1, Int>) -> Tensor<2> {
        ops::rotate(x, self.table.clone(), positions, dim, self.pairs == RopePairs::Neighbours)
    }

    /// Positions on the device, to be used for every layer of a step.
    ///
    /// # Panics
    /// If one is beyond the table: the caller bounds its sequences.
    pub fn positions(&self, positions: &[u32]) -> Tensor<1, Int> {
        let limit = self.positions;
        assert!(positions.iter().all(|&p| (p as usize) < limit), "a position is beyond the {limit} of the table");
        ops::ids(positions, &self.table.device())
    }
}

impl Resident for Rope {
    fn resident_bytes(&self) -> usize {
        self.table.resident_bytes()
    }
}
