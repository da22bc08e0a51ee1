//! Beginnings of conversations that are copied instead of fed again: every score stays what it was, to the last bit.

use control_plane::registry::ensure;
use nearfield_inference::{
    Device,
    llm::{DECODE_BATCH_MAX, Llama, PENDING_MAX, PREFILL_CHUNK, PrefixCache, Sampling, Sequence},
};
use nearfield_shared::gguf::Gguf;

const SYSTEM: &str = "You answer the telephone of the Harbour Hotel. Be friendly and brief. Breakfast is from seven to ten, \
    the sauna opens at four in the afternoon, dogs are welcome, and the last ferry to the island leaves at half past nine in \
    the evening. Parking costs twelve a night. If you do not know something, offer to connect the caller with a colleague.";

fn load() -> Llama {
    let path = ensure(&["smollm2-135m-instruct"]).expect("the model").remove(0);
    Llama::load(&Gguf::open(path).expect("a GGUF file"), &Device::flex()).expect("a Llama model")
}

/// Feeds turns as the engine does: each in chunks of its own, kept where a cache is given.
fn feed(llama: &Llama, sequence: &mut Sequence, turns: &[Vec<u32>], mut cache: Option<&mut PrefixCache>) -> usize {
    let known = cache.as_mut().map(|cache| cache.longest(turns)).unwrap_or_default();
    let mut parent = known.last().map(|(prefix, _)| *prefix);
    for (_, segment) in &known {
        sequence.append(segment).expect("room");
    }
    for (i, turn) in turns.iter().enumerate().skip(known.len()) {
        for chunk in turn.chunks(PREFILL_CHUNK) {
            let mut feeding = llama.begin_feed(sequence, chunk).expect("room");
            while !llama.feed_layer(sequence, &mut feeding) {}
        }
        if let Some(cache) = &mut cache {
            parent = cache.keep(parent, turn, i == 0, sequence);
        }
    }
    known.len()
}

fn scores(llama: &Llama, sequence: &mut Sequence, opening: &[u32], steps: usize) -> Vec<Vec<f32>> {
    sequence.hold(opening).expect("short");
    (0..steps)
        .map(|_| {
            let scores = llama.decode_logits(&mut [sequence]).expect("a step").remove(0);
            sequence.accept(best(&scores));
            scores
        })
        .collect()
}

fn best(scores: &[f32]) -> u32 {
    (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).expect("a vocabulary") as u32
}

#[test]
fn an_answer_cannot_tell_whether_its_prompt_was_fed_or_copied() {
    let llama = load();
    let talk = |messages: &[(&'static str, &'static str)]| {
        let (turns, opening) = llama.tokenizer().turns(messages.iter().copied()).expect("a conversation");
        assert_eq!(
            [turns.concat(), opening.clone()].concat(),
            llama.tokenizer().chat(messages.iter().copied()).expect("the same")
        );
        (turns, opening)
    };
    let mut cache = PrefixCache::new(64 << 20);
    let first = [("system", SYSTEM), ("user", "When is breakfast?")];
    let second = [&first[..], &[("assistant", "From seven to ten."), ("user", "And may I bring my dog?")]].concat();
    let other = [("system", SYSTEM), ("user", "Where do I park?")];
    // Known turns when it is asked: nothing, the instructions, the call's first turns, all of it.
    for (messages, known) in [(&first[..], 0), (&other[..], 1), (&second[..], 2), (&second[..], 4)] {
        let (turns, opening) = talk(messages);
        let mut plain = llama.sequence(512, Sampling::GREEDY);
        assert_eq!(feed(&llama, &mut plain, &turns, None), 0);
        let mut copied = llama.sequence(512, Sampling::GREEDY);
        assert_eq!(feed(&llama, &mut copied, &turns, Some(&mut cache)), known);
        assert_eq!(plain.tokens(), copied.tokens());
        let (a, b) = (scores(&llama, &mut plain, &opening, 6), scores(&llama, &mut copied, &opening, 6));
        assert!(a == b, "{known} known turns change a score");
    }
    assert!(cache.bytes() > 0 && cache.bytes() <= 64 << 20);
    println!("{} bytes keep the instructions and five turns", cache.bytes());
}

#[test]
fn the_end_of_a_prompt_in_one_step_with_others_gives_what_it_gives_alone() {
    let llama = load();
    let questions = ["When is breakfast?", "Where do I park?", "Is there a sauna?"];
    let begun = |question: &'static str| {
        let (turns, opening) = llama.tokenizer().turns([("system", "Be brief."), ("user", question)]).expect("turns");
        let mut sequence = llama.sequence(128, Sampling::GREEDY);
        feed(&llama, &mut sequence, &turns, None);
        (sequence, opening)
    };
    let alone: Vec<Vec<Vec<f32>>> = questions
        .iter()
        .map(|question| {
            let (mut sequence, opening) = begun(question);
            // One token after the other, none of them together with another.
            let mut last = Vec::new();
            for token in &opening {
                sequence.accept(*token);
                last = llama.decode_logits(&mut [&mut sequence]).expect("a step").remove(0);
            }
            sequence.accept(best(&last));
            vec![last, llama.decode_logits(&mut [&mut sequence]).expect("a step").remove(0)]
        })
        .collect();
    let mut together: Vec<Sequence> = questions
        .iter()
        .map(|question| {
            let (mut sequence, opening) = begun(question);
            sequence.hold(&opening).expect("short");
            sequence
        })
        .collect();
    assert!(together.iter().map(Sequence::tokens).sum::<usize>() > DECODE_BATCH_MAX);
    for step in 0..2 {
        let scores = llama.decode_logits(&mut together.iter_mut().collect::<Vec<_>>()).expect("a step");
        for ((scores, alone), sequence) in scores.iter().zip(&alone).zip(&mut together) {
            assert!(*scores == alone[step], "a score differs at step {step}");
            sequence.accept(best(scores));
        }
    }
    let (mut full, _) = begun(questions[0]);
    assert!(full.hold(&[1; PENDING_MAX + 1]).is_err(), "more tokens than one step attends alike");
}

#[test]
fn what_is_kept_is_bounded_and_instructions_outlive_the_calls() {
    let llama = load();
    let turns = |question: &str| {
        llama.tokenizer().turns([("system", "Be brief and kind."), ("user", question)]).expect("turns").0
    };
    let sequence_of = |turns: &[Vec<u32>], cache: &mut PrefixCache| {
        let mut sequence = llama.sequence(128, Sampling::GREEDY);
        feed(&llama, &mut sequence, turns, Some(cache))
    };
    let mut unbounded = PrefixCache::new(usize::MAX);
    sequence_of(&turns("What is the number of my room?"), &mut unbounded);
    let needed = unbounded.bytes();
    // Room for the instructions and two questions, not three.
    let mut cache = PrefixCache::new(2 * needed);
    let questions = ["What is the number of my room?", "What is the name of my town?", "What is the colour of my car?"];
    for question in questions {
        assert!(sequence_of(&turns(question), &mut cache) <= 1);
        assert!(cache.bytes() <= 2 * needed, "{} of {}", cache.bytes(), 2 * needed);
    }
    assert_eq!(cache.longest(&turns(questions[2])).len(), 2, "the latest is there");
    assert_eq!(cache.longest(&turns(questions[0])).len(), 1, "of the oldest only the instructions are");
    cache.forget_callers();
    assert_eq!(cache.longest(&turns(questions[2])).len(), 1, "the instructions stay");
    assert!(cache.bytes() > 0 && cache.bytes() < needed);
    let mut nothing = PrefixCache::new(0);
    assert_eq!(sequence_of(&turns(questions[0]), &mut nothing), 0);
    assert_eq!((sequence_of(&turns(questions[0]), &mut nothing), nothing.bytes()), (0, 0));
    assert_eq!(format!("{:?}", unbounded.longest(&turns(questions[0]))[1].1).split('(').next(), Some("Segment"));
}
