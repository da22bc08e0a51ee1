//! Takes out of a text what tells who somebody is, as far as patterns find it.
//!
//! Found are: digits and spelled numbers of two words or more, e-mail and web addresses (also spoken: "ada at example dot com"), and names
//! behind the words with which people give them. A name that is merely mentioned is not found, so a redacted text is still a
//! caller's content and is treated as such.

/// Words of numbers as they are spoken.
const NUMBER_WORDS: [&str; 32] = [
    "zero",
    "oh",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
    "thirty",
    "forty",
    "fifty",
    "sixty",
    "seventy",
    "eighty",
    "ninety",
    "hundred",
    "double",
    "triple",
];

/// What stands before a name that somebody gives.
const BEFORE_NAMES: [&[&str]; 13] = [
    &["my", "name", "is"],
    &["my", "name's"],
    &["the", "name", "is"],
    &["this", "is"],
    &["i", "am"],
    &["i'm"],
    &["speaking", "to"],
    &["call", "me"],
    &["mister"],
    &["mr"],
    &["mrs"],
    &["ms"],
    &["doctor"],
];

/// A text with what patterns find taken out.
pub fn redacted(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut out: Vec<String> = Vec::with_capacity(words.len());
    let mut at = 0;
    while at < words.len() {
        let rest = &words[at..];
        if let Some(count) = address(rest) {
            push(&mut out, "[address]", rest[count - 1]);
            at += count;
        } else if let Some(count) = number(rest) {
            push(&mut out, "[number]", rest[count - 1]);
            at += count;
        } else if let Some((before, names)) = name(rest) {
            out.extend(rest[..before].iter().map(|word| (*word).to_owned()));
            push(&mut out, "[name]", rest[before + names - 1]);
            at += before + names;
        } else {
            out.push(rest[0].to_owned());
            at += 1;
        }
    }
    out.join(" ")
}

/// Adds a mark, with the punctuation of the last word that it stands for.
fn push(out: &mut Vec<String>, mark: &str, last: &str) {
    let end = last.trim_end_matches(|c: char| !c.is_alphanumeric()).len();
    out.push(format!("{mark}{}", &last[end..]));
}

fn plain(word: &str) -> String {
    word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase().replace('\u{2019}', "'")
}

/// How many words from the beginning are a number.
fn number(words: &[&str]) -> Option<usize> {
    let has_digits = |word: &str| word.bytes().any(|b| b.is_ascii_digit());
    let is_spelled = |word: &str| {
        let parts = plain(word);
        !parts.is_empty() && parts.split('-').all(|part| NUMBER_WORDS.contains(&part))
    };
    let mut count = 0;
    let mut digits = false;
    for word in words {
        if has_digits(word) {
            digits = true;
        } else if !is_spelled(word) {
            break;
        }
        count += 1;
        // A sentence that ends ends its number.
        if word.ends_with(['.', '!', '?']) {
            break;
        }
    }
    let long = count >= 2 || words.first().is_some_and(|word| word.contains('-') && is_spelled(word));
    (count > 0 && (digits || long)).then_some(count)
}

/// How many words from the beginning are an e-mail or web address.
fn address(words: &[&str]) -> Option<usize> {
    let first = words.first()?;
    let inner = first.trim_matches(|c: char| !c.is_alphanumeric());
    if inner.contains('@') || inner.contains("://") || inner.to_lowercase().starts_with("www.") {
        return Some(1);
    }
    // `NAME at HOST dot com`, where each part may be several words with dots between.
    let plain: Vec<String> = words.iter().take(12).map(|word| plain(word)).collect();
    let word = |at: usize| plain.get(at).map(String::as_str);
    let mut at = 1;
    while word(at) == Some("dot") && word(at + 1).is_some() {
        at += 2;
    }
    if word(at) != Some("at") {
        return None;
    }
    let mut end = at + 2;
    let mut dots = 0;
    while word(end) == Some("dot") && word(end + 1).is_some() {
        end += 2;
        dots += 1;
    }
    (dots > 0).then_some(end)
}

/// How many words stand before a name at the beginning, and how many the name has.
fn name(words: &[&str]) -> Option<(usize, usize)> {
    let before = BEFORE_NAMES.iter().filter(|before| {
        words.len() > before.len() && before.iter().zip(words).all(|(want, word)| plain(word) == *want)
    });
    let before = before.map(|before| before.len()).max()?;
    // A name has a capital letter; "I am waiting" has none.
    let is_name = |word: &&&str| word.starts_with(char::is_uppercase) && plain(word) != "i";
    let mut names = 0;
    for word in words[before..].iter().take(3).take_while(is_name) {
        names += 1;
        if word.ends_with(['.', '!', '?', ',', ';']) {
            break;
        }
    }
    (names > 0).then_some((before, names))
}

#[cfg(test)]
mod tests {
    use super::redacted;
    use proptest::prelude::*;

    #[test]
    fn numbers_addresses_and_names_are_taken_out() {
        for (text, left) in [
            ("My number is 4711 22.", "My number is [number]."),
            ("Call 0791234567, please.", "Call [number], please."),
            ("It is four seven one one, thank you.", "It is [number], thank you."),
            ("I am forty-two years old.", "I am [number] years old."),
            ("I have one question.", "I have one question."),
            ("Write to ada@example.com.", "Write to [address]."),
            ("It is ada dot lovelace at example dot co dot uk please", "It is [address] please"),
            ("I am at home.", "I am at home."),
            ("See https://example.com/me now", "See [address] now"),
            ("My name is Ada Lovelace, and I am waiting.", "My name is [name], and I am waiting."),
            ("This is Ada. I need help.", "This is [name]. I need help."),
            ("I\u{2019}m Ada", "I\u{2019}m [name]"),
            ("Put me through to Mister Nguyen.", "Put me through to Mister [name]."),
            ("Policy AB-1234-X is mine.", "Policy [number] is mine."),
            ("", ""),
        ] {
            assert_eq!(redacted(text), left, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_digit_and_no_address_is_left(text in "[a-zA-Z0-9@. ,'-]{0,120}") {
            let left = redacted(&text);
            prop_assert!(!left.bytes().any(|b| b.is_ascii_digit()), "{left}");
            prop_assert!(!left.split_whitespace().any(|w| w.trim_matches(|c: char| !c.is_alphanumeric()).contains('@')), "{left}");
        }
    }
}
