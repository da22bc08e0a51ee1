//! Stress marks inside a pronunciation.

/// Mark of the main stress.
pub const PRIMARY: char = 'ˈ';
/// Mark of the secondary stress.
pub const SECONDARY: char = 'ˌ';
/// Phonemes that carry a syllable.
pub const VOWELS: &str = "AIOQWYaiuæɑɒɔəɛɜɪʊʌᵻ";
/// Phonemes that do not.
pub const CONSONANTS: &str = "bdfhjklmnpstvwzðŋɡɹɾʃʒʤʧθ";
/// Phonemes that last as long as two.
const LONG: &str = "AIOQWYʤʧ";

/// Whether a phoneme carries a syllable.
pub fn is_vowel(c: char) -> bool {
    VOWELS.contains(c)
}

/// How long a pronunciation is, in phonemes.
pub fn weight(phonemes: &str) -> usize {
    phonemes.chars().map(|c| if LONG.contains(c) { 2 } else { 1 }).sum()
}

/// Weakens or strengthens: below -1 all stress goes; -1 turns main into secondary, and so do -0.5 and 0 where there is a main one;
/// 0 to 1 give a secondary stress to what has none; 1 and more turn secondary into main, and above 1 what has none gets a main one.
pub fn apply(phonemes: &str, stress: Option<f32>) -> String {
    let Some(stress) = stress else { return phonemes.to_string() };
    let primary = phonemes.contains(PRIMARY);
    let secondary = phonemes.contains(SECONDARY);
    let none = !primary && !secondary;
    if stress < -1.0 {
        phonemes.replace([PRIMARY, SECONDARY], "")
    } else if stress == -1.0 || (primary && (stress == 0.0 || stress == -0.5)) {
        phonemes.replace(SECONDARY, "").replace(PRIMARY, &SECONDARY.to_string())
    } else if none && (0.0..=1.0).contains(&stress) {
        before_first_vowel(phonemes, SECONDARY)
    } else if stress >= 1.0 && !primary && secondary {
        phonemes.replace(SECONDARY, &PRIMARY.to_string())
    } else if none && stress > 1.0 {
        before_first_vowel(phonemes, PRIMARY)
    } else {
        phonemes.to_string()
    }
}

fn before_first_vowel(phonemes: &str, mark: char) -> String {
    match phonemes.find(is_vowel) {
        Some(i) => format!("{}{mark}{}", &phonemes[..i], &phonemes[i..]),
        None => phonemes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stress_table() {
        let cases: [(&str, Option<f32>, &str); 12] = [
            ("ˌbˈæt", None, "ˌbˈæt"),
            ("ˌbˈæt", Some(-2.0), "bæt"),
            ("ˌbˈæt", Some(-1.0), "bˌæt"),
            ("bˈæt", Some(-0.5), "bˌæt"),
            ("bæt", Some(-0.5), "bæt"),
            ("bˈæt", Some(0.0), "bˌæt"),
            ("bæt", Some(0.0), "bˌæt"),
            ("bæt", Some(0.5), "bˌæt"),
            ("pst", Some(0.5), "pst"),
            ("bˌæt", Some(2.0), "bˈæt"),
            ("bæt", Some(2.0), "bˈæt"),
            ("bˈæt", Some(2.0), "bˈæt"),
        ];
        for (ps, stress, expect) in cases {
            assert_eq!(apply(ps, stress), expect, "{ps} {stress:?}");
        }
        assert_eq!(weight("ʧAt"), 5);
    }
}
