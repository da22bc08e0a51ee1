//! Transcripts that are drafted or written together are, token for token, what they are alone.

use control_plane::registry::{Cache, Catalogue, Fetcher, Quantise, ensure_as, speech::Utterance};
use nearfield_inference::{
    Device,
    asr::{Decoding, Moonshine, RATE_HZ},
};
use nearfield_shared::gguf::Gguf;

fn utterances(ids: Option<&[&str]>) -> Vec<Utterance> {
    let fetcher = Fetcher::new(Cache::of_user().expect("a cache"));
    let speech = Catalogue::builtin().and_then(|catalogue| catalogue.speech()).expect("the list of recordings");
    match ids {
        Some(ids) => speech.get(&fetcher, ids),
        None => speech.labelled(&fetcher),
    }
    .expect("the recordings")
}

fn model(quantise: Quantise) -> Moonshine {
    let path = ensure_as("moonshine-tiny", quantise).expect("the model");
    Moonshine::load(&Gguf::open(path).expect("a GGUF file"), &Device::flex()).expect("a Moonshine model")
}

fn begun(model: &Moonshine, pcm: &[f32], draft: &[u32]) -> Decoding {
    let mut decoding = model.begin(model.encode(pcm).expect("encoded"));
    model.expect(&mut decoding, draft);
    decoding
}

/// Tokens, and the steps they took.
fn written(model: &Moonshine, pcm: &[f32], draft: &[u32]) -> (Vec<u32>, usize) {
    let mut decoding = begun(model, pcm, draft);
    let mut steps = 0;
    while !decoding.is_ended() {
        model.step(&mut [&mut decoding]).expect("a step");
        steps += 1;
    }
    (decoding.into_tokens(), steps)
}

#[test]
fn any_draft_gives_the_transcript_that_none_gives() {
    let model = model(Quantise::Q8_0);
    let (mut plain_steps, mut drafted_steps, mut perfect_steps) = (0, 0, 0);
    for utterance in utterances(None) {
        let pcm = utterance.samples();
        let (truth, steps) = written(&model, &pcm, &[]);
        plain_steps += steps;
        let check = |draft: &[u32], what: &str| {
            let (found, steps) = written(&model, &pcm, draft);
            assert_eq!(found, truth, "{}: {what}", utterance.id);
            steps
        };
        // What a call has when the caller stops: the transcript of some hundred milliseconds less.
        for part in [4, 2] {
            let heard_before = &pcm[..pcm.len() - pcm.len() / part];
            let (draft, _) = written(&model, heard_before, &[]);
            check(&draft, "a draft from the beginning");
        }
        let (draft, _) = written(&model, &pcm[..pcm.len().saturating_sub(RATE_HZ / 2).max(1)], &[]);
        drafted_steps += check(&draft, "a draft from half a second before");
        let steps = check(&truth, "a perfect draft");
        assert!(steps <= truth.len() / 7 + 1, "{}: {steps} steps for {} drafted tokens", utterance.id, truth.len());
        perfect_steps += steps;
        let mut wrong = truth.clone();
        wrong.iter_mut().skip(2).step_by(3).for_each(|token| *token = (*token + 1) % 32_000);
        check(&wrong, "every third token wrong");
        wrong.reverse();
        check(&wrong, "all wrong");
        check(&truth.repeat(20), "longer than any transcript");
        check(&[truth.as_slice(), &[u32::MAX, 5]].concat(), "a token of no vocabulary");
    }
    println!(
        "steps: {plain_steps} without drafts, {drafted_steps} with those of half a second before, {perfect_steps} with perfect ones"
    );
    assert!(drafted_steps * 2 < plain_steps, "drafts save steps");
}

#[test]
fn transcripts_written_in_one_batch_are_what_they_are_alone() {
    for quantise in [Quantise::Q8_0, Quantise::Q4_1] {
        let model = model(quantise);
        let all = utterances(None);
        for group in all.chunks(10) {
            let pcm: Vec<Vec<f32>> = group.iter().map(Utterance::samples).collect();
            let alone: Vec<Vec<u32>> = pcm.iter().map(|pcm| written(&model, pcm, &[]).0).collect();
            // Every other one with a draft, so that rows of one stand between single rows of others.
            let mut together: Vec<Decoding> = (0..pcm.len())
                .map(|i| begun(&model, &pcm[i], if i % 2 == 1 { &alone[i][..alone[i].len() / 2] } else { &[] }))
                .collect();
            let mut steps = 0;
            while together.iter().any(|decoding| !decoding.is_ended()) {
                model.step(&mut together.iter_mut().collect::<Vec<_>>()).expect("a step");
                steps += 1;
            }
            println!("{} transcripts of {} tokens in {steps} steps", alone.len(), alone.concat().len());
            assert!(steps < alone.concat().len(), "they share steps");
            for ((decoding, alone), utterance) in together.iter().zip(&alone).zip(group) {
                assert_eq!(decoding.tokens(), alone, "{}", utterance.id);
            }
        }
    }
}
