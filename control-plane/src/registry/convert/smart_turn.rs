//! Smart Turn v3: whisper-tiny's encoder with attention pooling and a small classifier, as the `pipecat-ai` package ships it
//! (int8, quantise-dequantise pairs, one scale for each output).
//!
//! The integers of the weights are kept ([`int8`](super::int8)). What is not kept is the graph's static 8-bit quantisation of the
//! *activations*: it is a compromise for runtimes with integer kernels only, and it costs accuracy. On twelve utterances that are
//! complete and the same ones cut at 60 %, the graph as published judges 83 % and 42 % rightly; with float activations it
//! is 92 % and 50 %.
//!
//! The exporter named matrices by number (`val_17`), so they are found by the biases they are added to, which keep their names.
//! Convolutions are written as matrices over (tap, channel), which is what a convolution over time-major frames multiplies with.

use super::{
    ConvertError, Quantise, Sources,
    graph::{Graph, Node},
    int8::Int8Matrix,
    onnx,
};
use nearfield_shared::gguf::{BlockType, GgufWriter};

const WHAT: &str = "the Smart Turn model";
const LAYERS: usize = 4;
const WIDTH: usize = 384;
const FEED_FORWARD: usize = 1536;
const POSITIONS: usize = 400;
const MELS: usize = 80;
const TAPS: usize = 3;
/// Columns of the first convolution: 3 × 80 = 240, filled up with zeros to whole blocks of 32.
const CONV1_COLUMNS: usize = 256;

/// Reads the source with role `model`.
pub fn convert(sources: &Sources, quantise: Quantise) -> Result<GgufWriter, ConvertError> {
    let graph = onnx::Model::parse(WHAT, sources.get("model")?)?.graph;
    let mut out = GgufWriter::new("smart-turn");
    for (key, value) in [
        ("smart-turn.block_count", LAYERS),
        ("smart-turn.embedding_length", WIDTH),
        ("smart-turn.feed_forward_length", FEED_FORWARD),
        ("smart-turn.attention.head_count", 6),
        ("smart-turn.context_length", POSITIONS),
        ("smart-turn.mel_bands", MELS),
        ("smart-turn.sample_rate", 16_000),
    ] {
        out.meta(key, value as u32);
    }
    let mut source = Source { graph: &graph, out: &mut out, quantise };

    source.convolution("conv1", MELS, CONV1_COLUMNS)?;
    source.convolution("conv2", WIDTH, TAPS * WIDTH)?;
    source.float("encoder.position.weight", "inner.encoder.embed_positions.weight", &[POSITIONS, WIDTH])?;
    for layer in 0..LAYERS {
        source.layer(layer)?;
    }
    source.norm("encoder.norm", "inner.encoder.layer_norm", WIDTH)?;

    source.linear("pool.0", "inner.pool_attention.0", 256, WIDTH)?;
    source.linear("pool.1", "inner.pool_attention.2", 1, 256)?;
    source.gemm("classifier.0", "inner.classifier.0", 256, WIDTH)?;
    source.norm("classifier.norm", "inner.classifier.1", 256)?;
    source.gemm("classifier.1", "inner.classifier.4", 64, 256)?;
    source.gemm("classifier.2", "inner.classifier.6", 1, 64)?;
    Ok(out)
}

struct Source<'a> {
    graph: &'a Graph,
    out: &'a mut GgufWriter,
    quantise: Quantise,
}

impl Source<'_> {
    fn float(&mut self, name: &str, source: &str, shape: &[usize]) -> Result<(), ConvertError> {
        let values = self.graph.tensor(source)?.expect_shape(shape)?.f32s();
        self.out.tensor_f32(name, shape, BlockType::F32, &values)?;
        Ok(())
    }

    fn norm(&mut self, name: &str, source: &str, width: usize) -> Result<(), ConvertError> {
        self.float(&format!("{name}.weight"), &format!("{source}.weight"), &[width])?;
        self.float(&format!("{name}.bias"), &format!("{source}.bias"), &[width])
    }

    fn matrix(&mut self, name: &str, weight: &str, rows: usize, columns: usize) -> Result<(), ConvertError> {
        read(self.graph, weight, true)?.expect(weight, rows, columns)?.write_as(
            self.out,
            &format!("{name}.weight"),
            self.quantise,
        )
    }

    /// A linear layer whose bias kept its name and whose matrix did not.
    fn linear(&mut self, name: &str, source: &str, rows: usize, columns: usize) -> Result<(), ConvertError> {
        let bias = format!("{source}.bias");
        let weight = weight_of(self.graph, matmul_before(self.graph, &bias)?)?;
        self.matrix(name, &weight, rows, columns)?;
        self.float(&format!("{name}.bias"), &bias, &[rows])
    }

    /// A `Gemm` of the classifier: matrix `[out, in]` and bias are both named, both quantised.
    fn gemm(&mut self, name: &str, source: &str, rows: usize, columns: usize) -> Result<(), ConvertError> {
        let weight = format!("{source}.weight");
        read(self.graph, &weight, false)?.expect(&weight, rows, columns)?.write_as(
            self.out,
            &format!("{name}.weight"),
            self.quantise,
        )?;
        self.quantised_bias(name, source, rows)
    }

    fn quantised_bias(&mut self, name: &str, source: &str, rows: usize) -> Result<(), ConvertError> {
        let bias = format!("{source}.bias_quantized");
        let tensor = self.graph.tensor(&bias)?.expect_shape(&[rows])?;
        let scale = self.graph.tensor(&format!("{bias}_scale"))?;
        let values = tensor.dequantised(scale, self.graph.tensors.get(&format!("{bias}_zero_point")), 0)?;
        self.out.tensor_f32(&format!("{name}.bias"), &[rows], BlockType::F32, &values)?;
        Ok(())
    }

    /// `[out, channel, tap]` to `[out, tap × channel]`, filled up with zeros to `columns`.
    fn convolution(&mut self, name: &str, channels: usize, columns: usize) -> Result<(), ConvertError> {
        let source = format!("inner.encoder.{name}");
        let weight = format!("{source}.weight");
        let order: Vec<Option<usize>> =
            (0..columns).map(|i| (i < TAPS * channels).then(|| (i % channels) * TAPS + i / channels)).collect();
        read(self.graph, &weight, false)?.expect(&weight, WIDTH, channels * TAPS)?.with_columns(&order).write_as(
            self.out,
            &format!("{name}.weight"),
            self.quantise,
        )?;
        self.quantised_bias(name, &source, WIDTH)
    }

    /// Query, key and value below one another, so that they are one product. Keys have no bias.
    fn query_key_value(&mut self, name: &str, source: &str) -> Result<(), ConvertError> {
        let [query_bias, value_bias] = ["q_proj", "v_proj"].map(|of| format!("{source}.{of}.bias"));
        let query = matmul_before(self.graph, &query_bias)?;
        let value = matmul_before(self.graph, &value_bias)?;
        let key = third_product(self.graph, query, value)?;
        let mut parts = Vec::new();
        for node in [query, key, value] {
            let weight = weight_of(self.graph, node)?;
            parts.push(read(self.graph, &weight, true)?.expect(&weight, WIDTH, WIDTH)?);
        }
        Int8Matrix::stacked(parts).write_as(self.out, &format!("{name}.weight"), self.quantise)?;
        let mut bias = self.graph.tensor(&query_bias)?.expect_shape(&[WIDTH])?.f32s();
        bias.extend([0.0; WIDTH]);
        bias.extend(self.graph.tensor(&value_bias)?.expect_shape(&[WIDTH])?.f32s());
        self.out.tensor_f32(&format!("{name}.bias"), &[3 * WIDTH], BlockType::F32, &bias)?;
        Ok(())
    }

    fn layer(&mut self, layer: usize) -> Result<(), ConvertError> {
        let source = format!("inner.encoder.layers.{layer}");
        let name = format!("encoder.{layer}");
        self.norm(&format!("{name}.attention_norm"), &format!("{source}.self_attn_layer_norm"), WIDTH)?;
        self.query_key_value(&format!("{name}.qkv"), &format!("{source}.self_attn"))?;
        self.linear(&format!("{name}.out"), &format!("{source}.self_attn.out_proj"), WIDTH, WIDTH)?;
        self.norm(&format!("{name}.feed_forward_norm"), &format!("{source}.final_layer_norm"), WIDTH)?;
        self.linear(&format!("{name}.up"), &format!("{source}.fc1"), FEED_FORWARD, WIDTH)?;
        self.linear(&format!("{name}.down"), &format!("{source}.fc2"), WIDTH, FEED_FORWARD)
    }
}

fn read(graph: &Graph, weight: &str, transposed: bool) -> Result<Int8Matrix, ConvertError> {
    Int8Matrix::read(
        graph,
        &format!("{weight}_quantized"),
        &format!("{weight}_scale"),
        &format!("{weight}_zero_point"),
        transposed,
    )
}

/// Goes back from a value through quantise-dequantise pairs to the node that computed it.
fn computed_by<'a>(graph: &'a Graph, value: &str) -> Option<&'a Node> {
    let mut node = graph.producer(value)?;
    while matches!(node.op.as_str(), "QuantizeLinear" | "DequantizeLinear") {
        node = graph.producer(node.inputs.first()?)?;
    }
    Some(node)
}

/// The product that a bias is added to.
fn matmul_before<'a>(graph: &'a Graph, bias: &str) -> Result<&'a Node, ConvertError> {
    graph
        .consumers(bias)
        .filter(|n| n.op == "Add")
        .flat_map(|add| &add.inputs)
        .filter_map(|value| computed_by(graph, value))
        .find(|node| node.op == "MatMul")
        .ok_or_else(|| ConvertError::malformed(WHAT, format!("nothing is multiplied before `{bias}` is added")))
}

/// The name of a product's matrix, without the exporter's suffix.
fn weight_of(graph: &Graph, matmul: &Node) -> Result<String, ConvertError> {
    matmul
        .inputs
        .get(1)
        .and_then(|value| graph.producer(value))
        .filter(|node| node.op == "DequantizeLinear")
        .and_then(|node| node.inputs.first()?.strip_suffix("_quantized"))
        .map(str::to_owned)
        .ok_or_else(|| ConvertError::malformed(WHAT, format!("the product `{}` has no quantised matrix", matmul.name)))
}

/// The key projection, which no bias leads to: the third product of what queries and values are computed from.
fn third_product<'a>(graph: &'a Graph, query: &Node, value: &Node) -> Result<&'a Node, ConvertError> {
    let input = query.inputs.first().map_or("", String::as_str);
    graph
        .nodes_of("MatMul")
        .find(|n| n.inputs.first().is_some_and(|i| i == input) && n.name != query.name && n.name != value.name)
        .ok_or_else(|| ConvertError::malformed(WHAT, format!("no key projection reads `{input}`")))
}
