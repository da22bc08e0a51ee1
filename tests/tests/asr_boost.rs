//! Words that an assistant's callers are likely to say: heard with its list, and nothing else changed by it.

use control_plane::registry::{
    Cache, Catalogue, Fetcher, ensure,
    speech::wer::{WordErrors, word_errors},
};
use nearfield_inference::asr::{Decoding, Moonshine};
use nearfield_shared::gguf::Gguf;
use nearfield_tests::{device, voice::Voice};

/// What is said, and what of it stands in the list.
const SAID: [(&str, &str); 12] = [
    ("I need help with my KYC verification.", "KYC verification"),
    ("Please put me through to Siobhan Kowalczyk.", "Siobhan Kowalczyk"),
    ("I would like to talk to Mister Nguyen.", "Nguyen"),
    ("Is doctor Szymanski in today?", "Szymanski"),
    ("I have a question about my Zurich Vitaparcours plan.", "Vitaparcours"),
    ("My order came from Kjellberg.", "Kjellberg"),
    ("Does the Nearfield gateway support Wyoming?", "Nearfield"),
    ("I want to change my IBAN.", "IBAN"),
    ("Can I pay with Twint?", "Twint"),
    ("Where is the Grossmuenster branch?", "Grossmuenster"),
    ("I take Xarelto every morning.", "Xarelto"),
    ("It is about my policy renewal.", "policy renewal"),
];

fn moonshine() -> Moonshine {
    let path = ensure(&["moonshine-tiny"]).expect("the model").remove(0);
    Moonshine::load(&Gguf::open(path).expect("a GGUF file"), &device()).expect("a recogniser")
}

fn list() -> Vec<String> {
    SAID.iter().map(|(_, word)| (*word).to_owned()).collect()
}

fn heard(model: &Moonshine, pcm: &[f32], words: &[String]) -> String {
    model.text(&model.tokens_with(pcm, words).expect("a transcript"))
}

#[test]
fn rare_names_are_heard_with_the_list_and_not_without() {
    let (model, voice, list) = (moonshine(), Voice::on(&device()), list());
    let (mut without, mut with) = (0, 0);
    for (sentence, word) in SAID {
        let pcm = voice.says(sentence);
        let (plain, boosted) = (heard(&model, &pcm, &[]), heard(&model, &pcm, &list));
        println!("{word:>18} | {plain} | {boosted}");
        without += usize::from(plain.contains(word));
        with += usize::from(boosted.contains(word));
    }
    println!("of {} words in the list {without} were heard without it, {with} with it", SAID.len());
    assert!(with >= without + 5, "{without} without, {with} with");
}

#[test]
fn words_that_nobody_says_change_next_to_nothing() {
    let (model, list) = (moonshine(), list());
    let fetcher = Fetcher::new(Cache::of_user().expect("a cache"));
    let speech = Catalogue::builtin().and_then(|catalogue| catalogue.speech()).expect("the list of recordings");
    let (mut plain, mut boosted) = (WordErrors::default(), WordErrors::default());
    for utterance in speech.labelled(&fetcher).expect("the recordings") {
        let pcm = utterance.samples();
        let texts = (heard(&model, &pcm, &[]), heard(&model, &pcm, &list));
        if texts.0 != texts.1 {
            println!("{}: {} | {}", utterance.id, texts.0, texts.1);
        }
        plain += word_errors(&utterance.text, &texts.0);
        boosted += word_errors(&utterance.text, &texts.1);
    }
    println!("word errors without a list {:.2} %, with one of other words {:.2} %", plain.percent(), boosted.percent());
    assert!(boosted.percent() <= plain.percent() + 0.5, "{boosted:?} after {plain:?}");
}

#[test]
fn a_list_changes_no_neighbour_and_a_draft_changes_no_boosted_transcript() {
    let (model, voice, list) = (moonshine(), Voice::on(&device()), list());
    let pcm: Vec<Vec<f32>> = [SAID[1].0, SAID[11].0, SAID[2].0].iter().map(|text| voice.says(text)).collect();
    let alone: Vec<Vec<u32>> = pcm.iter().map(|pcm| model.tokens(pcm).expect("alone")).collect();
    let boosted = model.tokens_with(&pcm[1], &list).expect("boosted alone");
    let begin = |n: usize, words: &[String], draft: &[u32]| -> Decoding {
        let mut decoding = model.begin(model.encode(&pcm[n]).expect("encoded"));
        model.boost(&mut decoding, words);
        model.expect(&mut decoding, draft);
        decoding
    };
    for draft in [&[] as &[u32], &boosted, &alone[1], &alone[0]] {
        let mut together = [begin(0, &[], &[]), begin(1, &list, draft), begin(2, &[], &alone[2])];
        while together.iter().any(|decoding| !decoding.is_ended()) {
            model.step(&mut together.iter_mut().collect::<Vec<_>>()).expect("a step");
        }
        let [first, second, third] = together;
        assert_eq!((first.tokens(), third.tokens()), (alone[0].as_slice(), alone[2].as_slice()));
        assert_eq!(second.tokens(), boosted);
    }
}
