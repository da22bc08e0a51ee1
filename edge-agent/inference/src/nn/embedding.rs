//! Embedding tables.

use burn::tensor::Tensor;
use nearfield_shared::gguf::{BlockType, Gguf};

use super::{Linear, LoadError, Resident, linear::Weight};
use crate::{
    Device,
    ops::{self, Blocks},
};

/// A table `[vocabulary, width]`, quantised or not; a look-up dequantises only the rows asked for.
#[derive(Debug, Clone)]
pub struct Embedding {
    weight: Weight,
    device: Device,
}

impl Embedding {
    /// Loads `PREFIX.weight` `[vocabulary, width]`.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(gguf: &Gguf, prefix: &str, device: &Device) -> Result<Self, LoadError> {
        let view = gguf.tensor(&format!("{prefix}.weight"))?;
        if view.shape.len() != 2 {
            return Err(LoadError::shape(&view, "[vocabulary, width]"));
        }
        let weight = match view.block {
            BlockType::F32 => Weight::dense(&[view], device),
            BlockType::I8 => {
                return Err(LoadError::Block { name: view.name.to_owned(), expected: "weights", found: view.block });
            }
            _ => Weight::Blocks(Blocks::from_view(&view, device)),
        };
        Ok(Self { weight, device: device.clone() })
    }

    /// Rows in the table.
    pub fn vocabulary(&self) -> usize {
        match &self.weight {
            Weight::Dense(w) => w.dims()[1],
            Weight::Blocks(b) => b.rows(),
            Weight::Host(w) => w.rows(),
        }
    }

    /// The rows of these ids, `[ids, width]`.
    ///
    /// # Panics
    /// If an id is not in the table: ids come from our own tokenizers, which cannot produce one.
    pub fn rows(&self, ids: &[u32]) -> Tensor<2> {
        let vocabulary = self.vocabulary();
        assert!(ids.iter().all(|&i| (i as usize) < vocabulary), "a token id is beyond the {vocabulary} of the table");
        match &self.weight {
            Weight::Dense(w) => w.clone().transpose().select(0, ops::ids(ids, &self.device)),
            Weight::Blocks(b) => ops::q_rows(b, ops::ids(ids, &self.device)),
            Weight::Host(_) => unreachable!("a table is loaded as a tensor or as blocks"),
        }
    }

    /// The table as the layer that scores every entry (a tied head). It shares the table's memory.
    pub fn as_linear(&self) -> Linear {
        Linear::from_weight(self.weight.clone())
    }
}

impl Resident for Embedding {
    fn resident_bytes(&self) -> usize {
        self.weight.resident_bytes()
    }
}
