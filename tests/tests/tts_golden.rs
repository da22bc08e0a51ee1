//! Speech synthesis against a float32 reference of the networks: the same durations, the same pitch.

use control_plane::registry;
use nearfield_inference::{
    Device,
    nn::Resident as _,
    tts::{Hibari, PHONEMES_MAX, RenderError, SAMPLE_RATE_HZ},
};
use nearfield_shared::gguf::Gguf;
use nearfield_tests::device;
use serde::Deserialize;

/// Samples of a frame that a duration counts.
const FRAME_SAMPLES: usize = 600;

#[derive(Deserialize)]
struct Golden {
    text: String,
    ids: Vec<u32>,
    durations: Vec<u32>,
    f0: Vec<f32>,
}

fn golden() -> Vec<Golden> {
    serde_json::from_str(include_str!("../golden/hibari.json")).expect("the golden file is JSON")
}

fn hibari(device: &Device) -> Hibari {
    let paths = registry::ensure(&["hibari"]).expect("the model can be had");
    Hibari::load(&Gguf::open(&paths[0]).expect("it is GGUF"), device).expect("it loads")
}

fn pearson(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let mean = |v: &[f32]| v.iter().map(|x| f64::from(*x)).sum::<f64>() / v.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let pairs = || a.iter().zip(b).map(|(x, y)| (f64::from(*x) - ma, f64::from(*y) - mb));
    let sum = |f: fn((f64, f64)) -> f64| pairs().map(f).sum::<f64>();
    sum(|(x, y)| x * y) / (sum(|(x, _)| x * x) * sum(|(_, y)| y * y)).sqrt()
}

#[test]
fn durations_are_identical_and_the_pitch_correlates() {
    let hibari = hibari(&device());
    println!("resident: {} bytes", hibari.resident_bytes());
    for golden in golden() {
        let found = hibari.predict(&golden.ids, 1.0).expect("sound input");
        assert_eq!(found.durations, golden.durations, "{}", golden.text);
        let correlation = pearson(&found.f0, &golden.f0);
        println!("{}: pitch correlation {correlation:.7}", golden.text);
        assert!(correlation >= 0.999, "{}: {correlation}", golden.text);
    }
}

#[test]
fn what_is_rendered_is_as_long_as_predicted_loud_enough_and_repeats() {
    let hibari = hibari(&device());
    let golden = &golden()[0];
    let samples = hibari.render(&golden.ids, 1.0).expect("sound input");
    assert_eq!(samples.len(), golden.durations.iter().sum::<u32>() as usize * FRAME_SAMPLES);
    let rms = (samples.iter().map(|s| s * s).sum::<f32>() / samples.len() as f32).sqrt();
    assert!((0.02..0.3).contains(&rms), "speech has a level of {rms}");
    assert!(samples.iter().all(|s| s.abs() <= 1.0));

    // Another phrase in between, step by step, changes nothing.
    let mut other = hibari.begin(&golden.ids[3..9], 1.0, 5).expect("sound input");
    let mut again = hibari.begin(&golden.ids, 1.0, 5).expect("sound input");
    let (mut first, mut second) = (None, None);
    while first.is_none() || second.is_none() {
        first = first.or(hibari.step(&mut other).expect("it goes on"));
        second = second.or(hibari.step(&mut again).expect("it goes on"));
    }
    let mut alone = hibari.begin(&golden.ids, 1.0, 5).expect("sound input");
    let alone = std::iter::from_fn(|| Some(hibari.step(&mut alone).expect("it goes on"))).find_map(|s| s);
    assert!(second == alone, "the same phonemes, speed and seed give the same samples");
    assert!(second.as_ref() != Some(&samples), "another seed gives another noise");
}

#[test]
fn a_faster_voice_takes_less_time() {
    let hibari = hibari(&device());
    let golden = &golden()[2];
    let seconds = |speed| {
        let frames: u32 = hibari.predict(&golden.ids, speed).expect("sound input").durations.iter().sum();
        frames as f32 * FRAME_SAMPLES as f32 / SAMPLE_RATE_HZ as f32
    };
    let (slow, normal, fast) = (seconds(0.5), seconds(1.0), seconds(2.0));
    assert!(slow > 1.7 * normal && normal > 1.5 * fast, "{slow} s, {normal} s, {fast} s");
}

#[test]
fn bad_input_is_refused_and_no_phonemes_are_silence() {
    let hibari = hibari(&device());
    let refused = |ids: &[u32], speed| hibari.render(ids, speed).expect_err("it is refused");
    assert_eq!(refused(&vec![1; PHONEMES_MAX + 1], 1.0), RenderError::TooManyPhonemes { found: PHONEMES_MAX + 1 });
    assert_eq!(refused(&[0, 178, 0], 1.0), RenderError::UnknownPhoneme { id: 178, known: 178 });
    assert_eq!(refused(&[0, 50, 0], 0.0), RenderError::Speed(0.0));
    assert!(matches!(refused(&[0, 50, 0], f32::NAN), RenderError::Speed(_)));
    for ids in [&[][..], &[0, 0]] {
        assert_eq!(hibari.render(ids, 1.0), Ok(Vec::new()));
        assert!(hibari.predict(ids, 1.0).expect("sound input").durations.is_empty());
    }
}
