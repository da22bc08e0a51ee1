use half::f16;
use proptest::prelude::*;

use super::*;

fn h(v: f32) -> [u8; 2] {
    f16::from_f32(v).to_le_bytes()
}

/// Each layout against a block written by hand from ggml's description of it.
#[test]
fn every_block_type_reads_hand_made_values() {
    let check = |block, bytes: Vec<u8>, expect: &dyn Fn(usize) -> f32| {
        assert_eq!(bytes.len(), block_bytes(block));
        for (i, v) in dequantise(block, &bytes).unwrap().into_iter().enumerate() {
            assert_eq!(v, expect(i), "{block} value {i}");
        }
    };
    fn block_bytes(b: BlockType) -> usize {
        b.block_bytes()
    }
    check(BlockType::F32, vec![0, 0, 0x20, 0xc1], &|_| -10.0);
    check(BlockType::F16, h(-0.375).to_vec(), &|_| -0.375);
    check(BlockType::I8, vec![0x80], &|_| -128.0);

    let q8: Vec<u8> = (0..32).map(|i| (i as i8 - 16) as u8).collect();
    check(BlockType::Q8_0, [&h(0.5)[..], &q8].concat(), &|i| (i as f32 - 16.0) * 0.5);

    // Value i is nibble i % 16, in the low halves first and in the high halves after 16.
    let nibbles: Vec<u8> = (0..16).map(|i| i | i << 4).collect();
    check(BlockType::Q4_0, [&h(0.25)[..], &nibbles].concat(), &|i| ((i % 16) as f32 - 8.0) * 0.25);
    check(BlockType::Q4_1, [&h(0.25)[..], &h(-3.0), &nibbles].concat(), &|i| (i % 16) as f32 * 0.25 - 3.0);

    // The fifth bit of the second sixteen is set: value i is i.
    check(BlockType::Q5_0, [&h(2.0)[..], &0xffff_0000u32.to_le_bytes(), &nibbles].concat(), &|i| {
        (i as f32 - 16.0) * 2.0
    });

    // Q4_K: groups 0..4 with scales 1, 2, 3, 4 and minima 5, 6, 7, 8; groups 4..8 with 17, 34, 51, 63 and 16, 33, 48, 63.
    let scale = [1u8, 2, 3, 4, 17, 34, 51, 63];
    let min = [5u8, 6, 7, 8, 16, 33, 48, 63];
    let mut packed = [0u8; 12];
    for j in 0..4 {
        packed[j] = scale[j] | (scale[j + 4] >> 4) << 6;
        packed[j + 4] = min[j] | (min[j + 4] >> 4) << 6;
        packed[j + 8] = scale[j + 4] & 15 | (min[j + 4] & 15) << 4;
    }
    // Quants: groups 2p (low) and 2p+1 (high) share 32 bytes; value i of group g is (i + g) % 16.
    let quants: Vec<u8> = (0..128usize)
        .map(|b| ((b % 32 + b / 32 * 2) % 16) as u8 | (((b % 32 + b / 32 * 2 + 1) % 16) as u8) << 4)
        .collect();
    check(BlockType::Q4K, [&h(0.5)[..], &h(0.25), &packed, &quants].concat(), &|i| {
        let g = i / 32;
        0.5 * f32::from(scale[g]) * ((i % 32 + g) % 16) as f32 - 0.25 * f32::from(min[g])
    });

    // Q6_K: value i is i % 64; 128 values share 64 low bytes and 32 high bytes; scales −8..8.
    let (mut low, mut high) = ([0u8; 128], [0u8; 64]);
    for i in 0..256usize {
        let (q, half, part, l) = ((i % 64) as u8, i / 128, i % 128 / 32, i % 32);
        low[half * 64 + part % 2 * 32 + l] |= (q & 15) << (part / 2 * 4);
        high[half * 32 + l] |= (q >> 4) << (part * 2);
    }
    let scales: Vec<u8> = (0..16).map(|s| (s as i8 - 8) as u8).collect();
    check(BlockType::Q6K, [&low[..], &high, &scales, &h(0.125)].concat(), &|i| {
        0.125 * (i as f32 / 16.0).floor().mul_add(1.0, -8.0) * ((i % 64) as f32 - 32.0)
    });
}

#[test]
fn quantising_says_what_it_cannot_do() {
    let refused = |block, values: &[f32], part: &str| {
        let e = quantise(block, values).unwrap_err().to_string();
        assert!(e.contains(part), "{e}");
    };
    refused(BlockType::Q8_0, &[1.0; 31], "31 values");
    refused(BlockType::Q4K, &[1.0; 256], "cannot quantise");
    refused(BlockType::F16, &[1.0, f32::NAN], "position 1");
    refused(BlockType::Q4_1, &[1e6; 32], "1000000");
    assert!(dequantise(BlockType::Q4_1, &[0; 19]).unwrap_err().to_string().contains("19 bytes"));
}

fn small_file() -> GgufWriter {
    let mut w = GgufWriter::new("test");
    w.meta("a.flag", true).meta("a.count", 7u32).meta("a.eps", 1e-5f32).meta("a.words", vec!["eins", "zwei"]);
    w.meta("a.nested", Value::Array(vec![vec![1u8, 2].into(), vec![3u8].into()]));
    w.tensor_f32("w", &[2, 32], BlockType::Q8_0, &[0.5; 64]).unwrap();
    w.tensor_f32("b", &[3], BlockType::F32, &[1.0, 2.0, 3.0]).unwrap();
    w.bytes("lexicon", b"hello".to_vec()).unwrap();
    w
}

#[test]
fn a_written_file_reads_back() {
    let bytes = small_file().to_bytes();
    let g = Gguf::parse(bytes.clone()).unwrap();
    assert_eq!(g.architecture().unwrap(), "test");
    assert!(g.bool("a.flag").unwrap());
    assert_eq!((g.u32("a.count").unwrap(), g.f32("a.eps").unwrap()), (7, 1e-5));
    assert_eq!(g.strs("a.words").unwrap(), ["eins", "zwei"]);
    let w = g.tensor("w").unwrap();
    assert_eq!((w.shape.as_slice(), w.block, w.data.len()), (&[2usize, 32][..], BlockType::Q8_0, 68));
    assert!(w.to_f32().iter().all(|v| (v - 0.5).abs() < 1e-3));
    assert_eq!(g.tensor("b").unwrap().to_f32(), [1.0, 2.0, 3.0]);
    assert_eq!(g.tensor("lexicon").unwrap().data, b"hello");
    assert_eq!(g.tensors().map(|t| t.name.to_owned()).collect::<Vec<_>>(), ["w", "b", "lexicon"]);
    // The writer is a function of the content: a copy of the copy is the same file.
    assert_eq!(GgufWriter::from_gguf(&g).to_bytes(), bytes);
}

#[test]
fn missing_and_mistyped_things_are_named() {
    let g = Gguf::parse(small_file().to_bytes()).unwrap();
    let named = |e: GgufError, part: &str| assert!(e.to_string().contains(part), "{e}");
    named(g.str("no.key").unwrap_err(), "\"no.key\" is missing");
    named(g.u32("a.eps").unwrap_err(), "is a float, expected an unsigned integer");
    named(g.strs("a.nested").unwrap_err(), "expected an array of strings");
    named(g.tensor("nope").unwrap_err(), "\"nope\" is missing");
    let mut w = GgufWriter::new("t");
    named(w.tensor_f32("w", &[2, 16], BlockType::Q8_0, &[0.0; 32]).unwrap_err(), "rows of 16");
    named(w.tensor("w", &[2], BlockType::F32, vec![0; 7]).unwrap_err(), "7 bytes were given, 8");
    w.bytes("w", vec![1]).unwrap();
    named(w.bytes("w", vec![1]).unwrap_err(), "occurs twice");
}

#[test]
fn every_cut_of_a_file_is_an_error() {
    let bytes = small_file().to_bytes();
    // Behind the last tensor's five bytes there is only padding.
    for cut in 0..bytes.len() - 27 {
        assert!(Gguf::parse(bytes[..cut].to_vec()).is_err(), "cut at {cut} of {}", bytes.len());
    }
}

#[test]
fn hostile_numbers_are_refused_before_they_are_used() {
    let head = |tensors: u64, metas: u64| {
        let mut b = b"GGUF\x03\0\0\0".to_vec();
        b.extend(tensors.to_le_bytes());
        b.extend(metas.to_le_bytes());
        b
    };
    let refused = |bytes: Vec<u8>, part: &str| {
        let e = Gguf::parse(bytes).unwrap_err().to_string();
        assert!(e.contains(part), "{e}");
    };
    refused(b"GGML".to_vec(), "not a GGUF file");
    refused(b"GGUF\x09\0\0\0".to_vec(), "version 9");
    refused(head(u64::MAX, 0), "number of tensors");
    refused(head(0, u64::MAX), "metadata keys");
    let with_key = |kind: u32, rest: &[u8]| {
        let mut b = head(0, 1);
        b.extend(1u64.to_le_bytes());
        b.push(b'k');
        b.extend(kind.to_le_bytes());
        b.extend(rest);
        b
    };
    refused(with_key(8, &u64::MAX.to_le_bytes()), "ends at byte");
    refused(with_key(8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]), "not UTF-8");
    refused(with_key(77, &[]), "unknown type 77");
    let array = |elem: u32, len: u64| [&elem.to_le_bytes()[..], &len.to_le_bytes()].concat();
    refused(with_key(9, &array(0, u64::MAX)), "array elements");
    refused(with_key(9, &array(0, 1 << 20)), "ends at byte");
    refused(with_key(9, &[array(9, 1), array(9, 1), array(9, 1), array(9, 1), array(9, 1)].concat()), "depth");

    let with_tensor = |dims: &[u64], id: u32, offset: u64| {
        let mut b = head(1, 0);
        b.extend(1u64.to_le_bytes());
        b.push(b't');
        b.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| b.extend(d.to_le_bytes()));
        b.extend(id.to_le_bytes());
        b.extend(offset.to_le_bytes());
        b.resize(b.len().next_multiple_of(32) + 64, 0);
        b
    };
    assert!(Gguf::parse(with_tensor(&[16], 0, 0)).is_ok());
    refused(with_tensor(&[17], 0, 0), "ends at byte");
    refused(with_tensor(&[16], 0, 32), "ends at byte");
    refused(with_tensor(&[1], 0, 8), "not aligned");
    refused(with_tensor(&[16], 0, u64::MAX - 31), "beyond any file");
    refused(with_tensor(&[1 << 33, 1 << 33], 0, 0), "larger than");
    refused(with_tensor(&[u64::MAX], 0, 0), "larger than");
    refused(with_tensor(&[0], 0, 0), "a dimension is 0");
    refused(with_tensor(&[], 0, 0), "no dimensions");
    refused(with_tensor(&[1, 1, 1, 1, 1], 0, 0), "dimensions");
    refused(with_tensor(&[16], 8, 0), "rows of 16");
    refused(with_tensor(&[16], 30, 0), "block type 30");
}

/// Worst error of one step of each type, as a share of the block's peak magnitude.
fn step_share(block: BlockType) -> f32 {
    match block {
        BlockType::F32 => 0.0,
        BlockType::F16 => 1.0 / 2048.0,
        BlockType::Q8_0 => 0.5 / 127.0 + 0.001,
        // The far end of the symmetric range is one step short, so a value there is off by a whole step.
        BlockType::Q4_0 => 1.0 / 8.0 + 0.01,
        BlockType::Q5_0 => 1.0 / 16.0 + 0.01,
        // The range is at most twice the peak, in fifteen steps.
        BlockType::Q4_1 => 1.0 / 15.0 + 0.01,
        BlockType::Q4K | BlockType::Q6K | BlockType::I8 => unreachable!("not produced"),
    }
}

proptest! {
    #[test]
    fn what_is_quantised_comes_back_within_a_step(values in proptest::collection::vec(-8.0f32..8.0, 64)) {
        for block in [BlockType::F32, BlockType::F16, BlockType::Q8_0, BlockType::Q4_0, BlockType::Q4_1, BlockType::Q5_0] {
            let back = dequantise(block, &quantise(block, &values).unwrap()).unwrap();
            for (chunk, back) in values.chunks(32).zip(back.chunks(32)) {
                let peak = chunk.iter().fold(0f32, |m, v| m.max(v.abs()));
                for (a, b) in chunk.iter().zip(back) {
                    prop_assert!((a - b).abs() <= peak * step_share(block) + 1e-6, "{block}: {a} became {b}, peak {peak}");
                }
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = Gguf::parse(bytes.clone());
        let mut with_magic = b"GGUF\x03\0\0\0".to_vec();
        with_magic.extend(bytes);
        let _ = Gguf::parse(with_magic);
    }

    #[test]
    fn a_flipped_byte_never_panics(at in 0usize..1000, to in any::<u8>()) {
        let mut bytes = small_file().to_bytes();
        let at = at % bytes.len();
        bytes[at] = to;
        if let Ok(g) = Gguf::parse(bytes) {
            for t in g.tensors() {
                prop_assert_eq!(t.to_f32().len(), t.elems());
            }
        }
    }

    #[test]
    fn any_bytes_dequantise(bytes in proptest::collection::vec(any::<u8>(), 210)) {
        for block in BlockType::ALL {
            let whole = block.block_bytes() * (210 / block.block_bytes());
            prop_assert_eq!(dequantise(block, &bytes[..whole]).unwrap().len(), whole / block.block_bytes() * block.block_elems());
        }
    }

    #[test]
    fn files_round_trip(names in proptest::collection::hash_set("[a-z.]{1,12}", 0..6), rows in 1usize..4, text in "\\PC*") {
        let mut w = GgufWriter::new("t");
        w.meta("text", text.as_str());
        for (i, n) in names.iter().enumerate() {
            let block = [BlockType::Q8_0, BlockType::Q4_1, BlockType::F16][i % 3];
            w.tensor_f32(n, &[rows, 32], block, &vec![i as f32; rows * 32]).unwrap();
        }
        let g = Gguf::parse(w.to_bytes()).unwrap();
        prop_assert_eq!(g.str("text").unwrap(), text);
        for (i, n) in names.iter().enumerate() {
            let t = g.tensor(n).unwrap();
            prop_assert_eq!(&t.shape, &vec![rows, 32]);
            prop_assert!(t.to_f32().iter().all(|v| (v - i as f32).abs() < 0.01));
        }
    }
}
