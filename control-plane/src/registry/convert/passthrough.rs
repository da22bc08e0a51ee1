//! Models that are published as GGUF already: every tensor is taken over block for block, every metadata key as it is.

use super::{ConvertError, Quantise, Sources};
use nearfield_shared::gguf::{Gguf, GgufWriter};

/// See [`Converter::version`](super::Converter::version).
pub const VERSION: u32 = 1;

/// Copies the source with role `model`. Only [`Quantise::Keep`] is possible: the weights were quantised from floats that
/// are not in the file, and quantising twice costs quality for nothing.
pub fn convert(sources: &Sources, quantise: Quantise) -> Result<GgufWriter, ConvertError> {
    if quantise != Quantise::Keep {
        return Err(ConvertError::unsupported(
            "a GGUF source",
            format!("quantising it again to {quantise}; use `keep`, or a source in floats,"),
        ));
    }
    let gguf = Gguf::parse(sources.get("model")?.to_vec()).map_err(|e| ConvertError::Gguf(e.to_string()))?;
    let architecture = gguf.str("general.architecture").map_err(|e| ConvertError::Gguf(e.to_string()))?;
    let mut writer = GgufWriter::new(architecture);
    // Both are the writer's own business: it states the architecture itself and aligns tensors its own way.
    for (key, value) in
        gguf.metadata().iter().filter(|(k, _)| !matches!(k.as_str(), "general.architecture" | "general.alignment"))
    {
        writer.meta(key, value.clone());
    }
    for tensor in gguf.tensors() {
        writer
            .tensor(tensor.name, &tensor.shape, tensor.block, tensor.data.to_vec())
            .map_err(|e| ConvertError::Gguf(e.to_string()))?;
    }
    Ok(writer)
}
