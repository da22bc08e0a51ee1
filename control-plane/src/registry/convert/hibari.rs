//! Hibari: the `hibari-tts` package's speech synthesis network (one ONNX file for each voice, int8 per matrix), and with it everything
//! that turns text into its phonemes, so that a voice is one file.
//!
//! Tensors keep the publisher's parameter names (`m.…` for what makes the sound, `pn.…` for durations and pitch). The exporter
//! renamed the transposed matrices (`/convs.0/pw1/Transpose_output_0`); [`MATRICES`] undoes that. Integers are carried over
//! as they are ([`int8`](super::int8)); `pn` never goes below 8 bits, because a duration is rounded to whole frames and a phoneme that
//! gets another number of them moves everything after it.

use super::{
    ConvertError, Quantise, Sources,
    graph::{Element, Graph},
    hibari_g2p,
    int8::Int8Matrix,
    onnx,
};
use nearfield_shared::gguf::{BlockType, GgufWriter};

const WHAT: &str = "the Hibari model";

/// The exporter's name and the parameter's, `#` standing for a block's number, with the numbers there are.
const MATRICES: [(&str, &str, usize); 17] = [
    ("/convs.#/pw1/Transpose_output_0", "m.text.convs.#.pw1", 2),
    ("/convs.#/pw2/Transpose_output_0", "m.text.convs.#.pw2", 2),
    ("/convs.#/pw1_1/Transpose_output_0", "pn.text.convs.#.pw1", 2),
    ("/convs.#/pw2_1/Transpose_output_0", "pn.text.convs.#.pw2", 2),
    ("/Transpose_2_output_0", "m.text.attn.self_attn.in_proj", 1),
    ("/Transpose_25_output_0", "pn.text.attn.self_attn.in_proj", 1),
    ("/out_proj/Transpose_output_0", "m.text.attn.self_attn.out_proj", 1),
    ("/out_proj_4/Transpose_output_0", "pn.text.attn.self_attn.out_proj", 1),
    ("/linear1/Transpose_output_0", "m.text.attn.linear1", 1),
    ("/linear1_4/Transpose_output_0", "pn.text.attn.linear1", 1),
    ("/linear2/Transpose_output_0", "m.text.attn.linear2", 1),
    ("/linear2_4/Transpose_output_0", "pn.text.attn.linear2", 1),
    ("/pro.#/pw1/Transpose_output_0", "pn.pro.#.pw1", 6),
    ("/pro.#/pw2/Transpose_output_0", "pn.pro.#.pw2", 6),
    ("/dec.#/pw1/Transpose_output_0", "m.dec.#.pw1", 8),
    ("/dec.#/pw2/Transpose_output_0", "m.dec.#.pw2", 8),
    ("/head/Transpose_output_0", "m.head", 1),
];

/// Parameters in F32 that are no matrix of a linear layer: how many there must be, so that a changed export is noticed.
const FLOATS: usize = 161;

/// Reads the role `model`, and for the phonemes [`hibari_g2p::ROLES`].
pub fn convert(sources: &Sources, quantise: Quantise) -> Result<GgufWriter, ConvertError> {
    let graph = onnx::Model::parse(WHAT, sources.get("model")?)?.graph;
    let mut out = GgufWriter::new("hibari");
    out.meta("hibari.sample_rate", 24_000u32);
    out.meta("hibari.attention.head_count", 2u32);
    // One transformer layer with shared weights is applied this many times.
    out.meta("hibari.m.text.repetitions", 4u32);
    out.meta("hibari.pn.text.repetitions", 6u32);
    out.meta("hibari.pn.pro.dilations", dilations(&graph)?);
    matrices(&mut out, &graph, quantise)?;
    floats(&mut out, &graph)?;
    hibari_g2p::attach(sources, &mut out)?;
    Ok(out)
}

fn matrices(out: &mut GgufWriter, graph: &Graph, quantise: Quantise) -> Result<(), ConvertError> {
    for (source, name, count) in MATRICES {
        for i in 0..count {
            let number = i.to_string();
            let (source, name) = (source.replace('#', &number), name.replace('#', &number));
            let [weight, scale, zero] = ["quantized", "scale", "zero_point"].map(|part| format!("{source}_{part}"));
            let matrix = Int8Matrix::read(graph, &weight, &scale, &zero, true)?;
            let outputs = graph.tensor(&bias_of(&name))?.len();
            let columns = graph.tensor(&weight)?.len() / outputs.max(1);
            let block = if name.starts_with("pn.") { quantise.embedding(columns) } else { quantise.matrix(columns) };
            matrix.expect(&weight, outputs, columns)?.write(out, &format!("{name}.weight"), block)?;
        }
    }
    Ok(())
}

/// torch calls the fused projection's bias `in_proj_bias`, all others `….bias`.
fn bias_of(name: &str) -> String {
    if name.ends_with("in_proj") { format!("{name}_bias") } else { format!("{name}.bias") }
}

fn floats(out: &mut GgufWriter, graph: &Graph) -> Result<(), ConvertError> {
    let mut found = 0;
    for (source, tensor) in &graph.tensors {
        let ours = source.starts_with("m.") || source.starts_with("pn.");
        if !ours || tensor.element != Element::F32 {
            continue;
        }
        found += 1;
        let name = match source.strip_suffix("in_proj_bias") {
            Some(front) => format!("{front}in_proj.bias"),
            None => source.clone(),
        };
        let (shape, values) = match tensor.shape.as_slice() {
            [outputs, inputs, taps] => over_taps(&tensor.f32s(), *outputs, *inputs, *taps),
            shape => (shape.to_vec(), tensor.f32s()),
        };
        out.tensor_f32(&name, &shape, BlockType::F32, &values)?;
    }
    if found != FLOATS {
        return Err(ConvertError::malformed(WHAT, format!("{found} parameters in floats instead of {FLOATS}")));
    }
    Ok(())
}

/// A convolution [out, in, tap] as what multiplies time-major frames: a matrix [out, tap × in]; a depthwise one ([channel, 1, tap])
/// as [tap, channel].
fn over_taps(values: &[f32], outputs: usize, inputs: usize, taps: usize) -> (Vec<usize>, Vec<f32>) {
    let at = |o: usize, i: usize, t: usize| values[(o * inputs + i) * taps + t];
    if inputs == 1 && taps > 1 {
        return (vec![taps, outputs], (0..taps).flat_map(|t| (0..outputs).map(move |o| at(o, 0, t))).collect());
    }
    let row = |o: usize| (0..taps).flat_map(move |t| (0..inputs).map(move |i| at(o, i, t)));
    (vec![outputs, taps * inputs], (0..outputs).flat_map(row).collect())
}

/// The dilation of each block of the prosody network, from the convolutions themselves.
fn dilations(graph: &Graph) -> Result<Vec<u32>, ConvertError> {
    (0..6)
        .map(|i| {
            let weight = format!("pn.pro.{i}.dw.weight");
            graph
                .consumers(&weight)
                .find_map(|node| u32::try_from(*node.ints("dilations")?.first()?).ok())
                .ok_or_else(|| ConvertError::malformed(WHAT, format!("no convolution uses `{weight}`")))
        })
        .collect()
}
