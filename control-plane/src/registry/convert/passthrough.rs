//! Models that are published as GGUF already: every tensor is taken over block for block, every metadata key as it is.

use super::{ConvertError, Quantise, Sources};
use nearfield_shared::gguf::{Gguf, GgufWriter};

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
    Ok(GgufWriter::from_gguf(&gguf))
}
