//! Reads `.safetensors` files into the vocabulary of [`graph`](super::graph).

use super::{
    ConvertError,
    graph::{Element, Tensor},
};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;

/// Every tensor of a file by name. `what` names the file in errors.
pub fn tensors(what: &str, bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, ConvertError> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| ConvertError::malformed(what, format!("not a safetensors file: {e}")))?;
    file.iter()
        .map(|(name, view)| {
            let element = match view.dtype() {
                Dtype::F32 => Element::F32,
                Dtype::F64 => Element::F64,
                Dtype::F16 => Element::F16,
                Dtype::BF16 => Element::Bf16,
                Dtype::U8 => Element::U8,
                Dtype::I8 => Element::I8,
                Dtype::U16 => Element::U16,
                Dtype::I16 => Element::I16,
                Dtype::U32 => Element::U32,
                Dtype::I32 => Element::I32,
                Dtype::U64 => Element::U64,
                Dtype::I64 => Element::I64,
                Dtype::BOOL => Element::Bool,
                other => {
                    return Err(ConvertError::unsupported(
                        format!("tensor `{name}`"),
                        format!("safetensors element type {other:?}"),
                    ));
                }
            };
            Ok((name.to_owned(), Tensor::new(name, element, view.shape().to_vec(), view.data().to_vec())?))
        })
        .collect()
}

/// One tensor of [`tensors`], or the error that names it.
pub fn tensor<'a>(tensors: &'a BTreeMap<String, Tensor>, what: &str, name: &str) -> Result<&'a Tensor, ConvertError> {
    tensors.get(name).ok_or_else(|| ConvertError::MissingTensor { what: what.to_owned(), name: name.to_owned() })
}
