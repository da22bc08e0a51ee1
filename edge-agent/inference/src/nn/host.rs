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

/// The values of the tensor `name` of exactly this shape, for weights that are rearranged before they go to a device.
///
/// # Errors
/// [`LoadError::Gguf`] where it is missing, [`LoadError::Shape`].
pub fn values(gguf: &Gguf, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
    let view = gguf.tensor(name)?;
    if view.shape != shape {
        return Err(LoadError::shape(&view, format!("{shape:?}")));
    }
    Ok(view.to_f32())
}

/// Whether a device computes at once, in this process: then a shape it has not seen before costs nothing.
pub fn is_cpu(device: &Device) -> bool {
    *device == Device::flex()
}
