//! Every operation of ours on a GPU against its twin on the CPU. Runs on a real GPU where there is one, else on a software
//! Vulkan device (Debian: `mesa-vulkan-drivers` and `libvulkan1`), else it says that it was skipped.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::tensor::{Tensor, TensorData};
use nearfield_inference::{
    Device,
    device::{self, Want},
    ops::{self, Activations, Blocks, Spans},
};
use nearfield_shared::gguf::{BlockType, quantise};
use std::io::Write as _;

fn gpu() -> Option<Device> {
    for want in [Want::Gpu(String::new()), Want::SoftwareGpu] {
        match device::select(&want) {
            Ok(selected) => {
                println!("twins on {}", selected.name);
                return Some(selected.device);
            }
            Err(e) => println!("{e}"),
        }
    }
    // Past the test harness, which shows nothing of a test that passes.
    writeln!(std::io::stderr(), "SKIPPED: no Vulkan device, so the GPU kernels were not held to the CPU's")
        .expect("stderr");
    None
}

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

/// Quantised noise; for the K types, which are not produced here, noise bytes with sane scales. The first block's scale is
/// a subnormal half, which a careless kernel flushes to zero.
fn weights(block: BlockType, rows: usize, cols: usize) -> Vec<u8> {
    let mut bytes = match block {
        BlockType::Q4K | BlockType::Q6K => {
            let n = block.bytes_for(rows * cols).unwrap();
            let mut bytes: Vec<u8> = noise(n, 7).iter().map(|v| (v * 127.0) as i8 as u8).collect();
            for b in bytes.chunks_exact_mut(block.block_bytes()) {
                let at: &[usize] = if block == BlockType::Q4K { &[0, 2] } else { &[208] };
                for &at in at {
                    b[at..at + 2].copy_from_slice(&half::f16::from_f32(0.01).to_le_bytes());
                }
            }
            bytes
        }
        _ => quantise(block, &noise(rows * cols, 3)).unwrap(),
    };
    if block != BlockType::F16 {
        let at = if block == BlockType::Q6K { 208 } else { 0 };
        bytes[at..at + 2].copy_from_slice(&half::f16::from_f32(3.0e-5).to_le_bytes());
    }
    bytes
}

fn close(what: &str, gpu: Tensor<2>, cpu: Tensor<2>, tolerance: f32) {
    assert_eq!(gpu.dims(), cpu.dims(), "{what}");
    let (gpu, cpu): (Vec<f32>, Vec<f32>) =
        (gpu.try_into_data().unwrap().try_to_vec().unwrap(), cpu.into_data().try_to_vec().unwrap());
    for (i, (g, c)) in gpu.iter().zip(&cpu).enumerate() {
        assert!((g - c).abs() <= tolerance, "{what}: value {i} is {g} on the GPU and {c} on the CPU");
    }
}

#[test]
fn every_operation_gives_on_the_gpu_what_it_gives_on_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let cpu = Device::flex();
    let on = |v: &[f32], shape: [usize; 2], d: &Device| Tensor::<2>::from_data(TensorData::new(v.to_vec(), shape), d);

    for block in BlockType::ALL.into_iter().filter(|b| Blocks::supports(*b)) {
        let cols = if block.block_elems() == 256 { 512 } else { 96 };
        let rows = 19;
        let bytes = weights(block, rows, cols);
        let [g, c] = [&gpu, &cpu].map(|d| Blocks::new(block, rows, cols, &bytes, d));
        // One row, less than a tile, a tile and more.
        for t in [1, 5, 11] {
            let x = noise(t * cols, 11);
            let [g, c] =
                [(&g, &gpu), (&c, &cpu)].map(|(w, d)| ops::q_linear(on(&x, [t, cols], d), w, Activations::Exact));
            close(&format!("q_linear {block} {t} rows"), g, c, 2e-4);
        }
        let [g, c] = [(&g, &gpu), (&c, &cpu)].map(|(w, d)| ops::q_rows(w, ops::ids(&[18, 0, 7], d)));
        close(&format!("q_rows {block}"), g, c, 1e-6);
    }
    // An odd width exists for halves alone; more rows than one axis of a grid takes.
    let bytes = weights(BlockType::F16, 3, 33);
    let x = noise(2 * 33, 2);
    let [g, c] = [&gpu, &cpu]
        .map(|d| ops::q_linear(on(&x, [2, 33], d), &Blocks::new(BlockType::F16, 3, 33, &bytes, d), Activations::Exact));
    close("q_linear F16 odd", g, c, 1e-4);
    let bytes = weights(BlockType::Q8_0, 40_000, 32);
    let x = noise(32, 2);
    let [g, c] = [&gpu, &cpu].map(|d| {
        ops::q_linear(on(&x, [1, 32], d), &Blocks::new(BlockType::Q8_0, 40_000, 32, &bytes, d), Activations::Exact)
    });
    close("q_linear of 40,000 rows", g, c, 1e-4);

    for (t, heads, kv_heads, dim, places, visible) in
        [(1, 6, 2, 64, 50, 41), (5, 4, 4, 36, 9, 9), (9, 2, 1, 128, 16, 12)]
    {
        let (q, k, v) =
            (noise(t * heads * dim, 1), noise(places * kv_heads * dim, 2), noise(places * kv_heads * dim, 3));
        for causal in [true, false] {
            let [g, c] = [&gpu, &cpu].map(|d| {
                let kv = [places, kv_heads * dim];
                ops::attend(on(&q, [t, heads * dim], d), on(&k, kv, d), on(&v, kv, d), heads, visible, causal, 0.2)
            });
            close(&format!("attend {t} of {heads} heads of {dim}, causal {causal}"), g, c, 1e-5);
        }
    }

    for (lengths, heads, dim) in [(vec![7], 2, 48), (vec![1, 40, 3], 4, 32), (vec![5, 5], 1, 128)] {
        let t = lengths.iter().sum::<usize>();
        let (q, k, v) = (noise(t * heads * dim, 1), noise(t * heads * dim, 2), noise(t * heads * dim, 3));
        let [g, c] = [&gpu, &cpu].map(|d| {
            let [q, k, v] = [&q, &k, &v].map(|x| on(x, [t, heads * dim], d));
            ops::attend_within(q, k, v, heads, &Spans::new(lengths.clone(), d), 0.2)
        });
        close(&format!("attend within {lengths:?}, {heads} heads of {dim}"), g, c, 1e-5);
    }

    let (x, table) = (noise(3 * 14, 1), noise(8 * 6, 2));
    for interleaved in [true, false] {
        let [g, c] = [&gpu, &cpu]
            .map(|d| ops::rotate(on(&x, [3, 14], d), on(&table, [8, 6], d), ops::ids(&[7, 0, 3], d), 7, interleaved));
        close("rotate", g, c, 1e-6);
    }
    let (x, w, b) = (noise(3 * 100, 1), noise(100, 2), noise(100, 3));
    for centred in [true, false] {
        let [g, c] = [&gpu, &cpu].map(|d| {
            let vector = |v: &[f32]| Tensor::<1>::from_data(TensorData::new(v.to_vec(), [100]), d);
            ops::norm(on(&x, [3, 100], d), vector(&w), vector(&b), 1e-5, centred)
        });
        close("norm", g, c, 1e-5);
    }
}
