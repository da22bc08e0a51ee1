//! Where one thing to be spoken ends and the next begins: sentences of a text, and phrases of what is too long.

use super::characters::is_space;

/// Phonemes the voice takes at once. Beyond that its training data had nothing, and its attention grows with the square.
pub const PHONEMES_MAX: usize = 400;

/// The sentences of a text: at line breaks, and after `.`, `!`, `?` or `…` with any closing quotes (which are left out). A full
/// stop after a title ("Dr."), after an initial ("J."), or before a small letter ends none.
pub fn sentences(text: &str, is_title: impl Fn(&str) -> bool) -> Vec<&str> {
    let mut out = Vec::new();
    for line in text.split('\n') {
        let line = line.trim_matches(is_space);
        let mut start = 0;
        let mut marks = line.char_indices().peekable();
        while let Some((at, mark)) = marks.next() {
            if !matches!(mark, '.' | '!' | '?' | '…') {
                continue;
            }
            let end = at + mark.len_utf8();
            let after_quotes = line[end..].trim_start_matches(['"', '”', '’', ')', ']']);
            let next = after_quotes.trim_start_matches(is_space);
            let spaces = after_quotes.len() - next.len();
            let Some(first) = next.chars().next().filter(|_| spaces > 0) else { continue };
            if ends_sentence(&line[..at], mark, first, &is_title) {
                out.push(&line[start..end]);
                start = line.len() - next.len();
            }
            // What was looked at is not looked at again.
            let resume = line.len() - next.len();
            while marks.peek().is_some_and(|&(i, _)| i < resume) {
                marks.next();
            }
        }
        out.push(&line[start..]);
    }
    out.retain(|s| !s.is_empty());
    out
}

fn ends_sentence(before: &str, mark: char, next: char, is_title: impl Fn(&str) -> bool) -> bool {
    if next.is_lowercase() {
        return false;
    }
    if mark != '.' {
        return true;
    }
    let word = before.rsplit(' ').next().unwrap_or(before).trim_start_matches(['(', '"', '“', '\'', '‘']);
    let mut letters = word.chars();
    let initial = letters.next().is_some_and(char::is_uppercase) && letters.next().is_none();
    !(initial || is_title(word))
}

/// Cuts phonemes into phrases of at most [`PHONEMES_MAX`]: behind commas and the like, and where there are none for that long,
/// between words, and where there is no end of a word either, anywhere.
pub fn phrases(phonemes: &str) -> Vec<String> {
    let length = |s: &str| s.chars().count();
    if length(phonemes) <= PHONEMES_MAX {
        return vec![phonemes.to_string()];
    }
    let mut out = Vec::new();
    let mut phrase = String::new();
    let mut phrase_length = 0;
    for part in clauses(phonemes).into_iter().flat_map(bounded) {
        let part_length = length(&part);
        if phrase.is_empty() {
            phrase_length = part_length;
        } else if phrase_length + part_length + 1 > PHONEMES_MAX {
            out.push(std::mem::take(&mut phrase));
            phrase_length = part_length;
        } else {
            phrase.push(' ');
            phrase_length += part_length + 1;
        }
        phrase += &part;
    }
    if !phrase.is_empty() {
        out.push(phrase);
    }
    out
}

/// Parts that end with a comma, semicolon, colon or dash before white space, which is left out.
fn clauses(phonemes: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut start = 0;
    for (at, mark) in phonemes.char_indices() {
        let end = at + mark.len_utf8();
        if at >= start && matches!(mark, ',' | ';' | ':' | '—') && phonemes[end..].starts_with(is_space) {
            out.push(&phonemes[start..end]);
            start = phonemes.len() - phonemes[end..].trim_start_matches(is_space).len();
        }
    }
    out.push(&phonemes[start..]);
    out
}

/// A part in pieces that a phrase can hold.
fn bounded(part: &str) -> Vec<String> {
    let chars: Vec<char> = part.chars().collect();
    let mut out = Vec::new();
    let mut rest = chars.as_slice();
    while rest.len() > PHONEMES_MAX {
        let space = rest[..=PHONEMES_MAX].iter().rposition(|&c| c == ' ').filter(|&i| i > 0);
        let cut = space.unwrap_or(PHONEMES_MAX);
        out.push(rest[..cut].iter().collect());
        rest = &rest[cut + usize::from(space.is_some())..];
    }
    out.push(rest.iter().collect());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_sentences() {
        let cases: &[(&str, &[&str])] = &[
            ("One. Two! Three?", &["One.", "Two!", "Three?"]),
            ("Dr. Smith met J. K. Rowling. Then left.", &["Dr. Smith met J. K. Rowling.", "Then left."]),
            ("He said \"stop.\" She did.", &["He said \"stop.", "She did."]),
            ("At 5 p.m. we go. ok", &["At 5 p.m. we go. ok"]),
            ("a\n\n b \n", &["a", "b"]),
            ("Wait... What", &["Wait...", "What"]),
            ("3.5 is. Not", &["3.5 is.", "Not"]),
            ("(Mr. Fox) ran", &["(Mr. Fox) ran"]),
            ("", &[]),
            (" \n\t\n ", &[]),
            (". . .", &[".", ".", "."]),
        ];
        for (text, expect) in cases {
            assert_eq!(sentences(text, |w| matches!(w, "Dr" | "Mr")), *expect, "{text:?}");
        }
    }

    #[test]
    fn long_phonemes_are_cut() {
        assert_eq!(phrases("a, b"), ["a, b"]);
        let clause = format!("{},", "x".repeat(150));
        let text = [clause.as_str(); 5].join(" ");
        let two = format!("{clause} {clause}");
        assert_eq!(phrases(&text), [two.as_str(), &two, &clause]);
        let words = "abc ".repeat(1000);
        assert!(phrases(&words).iter().all(|p| p.chars().count() <= PHONEMES_MAX && !p.starts_with(' ')));
        assert_eq!(phrases(&words).join(" "), words);
        assert_eq!(phrases(&"ə".repeat(1001)).iter().map(|p| p.chars().count()).collect::<Vec<_>>(), [400, 400, 201]);
    }
}
