//! Each model once on a GPU, on its shortest input, against the CPU. On a software Vulkan device (Debian:
//! `mesa-vulkan-drivers` and `libvulkan1`) where there is no real one; without either each test says that it was skipped.
//! Moonshine's stands in `asr_golden.rs`.

use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use control_plane::registry;
use nearfield_inference::{
    Device,
    device::{self, Want},
    embed::MiniLm,
    llm::{Llama, Sampling},
    tts::Hibari,
    turn::SmartTurn,
    vad::{FRAME_SAMPLES, SileroVad, VadState},
};
use nearfield_shared::gguf::Gguf;

/// A GPU for one test at a time: a software one has all cores busy already.
fn gpu() -> Option<(Device, MutexGuard<'static, ()>)> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    for want in [Want::Gpu(String::new()), Want::SoftwareGpu] {
        if let Ok(selected) = device::select(&want) {
            println!("on {}", selected.name);
            return Some((selected.device, guard));
        }
    }
    // Past the test harness, which shows nothing of a test that passes.
    writeln!(std::io::stderr(), "SKIPPED: no Vulkan device, so no model was run on a GPU").expect("stderr");
    None
}

fn gguf(name: &str) -> Gguf {
    let paths = registry::ensure(&[name]).unwrap_or_else(|e| panic!("{name}: {e}"));
    Gguf::open(&paths[0]).expect("an imported model")
}

/// A second of something that rises and falls like a voice.
fn sound(samples: usize) -> Vec<f32> {
    (0..samples)
        .map(|i| {
            let t = i as f32 / 16_000.0;
            (t * 900.0).sin() * (t * 31.0).sin() * 0.3 + (t * 2_700.0).sin() * 0.1
        })
        .collect()
}

fn close(what: &str, gpu: &[f32], cpu: &[f32], tolerance: f32) {
    assert_eq!(gpu.len(), cpu.len(), "{what}");
    let worst =
        gpu.iter().zip(cpu).map(|(a, b)| (a - b).abs()).fold(0f32, |m, d| if d.is_nan() { d } else { m.max(d) });
    println!("{what}: worst difference {worst:.2e}");
    assert!(worst <= tolerance, "{what} differs by {worst} between GPU and CPU");
}

#[test]
fn the_language_model_says_the_same() {
    let Some((gpu, _guard)) = gpu() else { return };
    let gguf = gguf("smollm2-135m-instruct");
    let say = |device: &Device| {
        let llama = Llama::load(&gguf, device).expect("load");
        let prompt = llama.tokenizer().encode("The capital of France is").expect("tokenise");
        let mut sequence = llama.sequence(16, Sampling::GREEDY);
        llama.prefill(&mut sequence, &prompt).expect("prefill");
        let mut tokens = Vec::new();
        let mut scores = Vec::new();
        for _ in 0..4 {
            let logits = llama.decode_logits(&mut [&mut sequence]).expect("decode").remove(0);
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).expect("a vocabulary") as u32;
            sequence.accept(best);
            tokens.push(best);
            scores.extend(logits);
        }
        (llama.tokenizer().decode(&tokens), scores)
    };
    let (on_gpu, on_cpu) = (say(&gpu), say(&Device::flex()));
    println!("{:?}", on_gpu.0);
    assert_eq!(on_gpu.0, on_cpu.0);
    // Activations of 16 bits on the CPU, f32 on the GPU.
    close("scores", &on_gpu.1, &on_cpu.1, 0.05);
}

#[test]
fn voice_activity_is_the_same() {
    let Some((gpu, _guard)) = gpu() else { return };
    let gguf = gguf("silero-vad");
    let sound = sound(2 * FRAME_SAMPLES);
    let hear = |device: &Device| {
        let vad = SileroVad::load(&gguf, device).expect("load");
        let mut state = VadState::new();
        let frames = sound.chunks_exact(FRAME_SAMPLES).map(|f| f.try_into().expect("exact"));
        frames.flat_map(|f| vad.step(&[f], &mut [&mut state])).collect::<Vec<_>>()
    };
    close("probabilities", &hear(&gpu), &hear(&Device::flex()), 2e-3);
}

#[test]
fn the_end_of_a_turn_is_the_same() {
    let Some((gpu, _guard)) = gpu() else { return };
    let gguf = gguf("smart-turn-v3.2");
    // The network looks at eight seconds, however short the turn is.
    let sound = sound(16_000);
    let on_gpu = SmartTurn::load(&gguf, &gpu).expect("load");
    let on_cpu = SmartTurn::load(&gguf, &Device::flex()).expect("load").probability(&sound);
    close("the probability", &[on_gpu.probability(&sound)], &[on_cpu], 5e-3);

    // Beside another turn.
    let mut together = on_gpu.listen_together(&[&sound[..8_000], &sound]);
    let mut found = vec![None];
    while found.contains(&None) {
        found = on_gpu.step_together(&mut together.iter_mut().collect::<Vec<_>>());
    }
    close("the probability in a batch", &[found[1].expect("a probability")], &[on_cpu], 5e-3);
}

#[test]
fn a_sentence_means_the_same() {
    let Some((gpu, _guard)) = gpu() else { return };
    let gguf = gguf("minilm-l6-v2");
    let embed = |device: &Device| MiniLm::load(&gguf, device).expect("load").embed(&["open now?"]).remove(0);
    close("the embedding", &embed(&gpu), &embed(&Device::flex()), 2e-3);
}

#[test]
fn a_word_is_said_the_same_way() {
    let Some((gpu, _guard)) = gpu() else { return };
    let gguf = gguf("hibari");
    let plan = |device: &Device| {
        let hibari = Hibari::load(&gguf, device).expect("load");
        // A pad at either end, three phonemes between: the shortest thing that is said.
        hibari.predict(&[0, 50, 83, 54, 0], 1.0).expect("sound input")
    };
    let (on_gpu, on_cpu) = (plan(&gpu), plan(&Device::flex()));
    assert_eq!(on_gpu.durations, on_cpu.durations);
    close("pitch in hertz", &on_gpu.f0, &on_cpu.f0, 1.0);

    // Two words of two calls, side by side and one after the other.
    let hibari = Hibari::load(&gguf, &gpu).expect("load");
    let words = [&[0, 50, 83, 54, 0][..], &[0, 83, 0]];
    let mut together = words.map(|ids| hibari.begin(ids, 1.0, 7).expect("sound input"));
    let mut found = vec![Ok(None), Ok(None)];
    while found.contains(&Ok(None)) {
        found = hibari.step_together(&mut together.iter_mut().collect::<Vec<_>>());
    }
    for (ids, found) in words.iter().zip(found) {
        let mut alone = hibari.begin(ids, 1.0, 7).expect("sound input");
        let alone = std::iter::from_fn(|| Some(hibari.step(&mut alone).expect("it goes on"))).find_map(|s| s);
        close("samples in a batch", &found.expect("sound input").expect("samples"), &alone.expect("samples"), 5e-3);
    }
}
