//! Turn detection on recorded speech.
//!
//! Two references. The tight one is the network in f64 numpy with the published weights dequantised: what our
//! engine computes, up to rounding. The loose one is ONNX Runtime with the published graph, which also rounds
//! every *activation* to 8 bits on a scale fixed in advance. Where that graph is sure of itself both agree; where it is not, its
//! rounding moves the result by up to 0.74, mostly to the wrong side (all twelve utterances are complete).

use control_plane::registry::{self, Cache, Catalogue, Fetcher};
use nearfield_inference::{
    Device,
    nn::Resident as _,
    turn::{Listening, SmartTurn},
};
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

/// Greatest difference of a turn among others from the same one alone.
const TOLERANCE_BATCH: f32 = 1e-5;

#[test]
fn turns_in_a_batch_are_judged_as_each_is_alone() {
    let speech = Catalogue::builtin().expect("sound").speech().expect("sound");
    let fetcher = Fetcher::new(Cache::of_user().expect("there is a cache"));
    let ids = ["goforward", "cards_003", "librivox_0880", "cards_005"];
    let mut turns: Vec<Vec<f32>> =
        speech.get(&fetcher, &ids).expect("the recordings can be had").iter().map(|u| u.samples()).collect();
    // A turn that is cut short, and one of nothing.
    turns.push(turns[0][..turns[0].len() / 2].to_vec());
    turns.push(Vec::new());
    let turn = turn(&device());
    let alone: Vec<f32> = turns.iter().map(|pcm| turn.probability(pcm)).collect();
    let step = |going: &mut [(usize, Listening)], found: &mut [Option<f32>]| {
        let who: Vec<usize> = going.iter().map(|(who, _)| *who).collect();
        let mut listening: Vec<&mut Listening> = going.iter_mut().map(|(_, listening)| listening).collect();
        who.into_iter().zip(turn.step_together(&mut listening)).for_each(|(who, p)| found[who] = found[who].or(p));
    };
    let check = |found: &[Option<f32>], cancelled: Option<usize>| {
        for (who, (alone, found)) in alone.iter().zip(found).enumerate() {
            let Some(found) = found else {
                assert_eq!(cancelled, Some(who));
                continue;
            };
            assert!((alone - found).abs() <= TOLERANCE_BATCH, "turn {who}: {alone} alone, {found} among others");
        }
    };
    for order in [[0, 1, 2, 3, 4, 5], [4, 2, 5, 0, 3, 1]] {
        let audio = order.map(|who| turns[who].as_slice());
        let mut going: Vec<_> = order.into_iter().zip(turn.listen_together(&audio)).collect();
        let mut found = vec![None; turns.len()];
        while found.iter().any(Option::is_none) {
            step(&mut going, &mut found);
        }
        check(&found, None);
    }
    // One goes away in the middle, and one that came later catches up.
    let mut going: Vec<_> = [0, 1, 2, 3, 4].into_iter().map(|who| (who, turn.listen(&turns[who]))).collect();
    let mut found = vec![None; turns.len()];
    (0..3).for_each(|_| step(&mut going, &mut found));
    going.remove(1);
    let mut late = turn.listen(&turns[5]);
    while late.done() < going[0].1.done() {
        assert_eq!(turn.step(&mut late), None);
    }
    going.insert(2, (5, late));
    while found.iter().flatten().count() < turns.len() - 1 {
        step(&mut going, &mut found);
    }
    check(&found, Some(1));
    println!("alone {alone:?}");
}

#[test]
fn silence_and_nothing_at_all_give_a_probability() {
    let turn = turn(&device());
    for pcm in [&[][..], &[0.0; 16_000]] {
        let found = turn.probability(pcm);
        assert!((0.0..=1.0).contains(&found), "{found}");
    }
}
