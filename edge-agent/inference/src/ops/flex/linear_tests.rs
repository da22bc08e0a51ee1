//! Every kernel of every level against a product of dequantised weights in f64.

use nearfield_shared::gguf::{dequantise, quantise};

use super::{
    super::super::blocks::{self},
    *,
};

/// Numbers in -1..1 that are the same in every run.
fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(2_654_435_761) | 1;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 17;
            s ^= s << 5;
            s as f32 / 2_147_483_648.0 - 1.0
        })
        .collect()
}

/// Blocks of a matrix: quantised noise, or for the K types noise bytes with sane scales.
fn weights(block: BlockType, rows: usize, cols: usize) -> Vec<u8> {
    match block {
        BlockType::Q4K | BlockType::Q6K => {
            let scale = half::f16::from_f32(0.01).to_le_bytes();
            let mut bytes: Vec<u8> =
                noise(block.bytes_for(rows * cols).unwrap(), 7).iter().map(|v| (v * 127.0) as i8 as u8).collect();
            for b in bytes.chunks_exact_mut(block.block_bytes()) {
                let at = if block == BlockType::Q4K { 0 } else { 208 };
                b[at..at + 2].copy_from_slice(&scale);
                if block == BlockType::Q4K {
                    b[2..4].copy_from_slice(&scale);
                }
            }
            bytes
        }
        _ => quantise(block, &noise(rows * cols, 3)).unwrap(),
    }
}

fn check(block: BlockType, t: usize, rows: usize, cols: usize) {
    let bytes = weights(block, rows, cols);
    let dense = dequantise(block, &bytes).unwrap();
    let x = noise(t * cols, 11);
    let words = blocks::tests_pack(block, rows, &bytes);
    let truth: Vec<f64> = (0..t * rows)
        .map(|i| {
            let (w, x) = (&dense[i % rows * cols..][..cols], &x[i / rows * cols..][..cols]);
            w.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        })
        .collect();
    let norm = (truth.iter().map(|v| v * v).sum::<f64>() / truth.len() as f64).sqrt();
    for level in Level::available() {
        for activations in Activations::ALL {
            let got = multiply_at(level, &x, t, &words, rows, cols, block, activations);
            // 8-bit activations: 1/254 of the peak at most, a third of that on average, against noise whose mean
            // magnitude is half its peak.
            let coarse = activations == Activations::Int8 && t <= DIRECT_ROWS_MAX && block != BlockType::F16;
            let bound = if coarse { 0.02 } else { 1e-4 };
            let worst = got.iter().zip(&truth).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max) / norm;
            assert!(
                worst < bound,
                "{block} {level:?} {activations:?} [{t}, {cols}] by {rows}: worst error {worst:.2e}"
            );
        }
    }
}

#[test]
fn every_kernel_agrees_with_a_plain_product() {
    for block in BlockType::ALL.into_iter().filter(|b| blocks::Blocks::supports(*b)) {
        let cols = if block.block_elems() == 256 { 512 } else { 96 };
        for t in [1, 2, 3, 4, 7, 8, 9, 33] {
            for rows in [1, 3, 4, 70] {
                check(block, t, rows, cols);
            }
        }
    }
    // Odd widths exist for halves alone.
    check(BlockType::F16, 1, 5, 77);
    check(BlockType::F16, 20, 5, 77);
    // Large enough to be divided among threads.
    check(BlockType::Q4_1, 1, 2050, 1024);
    check(BlockType::Q4_1, 12, 300, 1024);
}

#[test]
fn batched_rows_are_bit_for_bit_the_single_ones() {
    for block in BlockType::ALL.into_iter().filter(|b| blocks::Blocks::supports(*b)) {
        let (rows, cols, t) = (13, 512, 7);
        let words = blocks::tests_pack(block, rows, &weights(block, rows, cols));
        let x = noise(t * cols, 5);
        for level in Level::available() {
            for activations in Activations::ALL {
                let batch = multiply_at(level, &x, t, &words, rows, cols, block, activations);
                for (i, x) in x.chunks_exact(cols).enumerate() {
                    let single = multiply_at(level, x, 1, &words, rows, cols, block, activations);
                    assert_eq!(single, batch[i * rows..][..rows], "{block} {level:?} {activations:?}");
                }
            }
        }
    }
}

#[test]
fn rows_come_back_as_the_plain_reader_reads_them() {
    for block in BlockType::ALL.into_iter().filter(|b| blocks::Blocks::supports(*b)) {
        let (n, cols) = (5, 512);
        let bytes = weights(block, n, cols);
        let dense = dequantise(block, &bytes).unwrap();
        let words = blocks::tests_pack(block, n, &bytes);
        for level in Level::available() {
            for id in [4usize, 0, 3] {
                let mut row = vec![0.0; cols];
                dequantise_row(level, block, &words[id * row_words(block, cols)..][..row_words(block, cols)], &mut row);
                for (a, b) in row.iter().zip(&dense[id * cols..]) {
                    assert!((a - b).abs() <= b.abs() * 1e-6 + 1e-6, "{block} {level:?}: {a} is not {b}");
                }
            }
        }
    }
}

#[test]
fn a_value_that_is_no_number_shows_in_the_result() {
    let words = blocks::tests_pack(BlockType::Q8_0, 2, &weights(BlockType::Q8_0, 2, 64));
    let mut x = noise(64, 1);
    x[40] = f32::NAN;
    for level in Level::available() {
        let y = multiply_at(level, &x, 1, &words, 2, 64, BlockType::Q8_0, Activations::Int8);
        assert!(y.iter().all(|v| v.is_nan()), "{level:?}: {y:?}");
    }
}

#[test]
fn strips_agree_with_a_plain_product_and_batched_rows_with_single_ones() {
    for block in BlockType::ALL.into_iter().filter(|b| takes_strips(*b)) {
        for (rows, cols) in [(1, 32), (16, 64), (70, 96), (129, 256), (1030, 576)] {
            let bytes = weights(block, rows, cols);
            let dense = dequantise(block, &bytes).unwrap();
            let words = strips::pack(block, rows, cols, &bytes);
            for t in [1, 2, 3, 4, 5, 6, 7, 13] {
                let x = noise(t * cols, 11);
                for activations in Activations::ALL {
                    let batch = multiply_strips(&x, t, &words, rows, cols, block, activations, Finish::default());
                    let mut norm = 0.0;
                    let mut worst = 0f64;
                    for (i, y) in batch.iter().enumerate() {
                        let (w, x) = (&dense[i % rows * cols..][..cols], &x[i / rows * cols..][..cols]);
                        let truth: f64 = w.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                        norm += truth * truth;
                        worst = worst.max((f64::from(*y) - truth).abs());
                    }
                    let bound = if activations == Activations::Int8 { 0.03 } else { 2e-4 };
                    let norm = (norm / batch.len() as f64).sqrt();
                    assert!(
                        worst <= bound * norm,
                        "{block} {activations:?} [{t}, {cols}] by {rows}: worst error {:.2e}",
                        worst / norm
                    );
                    if activations == Activations::Exact {
                        continue;
                    }
                    for (i, x) in x.chunks_exact(cols).enumerate() {
                        let single = multiply_strips(x, 1, &words, rows, cols, block, activations, Finish::default());
                        assert_eq!(single, batch[i * rows..][..rows], "{block} {activations:?} row {i} of {t}");
                    }
                }
            }
        }
        let words = strips::pack(block, 2, 64, &weights(block, 2, 64));
        let mut x = noise(64, 1);
        x[40] = f32::NAN;
        let y = multiply_strips(&x, 1, &words, 2, 64, block, Activations::Int16, Finish::default());
        assert!(y.iter().all(|v| v.is_nan()), "{block}: {y:?}");
    }
}
