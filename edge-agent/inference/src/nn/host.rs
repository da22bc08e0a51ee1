//! Values on their way between a file, the host and the device.

use super::LoadError;
use crate::Device;
use burn::tensor::Tensor;
use nearfield_shared::gguf::Gguf;

/// Reads a tensor back to the host, row-major. It waits for the device.
///
/// # Panics
/// If the device fails. The engine takes that as the death of its worker, loads the models anew and tells the calls.
pub fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.try_into_data().unwrap_or_else(|e| panic!("the device failed: {e}"));
    data.try_into_vec::<f32>().expect("the engine computes in f32 on every device")
}

/// Refuses a file whose tensor `name` is of another shape. Networks whose sizes are fixed check every weight before they build
/// anything: a product of wrong sizes would otherwise panic in the middle of a call.
///
/// # Errors
/// [`LoadError::Gguf`] where it is missing, [`LoadError::Shape`].
pub fn expect_shape(gguf: &Gguf, name: &str, shape: &[usize]) -> Result<(), LoadError> {
    let view = gguf.tensor(name)?;
    if view.shape == shape { Ok(()) } else { Err(LoadError::shape(&view, format!("{shape:?}"))) }
}

/// Like [`expect_shape`] for a linear layer and its bias.
///
/// # Errors
/// As [`expect_shape`].
pub fn expect_linear(gguf: &Gguf, prefix: &str, inputs: usize, outputs: usize) -> Result<(), LoadError> {
    expect_shape(gguf, &format!("{prefix}.weight"), &[outputs, inputs])?;
    expect_shape(gguf, &format!("{prefix}.bias"), &[outputs])
}

/// Like [`expect_shape`] for a layer norm.
///
/// # Errors
/// As [`expect_shape`].
pub fn expect_norm(gguf: &Gguf, prefix: &str, width: usize) -> Result<(), LoadError> {
    expect_shape(gguf, &format!("{prefix}.weight"), &[width])?;
    expect_shape(gguf, &format!("{prefix}.bias"), &[width])
}

/// The values of the tensor `name` of exactly this shape, for weights that are rearranged before they go to a device.
///
/// # Errors
/// As [`expect_shape`].
pub fn values(gguf: &Gguf, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
    expect_shape(gguf, name, shape)?;
    Ok(gguf.tensor(name)?.to_f32())
}

/// Whether a device computes at once, in this process: then a shape it has not seen before costs nothing.
pub fn is_cpu(device: &Device) -> bool {
    *device == Device::flex()
}
