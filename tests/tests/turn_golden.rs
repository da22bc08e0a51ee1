//! Turn detection on recorded speech.
//!
//! Two references. The tight one is the network in f64 numpy with the published weights dequantised: what our
//! engine computes, up to rounding. The loose one is ONNX Runtime with the published graph, which also rounds
//! every *activation* to 8 bits on a scale fixed in advance. Where that graph is sure of itself both agree; where it is not, its
//! rounding moves the result by up to 0.74, mostly to the wrong side (all twelve utterances are complete).

use control_plane::registry::{self, Cache, Catalogue, Fetcher};
use nearfield_inference::{Device, nn::Resident as _, turn::SmartTurn};
use nearfield_shared::gguf::Gguf;
use nearfield_tests::device;
use serde::Deserialize;

/// Greatest difference from the float reference. Rounding the weights' scales to 16 bits moves the most uncertain utterance by 7e-4;
/// the rest is room for devices that add in another order.
const TOLERANCE: f32 = 5e-3;

/// Greatest difference from ONNX Runtime where it is sure (above 0.9): its own rounding there.
const SURE: f32 = 0.9;
const TOLERANCE_SURE: f32 = 0.02;

#[derive(Deserialize)]
struct Golden {
    utterance: String,
    float_reference: f32,
    onnxruntime_int8: f32,
}

fn turn(device: &Device) -> SmartTurn {
    let paths = registry::ensure(&["smart-turn-v3.2"]).expect("the model can be had");
    SmartTurn::load(&Gguf::open(&paths[0]).expect("it is GGUF"), device).expect("it loads")
}

#[test]
fn probabilities_equal_the_float_reference_and_where_it_is_sure_the_published_graph() {
    let golden: Vec<Golden> =
        serde_json::from_str(include_str!("../golden/smart_turn.json")).expect("the golden file is JSON");
    let ids: Vec<&str> = golden.iter().map(|g| g.utterance.as_str()).collect();
    let speech = Catalogue::builtin().expect("sound").speech().expect("sound");
    let fetcher = Fetcher::new(Cache::of_user().expect("there is a cache"));
    let utterances = speech.get(&fetcher, &ids).expect("the recordings can be had");
    let turn = turn(&device());
    println!("resident: {} bytes", turn.resident_bytes());
    let mut sure = 0;
    for (golden, utterance) in golden.iter().zip(utterances) {
        let found = turn.probability(&utterance.samples());
        println!(
            "{:14} {found:.6}, float reference {:.6}, ONNX Runtime int8 {:.4}",
            golden.utterance, golden.float_reference, golden.onnxruntime_int8
        );
        assert!((found - golden.float_reference).abs() <= TOLERANCE, "{}: {found}", golden.utterance);
        if golden.onnxruntime_int8 > SURE {
            sure += 1;
            assert!((found - golden.onnxruntime_int8).abs() <= TOLERANCE_SURE, "{}: {found}", golden.utterance);
        }
    }
    assert_eq!(sure, 9);
}

#[test]
fn silence_and_nothing_at_all_give_a_probability() {
    let turn = turn(&device());
    for pcm in [&[][..], &[0.0; 16_000]] {
        let found = turn.probability(pcm);
        assert!((0.0..=1.0).contains(&found), "{found}");
    }
}
