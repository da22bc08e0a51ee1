use super::{
    graph::{Element, Tensor, transposed},
    *,
};
use ::safetensors::tensor::TensorView;
use nearfield_shared::gguf::Gguf;

/// Feeds a reader its input cut at every length and with thousands of changed bytes; the readers' promise is an error.
pub(in crate::registry) fn never_panics(good: &[u8], read: impl Fn(&[u8])) {
    (0..good.len()).for_each(|len| read(&good[..len]));
    let mut state = 1u64;
    let mut next = || {
        // Knuth's MMIX generator: the same bytes every time, so that a failure can be repeated.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for _ in 0..20_000 {
        let mut bytes = good.to_vec();
        for _ in 0..1 + next() % 4 {
            let at = next() % bytes.len();
            bytes[at] = if next() % 4 == 0 { 0xff } else { next() as u8 };
        }
        read(&bytes);
    }
}

fn tensor(element: Element, shape: &[usize], data: &[u8]) -> Tensor {
    Tensor::new("t", element, shape.to_vec(), data.to_vec()).expect("tensor")
}

#[test]
fn dequantising_follows_onnx_per_tensor_and_per_channel() {
    let q = tensor(Element::U8, &[2, 3], &[0, 128, 255, 1, 2, 3]);
    let one = |v: f32| tensor(Element::F32, &[], &v.to_le_bytes());
    let zero = tensor(Element::U8, &[], &[128]);
    assert_eq!(q.dequantised(&one(0.5), Some(&zero), 0).expect("ok"), [-64.0, 0.0, 63.5, -63.5, -63.0, -62.5]);
    let two: Vec<u8> = [1.0f32, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let scales = tensor(Element::F32, &[2], &two);
    let zeros = tensor(Element::U8, &[2], &[0, 1]);
    assert_eq!(q.dequantised(&scales, Some(&zeros), 0).expect("ok"), [0.0, 128.0, 255.0, 0.0, 2.0, 4.0]);
    assert!(q.dequantised(&scales, None, 1).expect_err("three columns").to_string().contains("2 channels on axis 1"));
    assert!(q.dequantised(&scales, None, 7).is_err(), "no such axis");
    assert!(q.dequantised(&scales, Some(&zero), 0).is_err(), "one zero point for two scales");
}

#[test]
fn numbers_of_every_type_become_floats_and_integers() {
    let check = |element, data: &[u8], floats: &[f32], integers: &[i64]| {
        let t = tensor(element, &[floats.len()], data);
        assert_eq!((t.f32s().as_slice(), t.i64s().as_slice()), (floats, integers), "{element:?}");
    };
    check(Element::F32, &1.5f32.to_le_bytes(), &[1.5], &[1]);
    check(Element::F64, &(-2.0f64).to_le_bytes(), &[-2.0], &[-2]);
    check(Element::F16, &[0, 0x3c], &[1.0], &[1]);
    check(Element::Bf16, &[0x80, 0x3f], &[1.0], &[1]);
    check(Element::U8, &[255], &[255.0], &[255]);
    check(Element::I8, &[255], &[-1.0], &[-1]);
    check(Element::U16, &[255, 255], &[65535.0], &[65535]);
    check(Element::I16, &[255, 255], &[-1.0], &[-1]);
    check(Element::U32, &[0, 0, 0, 128], &[2147483648.0], &[2147483648]);
    check(Element::I32, &[254, 255, 255, 255], &[-2.0], &[-2]);
    check(Element::I64, &(-3i64).to_le_bytes(), &[-3.0], &[-3]);
    check(Element::U64, &3u64.to_le_bytes(), &[3.0], &[3]);
    check(Element::Bool, &[0, 1], &[0.0, 1.0], &[0, 1]);
    assert!(Tensor::new("t", Element::F32, vec![2], vec![0; 7]).is_err());
}

#[test]
fn matrices_are_turned_around() {
    assert_eq!(transposed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
}

#[test]
fn safetensors_are_read_and_damaged_ones_never_panic() {
    let data: Vec<u8> = [1.0f32, -1.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = TensorView::new(::safetensors::Dtype::F32, vec![2], &data).expect("view");
    let bytes = ::safetensors::serialize([("w", view)], None).expect("serialize");
    let read = safetensors::tensors("m", &bytes).expect("parses");
    assert_eq!(safetensors::tensor(&read, "m", "w").expect("w").f32s(), [1.0, -1.0]);
    assert!(safetensors::tensor(&read, "m", "v").expect_err("gone").to_string().contains("`v`"));
    never_panics(&bytes, |bytes| {
        let _ = safetensors::tensors("m", bytes);
    });
}

#[test]
fn quantisations_fall_back_where_rows_are_no_whole_blocks_and_keep_embeddings_at_eight_bits() {
    assert_eq!(Quantise::Q4_1.matrix(64), BlockType::Q4_1);
    assert_eq!(Quantise::Q4_1.matrix(65), BlockType::F16);
    assert_eq!(Quantise::Q4_1.embedding(64), BlockType::Q8_0);
    assert_eq!(Quantise::F16.embedding(64), BlockType::F16);
    assert_eq!(Quantise::F32.matrix(65), BlockType::F32);
    for q in Quantise::ALL {
        assert_eq!(q.to_string().parse(), Ok(q));
    }
    assert!("q3_k".parse::<Quantise>().expect_err("unknown").contains("q8_0"));
}

#[test]
fn a_gguf_source_passes_through_block_for_block() {
    let mut writer = GgufWriter::new("llama");
    writer.meta("llama.block_count", 3u32);
    writer.tensor_f32("w", &[2, 32], BlockType::Q4_1, &[0.25; 64]).expect("tensor");
    let source = writer.to_bytes();
    let sources: Sources = [("model", source.clone())].into_iter().collect();
    let converted = (converter("llama").expect("llama").convert)(&sources, Quantise::Keep).expect("converts");
    let (before, after) = (Gguf::parse(source).expect("gguf"), Gguf::parse(converted.to_bytes()).expect("gguf"));
    assert_eq!(after.tensor("w").expect("w"), before.tensor("w").expect("w"));
    assert_eq!(after.u32("llama.block_count").expect("metadata"), 3);
    let none = (converter("llama").expect("llama").convert)(&Sources::new(), Quantise::Keep);
    assert!(none.expect_err("no source").to_string().contains("role `model`"));
    assert!(converter("bert-9000").err().expect("unknown").to_string().contains("llama"));
}
