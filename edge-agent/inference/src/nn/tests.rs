use burn::tensor::{Tensor, TensorData};
use nearfield_shared::gguf::{BlockType, Gguf, GgufWriter};

use super::*;

fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn values<const D: usize>(t: Tensor<D>) -> Vec<f32> {
    t.into_data().try_to_vec().unwrap()
}

fn input<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    let n = shape.iter().product();
    Tensor::from_data(TensorData::new(noise(n, seed), shape), &Device::flex())
}

fn close(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tolerance, "value {i}: {a} is not {b}");
    }
}

/// A file with the same matrix in several types.
fn file() -> Gguf {
    let mut w = GgufWriter::new("test");
    for (name, block) in [("f32", BlockType::F32), ("f16", BlockType::F16), ("q8", BlockType::Q8_0)] {
        w.tensor_f32(&format!("{name}.weight"), &[24, 64], block, &noise(24 * 64, 1)).unwrap();
        w.tensor_f32(&format!("{name}.bias"), &[24], BlockType::F32, &noise(24, 2)).unwrap();
        if block != BlockType::Q8_0 {
            w.tensor_f32(&format!("conv.{name}.weight"), &[6, 4, 3], block, &noise(72, 3)).unwrap();
            w.tensor_f32(&format!("conv.{name}.bias"), &[6], BlockType::F32, &noise(6, 4)).unwrap();
        }
    }
    w.tensor_f32("other.weight", &[8, 64], BlockType::Q8_0, &noise(8 * 64, 5)).unwrap();
    w.tensor_f32("narrow.weight", &[8, 32], BlockType::Q8_0, &noise(8 * 32, 5)).unwrap();
    w.tensor_f32("norm.weight", &[64], BlockType::F32, &[1.0; 64]).unwrap();
    w.bytes("raw.weight", vec![1, 2, 3]).unwrap();
    Gguf::parse(w.to_bytes()).unwrap()
}

#[test]
fn a_linear_layer_is_the_same_in_every_type() {
    let (g, device) = (file(), Device::flex());
    let f32_layer = Linear::load(&g, "f32", &device).unwrap();
    for t in [1, 20] {
        let x = input([t, 64], 9);
        let truth = values(f32_layer.forward(x.clone()));
        for (name, tolerance) in [("f16", 0.01), ("q8", 0.1)] {
            let layer = Linear::load(&g, name, &device).unwrap();
            assert_eq!((layer.inputs(), layer.outputs()), (64, 24));
            assert!(layer.resident_bytes() < f32_layer.resident_bytes());
            close(&values(layer.forward(x.clone())), &truth, tolerance);
            let exact = layer.with_activations(crate::ops::Activations::Exact);
            close(&values(exact.forward(x.clone())), &truth, tolerance / 2.0);
        }
    }
}

#[test]
fn stacked_layers_give_their_outputs_side_by_side() {
    let (g, device) = (file(), Device::flex());
    let x = input([3, 64], 9);
    let both = Linear::load_stacked(&g, &["q8", "q8"], &device).unwrap().forward(x.clone());
    let one = values(Linear::load(&g, "q8", &device).unwrap().forward(x));
    close(&values(both.clone().slice([0..3, 0..24])), &one, 0.0);
    close(&values(both.slice([0..3, 24..48])), &one, 0.0);
}

#[test]
fn what_does_not_fit_is_named() {
    let (g, device) = (file(), Device::flex());
    let refused = |e: LoadError, part: &str| assert!(e.to_string().contains(part), "{e}");
    refused(Linear::load(&g, "nothing", &device).unwrap_err(), "\"nothing.weight\" is missing");
    refused(Linear::load(&g, "norm", &device).unwrap_err(), "shape [64], expected [out, in]");
    refused(Linear::load_stacked(&g, &["other", "narrow"], &device).unwrap_err(), "shape [8, 32], expected [out, 64]");
    refused(Linear::load_stacked(&g, &["q8", "f16"], &device).unwrap_err(), "stored as F16");
    refused(Linear::load_stacked(&g, &["q8", "other"], &device).unwrap_err(), "only some have a bias");
    refused(Conv1d::load(&g, "q8", 1, 1, 0, 1, &device).unwrap_err(), "expected [out, in / groups, kernel]");
    refused(Embedding::load(&g, "raw", &device).unwrap_err(), "expected [vocabulary, width]");
    refused(expect_architecture(&g, "llama").unwrap_err(), "\"test\" model, expected \"llama\"");
}

#[test]
fn an_embedding_gives_rows_and_scores_them() {
    let (g, device) = (file(), Device::flex());
    let dense = g.tensor("f32.weight").unwrap().to_f32();
    for (name, tolerance) in [("f32", 0.0), ("f16", 1e-3), ("q8", 1e-2)] {
        let table = Embedding::load(&g, name, &device).unwrap();
        let rows = values(table.rows(&[5, 0, 23]));
        for (row, id) in rows.chunks(64).zip([5, 0, 23]) {
            close(row, &dense[id * 64..][..64], tolerance);
        }
        assert_eq!(table.as_linear().forward(input([2, 64], 1)).dims(), [2, 24]);
    }
}

#[test]
fn a_convolution_of_halves_is_the_dense_one() {
    let (g, device) = (file(), Device::flex());
    for (stride, dilation, padding) in [(1, 1, 1), (2, 1, 0), (1, 2, 2), (3, 2, 1)] {
        let load = |name| Conv1d::load(&g, name, stride, dilation, padding, 1, &device).unwrap();
        let x = input([2, 4, 17], 8);
        let (dense, halves) = (load("conv.f32").forward(x.clone()), load("conv.f16").forward(x));
        assert_eq!(dense.dims(), halves.dims(), "stride {stride} dilation {dilation} padding {padding}");
        close(&values(halves), &values(dense), 0.01);
    }
}

#[test]
fn a_layer_norm_and_a_rope_keep_what_they_promise() {
    let (g, device) = (file(), Device::flex());
    let y = values(LayerNorm::load(&g, "norm", 1e-5, &device).unwrap().forward(input([3, 64], 4)));
    for row in y.chunks(64) {
        let mean = row.iter().sum::<f32>() / 64.0;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 64.0;
        assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-3, "mean {mean}, variance {variance}");
    }
    // Turning keeps lengths, and the angle between two turned vectors depends on their distance alone.
    let rope = Rope::new(32, 8, 10_000.0, RopePairs::Halves, &device);
    let (a, b) = (input([1, 8], 5), input([1, 8], 6));
    let score = |p: usize, q: usize| {
        let (a, b) = (values(rope.forward(a.clone(), 8, p)), values(rope.forward(b.clone(), 8, q)));
        a.iter().zip(&b).map(|(x, y)| x * y).sum::<f32>()
    };
    assert!((score(3, 7) - score(20, 24)).abs() < 1e-5);
    assert!((score(3, 7) - score(3, 9)).abs() > 1e-3);
}
