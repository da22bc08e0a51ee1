//! Moonshine (speech recognition), from ONNX Runtime's `.ort` files: `encoder`, `decoder` (the merged one, whose `If` has a
//! branch with and one without a cache) and `tokenizer` (`tokenizer.bin`).
//!
//! The files hold matrices as `[in, out]` of unsigned bytes with one scale and one zero point each; they are brought back to
//! floats, turned to `[out, in]`, and stored under the names that Hugging Face's transformers gives them
//! (`model.encoder.layers.0.self_attn.q_proj.weight`). The head (`proj_out`) is the embedding table again and left out.
//!
//! Convolutions are stored as the matrices that they are: `[out, kernel · in]`, the taps one after the other, each with all
//! its inputs, so that a window of frames laid out in time order is a row to multiply with. conv1's 127 taps of one
//! input are followed by a zero, which makes two rows of its stride. conv1 reads samples and stays in floats; conv2 and conv3
//! are a third of the encoder's work and most of its bytes and are quantised like every matrix.

use super::{ConvertError, Quantise, Sources, graph::Graph, graph::Node, graph::Tensor, graph::transposed, ort};
use nearfield_shared::gguf::{BlockType, GgufError, GgufWriter, Value};

/// Attention heads; the graph shows them only inside of constants for reshaping. The same in the tiny and the base model.
const HEADS: u32 = 8;
/// Columns of a head that turn with its position; the same in both.
const ROPE_DIMS: u32 = 32;
/// Ids of the tokens that begin and end a transcript.
const BOS: u32 = 1;
/// See [`BOS`].
const EOS: u32 = 2;
/// Tokens that one second of speech may take at most; beyond it the model repeats itself.
const TOKENS_PER_SECOND: f32 = 6.5;
/// Most layers that are looked for.
const LAYERS_MAX: usize = 64;
/// Most tokens in a vocabulary.
const TOKENS_MAX: usize = 1 << 20;

/// Converts the three sources.
pub fn convert(sources: &Sources, quantise: Quantise) -> Result<GgufWriter, ConvertError> {
    let encoder = ort::Model::parse("encoder", sources.get("encoder")?)?.graph;
    let decoder = ort::Model::parse("decoder", sources.get("decoder")?)?.graph;
    let tokens = tokens(sources.get("tokenizer")?)?;
    let branch = decoder.nodes_of("If").find_map(|node| node.graph("else_branch")).ok_or_else(|| {
        ConvertError::malformed("decoder", "there is no `If` with the branch that starts a transcript")
    })?;
    let encoder = Scope { what: "encoder", graphs: vec![&encoder] };
    let decoder = Scope { what: "decoder", graphs: vec![branch, &decoder] };

    let mut out = Output { writer: GgufWriter::new("moonshine"), quantise };
    let width = out.front(&encoder)?;
    let encoder_layers = encoder.layers("")?;
    let mut inner = 0;
    for i in 0..encoder_layers {
        let (at, name) = (format!("/layers.{i}"), format!("model.encoder.layers.{i}"));
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            out.norm(&encoder, &at, norm, &name)?;
        }
        for matrix in ["q_proj", "k_proj", "v_proj", "o_proj"].map(|m| format!("self_attn/{m}")) {
            out.linear(&encoder, &at, &matrix, &name)?;
        }
        inner = out.linear(&encoder, &at, "mlp/fc1", &name)?;
        out.linear(&encoder, &at, "mlp/fc2", &name)?;
    }
    out.vector("model.encoder.layer_norm.weight", encoder.tensor("layer_norm.weight")?)?;

    let decoder_layers = decoder.layers("/model/decoder")?;
    for i in 0..decoder_layers {
        let (at, name) = (format!("/model/decoder/layers.{i}"), format!("model.decoder.layers.{i}"));
        for norm in ["input_layernorm", "post_attention_layernorm", "final_layernorm"] {
            out.norm(&decoder, &at, norm, &name)?;
        }
        for attention in ["self_attn", "encoder_attn"] {
            for matrix in ["q_proj", "k_proj", "v_proj", "o_proj"] {
                out.linear(&decoder, &at, &format!("{attention}/{matrix}"), &name)?;
            }
        }
        for matrix in ["mlp/fc1", "mlp/fc2"] {
            out.linear(&decoder, &at, matrix, &name)?;
        }
    }
    out.norm(&decoder, "/model/decoder", "norm", "model.decoder")?;
    out.embedding(&decoder, width, tokens.len())?;

    let mut writer = out.writer;
    writer
        .meta("general.name", "moonshine-tiny")
        .meta("moonshine.embedding_length", width as u32)
        .meta("moonshine.feed_forward_length", inner as u32)
        .meta("moonshine.encoder.block_count", encoder_layers as u32)
        .meta("moonshine.decoder.block_count", decoder_layers as u32)
        .meta("moonshine.attention.head_count", HEADS)
        .meta("moonshine.attention.layer_norm_epsilon", 1e-5f32)
        .meta("moonshine.rope.dimension_count", ROPE_DIMS)
        .meta("moonshine.rope.freq_base", 10_000f32)
        .meta("moonshine.tokens_per_second", TOKENS_PER_SECOND)
        .meta("tokenizer.ggml.model", "llama")
        .meta("tokenizer.ggml.bos_token_id", BOS)
        .meta("tokenizer.ggml.eos_token_id", EOS)
        .meta("tokenizer.ggml.unknown_token_id", 0u32);
    let (texts, kinds): (Vec<String>, Vec<i32>) = tokens.into_iter().unzip();
    writer.meta("tokenizer.ggml.tokens", Value::Array(texts.into_iter().map(Value::String).collect()));
    writer.meta("tokenizer.ggml.token_type", Value::Array(kinds.into_iter().map(Value::I32).collect()));
    Ok(writer)
}

/// A graph with those around it, whose tensors it may use.
struct Scope<'a> {
    what: &'static str,
    graphs: Vec<&'a Graph>,
}

impl<'a> Scope<'a> {
    fn find(&self, name: &str) -> Option<&'a Tensor> {
        self.graphs.iter().find_map(|graph| graph.tensors.get(name))
    }

    fn tensor(&self, name: &str) -> Result<&'a Tensor, ConvertError> {
        self.find(name).ok_or_else(|| ConvertError::MissingTensor { what: self.what.to_owned(), name: name.to_owned() })
    }

    fn node(&self, name: &str) -> Result<&'a Node, ConvertError> {
        self.graphs[0].node(name)
    }

    /// How many layers there are: as many as have a first norm.
    fn layers(&self, prefix: &str) -> Result<usize, ConvertError> {
        let has = |i: &usize| self.node(&format!("{prefix}/layers.{i}/input_layernorm/LayerNormalization")).is_ok();
        match (0..LAYERS_MAX).take_while(has).count() {
            0 => Err(ConvertError::malformed(self.what, "there are no layers named `layers.0`")),
            n => Ok(n),
        }
    }

    /// The floats behind `BASE_quantized`, `BASE_scale`, `BASE_zero_point`.
    fn dequantised(&self, quantized: &Tensor) -> Result<Vec<f32>, ConvertError> {
        let base = quantized.name.trim_end_matches("_quantized");
        let scale = self.tensor(&format!("{base}_scale"))?;
        quantized.dequantised(scale, self.find(&format!("{base}_zero_point")), 1)
    }
}

struct Output {
    writer: GgufWriter,
    quantise: Quantise,
}

impl Output {
    /// The three convolutions and the norm between them; the width of the model comes back.
    fn front(&mut self, encoder: &Scope<'_>) -> Result<usize, ConvertError> {
        let name = |conv: &str| format!("{conv}.weight_add_tensor");
        let mut channels = 1;
        for conv in ["conv1", "conv2", "conv3"] {
            let weight = encoder.tensor(&name(conv))?;
            let &[rows, inputs, taps] = weight.shape.as_slice() else {
                return Err(shape(weight, "[out, in, kernel]"));
            };
            if inputs != channels {
                return Err(shape(weight, &format!("{channels} inputs, as many as the layer before has outputs")));
            }
            channels = rows;
            // conv1 reads two rows of 64 samples for each output: 127 taps and a zero.
            let padded = if conv == "conv1" { taps.next_multiple_of(2) } else { taps };
            let values = weight.f32s();
            let mut matrix = Vec::with_capacity(rows * padded * inputs);
            for row in values.chunks_exact(inputs * taps) {
                for tap in 0..padded {
                    matrix.extend((0..inputs).map(|input| if tap < taps { row[input * taps + tap] } else { 0.0 }));
                }
            }
            let columns = padded * inputs;
            let block = if conv == "conv1" { BlockType::F32 } else { self.quantise.matrix(columns) };
            let to = format!("model.encoder.{conv}");
            self.writer.tensor_f32(&format!("{to}.weight"), &[rows, columns], block, &matrix).map_err(gguf)?;
            if let Some(bias) = encoder.find(&format!("{conv}.bias")) {
                self.vector(&format!("{to}.bias"), bias)?;
            }
        }
        // The group norm's weight and bias are found where they are used: their names are the exporter's numbers.
        for (part, op) in [("weight", "Mul"), ("bias", "Add")] {
            let node = encoder.node(&format!("/groupnorm/{op}"))?;
            let tensor = node.inputs.iter().find_map(|input| encoder.find(input));
            let tensor = tensor.ok_or_else(|| ConvertError::MissingTensor {
                what: encoder.what.to_owned(),
                name: format!("the {part} of /groupnorm"),
            })?;
            self.vector(&format!("model.encoder.groupnorm.{part}"), tensor)?;
        }
        Ok(channels)
    }

    /// `AT/MATRIX/MatMul_quant` becomes `NAME.MATRIX.weight` and, where it adds one, `NAME.MATRIX.bias`. Its number of
    /// outputs comes back.
    fn linear(&mut self, scope: &Scope<'_>, at: &str, matrix: &str, name: &str) -> Result<usize, ConvertError> {
        let node = scope.node(&format!("{at}/{matrix}/MatMul_quant"))?;
        let weight = node
            .inputs
            .iter()
            .filter(|input| input.ends_with("_quantized"))
            .find_map(|input| scope.find(input))
            .ok_or_else(|| {
                ConvertError::malformed(scope.what, format!("node `{}` has no quantised weight", node.name))
            })?;
        let &[inputs, outputs] = weight.shape.as_slice() else { return Err(shape(weight, "[in, out]")) };
        let values = transposed(&scope.dequantised(weight)?, inputs, outputs);
        let to = format!("{name}.{}", matrix.replace('/', "."));
        let block = self.quantise.matrix(inputs);
        self.writer.tensor_f32(&format!("{to}.weight"), &[outputs, inputs], block, &values).map_err(gguf)?;
        // A bias carries its layer's name, with a suffix where the two branches of the decoder were merged.
        let is_bias = |input: &&String| input.split("_merged").next().is_some_and(|n| n.ends_with(".bias"));
        if let Some(bias) = node.inputs.iter().filter(is_bias).find_map(|input| scope.find(input)) {
            bias.expect_shape(&[outputs])?;
            self.vector(&format!("{to}.bias"), bias)?;
        }
        Ok(outputs)
    }

    fn norm(&mut self, scope: &Scope<'_>, at: &str, norm: &str, name: &str) -> Result<(), ConvertError> {
        let node = scope.node(&format!("{at}/{norm}/LayerNormalization"))?;
        let weight = node
            .inputs
            .iter()
            .filter(|input| input.contains("weight"))
            .find_map(|input| scope.find(input))
            .ok_or_else(|| ConvertError::malformed(scope.what, format!("node `{}` has no weight", node.name)))?;
        self.vector(&format!("{name}.{norm}.weight"), weight)
    }

    fn embedding(&mut self, decoder: &Scope<'_>, width: usize, tokens: usize) -> Result<(), ConvertError> {
        let node = decoder.node("/model/decoder/embed_tokens/Gather")?;
        let table = node.inputs.iter().find_map(|input| decoder.find(input)).ok_or_else(|| {
            ConvertError::malformed(decoder.what, "the embedding's look-up reads no tensor of the file")
        })?;
        if table.shape != [tokens, width] {
            return Err(shape(table, &format!("[{tokens}, {width}], a row for each of the tokenizer's tokens")));
        }
        let values = decoder.dequantised(table)?;
        let block = self.quantise.embedding(width);
        let to = "model.decoder.embed_tokens.weight";
        self.writer.tensor_f32(to, &[tokens, width], block, &values).map_err(gguf)?;
        Ok(())
    }

    /// A tensor as a vector in floats, whatever its dimensions of one.
    fn vector(&mut self, name: &str, tensor: &Tensor) -> Result<(), ConvertError> {
        self.writer.tensor_f32(name, &[tensor.len()], BlockType::F32, &tensor.f32s()).map_err(gguf)?;
        Ok(())
    }
}

fn shape(tensor: &Tensor, expected: &str) -> ConvertError {
    ConvertError::Shape { name: tensor.name.clone(), found: tensor.shape.clone(), expected: expected.to_owned() }
}

fn gguf(error: GgufError) -> ConvertError {
    ConvertError::Gguf(error.to_string())
}

/// Kinds of token, as GGUF numbers them.
mod kind {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const BYTE: i32 = 6;
}

/// Reads `tokenizer.bin`: for each token its length (one byte below 128, else two: the low seven bits first) and its bytes.
fn tokens(mut bytes: &[u8]) -> Result<Vec<(String, i32)>, ConvertError> {
    let mut tokens = Vec::new();
    while !bytes.is_empty() {
        let mut len = usize::from(take(&mut bytes, 1)?[0]);
        if len >= 128 {
            len = len - 128 + 128 * usize::from(take(&mut bytes, 1)?[0]);
        }
        let token = take(&mut bytes, len)?;
        if tokens.len() >= TOKENS_MAX {
            return Err(ConvertError::malformed("tokenizer", format!("it has more than {TOKENS_MAX} tokens")));
        }
        tokens.push(match (tokens.len(), token) {
            (0, _) => ("<unk>".to_owned(), kind::UNKNOWN),
            // The 256 bytes stand after the three marks. An empty entry fills a place and is never said.
            (3..259, &[byte]) => (format!("<0x{byte:02X}>"), kind::BYTE),
            (_, b"") => (String::new(), kind::CONTROL),
            (at, token) => {
                let text = std::str::from_utf8(token).map_err(|_| {
                    ConvertError::malformed("tokenizer", format!("token {at} is neither a byte nor UTF-8"))
                })?;
                let mark = (text.starts_with("<s") || text.starts_with("</s") || text.starts_with("<<"))
                    && text.ends_with('>');
                (text.to_owned(), if mark { kind::CONTROL } else { kind::NORMAL })
            }
        });
    }
    if tokens.len() <= EOS as usize {
        return Err(ConvertError::malformed("tokenizer", format!("it has only {} tokens", tokens.len())));
    }
    Ok(tokens)
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Result<&'a [u8], ConvertError> {
    let (head, rest) =
        bytes.split_at_checked(n).ok_or_else(|| ConvertError::malformed("tokenizer", "it ends within a token"))?;
    *bytes = rest;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokenizer_is_read_or_refused() {
        let check = |bytes: &[u8], expected: Result<&[(&str, i32)], &str>| match (tokens(bytes), expected) {
            (Ok(found), Ok(expected)) => {
                let found: Vec<(&str, i32)> = found.iter().map(|(text, kind)| (text.as_str(), *kind)).collect();
                assert_eq!(found, expected);
            }
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        };
        let marks = [("<unk>", 2), ("<s>", 3), ("</s>", 3)];
        check(b"\x05<unk>\x03<s>\x04</s>", Ok(&marks));
        check(b"\x05<unk>\x03<s>\x04</s>\x01\xff", Ok(&[&marks[..], &[("<0xFF>", 6)]].concat()));
        check("\x05<unk>\x03<s>\x04</s>\x04▁a".as_bytes(), Ok(&[&marks[..], &[("▁a", 1)]].concat()));
        check(b"\x05<unk>\x03<s>\x04</s>\x00", Ok(&[&marks[..], &[("", 3)]].concat()));
        let long = [b"\x05<unk>\x03<s>\x04</s>\x82\x01".as_slice(), &[b'x'; 130]].concat();
        check(&long, Ok(&[&marks[..], &[("x".repeat(130).as_str(), 1)]].concat()));
        check(b"", Err("only 0 tokens"));
        check(b"\x05<unk>\x03<s>", Err("only 2 tokens"));
        check(b"\x05<unk>\x03<s>\x04</s>\x09abc", Err("ends within"));
        check(b"\x05<unk>\x03<s>\x04</s>\x80", Err("ends within"));
        check(b"\x05<unk>\x03<s>\x04</s>\x02\xff\xfe", Err("neither a byte nor UTF-8"));
    }

    #[test]
    fn damaged_sources_are_errors() {
        let sources: Sources =
            ["encoder", "decoder", "tokenizer"].into_iter().map(|role| (role, b"not a model".to_vec())).collect();
        assert!(matches!(convert(&sources, Quantise::Q8_0), Err(ConvertError::Malformed { .. })));
        assert!(matches!(convert(&Sources::new(), Quantise::Q8_0), Err(ConvertError::MissingSource { .. })));
    }
}
