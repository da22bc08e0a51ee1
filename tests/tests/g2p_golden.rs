//! The phonemes of 336 sentences against those of the package that the voice comes from (`hibari-tts` 0.2.1, recorded with its
//! Python code and ONNX Runtime): times, dates, money, units, names, homographs, abbreviations, unknown words, punctuation.

use std::time::Instant;

use control_plane::registry;
use nearfield_inference::Device;
use nearfield_inference::nn::Resident;
use nearfield_inference::tts::g2p::{PHONEMES_MAX, Phonemizer, TEXT_CHARS_MAX};
use nearfield_shared::gguf::Gguf;

/// Sentences of the package in which our own rules (`tts::g2p::semiotic`) read something else, each on purpose.
const READ_OTHERWISE: [&str; 14] = [
    "My number is 212-555-0187.",
    "No. 5 is alive, and Nos. 6 and 7 are not.",
    "It's approx. 10 miles, w/o traffic.",
    "24/7 support is included.",
    "Visit www.example.com for details.",
    "Write to info@example.org today.",
    "Go to https://www.openai.com/docs now.",
    "The area is 30 m² or 5³.",
    "A.I. and e.g. and i.e. are short.",
    "The code is 007.",
    "Your order number is 84720193.",
    "Dial 911 or 112.",
    "$5-$10 per head",
    "Phone: (020) 7946 0958.",
];

fn phonemizer() -> Phonemizer {
    let paths = registry::ensure(&["hibari"]).expect("the voice can be fetched and converted");
    let gguf = Gguf::open(&paths[0]).expect("its file can be read");
    Phonemizer::load(&gguf, &Device::flex()).expect("it holds the data for phonemes")
}

#[test]
fn phonemes_are_those_of_the_package() {
    let golden: Vec<(String, Vec<String>)> =
        include_str!("../golden/g2p.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(golden.len() > 300);
    let phonemizer = phonemizer();
    let started = Instant::now();
    let (mut words, mut wrong_words, mut wrong) = (0, 0, Vec::new());
    for (text, expect) in &golden {
        let found = phonemizer.phonemes(text);
        let count = |phrases: &[String]| phrases.iter().map(|p| p.split(' ').count()).sum::<usize>();
        let otherwise = READ_OTHERWISE.contains(&text.as_str());
        words += if otherwise { 0 } else { count(expect) };
        if otherwise {
            assert_ne!(found, *expect, "{text}: read as by the package, so no exception");
        } else if found != *expect {
            let pairs = found.iter().flat_map(|p| p.split(' ')).zip(expect.iter().flat_map(|p| p.split(' ')));
            wrong_words += pairs.filter(|(a, b)| a != b).count().max(1);
            wrong.push(format!("{text}\n  found  {found:?}\n  expect {expect:?}"));
        }
        for phrase in &found {
            let ids = phonemizer.ids(phrase);
            assert_eq!(ids.len(), phrase.chars().count() + 2, "{text}: the voice knows every phoneme");
            assert_eq!((ids[0], ids[ids.len() - 1]), (0, 0));
        }
    }
    let each = started.elapsed().as_secs_f64() * 1e3 / golden.len() as f64;
    println!(
        "{} of {} sentences and {} of {words} words equal, {} sentences read otherwise on purpose; {each:.2} ms a sentence; {} words known; {} bytes resident",
        golden.len() - wrong.len() - READ_OTHERWISE.len(),
        golden.len(),
        words - wrong_words,
        READ_OTHERWISE.len(),
        phonemizer.words(),
        phonemizer.resident_bytes(),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Where we read otherwise on purpose: see the documentation of `tts::g2p`.
#[test]
fn readings_better_than_the_package() {
    let phonemizer = phonemizer();
    let cases = [
        // The package: "Richard the zeroth Clamp", "type one hundred".
        ("Richard Clamp", "ɹˈɪʧəɹd klˈæmp"),
        ("USB type C", "jˌuˌɛsbˈi tˈIp sˈi"),
        // The package knows these digits too, but tags them as words.
        ("٣ cats", "θɹˈi kˈæts"),
        // The package: "approximately. Ten miles", "My number is two hundred twelve five fifty five one eighty seven", "slash slash",
        // "nine hundred eleven", "five ten per head", "VAT" as in "cat".
        ("approx. 10 miles", "əpɹˈɑksəmətli tˈɛn mˈIlz"),
        ("212-555-0187", "tˈu wˈʌn tˈu, fˈIv fˈIv fˈIv, zˈɪɹO wˈʌn ˈAt sˈɛvən"),
        ("a@example.com", "ˈA æt ɪɡzˈæmpəl dˈɑt kˈɑm"),
        ("www.example.com/a1", "dˈʌbᵊlju dˈʌbᵊlju dˈʌbᵊlju dˈɑt ɪɡzˈæmpəl dˈɑt kˈɑm slˈæʃ ˈA wˈʌn"),
        ("Dial 112", "dˈIᵊl wˈʌn wˈʌn tˈu"),
        ("$5-$10 per head", "fˈIv dˈɑləɹz tə tˈɛn dˈɑləɹz pɜɹ hˈɛd"),
        ("It is 12,50 €.", "ˌɪt ɪz twˈɛlv jˈʊɹOz ænd fˈɪfti sˈɛnts."),
        ("on 22.11.2026", "ˌɔn nOvˈɛmbəɹ twˌɛntisˈɛkənd, twˈɛnti twˈɛnti sˈɪks"),
        ("incl. VAT", "ɪnklˈudɪŋ vˌiˌAtˈi"),
    ];
    for (text, expect) in cases {
        assert_eq!(phonemizer.phonemes(text), [expect], "{text}");
    }
    // The package fails on numbers without a name.
    let long = phonemizer.phonemes(&"7".repeat(50));
    assert_eq!(long.iter().flat_map(|p| p.split(' ')).filter(|w| *w == "sˈɛvən").count(), 50);
}

#[test]
fn no_text_breaks_it() {
    let phonemizer = phonemizer();
    for silent in ["", " ", "\n\n", "\u{0}\u{1}\u{7f}", "\u{200b}\u{feff}", "🙂🚀", "'", "()", "[](", "[a]("] {
        let phrases = phonemizer.phonemes(silent);
        assert!(phrases.len() <= 1, "{silent:?}: {phrases:?}");
    }
    assert!(phonemizer.phonemes("").is_empty() && phonemizer.phonemes("\u{0}\n\t").is_empty());
    let pieces = [
        "a",
        "A",
        "1",
        ".",
        ",",
        "-",
        "'",
        "’",
        "(",
        "[",
        "[a](b)",
        "[a](/ˈA/)",
        "[[",
        "a.",
        "1,",
        "1-",
        "$1 ",
        "$",
        "=",
        "#",
        "é",
        "字",
        "🙂",
        "\u{301}",
        "\u{0}",
        "a\u{301}",
        "Zx ",
        "x7",
        "7x",
        "Mr. ",
        "I ",
        "to ",
        "\u{1d7d7}",
        "ß",
        "ŉ",
        "İ",
        "ﬁ",
        "½",
        "²",
        "①",
        "_",
        "\\",
        "@",
        "www.",
        "a@b.",
        "3:30 ",
        "1/2 ",
        "Henry I",
        "a, ",
        "…",
        "—",
    ];
    for piece in pieces {
        let text = piece.repeat(TEXT_CHARS_MAX / piece.chars().count() + 50);
        let phrases = phonemizer.phonemes(&text);
        for phrase in &phrases {
            assert!(phrase.chars().count() <= PHONEMES_MAX, "{piece:?}: a phrase of {}", phrase.chars().count());
            assert!(phonemizer.ids(phrase).len() <= PHONEMES_MAX + 2);
        }
        // No character is read as more than a short word.
        assert!(phrases.len() <= TEXT_CHARS_MAX * 20 / PHONEMES_MAX * 2, "{piece:?}: {} phrases", phrases.len());
    }
    // All characters of the first plane, in runs that mix scripts.
    let every: Vec<char> = ('\u{0}'..='\u{ffff}').collect();
    for run in every.chunks(997) {
        phonemizer.phonemes(&run.iter().collect::<String>());
        let spaced: String = run.iter().flat_map(|c| [*c, ' ']).collect();
        phonemizer.phonemes(&spaced);
    }
}
