//! When words were said: the recogniser's times against those of the voice that spoke them, which knows how long each sound lasts.

use control_plane::registry::ensure;
use nearfield_inference::asr::{Moonshine, SpokenWord};
use nearfield_shared::gguf::Gguf;
use nearfield_tests::{device, voice::Voice};

const SENTENCES: [&str; 16] = [
    "Please tell me your name and your telephone number.",
    "The next train to the city leaves in ten minutes.",
    "The office is two minutes on foot from the station.",
    "It will rain in the morning and clear up later.",
    "The meeting room is on the second floor on the left.",
    "We have sent you a letter with all the details.",
    "The price includes breakfast and a parking space.",
    "Turn right at the bridge and follow the river.",
    "You can renew your policy on our website.",
    "A colleague will call you back this afternoon.",
    "Would you like me to put you through to him now.",
    "What you say stays in your own region.",
    "You can pay in cash or by card at the desk.",
    "The report will be ready by the end of the week.",
    "Every morning the baker opens his little shop at the corner.",
    "My sister bought a green coat and a pair of brown shoes.",
];

/// The words with their times, after the whole transcript was written.
fn words(moonshine: &Moonshine, audio: &[f32]) -> Vec<SpokenWord> {
    let mut decoding = moonshine.begin(moonshine.encode(audio).expect("it fits"));
    while !decoding.is_ended() {
        moonshine.step(&mut [&mut decoding]).expect("a step");
    }
    let mut aligning = moonshine.align(decoding);
    loop {
        if let Some(words) = moonshine.look(&mut aligning) {
            return words;
        }
    }
}

/// Where each word would begin if the time were shared out by letters.
fn by_letters(sentence: &str, total_ms: f64) -> Vec<f64> {
    let letters = |word: &str| word.chars().filter(|c| c.is_alphanumeric()).count();
    let all: usize = sentence.split(' ').map(letters).sum();
    let begins = sentence.split(' ').scan(0, |said, word| {
        let begins = *said as f64 / all as f64 * total_ms;
        *said += letters(word);
        Some(begins)
    });
    begins.collect()
}

#[test]
fn words_are_placed_where_the_voice_said_them() {
    let ears = Gguf::open(ensure(&["moonshine-tiny"]).expect("the model").remove(0)).expect("a GGUF file");
    let (device, voice) = (device(), Voice::on(&device()));
    let moonshine = Moonshine::load(&ears, &device).expect("a recogniser");
    let (mut aligned, mut shared, mut count) = (0.0, 0.0, 0);
    for sentence in SENTENCES {
        let (audio, begins) = voice.says_with_times(sentence);
        let found = words(&moonshine, &audio);
        let heard: Vec<&str> = found.iter().map(|word| word.text.as_str()).collect();
        if heard.len() != begins.len() {
            println!("heard otherwise: {heard:?}");
            continue;
        }
        assert!(found.windows(2).all(|pair| pair[0].end_ms <= pair[1].start_ms), "words do not overlap: {found:?}");
        let letters = by_letters(sentence, audio.len() as f64 / 16.0);
        for ((word, begins), letters) in found.iter().zip(&begins).zip(letters).skip(1) {
            aligned += (f64::from(word.start_ms) - begins).abs();
            shared += (letters - begins).abs();
            count += 1;
        }
    }
    let mean = |sum: f64| sum / f64::from(count);
    println!(
        "{count} words begin {:.0} ms off on average; shared out by letters {:.0} ms",
        mean(aligned),
        mean(shared)
    );
    assert!(count >= 50, "{count} words");
    assert!(mean(aligned) <= 80.0 && mean(aligned) < mean(shared) / 2.0, "{} and {} ms", mean(aligned), mean(shared));
}
