//! Convolutions over sequences on a GPU against their twins on the CPU, and GELU across devices. Runs on a real GPU where there is one, else on
//! a software Vulkan device (Debian: `mesa-vulkan-drivers` and `libvulkan1`), else it says that it was skipped.

use burn::tensor::{Tensor, TensorData};
use nearfield_inference::{
    Device,
    device::{self, Want},
    nn,
    ops::{self, Spans},
};
use std::io::Write as _;

fn gpu() -> Option<Device> {
    let found = [Want::Gpu(String::new()), Want::SoftwareGpu].iter().find_map(|want| device::select(want).ok());
    match found {
        Some(selected) => {
            println!("twins on {}", selected.name);
            Some(selected.device)
        }
        None => {
            // Past the test harness, which shows nothing of a test that passes.
            writeln!(std::io::stderr(), "SKIPPED: no Vulkan device, so the GPU kernels were not held to the CPU's")
                .expect("stderr");
            None
        }
    }
}

fn matrix(rows: usize, columns: usize, step: f32, device: &Device) -> Tensor<2> {
    let values: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * step).sin() * 3.0).collect();
    Tensor::from_data(TensorData::new(values, [rows, columns]), device)
}

fn same(what: &str, gpu: &[f32], cpu: &[f32]) {
    assert_eq!(gpu.len(), cpu.len(), "{what}");
    let worst = gpu.iter().zip(cpu).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    println!("{what}: greatest difference {worst:.1e}");
    assert!(worst <= 2e-5, "{what}: {worst}");
}

#[test]
fn depthwise_convolutions_agree() {
    let Some(gpu) = gpu() else { return };
    // One frame with a kernel that mostly lies outside, odd sizes, and a real block of the speech synthesis; alone and beside others.
    for (lengths, channels, taps, dilation) in
        [(vec![1], 4, 7, 8), (vec![9], 3, 5, 1), (vec![50], 192, 7, 4), (vec![2, 31, 1, 16], 192, 7, 4)]
    {
        let t = lengths.iter().sum();
        let run = |device: &Device| {
            let bias = matrix(1, channels, 0.3, device).squeeze_dim::<1>(0);
            let x = matrix(t, channels, 0.7, device);
            nn::host(ops::depthwise(
                x,
                matrix(taps, channels, 1.1, device),
                bias,
                dilation,
                &Spans::new(lengths.clone(), device),
            ))
        };
        same(&format!("{lengths:?} × {channels}, {taps} taps {dilation} apart"), &run(&gpu), &run(&Device::flex()));
    }
}

#[test]
fn windows_agree() {
    let Some(gpu) = gpu() else { return };
    for (lengths, channels, taps) in [(vec![1], 4, 7), (vec![12, 1, 3], 130, 7), (vec![5, 4], 192, 3)] {
        let run = |device: &Device| {
            let x = matrix(lengths.iter().sum(), channels, 0.7, device);
            nn::host(ops::over_taps(x, taps, &Spans::new(lengths.clone(), device)))
        };
        same(&format!("{taps} taps of {lengths:?} × {channels}"), &run(&gpu), &run(&Device::flex()));
    }
}

#[test]
fn convolutions_of_repeated_rows_agree() {
    let Some(gpu) = gpu() else { return };
    let sources = [0, 0, 1, 2, 2, 2, 3, 3, 3, 3, 4];
    let run = |device: &Device| {
        let (onto, parts) = (matrix(11, 24, 0.7, device), matrix(5, 7 * 24, 0.9, device));
        nn::host(ops::add_taps(onto, parts, &sources, &Spans::new([3, 7, 1], device)))
    };
    same("7 taps of repeated rows", &run(&gpu), &run(&Device::flex()));
}

#[test]
fn gelu_agrees() {
    let Some(gpu) = gpu() else { return };
    let run = |device: &Device| nn::host(ops::gelu(matrix(7, 33, 0.37, device)));
    same("gelu", &run(&gpu), &run(&Device::flex()));
}
