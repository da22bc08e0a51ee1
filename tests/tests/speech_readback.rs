//! The voice, read back by our own ears: what Hibari says must be what Moonshine hears.

use control_plane::registry::{
    ensure,
    speech::wer::{WordErrors, word_errors},
};
use edge_agent::media::resample::Resampler;
use nearfield_inference::{
    asr::{Moonshine, RATE_HZ},
    tts::{Hibari, SAMPLE_RATE_HZ, g2p::Phonemizer},
};
use nearfield_shared::gguf::Gguf;
use nearfield_tests::device;

/// Sentences as an assistant says them: answers, times, names of things, questions.
const SENTENCES: [&str; 20] = [
    "Hello, this is the front desk. How can I help you?",
    "We are open from nine to six, Monday to Friday.",
    "You can renew your policy on our website.",
    "A colleague will call you back this afternoon.",
    "Please tell me your name and your telephone number.",
    "The next train to the city leaves in ten minutes.",
    "I am sorry, I did not understand that.",
    "Your appointment is on the third of March.",
    "The office is two minutes on foot from the station.",
    "Would you like me to put you through?",
    "What you say stays in your own region.",
    "It will rain in the morning and clear up later.",
    "The meeting room is on the second floor, on the left.",
    "Thank you for calling, and have a good day.",
    "We have sent you a letter with all the details.",
    "The price includes breakfast and a parking space.",
    "You can pay in cash or by card.",
    "Do you want to speak to a person?",
    "The report will be ready by the end of the week.",
    "Turn right at the bridge and follow the river.",
];

#[test]
fn twenty_sentences_are_understood_with_at_most_three_percent_word_errors() {
    let paths = ensure(&["hibari", "moonshine-tiny"]).expect("the models");
    let device = device();
    let [voice, ears] = [&paths[0], &paths[1]].map(|path| Gguf::open(path).expect("a GGUF file"));
    let phonemizer = Phonemizer::load(&voice, &device).expect("a phonemizer");
    let hibari = Hibari::load(&voice, &device).expect("a voice");
    let moonshine = Moonshine::load(&ears, &device).expect("a recogniser");

    let mut total = WordErrors::default();
    for sentence in SENTENCES {
        let mut said = Vec::new();
        for phrase in phonemizer.phonemes(sentence) {
            let samples = hibari.render(&phonemizer.ids(&phrase), 1.0).expect("speech");
            let mut resampler = Resampler::new(SAMPLE_RATE_HZ, RATE_HZ as u32).expect("rates");
            said.extend(resampler.push(&samples));
            said.extend(resampler.flush());
        }
        let heard = moonshine.transcribe(&said).expect("a transcript");
        let errors = word_errors(sentence, &heard);
        println!("{}/{}  {sentence}  |  {heard}", errors.errors, errors.words);
        total += errors;
    }
    println!("read back: {:.2} % word errors over {} words", total.percent(), total.words);
    assert!(total.percent() <= 3.0, "{:.2} % word errors", total.percent());
}
