//! Cuts a token into the parts that may be read on their own: "iPhone7" into "i", "Phone" and "7".

use super::characters::{is_apostrophe, is_letter, is_lower_latin, is_upper_latin, is_word};

/// The parts, in order. A single apostrophe in the middle belongs to none and disappears.
pub fn subtokens(token: &str) -> Vec<String> {
    let s: Vec<char> = token.chars().collect();
    let mut parts = Vec::new();
    let mut i = 0;
    while i < s.len() {
        match part(&s, i) {
            0 => i += 1,
            length => {
                parts.push(s[i..i + length].iter().collect());
                i += length;
            }
        }
    }
    parts
}

/// Length of the part that begins at `i`; 0 for none. The first rule that fits decides.
fn part(s: &[char], i: usize) -> usize {
    let c = s[i];
    let rest = &s[i..];
    let apostrophes = count(rest, is_apostrophe);
    if i == 0 && apostrophes > 0 {
        return apostrophes;
    }
    // One capital before a capitalised word stands alone: "A" of "AMac".
    if is_upper_latin(c)
        && rest.get(1).copied().is_some_and(is_upper_latin)
        && rest.get(2).copied().is_some_and(is_lower_latin)
    {
        return 1;
    }
    let sign = usize::from(i == 0 && c == '-');
    let digits = number(&rest[sign..]);
    if digits > 0 {
        return sign + digits;
    }
    let dashes = count(rest, |c| matches!(c, '-' | '_'));
    if dashes > 0 {
        return dashes;
    }
    if apostrophes >= 2 {
        return apostrophes;
    }
    let letters = count(rest, is_letter);
    if let Some(length) = to_capital(rest, letters) {
        return length;
    }
    if letters > 0 {
        let mut length = letters;
        while clitic(rest, length) {
            length += 2;
        }
        return length;
    }
    if !is_word(c) && apostrophes == 0 {
        return 1;
    }
    if apostrophes > 0 && apostrophes == rest.len() { apostrophes } else { 0 }
}

/// Digits with single separators between them; a separator may also stand in front.
fn number(s: &[char]) -> usize {
    let digit = |i: usize| s.get(i).is_some_and(char::is_ascii_digit);
    let mut length = 0;
    loop {
        if digit(length) {
            length += 1;
        } else if s.get(length).is_some_and(|&c| c == ',' || c == '.') && digit(length + 1) {
            length += 2;
        } else {
            return length;
        }
    }
}

/// Up to a small letter that a capital follows ("wi" of "wiFi"), over letters and then single letters behind apostrophes.
fn to_capital(s: &[char], letters: usize) -> Option<usize> {
    let turns =
        |i: usize| s.get(i).copied().is_some_and(is_lower_latin) && s.get(i + 1).copied().is_some_and(is_upper_latin);
    if let Some(i) = (0..letters).find(|&i| turns(i)) {
        return Some(i + 1);
    }
    let mut end = letters;
    while clitic(s, end) {
        end += 2;
        if turns(end) {
            return Some(end + 1);
        }
    }
    None
}

/// Whether an apostrophe and a letter stand at `i`.
fn clitic(s: &[char], i: usize) -> bool {
    s.get(i).copied().is_some_and(is_apostrophe) && s.get(i + 1).copied().is_some_and(is_letter)
}

fn count(s: &[char], class: impl Fn(char) -> bool) -> usize {
    s.iter().take_while(|&&c| class(c)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_tokens() {
        let cases: &[(&str, &[&str])] = &[
            ("hello", &["hello"]),
            ("iPhone7", &["i", "Phone", "7"]),
            ("HTTPServer", &["HTTPServer"]),
            ("AMac", &["A", "Mac"]),
            ("ab'cD'e", &["ab'c", "D'e"]),
            ("o'clockA", &["o'c", "lock", "A"]),
            ("B52", &["B", "52"]),
            ("-5.5", &["-5.5"]),
            ("1,234.5", &["1,234.5"]),
            ("1..2", &["1", ".", ".2"]),
            ("a-b_c", &["a", "-", "b", "_", "c"]),
            ("don't", &["don't"]),
            ("they're", &["they'r", "e"]),
            ("''tis'", &["''", "tis", "'"]),
            ("a'-b", &["a", "-", "b"]),
            ("R2D2", &["R", "2", "D", "2"]),
            ("x''y", &["x", "''", "y"]),
            ("$%", &["$", "%"]),
            ("'", &["'"]),
            ("", &[]),
        ];
        for (token, expect) in cases {
            assert_eq!(subtokens(token), *expect, "{token}");
        }
    }
}
