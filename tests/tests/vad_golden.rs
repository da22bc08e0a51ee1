//! Voice activity on recorded speech, against what ONNX Runtime computes from the published network.

use control_plane::registry::{self, Cache, Catalogue, Fetcher};
use nearfield_inference::{
    Device,
    nn::Resident as _,
    vad::{FRAME_SAMPLES, SileroVad, VadState},
};
use nearfield_shared::gguf::Gguf;
use nearfield_tests::device;
use serde::Deserialize;

/// Greatest difference of a probability: the thresholds that use them are steps of 0.05.
const TOLERANCE: f32 = 2e-3;

#[derive(Deserialize)]
struct Golden {
    utterance: String,
    probabilities: Vec<f32>,
}

fn golden() -> Vec<Golden> {
    serde_json::from_str(include_str!("../golden/silero_vad.json")).expect("the golden file is JSON")
}

fn vad(device: &Device) -> SileroVad {
    let paths = registry::ensure(&["silero-vad"]).expect("the model can be had");
    SileroVad::load(&Gguf::open(&paths[0]).expect("it is GGUF"), device).expect("it loads")
}

/// Frames of each golden utterance.
fn recordings(golden: &[Golden]) -> Vec<Vec<[f32; FRAME_SAMPLES]>> {
    let ids: Vec<&str> = golden.iter().map(|g| g.utterance.as_str()).collect();
    let speech = Catalogue::builtin().expect("sound").speech().expect("sound");
    let fetcher = Fetcher::new(Cache::of_user().expect("there is a cache"));
    let utterances = speech.get(&fetcher, &ids).expect("the recordings can be had");
    utterances
        .iter()
        .map(|u| u.samples().chunks_exact(FRAME_SAMPLES).map(|c| c.try_into().expect("exact")).collect())
        .collect()
}

#[test]
fn probabilities_equal_the_published_networks() {
    let golden = golden();
    let vad = vad(&device());
    println!("resident: {} bytes", vad.resident_bytes());
    let mut frames = 0;
    for (golden, recording) in golden.iter().zip(recordings(&golden)) {
        assert_eq!(recording.len(), golden.probabilities.len(), "{}", golden.utterance);
        let mut state = VadState::new();
        let mut worst = 0f32;
        for (frame, expected) in recording.iter().zip(&golden.probabilities) {
            let found = vad.step(&[*frame], &mut [&mut state])[0];
            worst = worst.max((found - expected).abs());
            frames += 1;
        }
        println!("{}: greatest difference {worst:.1e}", golden.utterance);
        assert!(worst <= TOLERANCE, "{}: {worst}", golden.utterance);
    }
    assert_eq!(frames, 1250);
}

#[test]
fn a_batch_of_calls_equals_each_call_alone() {
    let golden = golden();
    let vad = vad(&device());
    let recordings = recordings(&golden);
    let mut states = vec![VadState::new(); recordings.len()];
    let mut step = 0;
    // Calls end at different times, so the batch shrinks and its members move to other places in it.
    loop {
        let (mut frames, mut live, mut who) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (recording, state)) in recordings.iter().zip(&mut states).enumerate() {
            if let Some(frame) = recording.get(step) {
                frames.push(*frame);
                live.push(state);
                who.push(i);
            }
        }
        if frames.is_empty() {
            break;
        }
        for (i, found) in who.into_iter().zip(vad.step(&frames, &mut live)) {
            let expected = golden[i].probabilities[step];
            assert!((found - expected).abs() <= TOLERANCE, "{} frame {step}: {found}", golden[i].utterance);
        }
        step += 1;
    }
    assert!(step > 200, "the longest recording has more than 200 frames");
}

#[test]
fn no_calls_are_no_work() {
    assert!(vad(&Device::flex()).step(&[], &mut []).is_empty());
}
