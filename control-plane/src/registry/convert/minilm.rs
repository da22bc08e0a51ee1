//! all-MiniLM-L6-v2 from safetensors: BERT's names become those of GGUF's `bert`, the tokenizer comes along as it is.
//!
//! Roles: `model` (safetensors), `tokenizer` (tokenizer.json). The pooler is left out, because a sentence's embedding is the mean
//! over its words.

use nearfield_shared::gguf::{BlockType, GgufWriter};

use super::safetensors::{tensor, tensors};
use super::{ConvertError, Quantise, Sources};

const WIDTH: usize = 384;
const INNER: usize = 1536;
const HEADS: u32 = 12;
/// Of all LayerNorms, as the model's config.json has it.
const NORM_EPS: f32 = 1e-12;

/// Converts the model.
///
/// # Errors
/// [`ConvertError`], for a file that is not this model.
pub fn convert(sources: &Sources, quantise: Quantise) -> Result<GgufWriter, ConvertError> {
    let weights = tensors("model", sources.get("model")?)?;
    let mut out = GgufWriter::new("minilm");
    let mut write = |to: &str, from: &str, shape: &[usize], block: BlockType| -> Result<(), ConvertError> {
        let values = tensor(&weights, "model", from)?.expect_shape(shape)?.f32s();
        out.tensor_f32(to, shape, block, &values).map(|_| ()).map_err(|e| ConvertError::Gguf(e.to_string()))
    };
    let (wide, deep) = (quantise.matrix(WIDTH), quantise.matrix(INNER));
    let words = tensor(&weights, "model", "embeddings.word_embeddings.weight")?.shape.first().copied().unwrap_or(0);
    let places =
        tensor(&weights, "model", "embeddings.position_embeddings.weight")?.shape.first().copied().unwrap_or(0);
    write("token_embd.weight", "embeddings.word_embeddings.weight", &[words, WIDTH], quantise.embedding(WIDTH))?;
    write("position_embd.weight", "embeddings.position_embeddings.weight", &[places, WIDTH], BlockType::F32)?;
    write("token_types.weight", "embeddings.token_type_embeddings.weight", &[2, WIDTH], BlockType::F32)?;
    for part in ["weight", "bias"] {
        write(&format!("token_embd_norm.{part}"), &format!("embeddings.LayerNorm.{part}"), &[WIDTH], BlockType::F32)?;
    }
    let mut layers = 0u32;
    while weights.contains_key(&format!("encoder.layer.{layers}.output.dense.weight")) {
        let linears = [
            ("attn_q", "attention.self.query", WIDTH, WIDTH, wide),
            ("attn_k", "attention.self.key", WIDTH, WIDTH, wide),
            ("attn_v", "attention.self.value", WIDTH, WIDTH, wide),
            ("attn_output", "attention.output.dense", WIDTH, WIDTH, wide),
            ("ffn_up", "intermediate.dense", INNER, WIDTH, wide),
            ("ffn_down", "output.dense", WIDTH, INNER, deep),
        ];
        for (to, from, outputs, inputs, block) in linears {
            let (to, from) = (format!("blk.{layers}.{to}"), format!("encoder.layer.{layers}.{from}"));
            write(&format!("{to}.weight"), &format!("{from}.weight"), &[outputs, inputs], block)?;
            write(&format!("{to}.bias"), &format!("{from}.bias"), &[outputs], BlockType::F32)?;
        }
        for (to, from) in
            [("attn_output_norm", "attention.output.LayerNorm"), ("layer_output_norm", "output.LayerNorm")]
        {
            for part in ["weight", "bias"] {
                let from = format!("encoder.layer.{layers}.{from}.{part}");
                write(&format!("blk.{layers}.{to}.{part}"), &from, &[WIDTH], BlockType::F32)?;
            }
        }
        layers += 1;
    }
    if layers == 0 {
        return Err(ConvertError::malformed("model", "it has no encoder layers"));
    }
    out.meta("minilm.block_count", layers);
    out.meta("minilm.embedding_length", WIDTH as u32);
    out.meta("minilm.feed_forward_length", INNER as u32);
    out.meta("minilm.attention.head_count", HEADS);
    out.meta("minilm.attention.layer_norm_epsilon", NORM_EPS);
    let tokenizer = sources.text("tokenizer")?;
    let _: serde_json::Value = serde_json::from_str(tokenizer).map_err(|e| ConvertError::malformed("tokenizer", e))?;
    out.meta("tokenizer.huggingface.json", tokenizer);
    Ok(out)
}
