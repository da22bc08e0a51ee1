//! Numbers as the lexicon reads them: years, ordinals, amounts of money, numbers inside of names, digit by digit where a
//! sequence is no quantity.

use super::characters::is_digits;
use super::lexicon::{Lexicon, has_digit, past, plural, progressive};
use super::numbers;

/// Currency signs with the names of the whole and the hundredth.
pub const CURRENCIES: [(&str, [&str; 2]); 3] =
    [("$", ["dollar", "cent"]), ("£", ["pound", "pence"]), ("€", ["euro", "cent"])];
/// Endings of a number, in the order in which they are looked for.
const ENDINGS: [&str; 9] = ["ing", "'d", "ed", "'s", "st", "nd", "rd", "th", "s"];

fn currency(sign: Option<&str>) -> Option<[&'static str; 2]> {
    CURRENCIES.iter().find(|(s, _)| Some(*s) == sign).map(|(_, names)| *names)
}

impl Lexicon {
    /// Whether a word is digits with separators, a sign in front where it may stand, and an ending.
    pub(super) fn is_number(&self, word: &str, is_head: bool) -> bool {
        if !has_digit(word) {
            return false;
        }
        let body = ENDINGS.iter().find_map(|e| word.strip_suffix(e)).unwrap_or(word);
        let body = if is_head { body.strip_prefix('-').unwrap_or(body) } else { body };
        body.bytes().all(|b| b.is_ascii_digit() || matches!(b, b',' | b'.'))
    }

    /// The reading of a number. `sign` is the currency sign before it; `is_head` is false inside of something like "B52".
    pub(super) fn number(&self, word: &str, sign: Option<&str>, is_head: bool) -> Option<String> {
        let body = word.trim_end_matches(|c: char| c.is_ascii_lowercase() || c == '\'');
        let ending = &word[body.len()..];
        let mut parts = Parts { lexicon: self, read: Vec::new() };
        let negative = body.strip_prefix('-');
        let number = negative.unwrap_or(body);
        if negative.is_some() {
            parts.word("minus", None);
        }
        let is_ordinal = matches!(ending, "st" | "nd" | "rd" | "th");
        let names = currency(sign);
        let plain = number.replace(',', "");
        if is_digits(number) && is_ordinal {
            parts.words(&numbers::ordinal(number));
        } else if negative.is_none() && number.len() == 4 && names.is_none() && is_digits(number) {
            parts.words(&number.parse().map_or_else(|_| numbers::cardinal(number), numbers::year));
        } else if !is_head && !number.contains('.') {
            parts.label(&plain);
        } else if number.matches('.').count() > 1 || !is_head {
            for group in plain.split('.') {
                parts.group(group);
            }
        } else if let Some(names) = names.filter(|_| is_amount(number)) {
            parts.money(&plain, names);
        } else if let Some(digits) = plain.strip_prefix('.') {
            parts.words(&format!("point {}", numbers::spelled(digits)));
        } else if number.contains('.') {
            parts.words(&numbers::decimal(&plain));
        } else if is_ordinal {
            parts.words(&numbers::ordinal(&plain));
        } else {
            parts.words(&numbers::cardinal(&plain));
        }
        if parts.read.is_empty() {
            return None;
        }
        let phonemes = parts.read.join(" ");
        match ending {
            "s" | "'s" => plural(&phonemes),
            "ed" | "'d" => past(&phonemes),
            "ing" => progressive(&phonemes),
            _ => Some(phonemes),
        }
    }

    /// A word after which a currency is read: "five million" with the dollars that stood in front.
    pub(super) fn with_currency(&self, phonemes: String, sign: Option<&str>) -> String {
        match currency(sign).and_then(|[name, _]| self.with_s(&format!("{name}s"), None, None, None)) {
            Some(name) => format!("{phonemes} {name}"),
            None => phonemes,
        }
    }
}

/// Whether digits after the point can be hundredths.
fn is_amount(number: &str) -> bool {
    let mut parts = number.split('.');
    let hundredths = parts.nth(1);
    parts.next().is_none() && hundredths.is_none_or(|h| h.len() < 3)
}

/// The pieces of a number read so far.
struct Parts<'a> {
    lexicon: &'a Lexicon,
    read: Vec<String>,
}

impl Parts<'_> {
    fn word(&mut self, word: &str, stress: Option<f32>) {
        self.read.extend(self.lexicon.look_up(word, None, stress, None));
    }

    /// Number words: "and" is not spoken, "point" carries no stress.
    fn words(&mut self, words: &str) {
        for word in words.split(|c: char| !c.is_ascii_lowercase()).filter(|w| !w.is_empty() && *w != "and") {
            self.word(word, (word == "point").then_some(-2.0));
        }
    }

    fn digits(&mut self, digits: &str) {
        self.words(&numbers::spelled(digits));
    }

    fn cardinal(&mut self, digits: &str) {
        self.words(&numbers::cardinal(digits));
    }

    /// A number inside a name, like those of roads and aeroplanes: "B52", "A380", "R2D2".
    fn label(&mut self, digits: &str) {
        if digits.starts_with('0') || digits.len() > 3 {
            self.digits(digits);
        } else if digits.len() == 3 && !digits.ends_with("00") {
            self.cardinal(&digits[..1]);
            if &digits[1..2] == "0" {
                self.word("O", Some(-2.0));
                self.cardinal(&digits[2..]);
            } else {
                self.cardinal(&digits[1..]);
            }
        } else if !digits.is_empty() {
            self.cardinal(digits);
        }
    }

    /// A part between the points of a version or an address: as a number where it is short and round, else digit by digit.
    fn group(&mut self, digits: &str) {
        let round = digits.get(1..).is_none_or(|rest| rest.bytes().all(|b| b == b'0'));
        if digits.starts_with('0') || (digits.len() != 2 && !round) {
            self.digits(digits);
        } else if !digits.is_empty() {
            self.cardinal(digits);
        }
    }

    /// "five dollars and twenty cents".
    fn money(&mut self, amount: &str, names: [&str; 2]) {
        let mut amounts: Vec<(&str, &str)> = amount.split('.').zip(names).collect();
        let zero = |digits: &str| digits.bytes().all(|b| b == b'0');
        if amounts.len() > 1 {
            if zero(amounts[1].0) {
                amounts.pop();
            } else if zero(amounts[0].0) {
                amounts.remove(0);
            }
        }
        for (i, (digits, unit)) in amounts.into_iter().enumerate() {
            if i > 0 {
                self.word("and", None);
            }
            self.cardinal(digits);
            if digits.trim_start_matches('0') != "1" && unit != "pence" {
                self.read.extend(self.lexicon.with_s(&format!("{unit}s"), None, None, None));
            } else {
                self.word(unit, None);
            }
        }
    }
}
