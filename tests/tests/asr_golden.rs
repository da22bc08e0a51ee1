//! Moonshine against its float32 reference and against what was really said.

use control_plane::registry::{
    Cache, Catalogue, Fetcher, Quantise, ensure_as,
    speech::{
        Utterance,
        wer::{WordErrors, word_errors},
    },
};
use nearfield_inference::{
    Device,
    asr::{AsrError, Moonshine, RATE_HZ, SECONDS_MAX},
    device::{Want, select},
    nn::Resident,
};
use nearfield_shared::gguf::Gguf;
use nearfield_tests::device;
use serde::Deserialize;
use std::io::Write as _;
use std::time::Instant;

/// What the float32 reference produced for one utterance.
#[derive(Deserialize)]
struct Golden {
    id: String,
    tokens: Vec<u32>,
    frames: usize,
    first_frame: Vec<f32>,
    mean_magnitude: f32,
}

fn golden() -> Vec<Golden> {
    serde_json::from_str(include_str!("../golden/moonshine_tiny_f32.json")).expect("the golden file parses")
}

fn utterances(ids: Option<&[&str]>) -> Vec<Utterance> {
    let fetcher = Fetcher::new(Cache::of_user().expect("a cache"));
    let speech = Catalogue::builtin().and_then(|catalogue| catalogue.speech()).expect("the list of recordings");
    match ids {
        Some(ids) => speech.get(&fetcher, ids),
        None => speech.labelled(&fetcher),
    }
    .expect("the recordings")
}

fn model(quantise: Quantise, device: &Device) -> Moonshine {
    let path = ensure_as("moonshine-tiny", quantise).expect("the model");
    Moonshine::load(&Gguf::open(path).expect("a GGUF file"), device).expect("a Moonshine model")
}

#[test]
fn float32_weights_give_the_reference_token_ids() {
    let golden = golden();
    let model = model(Quantise::F32, &device());
    let ids: Vec<&str> = golden.iter().map(|case| case.id.as_str()).collect();
    for (case, utterance) in golden.iter().zip(utterances(Some(&ids))) {
        let encoded = model.encode(&utterance.samples()).expect("encoded");
        assert_eq!(encoded.frames(), case.frames, "{}", case.id);
        let hidden: Vec<f32> = encoded.hidden().to_data().try_to_vec().expect("floats");
        for (found, expected) in hidden.iter().zip(&case.first_frame) {
            assert!((found - expected).abs() < 2e-4, "{}: {found} instead of {expected}", case.id);
        }
        let magnitude = hidden.iter().map(|v| f64::from(v.abs())).sum::<f64>() / hidden.len() as f64;
        assert!((magnitude as f32 - case.mean_magnitude).abs() < 1e-4, "{}: {magnitude}", case.id);
        let mut decoding = model.begin(encoded);
        while !decoding.is_ended() {
            model.step(&mut [&mut decoding]).expect("a step");
        }
        assert_eq!(decoding.tokens(), case.tokens, "{}", case.id);
        println!("{}: {} tokens equal", case.id, case.tokens.len());
    }
}

/// What this process has computed so far, in seconds of all its threads: a figure that other work on the machine hardly moves.
/// Meaningful where one test runs alone.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on every system this builds for, and `time` is a valid place for its value.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Word errors over the labelled set; prints each transcript, the speed and the memory.
fn word_errors_with(quantise: Quantise) -> WordErrors {
    let model = model(quantise, &device());
    let utterances = utterances(None);
    let mut total = WordErrors::default();
    let (mut seconds, begun, begun_cpu) = (0.0, Instant::now(), cpu_seconds());
    for utterance in &utterances {
        let heard = model.transcribe(&utterance.samples()).expect("a transcript");
        let errors = word_errors(&utterance.text, &heard);
        println!("{:>14} {}/{} {heard}", utterance.id, errors.errors, errors.words);
        total += errors;
        seconds += utterance.pcm.len() as f64 / RATE_HZ as f64;
    }
    println!(
        "moonshine-tiny {quantise}: word error rate {:.2} % ({} of {} words), real-time factor {:.3} ({:.3} of CPU time) on {} threads, {} bytes resident",
        total.percent(),
        total.errors,
        total.words,
        begun.elapsed().as_secs_f64() / seconds,
        (cpu_seconds() - begun_cpu) / seconds,
        std::env::var("RAYON_NUM_THREADS").unwrap_or_else(|_| "all".into()),
        model.resident_bytes()
    );
    total
}

#[test]
fn the_default_quantisation_hears_what_was_said() {
    let default = Catalogue::builtin().and_then(|c| c.get("moonshine-tiny").map(|e| e.quantise)).expect("the entry");
    let errors = word_errors_with(default);
    assert!(errors.percent() <= 8.0, "{errors:?}");
}

#[test]
fn four_bits_lose_few_words() {
    let errors = word_errors_with(Quantise::Q4_1);
    assert!(errors.percent() <= 12.0, "{errors:?}");
}

#[test]
fn weights_stay_quantised_in_memory() {
    let device = device();
    let bytes = |quantise| model(quantise, &device).resident_bytes();
    let (floats, eight, four) = (bytes(Quantise::F32), bytes(Quantise::Q8_0), bytes(Quantise::Q4_1));
    println!("moonshine-tiny resident bytes: f32 {floats}, q8_0 {eight}, q4_1 {four}");
    assert!(eight * 3 < floats, "{eight} of {floats}");
    assert!(four < eight, "{four} of {eight}");
}

#[test]
fn odd_audio_is_answered_or_refused() {
    let model = model(Quantise::Q8_0, &device());
    for samples in [0, 1, 126, 894, 4_000, 16_000] {
        let heard = model.tokens(&vec![0.0; samples]).expect("silence is no error");
        assert!(heard.len() <= 6, "{samples} samples of silence gave {} tokens", heard.len());
    }
    let loud: Vec<f32> = (0..RATE_HZ).map(|i| if i % 80 < 40 { 1.0 } else { -1.0 }).collect();
    assert!(model.tokens(&loud).expect("a loud tone is no error").len() <= 6);
    let longest = vec![0.0; SECONDS_MAX * RATE_HZ];
    assert!(model.encode(&longest).is_ok());
    let longer = vec![0.0; SECONDS_MAX * RATE_HZ + 1];
    assert!(matches!(model.encode(&longer).err(), Some(AsrError::TooLong { .. })));
}

#[test]
fn transcripts_that_are_written_in_turns_are_what_they_are_alone() {
    let model = model(Quantise::Q8_0, &device());
    let utterances = utterances(Some(&["goforward", "cards_005"]));
    let alone: Vec<Vec<u32>> = utterances.iter().map(|u| model.tokens(&u.samples()).expect("alone")).collect();
    let mut both: Vec<_> =
        utterances.iter().map(|u| model.begin(model.encode(&u.samples()).expect("encoded"))).collect();
    let mut going = true;
    while going {
        going = false;
        for decoding in &mut both {
            model.step(&mut [decoding]).expect("a step");
            going |= !decoding.is_ended();
        }
    }
    for (decoding, alone) in both.iter().zip(&alone) {
        assert_eq!(decoding.tokens(), alone);
    }
}

#[test]
fn a_software_gpu_writes_the_same_tokens() {
    let selected = match select(&Want::SoftwareGpu) {
        Ok(selected) => selected,
        Err(error) => {
            // Past the test harness, which shows nothing of a test that passes.
            writeln!(std::io::stderr(), "SKIPPED: {error}").expect("stderr");
            return;
        }
    };
    println!("on {}", selected.name);
    let shortest = utterances(Some(&["cards_001"])).remove(0);
    let here = model(Quantise::Q8_0, &selected.device).tokens(&shortest.samples()).expect("a transcript");
    let cpu = model(Quantise::Q8_0, &Device::flex()).tokens(&shortest.samples()).expect("a transcript");
    assert_eq!(here, cpu);
}

#[test]
fn a_file_of_another_model_is_refused() {
    let mut writer = nearfield_shared::gguf::GgufWriter::new("llama");
    writer.meta("general.name", "other");
    let error = Moonshine::load(&Gguf::parse(writer.to_bytes()).expect("a file"), &Device::flex()).err();
    assert!(error.is_some_and(|error| error.to_string().contains("moonshine")));
    let writer = nearfield_shared::gguf::GgufWriter::new("moonshine");
    assert!(Moonshine::load(&Gguf::parse(writer.to_bytes()).expect("a file"), &Device::flex()).is_err());
}
