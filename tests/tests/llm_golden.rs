//! SmolLM2 against greedy continuations of llama.cpp from the same file, and a batched step against single ones.

use control_plane::registry;
use nearfield_inference::{
    llm::{Llama, Sampling},
    nn::Resident,
};
use nearfield_shared::gguf::Gguf;
use nearfield_tests::device;
use serde::Deserialize;

/// Tokens of each continuation that must be equal.
const EXACT_FIRST: usize = 16;
/// Where the two best scores are closer than this, the other choice is a tie.
const TIE_LOGIT: f32 = 0.1;
/// How far our lead of a token over its best rival may lie from the lead in exact arithmetic.
const EXACT_LOGIT: f32 = 0.02;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    system: String,
    user: String,
    prompt_tokens: Vec<u32>,
    greedy_tokens: Vec<u32>,
    /// The best token after each prefix in 64-bit floats: what the weights say when nothing is rounded.
    exact_best: Vec<u32>,
    /// There, how far the golden token stands above its best rival; below zero, llama.cpp's own rounding chose it.
    exact_lead: Vec<f32>,
}

fn golden() -> Vec<Case> {
    serde_json::from_str::<Golden>(include_str!("../golden/smollm2_greedy.json")).expect("the committed file").cases
}

fn gguf() -> Gguf {
    let paths = registry::ensure(&["smollm2-135m-instruct"]).unwrap_or_else(|e| panic!("the model: {e}"));
    Gguf::open(&paths[0]).expect("an imported model")
}

#[test]
fn greedy_continuations_are_those_of_llama_cpp() {
    let gguf = gguf();
    let llama = Llama::load(&gguf, &device()).expect("load");
    let weights: usize = gguf.tensors().map(|t| t.data.len()).sum();
    let resident = llama.resident_bytes();
    println!("weights in the file {:.1} MB, resident {:.1} MB", weights as f64 / 1e6, resident as f64 / 1e6);
    // Blocks padded to words and the rotary table: a copy as f32 would be seven times the file.
    assert!(resident < weights * 5 / 4, "{resident} bytes are resident for {weights} in the file");

    let (mut compared, mut ties, mut worst) = (0, 0, 0f32);
    for case in golden() {
        let prompt = llama.tokenizer().chat([("system", case.system.as_str()), ("user", case.user.as_str())]);
        assert_eq!(prompt.expect("tokenise"), case.prompt_tokens, "tokens of {:?}", case.user);
        let mut sequence = llama.sequence(256, Sampling::GREEDY);
        llama.prefill(&mut sequence, &case.prompt_tokens).expect("prefill");
        for (i, &expected) in case.greedy_tokens.iter().take(EXACT_FIRST).enumerate() {
            let logits = llama.decode_logits(&mut [&mut sequence]).expect("decode").remove(0);
            let best = best(&logits);
            let rival = (0..logits.len()).filter(|&t| t as u32 != expected).map(|t| logits[t]).fold(f32::MIN, f32::max);
            let (lead, exact) = (logits[expected as usize] - rival, case.exact_lead[i]);
            worst = worst.max((lead - exact).abs());
            let what = format!(
                "{:?}, token {i}: ours is {best}, llama.cpp's {expected}, exact arithmetic's {}; the lead of llama.cpp's is {lead:.3} here and {exact:.3} exactly",
                case.user, case.exact_best[i]
            );
            assert!((lead - exact).abs() < EXACT_LOGIT, "{what}");
            if best != expected {
                // Either a tie, or llama.cpp's rounding chose what the weights do not say: then ours must be what they say.
                assert!(lead > -TIE_LOGIT || best == case.exact_best[i], "{what}");
                println!("{} in {what}", if lead > -TIE_LOGIT { "tie" } else { "llama.cpp's rounding" });
                ties += 1;
            }
            compared += 1;
            // On along the golden path, whichever way a tie broke.
            sequence.accept(expected);
        }
        // A continuation that is shorter than what is compared has ended there.
        if case.greedy_tokens.len() < EXACT_FIRST {
            let next = llama.decode(&mut [&mut sequence]).expect("decode")[0];
            assert!(llama.tokenizer().is_stop(next), "{:?} goes on with {next} where it should end", case.user);
        }
    }
    println!("{compared} tokens compared, {ties} differ; leads differ from exact ones by at most {worst:.4}");
    assert!(compared >= 150, "only {compared} tokens were compared");
    assert!(ties * 20 <= compared, "{ties} differences in {compared} tokens are more than chance");
}

#[test]
fn a_batched_step_gives_what_single_steps_give() {
    let llama = Llama::load(&gguf(), &device()).expect("load");
    let cases = golden();
    let prompts: Vec<&[u32]> = cases.iter().take(3).map(|c| c.prompt_tokens.as_slice()).collect();
    // Of different lengths, so that the sequences stand at different places.
    let prompts = [prompts[0], &prompts[1][..20], &prompts[2][..9]];
    let start = |p: &[u32]| {
        let mut s = llama.sequence(128, Sampling::GREEDY);
        llama.prefill(&mut s, p).expect("prefill");
        s
    };
    let single: Vec<Vec<Vec<f32>>> = prompts
        .iter()
        .map(|p| {
            let mut s = start(p);
            (0..4)
                .map(|_| {
                    let logits = llama.decode_logits(&mut [&mut s]).expect("decode").remove(0);
                    s.accept(best(&logits));
                    logits
                })
                .collect()
        })
        .collect();
    let mut batch: Vec<_> = prompts.iter().map(|p| start(p)).collect();
    for step in 0..4 {
        let mut refs: Vec<_> = batch.iter_mut().collect();
        let logits = llama.decode_logits(&mut refs).expect("decode");
        for (i, logits) in logits.iter().enumerate() {
            assert!(single[i].get(step) == Some(logits), "sequence {i} differs at step {step}");
            batch[i].accept(best(logits));
        }
    }
}

#[test]
fn a_conversation_goes_on_where_it_stood() {
    let llama = Llama::load(&gguf(), &device()).expect("load");
    let case = &golden()[0];
    let (mut whole, mut parts) = (llama.sequence(128, Sampling::GREEDY), llama.sequence(128, Sampling::GREEDY));
    llama.prefill(&mut whole, &case.prompt_tokens).expect("prefill");
    for part in case.prompt_tokens.chunks(7) {
        llama.prefill(&mut parts, part).expect("prefill");
    }
    assert_eq!(whole.tokens(), parts.tokens());
    let [a, b] = [&mut whole, &mut parts].map(|s| llama.decode_logits(&mut [s]).expect("decode").remove(0));
    let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    // Prompts are fed with f32 activations in long chunks and 8-bit ones in short chunks.
    assert!(worst < 1.0 && best(&a) == best(&b), "scores differ by up to {worst}");

    // A full cache says so before anything is fed.
    let mut small = llama.sequence(10, Sampling::GREEDY);
    let full = llama.prefill(&mut small, &case.prompt_tokens).expect_err("37 tokens in 10 places");
    assert!(full.to_string().contains("10 are provided for"), "{full}");
    assert_eq!((small.tokens(), small.room()), (0, 10));
    assert!(llama.decode(&mut [&mut small]).expect_err("no prompt").to_string().contains("before it has a prompt"));
    assert!(llama.prefill(&mut small, &[60_000]).expect_err("no such token").to_string().contains("60000"));
}

#[test]
fn a_cache_grows_with_what_is_said_and_no_score_tells() {
    let llama = Llama::load(&gguf(), &device()).expect("load");
    let per_token = llama.cache_bytes_per_token();
    let prompt: Vec<u32> = golden()[0].prompt_tokens.iter().copied().cycle().take(250).collect();
    let scores = |expected: usize| {
        let mut sequence = llama.sequence(2048, Sampling::GREEDY);
        assert!(sequence.cache_bytes() <= per_token, "an empty conversation takes {} bytes", sequence.cache_bytes());
        sequence.expect(expected);
        let mut scores = Vec::new();
        for part in prompt.chunks(50) {
            let mut feeding = llama.begin_feed(&sequence, part).expect("room");
            while !llama.feed_layer(&mut sequence, &mut feeding) {}
        }
        for token in &prompt[..10] {
            sequence.accept(*token);
            scores.push(llama.decode_logits(&mut [&mut sequence]).expect("a step").remove(0));
        }
        (scores, sequence.cache_bytes() / per_token)
    };
    let ((grown, places), (whole, all)) = (scores(0), scores(1_000));
    println!("{per_token} bytes a token; 260 tokens in {places} places, where 1000 were expected in {all}");
    assert!((260..=400).contains(&places) && all >= 1_000, "{places} and {all} places");
    assert!(grown == whole, "a cache that grew gives other scores");
}

fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).expect("a vocabulary") as u32
}
