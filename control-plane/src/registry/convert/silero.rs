//! Silero VAD: the 16 kHz "sequence" export of <https://github.com/snakers4/silero-vad> (v6), one network for 576-sample
//! windows (64 of context and 512 new ones).
//!
//! Everything stays in F32: the whole network is 0.3 million weights, and a probability drives decisions at every frame.
//! Names follow what the parts are, since the exporter lost some of them (`onnx::LSTM_209`).

use super::{ConvertError, Quantise, Sources, graph::Graph, onnx};
use nearfield_shared::gguf::{BlockType, GgufWriter};

/// Samples of a frame, and of the frame before it that the network looks back on.
const FRAME_SAMPLES: u32 = 512;
const CONTEXT_SAMPLES: u32 = 64;

/// Input, output and kernel width of the encoder's convolutions.
const ENCODER: [(usize, usize); 4] = [(129, 128), (128, 64), (64, 64), (64, 128)];
const KERNEL: usize = 3;
const HIDDEN: usize = 128;

/// Reads the source with role `model`. Writes `stft.weight` [258, 256], `encoder.{0..3}` [out, in, 3], the LSTM with gates in
/// ONNX's order (input, output, forget, cell) as `lstm.weight` [512, 256] over (input, hidden), and `output`.
pub fn convert(sources: &Sources, quantise: Quantise) -> Result<GgufWriter, ConvertError> {
    if quantise != Quantise::F32 {
        return Err(ConvertError::unsupported("silero-vad", format!("quantising to {quantise}; use `f32`, which")));
    }
    let graph = onnx::Model::parse("the Silero VAD model", sources.get("model")?)?.graph;
    let mut out = GgufWriter::new("silero-vad");
    out.meta("silero-vad.frame_samples", FRAME_SAMPLES);
    out.meta("silero-vad.context_samples", CONTEXT_SAMPLES);
    out.meta("silero-vad.sample_rate", 16_000u32);

    put(&mut out, &graph, "stft.weight", "stft.forward_basis_buffer", &[258, 1, 256], &[258, 256])?;
    for (i, (inputs, outputs)) in ENCODER.into_iter().enumerate() {
        let weight = format!("encoder.{i}.weight");
        put(&mut out, &graph, &weight, &weight, &[outputs, inputs, KERNEL], &[outputs, inputs, KERNEL])?;
        let bias = format!("encoder.{i}.bias");
        put(&mut out, &graph, &bias, &bias, &[outputs], &[outputs])?;
    }
    lstm(&mut out, &graph)?;
    put(&mut out, &graph, "output.weight", "output.weight", &[1, HIDDEN, 1], &[HIDDEN])?;
    put(&mut out, &graph, "output.bias", "output.bias", &[1], &[1])?;
    Ok(out)
}

fn put(
    out: &mut GgufWriter,
    graph: &Graph,
    name: &str,
    source: &str,
    expected: &[usize],
    shape: &[usize],
) -> Result<(), ConvertError> {
    let tensor = graph.tensor(source)?.expect_shape(expected)?;
    out.tensor_f32(name, shape, BlockType::F32, &tensor.f32s())?;
    Ok(())
}

/// The recurrent cell: its weights by their place in the `LSTM` node, since their names mean nothing. The two biases only ever
/// occur as a sum, and input and hidden weights side by side make the cell one matrix product.
fn lstm(out: &mut GgufWriter, graph: &Graph) -> Result<(), ConvertError> {
    let node = graph
        .nodes_of("LSTM")
        .next()
        .ok_or_else(|| ConvertError::malformed("the Silero VAD model", "it holds no LSTM"))?;
    let input = |i: usize, shape: &[usize]| -> Result<Vec<f32>, ConvertError> {
        let name = node.inputs.get(i).map_or("", String::as_str);
        Ok(graph.tensor(name)?.expect_shape(shape)?.f32s())
    };
    let gates = 4 * HIDDEN;
    let of_input = input(1, &[1, gates, HIDDEN])?;
    let of_hidden = input(2, &[1, gates, HIDDEN])?;
    let biases = input(3, &[1, 2 * gates])?;
    let weight: Vec<f32> =
        of_input.chunks(HIDDEN).zip(of_hidden.chunks(HIDDEN)).flat_map(|(x, h)| [x, h].concat()).collect();
    let bias: Vec<f32> = biases[..gates].iter().zip(&biases[gates..]).map(|(a, b)| a + b).collect();
    out.tensor_f32("lstm.weight", &[gates, 2 * HIDDEN], BlockType::F32, &weight)?;
    out.tensor_f32("lstm.bias", &[gates], BlockType::F32, &bias)?;
    Ok(())
}
