//! Text in pieces becomes phrases that can be spoken.
//!
//! The first phrase is cut early, at the first clause that can stand alone, because the caller waits for it. Later ones are
//! whole sentences where they fit, because a voice sounds best over a whole sentence and there is audio in hand by then.
//! A phrase never ends inside a number, an amount, an abbreviation or an initial. What is cut depends on the text alone, not
//! on how it was split into pieces; a cut is made only when the character after it is known.

use nearfield_shared::pii::Pii;

/// Characters at which a first phrase may end at a comma: below this a voice sounds clipped.
const FIRST_CLAUSE_CHARS_MIN: usize = 12;

/// Characters at which a later phrase may end at a comma.
const CLAUSE_CHARS_MIN: usize = 90;

/// Characters after which a first phrase without punctuation ends before a connecting word: about four seconds of speech.
const FIRST_CHARS_MAX: usize = 60;

/// Characters after which any phrase ends before a connecting word.
const CHARS_MAX: usize = 200;

/// Characters after which a phrase ends at the last space, whatever the word; the synthesiser refuses more than 500.
const CHARS_HARD_MAX: usize = 400;

/// Abbreviations that end with a full stop and do not end a sentence. Lower case, without the final stop.
const ABBREVIATIONS: [&str; 34] = [
    "mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "vs", "etc", "e.g", "i.e", "a.m", "p.m", "u.s", "u.k", "e.u",
    "approx", "incl", "excl", "esp", "dept", "inc", "ltd", "co", "corp", "min", "max", "ave", "blvd", "rd", "jan",
    "feb", "dec",
];

/// Abbreviations only before a number: `No. 5`, but `No. We are closed.`
const ABBREVIATIONS_OF_NUMBERS: [&str; 5] = ["no", "nos", "fig", "ext", "tel"];

/// Words before which a long phrase may end.
const CONNECTING: [&str; 18] = [
    "and", "or", "but", "because", "which", "that", "so", "while", "when", "where", "if", "to", "for", "with", "from",
    "until", "since", "then",
];

/// A phrase as it is spoken.
#[derive(Debug, Clone, PartialEq)]
pub struct Phrase {
    /// What audio is made of.
    pub text: Pii<String>,
    /// The words of it that are wanted: all, or the end of them, where the caller heard the others before.
    pub words: Pii<String>,
    /// Where in the audio those words begin, in milliseconds.
    pub from_ms: u32,
    /// Whether it is the assistant's own and the same for every caller, so that its audio may be kept.
    pub own: bool,
}

impl Phrase {
    /// All of a phrase.
    pub fn whole(text: String, own: bool) -> Self {
        let text = Pii::new(text);
        Self { words: text.clone(), text, from_ms: 0, own }
    }
}

/// Cuts a growing text into phrases.
#[derive(Debug, Clone, Default)]
pub struct Phraser {
    rest: String,
    first_is_out: bool,
}

impl Phraser {
    /// A phraser that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece of text and returns the phrases that are now complete.
    pub fn push(&mut self, piece: &str) -> Vec<String> {
        self.rest.extend(piece.chars().filter(|c| !is_markup(*c)));
        let mut phrases = Vec::new();
        while let Some(end) = self.cut() {
            self.take(end, &mut phrases);
        }
        phrases
    }

    /// The text is complete: returns what is left.
    pub fn finish(&mut self) -> Vec<String> {
        let mut phrases = Vec::new();
        // A space shows that the last word is whole, so that the usual rules see its end.
        self.rest.push(' ');
        while let Some(end) = self.cut() {
            self.take(end, &mut phrases);
        }
        let end = self.rest.len();
        self.take(end, &mut phrases);
        phrases
    }

    /// The text was cut off at a limit: returns what is left only if nothing was said yet, because half a sentence after
    /// whole ones sounds like a fault.
    pub fn finish_cut_off(&mut self) -> Vec<String> {
        if self.first_is_out {
            self.rest.clear();
            return Vec::new();
        }
        self.finish()
    }

    /// Bytes that wait for the end of their phrase.
    pub fn pending_bytes(&self) -> usize {
        self.rest.len()
    }

    fn take(&mut self, end: usize, phrases: &mut Vec<String>) {
        let rest = self.rest.split_off(end);
        let phrase = std::mem::replace(&mut self.rest, rest);
        let phrase = phrase.split_whitespace().collect::<Vec<_>>().join(" ");
        if phrase.chars().any(char::is_alphanumeric) {
            self.first_is_out = true;
            phrases.push(phrase);
        }
    }

    /// Byte position where the next phrase ends, if that can be told yet.
    fn cut(&self) -> Option<usize> {
        let text = self.rest.as_str();
        let clause_min = if self.first_is_out { CLAUSE_CHARS_MIN } else { FIRST_CLAUSE_CHARS_MIN };
        let soft_max = if self.first_is_out { CHARS_MAX } else { FIRST_CHARS_MAX };
        let start = text.len() - text.trim_start().len();
        let mut words_end: Option<usize> = None; // the last space before which a phrase may end
        let mut chars = 0;
        let mut it = text[start..].char_indices().map(|(i, c)| (i + start, c)).peekable();
        while let Some((at, c)) = it.next() {
            chars += 1;
            let end = at + c.len_utf8();
            if c == '\n' {
                return Some(end);
            }
            if c.is_whitespace() {
                if words_end.is_some() && chars > soft_max && connects(&text[end..]) {
                    return Some(at);
                }
                if !number_goes_on(text, at) {
                    words_end = Some(at);
                    if chars > CHARS_HARD_MAX {
                        return Some(at);
                    }
                }
                continue;
            }
            if chars > 2 * CHARS_HARD_MAX {
                return Some(words_end.unwrap_or(at));
            }
            // A cut needs to see a space behind the mark: `3.14`, `1,000` and `12:30` have none.
            let (_, next) = it.peek()?;
            let closed = matches!(next, '"' | '\'' | ')' | '\u{201d}' | '\u{2019}');
            let end = if closed { end + next.len_utf8() } else { end };
            let behind = if closed { text[end..].chars().next()? } else { *next };
            if !behind.is_whitespace() {
                continue;
            }
            match c {
                '.' | '!' | '?' | '\u{2026}' => {
                    if c == '.' && !closed {
                        match stop_ends_sentence(&text[start..at], text[end..].trim_start().chars().next()) {
                            None => return None,
                            Some(false) => continue,
                            Some(true) => {}
                        }
                    }
                    return Some(end);
                }
                ',' | ';' | ':' | '\u{2014}' | '\u{2013}' if chars >= clause_min => {
                    // `May 5, 2024` is one thing: the first character of the next word must be known and no digit.
                    match text[end..].trim_start().chars().next() {
                        None => return None,
                        Some(next) if next.is_ascii_digit() => {}
                        Some(_) => return Some(end),
                    }
                }
                _ => {}
            }
        }
        None
    }
}

fn is_markup(c: char) -> bool {
    matches!(c, '*' | '#' | '`')
}

/// Whether the text goes on with a connecting word, seen whole.
fn connects(text: &str) -> bool {
    let Some((word, _)) = text.split_once(char::is_whitespace) else { return false };
    CONNECTING.contains(&word.to_ascii_lowercase().as_str())
}

/// Whether the space at `at` stands beside a number or a currency sign: `20 dollars`, `$ 5`, `3 1/2`.
fn number_goes_on(text: &str, at: usize) -> bool {
    let before = text[..at].chars().next_back();
    let after = text[at..].trim_start().chars().next();
    before.is_some_and(|c| c.is_ascii_digit() || is_currency(c))
        || after.is_some_and(|c| c.is_ascii_digit() || is_currency(c))
}

fn is_currency(c: char) -> bool {
    matches!(c, '$' | '\u{20ac}' | '\u{a3}' | '\u{a5}')
}

/// Whether a full stop behind this text ends a sentence; `None` if that takes the next word, which is not known yet.
fn stop_ends_sentence(before: &str, next: Option<char>) -> Option<bool> {
    let word = before.rsplit(char::is_whitespace).next().unwrap_or(before);
    let word = word.trim_start_matches(['(', '"', '\'', '\u{201c}']);
    let lower = word.to_lowercase();
    if ABBREVIATIONS.contains(&lower.as_str()) {
        return Some(false);
    }
    if ABBREVIATIONS_OF_NUMBERS.contains(&lower.as_str()) {
        return next.map(|c| !c.is_ascii_digit());
    }
    // `J. Smith`, but `Plan B.` and `and I.` end: an initial stands before a name, so only `I` is told apart.
    if word.chars().count() == 1 && word.chars().all(|c| c.is_uppercase()) && word != "I" {
        return Some(false);
    }
    // `1. Open the box`: a number that is the whole phrase so far is a list mark.
    Some(!(word.chars().all(|c| c.is_ascii_digit()) && word.len() == before.trim().len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn phrases(pieces: &[&str]) -> Vec<String> {
        let mut phraser = Phraser::new();
        let mut out: Vec<String> = pieces.iter().flat_map(|piece| phraser.push(piece)).collect();
        out.extend(phraser.finish());
        out
    }

    fn check(text: &str, expect: &[&str]) {
        assert_eq!(phrases(&[text]), expect, "whole: {text}");
        let chars: Vec<String> = text.chars().map(String::from).collect();
        let pieces: Vec<&str> = chars.iter().map(String::as_str).collect();
        assert_eq!(phrases(&pieces), expect, "letter by letter: {text}");
    }

    #[test]
    fn sentences_and_an_early_first_clause() {
        check("Yes. We are open.", &["Yes.", "We are open."]);
        check("We open at nine. We close at five.", &["We open at nine.", "We close at five."]);
        check(
            "Of course I can, and I would be glad to, if you like.",
            &["Of course I can,", "and I would be glad to, if you like."],
        );
        check("Well, that is a good question!", &["Well, that is a good question!"]);
        check("He said \"stop.\" Then he left.", &["He said \"stop.\"", "Then he left."]);
        check("Really? Yes! Good...", &["Really?", "Yes!", "Good..."]);
        check("First line\nsecond line", &["First line", "second line"]);
    }

    #[test]
    fn numbers_dates_and_amounts_stay_whole() {
        check("It is 3.14 or so. Fine.", &["It is 3.14 or so.", "Fine."]);
        check("It costs about 1,000 dollars, I think.", &["It costs about 1,000 dollars,", "I think."]);
        check("It opened on May 5, 2024, as planned.", &["It opened on May 5, 2024,", "as planned."]);
        check("Come at 12:30 please.", &["Come at 12:30 please."]);
        check("1. Open the box. 2. Look inside.", &["1. Open the box.", "2. Look inside."]);
        check("Flat 5. Then left.", &["Flat 5.", "Then left."]);
    }

    #[test]
    fn abbreviations_and_initials_do_not_end_a_sentence() {
        check("Dr. Smith is in. Go up.", &["Dr. Smith is in.", "Go up."]);
        check("Ask J. Smith, e.g. at noon.", &["Ask J. Smith,", "e.g. at noon."]);
        check("We open at 9 a.m. on Monday.", &["We open at 9 a.m. on Monday."]);
        check("No. We are closed. See No. 5 on the list.", &["No.", "We are closed.", "See No. 5 on the list."]);
        check("It is up to you and I. Good.", &["It is up to you and I.", "Good."]);
    }

    #[test]
    fn marks_that_are_not_spoken_are_left_out() {
        check("**Bold** and `code`.", &["Bold and code."]);
        check("... - !", &[]);
        check("", &[]);
    }

    #[test]
    fn a_long_text_without_punctuation_ends_before_a_connecting_word() {
        let text = "the office on the corner of the long street has a small blue door and behind it there are stairs";
        let got = phrases(&[text]);
        assert_eq!(got[0], "the office on the corner of the long street has a small blue door");
        assert_eq!(got.join(" "), text);
        let endless = "word ".repeat(400);
        assert!(phrases(&[&endless]).iter().all(|p| p.len() <= 500), "the synthesiser takes 500");
        let unbroken = "x".repeat(5_000);
        assert!(phrases(&[&unbroken]).iter().all(|p| p.len() <= 2 * CHARS_HARD_MAX + 1));
    }

    #[test]
    fn what_was_cut_off_is_dropped_after_whole_phrases_and_kept_alone() {
        let mut phraser = Phraser::new();
        assert_eq!(phraser.push("We are open. Please come and "), ["We are open."]);
        assert!(phraser.finish_cut_off().is_empty());
        let mut phraser = Phraser::new();
        assert!(phraser.push("We are").is_empty());
        assert_eq!(phraser.finish_cut_off(), ["We are"]);
    }

    proptest! {
        #[test]
        fn no_word_is_lost_and_pieces_do_not_matter(text in "[a-zA-Z0-9 .,!?$'\"\n-]{0,300}", cuts in prop::collection::vec(0usize..300, 0..8)) {
            let whole = phrases(&[&text]);
            let mut at: Vec<usize> = cuts.into_iter().filter(|c| *c < text.len()).collect();
            at.sort_unstable();
            at.dedup();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in at {
                pieces.push(&text[from..cut]);
                from = cut;
            }
            pieces.push(&text[from..]);
            prop_assert_eq!(&whole, &phrases(&pieces));
            let letters = |s: &str| s.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
            prop_assert_eq!(letters(&text), letters(&whole.concat()));
        }
    }
}
