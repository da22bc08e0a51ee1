//! The voice, read back by our own ears: what Hibari says must be what Moonshine hears.

use control_plane::registry::{
    ensure,
    speech::wer::{WordErrors, word_errors},
};
use nearfield_inference::asr::Moonshine;
use nearfield_shared::gguf::Gguf;
use nearfield_tests::{device, voice::Voice};

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
    let ears = Gguf::open(ensure(&["moonshine-tiny"]).expect("the model").remove(0)).expect("a GGUF file");
    let (device, voice) = (device(), Voice::on(&device()));
    let moonshine = Moonshine::load(&ears, &device).expect("a recogniser");

    let mut total = WordErrors::default();
    for sentence in SENTENCES {
        let heard = moonshine.transcribe(&voice.says(sentence)).expect("a transcript");
        let errors = word_errors(sentence, &heard);
        println!("{}/{}  {sentence}  |  {heard}", errors.errors, errors.words);
        total += errors;
    }
    println!("read back: {:.2} % word errors over {} words", total.percent(), total.words);
    assert!(total.percent() <= 3.0, "{:.2} % word errors", total.percent());
}
