//! A guard against slowing down by accident, for every change: ratios within one process and counts of allocations, never a limit in
//! seconds. The bounds have so much room that only a mistake trips them; `nearfield-bench stages` tells real figures.
//!
//! One test function, so that nothing else of this process computes beside it.

use control_plane::registry;
use nearfield_bench::measure::timed;
use nearfield_inference::{
    Device,
    llm::{DECODE_BATCH_MAX, Llama, Sampling, Sequence},
    tts::{Hibari, Rendering},
    vad::{FRAME_SAMPLES, SileroVad, VadState},
};
use nearfield_shared::gguf::{BlockType, Gguf, dequantise};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Measurements of each side, in turns; the best of them counts, because other work can only make one slower.
const ROUNDS: usize = 7;

/// Counts every allocation of the process.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static ALLOCATED_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        ALLOCATED_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises about `layout` hold for it too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `alloc` above, that is from the system.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The best times of two sides that take turns.
fn best_of(mut a: impl FnMut(), mut b: impl FnMut()) -> (f64, f64) {
    let mut best = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        best.0 = best.0.min(timed(&mut a).0.wall_ms);
        best.1 = best.1.min(timed(&mut b).0.wall_ms);
    }
    best
}

/// Every product of one token, as plainly as it can be written: a row of weights at a time, made floats, times the activations.
fn plain_token(gguf: &Gguf, x: &[f32]) -> f32 {
    let mut sum = 0f32;
    for tensor in gguf.tensors().filter(|t| t.shape.len() == 2) {
        let columns = tensor.shape[1];
        let row_bytes = tensor.data.len() / tensor.shape[0];
        for row in tensor.data.chunks_exact(row_bytes) {
            let weights = dequantise(tensor.block, row).expect("whole blocks");
            sum += weights.iter().zip(&x[..columns]).map(|(w, x)| w * x).sum::<f32>();
        }
    }
    sum
}

fn open(model: &str) -> Gguf {
    let path = registry::ensure(&[model]).expect("the model can be had").remove(0);
    Gguf::open(path).expect("it is GGUF")
}

fn sequences(llama: &Llama, n: usize) -> Vec<Sequence> {
    let prompt = llama.tokenizer().encode("The guard counts what a step costs.").expect("text");
    (0..n)
        .map(|_| {
            let mut sequence = llama.sequence(256, Sampling::GREEDY);
            llama.prefill(&mut sequence, &prompt).expect("room");
            sequence
        })
        .collect()
}

#[test]
fn steps_cost_what_they_should() {
    if cfg!(debug_assertions) {
        println!("SKIPPED: ratios of a debug build say nothing; run with --release");
        return;
    }
    let gguf = open("smollm2-135m-instruct");
    assert!(gguf.tensors().any(|t| t.block == BlockType::Q4_1), "the model is quantised");
    let llama = Llama::load(&gguf, &Device::flex()).expect("it loads");

    // Our kernels against the plain loop.
    let mut one = sequences(&llama, 1);
    let x: Vec<f32> = (0..2048).map(|i| (i as f32 * 0.37).sin()).collect();
    let (ours, plain) = best_of(
        || drop(llama.decode(&mut [&mut one[0]]).expect("a step")),
        || {
            black_box(plain_token(&gguf, black_box(&x)));
        },
    );
    println!("decode: a token takes {:.3} of a plain loop over the same weights", ours / plain);
    assert!(ours < 0.5 * plain, "a token takes {ours:.1} ms, a plain loop {plain:.1} ms");

    // Batching pays.
    let mut many = sequences(&llama, DECODE_BATCH_MAX);
    let (batch, single) = best_of(
        || drop(llama.decode(&mut many.iter_mut().collect::<Vec<_>>()).expect("a step")),
        || drop(llama.decode(&mut [&mut one[0]]).expect("a step")),
    );
    println!("decode: a step of {DECODE_BATCH_MAX} sequences takes {:.2} steps of one", batch / single);
    assert!(
        batch < 0.95 * DECODE_BATCH_MAX as f64 * single,
        "{batch:.1} ms for {DECODE_BATCH_MAX}, {single:.1} ms for one"
    );

    let vad = SileroVad::load(&open("silero-vad"), &Device::flex()).expect("it loads");
    let (eight, one_frame) = ([[0.1f32; FRAME_SAMPLES]; 8], [[0.1f32; FRAME_SAMPLES]]);
    let (mut states, mut state) = (vec![VadState::new(); 8], VadState::new());
    let (batch, single) = best_of(
        || (0..20).for_each(|_| drop(vad.step(&eight, &mut states.iter_mut().collect::<Vec<_>>()))),
        || (0..20).for_each(|_| drop(vad.step(&one_frame, &mut [&mut state]))),
    );
    println!("vad: a step of 8 calls takes {:.2} steps of one", batch / single);
    // A frame is so little work that a batch gains less than a busy machine takes: it must only not be worse than its parts.
    assert!(batch < 12.0 * single, "{batch:.2} ms for 8 calls, {single:.2} ms for one");

    let hibari = Hibari::load(&open("hibari"), &Device::flex()).expect("it loads");
    // A dozen phonemes between pads, as short as answers begin.
    let ids: Vec<u32> = [0, 50, 83, 54, 62, 47, 102, 85, 16, 61, 47, 57, 0].to_vec();
    let begun = |n: u64| (0..n).map(|seed| hibari.begin(&ids, 1.0, seed).expect("a phrase")).collect::<Vec<_>>();
    let (batch, single) = best_of(
        || {
            let mut all = begun(8);
            let mut all: Vec<&mut Rendering> = all.iter_mut().collect();
            while hibari.step_together(&mut all).contains(&Ok(None)) {}
        },
        || begun(8).iter_mut().for_each(|one| while hibari.step(one) == Ok(None) {}),
    );
    println!("tts: 8 short phrases at once take {:.2} of one by one", batch / single);
    // Eight of them fill the threads either way: a batch must only not be worse than its parts.
    assert!(batch < 1.8 * single, "{batch:.1} ms for 8 phrases at once, {single:.1} ms one by one");

    // What a step allocates is the same on every machine with the same threads.
    let count = |work: &mut dyn FnMut()| {
        let before = (ALLOCATIONS.load(Ordering::Relaxed), ALLOCATED_BYTES.load(Ordering::Relaxed));
        work();
        let after = (ALLOCATIONS.load(Ordering::Relaxed), ALLOCATED_BYTES.load(Ordering::Relaxed));
        (after.0 - before.0, after.1 - before.1)
    };
    let (token, token_bytes) = count(&mut || drop(llama.decode(&mut [&mut one[0]]).expect("a step")));
    let (frame, frame_bytes) = count(&mut || drop(vad.step(&one_frame, &mut [&mut state])));
    println!("a token allocates {token} times, {token_bytes} bytes; a frame {frame} times, {frame_bytes} bytes");
    assert!(token <= TOKEN_ALLOCATIONS_MAX && token_bytes <= TOKEN_BYTES_MAX, "a token: {token}, {token_bytes} bytes");
    assert!(frame <= FRAME_ALLOCATIONS_MAX && frame_bytes <= FRAME_BYTES_MAX, "a frame: {frame}, {frame_bytes} bytes");
}

/// Half more than a token took when this was written. A weight matrix that is copied, or made floats, would be far beyond.
const TOKEN_ALLOCATIONS_MAX: usize = 7_000;
const TOKEN_BYTES_MAX: usize = 3 << 20;
/// A frame took 6 and 9,500 bytes when this was written.
const FRAME_ALLOCATIONS_MAX: usize = 32;
const FRAME_BYTES_MAX: usize = 16 << 10;
