//! Classes of characters. The rules were written for Python's `re` and `str`, whose notion of a word character or of white space
//! is not Rust's, so the classes are named here once and used everywhere.

/// White space as `\s` sees it there: Unicode white space and the four separators of ASCII.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// `\w`: a letter, a digit or number sign of any script, or the underscore.
pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// `[^\W\d_]`: a word character that is neither a digit nor the underscore.
pub fn is_letter(c: char) -> bool {
    c.is_alphanumeric() && !c.is_ascii_digit()
}

/// Small letters of Latin-1, which the splitting rules name explicitly.
pub fn is_lower_latin(c: char) -> bool {
    matches!(c, 'a'..='z' | 'ß'..='ö' | 'ø'..='ÿ')
}

/// Capital letters of Latin-1.
pub fn is_upper_latin(c: char) -> bool {
    matches!(c, 'A'..='Z' | 'À'..='Ö' | 'Ø'..='Þ')
}

/// The apostrophe in its three shapes.
pub fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '‘' | '’')
}

/// Whether all of a non-empty text is letters.
pub fn is_alphabetic(text: &str) -> bool {
    !text.is_empty() && text.chars().all(char::is_alphabetic)
}

/// Whether all of a non-empty text is ASCII digits.
pub fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Whether a text has small letters and no capitals.
pub fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)
}

/// Whether a text has capitals and no small letters.
pub fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)
}

/// First letter capital, the others small.
pub fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(chars.as_str().to_lowercase().chars()).collect())
}

/// Digits of any script as ASCII digits, so that the rules that follow need to know only `0` to `9`.
pub fn ascii_digit(c: char) -> char {
    if c.is_ascii() {
        return c;
    }
    let code = u32::from(c);
    let before = DIGIT_ZEROS.partition_point(|&zero| zero <= code);
    match before.checked_sub(1).map(|i| code - DIGIT_ZEROS[i]) {
        Some(value @ 0..=9) => char::from(b'0' + value as u8),
        _ => c,
    }
}

/// The zero of every script's decimal digits outside ASCII (category Nd of Unicode 14); nine more follow each.
const DIGIT_ZEROS: [u32; 65] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0, 0xf20,
    0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0,
    0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0,
    0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60, 0x16ac0,
    0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_other_scripts() {
        let read: String = "٣९９5aß²①".chars().map(ascii_digit).collect();
        assert_eq!(read, "3995aß²①");
    }

    #[test]
    fn classes() {
        assert!(is_space('\u{1e}') && is_space('\u{a0}') && !is_space('_'));
        assert!(is_word('²') && is_letter('²') && !is_letter('2') && !is_word('-'));
        assert!(is_lower("abc1") && !is_lower("12") && is_upper("A-B") && !is_upper("Ab"));
        assert_eq!(capitalised("hELLO"), "Hello");
        assert_eq!(capitalised(""), "");
    }
}
