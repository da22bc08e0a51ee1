//! Sentence embeddings of MiniLM in its default quantisation against the float32 reference.

use std::time::Instant;

use control_plane::registry;
use nearfield_inference::embed::{MiniLm, TOKENS_MAX};
use nearfield_inference::nn::Resident;
use nearfield_shared::gguf::Gguf;
use nearfield_shared::golden::{GOLDEN_KEY, GoldenCase};
use nearfield_tests::device;

fn load() -> (Gguf, MiniLm) {
    let paths = registry::ensure(&["minilm-l6-v2"]).expect("the model can be fetched and converted");
    let gguf = Gguf::open(&paths[0]).expect("its file can be read");
    let model = MiniLm::load(&gguf, &device()).expect("it is a MiniLM");
    (gguf, model)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[test]
fn directions_are_those_of_the_reference() {
    let (gguf, model) = load();
    let golden: Vec<GoldenCase> = serde_json::from_str(gguf.str(GOLDEN_KEY).unwrap()).unwrap();
    let cases: Vec<(&str, &[f32], f32)> = golden
        .iter()
        .map(|case| match case {
            GoldenCase::Embed { text, embedding, cosine_min } => (text.as_str(), embedding.as_slice(), *cosine_min),
            other => panic!("a golden case of another stage: {other:?}"),
        })
        .collect();
    assert!(cases.len() >= 4);
    let mut worst = 1f32;
    for (text, expect, least) in &cases {
        let found = &model.embed(&[text])[0];
        assert_eq!(found.len(), 384);
        assert!((dot(found, found) - 1.0).abs() < 1e-5, "{text}: not of unit length");
        let cosine = dot(found, expect) / dot(expect, expect).sqrt();
        assert!(cosine >= *least, "{text}: cosine {cosine}, at least {least} was expected");
        worst = worst.min(cosine);
    }
    let rounds = 20;
    let started = Instant::now();
    for _ in 0..rounds {
        for (text, ..) in &cases {
            model.embed(&[text]);
        }
    }
    let each = started.elapsed().as_secs_f64() * 1e3 / (rounds * cases.len()) as f64;
    println!("least cosine {worst:.5}; {each:.1} ms a sentence on the CPU; {} bytes resident", model.resident_bytes());
}

#[test]
fn a_batch_gives_what_each_sentence_gives_alone() {
    let (_, model) = load();
    let long = "and then ".repeat(40);
    let texts: Vec<&str> = vec![
        "turn on the lights",
        "",
        "what is the weather like tomorrow, and will I need an umbrella in the afternoon when I walk home?",
        &long,
        "ok",
        "call my mother",
    ];
    let texts: Vec<&str> = texts.iter().copied().cycle().take(20).collect();
    let together = model.embed(&texts);
    assert_eq!(together.len(), texts.len());
    for (text, batched) in texts.iter().zip(&together) {
        let alone = &model.embed(&[text])[0];
        let cosine = dot(alone, batched);
        assert!(cosine > 0.9995, "{text:?}: cosine {cosine} between alone and in a batch");
    }
    assert!(model.embed(&[]).is_empty());
}

#[test]
fn like_questions_lie_closer_than_others() {
    let (_, model) = load();
    let e = model.embed(&["how late are you open", "what are your opening hours", "where can I park my car"]);
    assert!(dot(&e[0], &e[1]) > dot(&e[0], &e[2]) + 0.2);
}

#[test]
fn any_text_has_an_embedding() {
    let (_, model) = load();
    for text in
        ["", " ", "\u{0}", "🙂", "字字字", &"a".repeat(100_000), &"word ".repeat(TOKENS_MAX * 2), &"🙂".repeat(9_000)]
    {
        let e = &model.embed(&[text])[0];
        assert!(e.len() == 384 && e.iter().all(|x| x.is_finite()));
    }
}
