//! Layers that several stages share. Each is loaded from tensors of a GGUF file by the names that tools expect
//! (`PREFIX.weight`, `PREFIX.bias`) and computes in f32.

mod attention;
mod conv;
mod embedding;
mod host;
mod linear;
mod norm;
mod rope;
mod share;

use burn::tensor::{Tensor, TensorData};
use nearfield_shared::gguf::{BlockType, Gguf, GgufError, TensorView};

pub use attention::attention;
pub use burn::tensor::activation::silu;
pub use conv::Conv1d;
pub use embedding::Embedding;
pub use host::{expect_linear, expect_norm, expect_shape, host, is_cpu, values};
pub use linear::Linear;
pub use norm::{LayerNorm, RmsNorm};
pub use rope::{Rope, RopePairs};
pub use share::Share;

pub use crate::ops::gelu;

use crate::Device;

/// Bytes of weights as they stand in memory.
pub trait Resident {
    /// Bytes on the device and beside it, without activations and caches.
    fn resident_bytes(&self) -> usize;
}

impl<T: Resident> Resident for [T] {
    fn resident_bytes(&self) -> usize {
        self.iter().map(T::resident_bytes).sum()
    }
}

impl<T: Resident> Resident for Vec<T> {
    fn resident_bytes(&self) -> usize {
        self.as_slice().resident_bytes()
    }
}

impl<T: Resident> Resident for Option<T> {
    fn resident_bytes(&self) -> usize {
        self.as_ref().map_or(0, T::resident_bytes)
    }
}

impl<const D: usize> Resident for Tensor<D> {
    /// Of a tensor of 32-bit values.
    fn resident_bytes(&self) -> usize {
        self.dims().iter().product::<usize>() * 4
    }
}

/// Why a network cannot be built from a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Something is missing or mistyped in the file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A tensor has another shape than the network needs.
    #[error("tensor {name:?} has shape {found:?}, expected {expected}; import the model again with this version")]
    Shape {
        /// Tensor name.
        name: String,
        /// What the network needs.
        expected: String,
        /// What the file holds.
        found: Vec<usize>,
    },
    /// A tensor is stored in a way that this layer cannot use.
    #[error("tensor {name:?} is stored as {found}, which this layer cannot use; expected {expected}")]
    Block {
        /// Tensor name.
        name: String,
        /// What would do.
        expected: &'static str,
        /// How it is stored.
        found: BlockType,
    },
    /// The file is for another network.
    #[error("the file holds a {found:?} model, expected {expected:?}")]
    Architecture {
        /// What the stage runs.
        expected: &'static str,
        /// `general.architecture` of the file.
        found: String,
    },
    /// A number in the metadata that the network cannot have.
    #[error("{0}; import the model again with this version")]
    Config(String),
}

impl LoadError {
    fn shape(view: &TensorView<'_>, expected: impl Into<String>) -> Self {
        Self::Shape { name: view.name.to_owned(), expected: expected.into(), found: view.shape.clone() }
    }
}

/// Refuses a file of another architecture.
///
/// # Errors
/// [`LoadError::Architecture`], or [`LoadError::Gguf`] where the file names none.
pub fn expect_architecture(gguf: &Gguf, expected: &'static str) -> Result<(), LoadError> {
    match gguf.architecture()? {
        found if found == expected => Ok(()),
        found => Err(LoadError::Architecture { expected, found: found.to_owned() }),
    }
}

/// A tensor of the file as f32 on the device, whatever its block type; its number of dimensions must be D.
///
/// # Errors
/// [`LoadError::Gguf`] where it is missing, [`LoadError::Shape`].
pub fn tensor_f32<const D: usize>(gguf: &Gguf, name: &str, device: &Device) -> Result<Tensor<D>, LoadError> {
    let view = gguf.tensor(name)?;
    if view.shape.len() != D {
        return Err(LoadError::shape(&view, format!("{D} dimensions")));
    }
    Ok(Tensor::from_data(TensorData::new(view.to_f32(), view.shape.clone()), device))
}

/// The vector `name` of `len` values, or `None` where the file has none of that name.
fn optional_vector(gguf: &Gguf, name: &str, len: usize, device: &Device) -> Result<Option<Tensor<1>>, LoadError> {
    if !gguf.has_tensor(name) {
        return Ok(None);
    }
    let view = gguf.tensor(name)?;
    if view.shape != [len] {
        return Err(LoadError::shape(&view, format!("[{len}]")));
    }
    tensor_f32(gguf, name, device).map(Some)
}

#[cfg(test)]
mod tests;
