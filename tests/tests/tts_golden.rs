//! Speech synthesis against a float32 reference of the networks: the same durations, the same pitch.

use control_plane::registry;
use nearfield_inference::{
    Device,
    nn::Resident as _,
    tts::{Hibari, PHONEMES_MAX, RenderError, Rendering, SAMPLE_RATE_HZ},
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

/// Greatest difference of a sample in a batch from the same one alone: on the CPU rounding alone, of which its kernels for AVX-512
/// have none; on a GPU products of other shapes, whose error the pitch adds up.
fn batch_tolerance(device: &Device) -> f32 {
    if *device == Device::flex() { 1e-4 } else { 5e-3 }
}

/// Takes a step of all, some of which may be done; samples go where they belong.
fn step_all(hibari: &Hibari, going: &mut [(usize, Rendering)], found: &mut [Option<Vec<f32>>]) {
    let who: Vec<usize> = going.iter().map(|(who, _)| *who).collect();
    let mut renderings: Vec<&mut Rendering> = going.iter_mut().map(|(_, rendering)| rendering).collect();
    for (who, samples) in who.into_iter().zip(hibari.step_together(&mut renderings)) {
        if let Some(samples) = samples.expect("it goes on")
            && found[who].is_none()
        {
            found[who] = Some(samples);
        }
    }
}

#[test]
fn phrases_in_a_batch_sound_as_they_do_alone() {
    let device = device();
    let (hibari, tolerance) = (hibari(&device), batch_tolerance(&device));
    let golden = golden();
    // From one phoneme between pads to the longest clause; all with a speed and a noise of their own.
    let mut phrases: Vec<Vec<u32>> = vec![vec![0, 50, 0], vec![0, 50, 83, 54, 0]];
    phrases.extend(golden.iter().take(4).map(|one| one.ids.clone()));
    let long: Vec<u32> = golden.iter().flat_map(|one| &one.ids[1..one.ids.len() - 1]).copied().take(300).collect();
    phrases.push([&[0], &long[..], &[0]].concat());
    phrases.push(Vec::new());
    let begin =
        |who: usize| (who, hibari.begin(&phrases[who], 0.8 + 0.1 * who as f32, who as u64).expect("sound input"));
    let alone: Vec<Vec<f32>> = (0..phrases.len())
        .map(|who| {
            let (_, mut rendering) = begin(who);
            std::iter::from_fn(|| Some(hibari.step(&mut rendering).expect("it goes on")))
                .find_map(|s| s)
                .expect("samples")
        })
        .collect();
    let mut worst = 0f32;
    let mut check = |found: &[Option<Vec<f32>>], cancelled: Option<usize>| {
        for (who, (alone, found)) in alone.iter().zip(found).enumerate() {
            if Some(who) == cancelled {
                assert!(found.is_none(), "phrase {who} was cancelled");
                continue;
            }
            let found = found.as_ref().expect("samples");
            assert_eq!(found.len(), alone.len(), "phrase {who} of {} phonemes", phrases[who].len());
            let apart = alone.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(apart <= tolerance, "phrase {who} of {} phonemes: {apart}", phrases[who].len());
            worst = worst.max(apart);
        }
    };
    let all = 0..phrases.len();
    let shuffled = [3, 6, 0, 7, 5, 1, 4, 2];
    for order in [all.clone().collect::<Vec<_>>(), all.clone().rev().collect(), shuffled.to_vec()] {
        let mut going: Vec<_> = order.iter().map(|who| begin(*who)).collect();
        let mut found = vec![None; phrases.len()];
        while found.iter().any(Option::is_none) {
            step_all(&hibari, &mut going, &mut found);
        }
        check(&found, None);
    }
    // One is cancelled in the middle; another comes late, catches up, and goes on with the others.
    let (cancelled, late) = (4, 2);
    let mut going: Vec<_> = all.clone().filter(|who| *who != late).map(begin).collect();
    let mut found = vec![None; phrases.len()];
    for _ in 0..5 {
        step_all(&hibari, &mut going, &mut found);
    }
    going.retain(|(who, _)| *who != cancelled);
    let mut joins = begin(late).1;
    while joins.place() != going[0].1.place() {
        assert_eq!(hibari.step(&mut joins), Ok(None));
    }
    going.insert(1, (late, joins));
    while all.clone().any(|who| who != cancelled && found[who].is_none()) {
        step_all(&hibari, &mut going, &mut found);
    }
    check(&found, Some(cancelled));
    // All at different places: each for itself, in one call.
    let mut going: Vec<_> = all.clone().map(begin).collect();
    for (lead, (_, rendering)) in going.iter_mut().enumerate().skip(1).take(5) {
        (0..2 * lead).for_each(|_| assert_eq!(hibari.step(rendering), Ok(None)));
    }
    let mut found = vec![None; phrases.len()];
    while found.iter().any(Option::is_none) {
        step_all(&hibari, &mut going, &mut found);
    }
    check(&found, None);
    println!("{} phrases of 3 to 302 phonemes: worst difference {worst:.1e}", phrases.len());
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
