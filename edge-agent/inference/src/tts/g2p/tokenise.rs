//! Text into tokens, by the rules that the part-of-speech tagger was trained with: those of spaCy for English.
//!
//! Each run of characters without white space is either a special case ("don't", "10am", "Mr."), or loses prefixes and suffixes
//! (quotes, brackets, stops, units after digits) until nothing more comes off, and what is left is cut at infixes (hyphens, slashes
//! between letters). At last neighbouring pieces that spell a special case are put together again ("Sept" and ".").
//!
//! The rules are written as functions over characters instead of regular expressions: each is a look at one or two neighbours,
//! and the whole is linear in the length of the run apart from the peeling, which takes one character at least each time.

use regex::Regex;

use nearfield_shared::table::Table;

use super::G2pError;
use super::characters::{is_letter, is_lower_latin, is_upper_latin};

const QUOTES: &str = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉";
const PUNCTUATION: &str = "…,:;!?¿¡()[]{}<>_#*&。？！，、；：～·";
const ICONS: &str = "™®©°§¶†‡•";
/// Currency signs; the dollar may carry a country.
const CURRENCIES: &str = "$£€¥฿₽₹₩₪₺₴₦₫₱₲₵₸₼₾₿";
const DOLLARS: [&str; 3] = ["US$", "C$", "A$"];
/// Units that come off a number.
const UNITS: [&str; 48] = [
    "km", "km²", "km³", "m", "m²", "m³", "dm", "dm²", "dm³", "cm", "cm²", "cm³", "mm", "mm²", "mm³", "ha", "µm", "nm",
    "yd", "in", "ft", "kg", "g", "mg", "µg", "t", "lb", "oz", "m/s", "km/h", "kmh", "mph", "hPa", "Pa", "mbar", "mb",
    "MB", "kb", "KB", "gb", "GB", "tb", "TB", "T", "G", "M", "K", "%",
];
/// Possessive endings, which come off anything.
const POSSESSIVES: [&str; 4] = ["'s", "'S", "’s", "’S"];

/// Splits text as the tagger expects it.
#[derive(Debug)]
pub struct Tokeniser {
    /// Text of a special case → its pieces, separated by NUL.
    special: Table,
    address: Regex,
}

/// A piece of text, and whether white space follows it.
pub type Piece = (String, bool);

impl Tokeniser {
    /// From the table of special cases.
    pub fn new(special: Table) -> Result<Self, G2pError> {
        const WD: &str = r"[\p{L}\p{N}_-]";
        let address = format!(
            r"(?i)^(?:(?:https?|ftp)://|www\.)\S+$|^[\p{{L}}\p{{N}}_.+-]+@{WD}+(?:\.{WD}+)+$|^(?:{WD}+\.)+(?:com|org|net|edu|gov|io|co|uk|de|fr|info|biz|us|ca|au|tv|me|ly|ai)(?:/\S*)?$"
        );
        let address = Regex::new(&address).map_err(|e| G2pError::Data { name: "tokens", what: e.to_string() })?;
        Ok(Self { special, address })
    }

    /// Bytes of the special cases in memory.
    pub fn resident_bytes(&self) -> usize {
        self.special.resident_bytes()
    }

    /// The tokens of a text.
    pub fn tokens(&self, text: &str) -> Vec<Piece> {
        let mut out = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let pieces = self.split(&rest[..end]);
            let last = pieces.len().saturating_sub(1);
            out.extend(pieces.into_iter().enumerate().map(|(i, p)| (p, i == last && end < rest.len())));
            rest = rest[end..].trim_start();
        }
        out
    }

    fn special(&self, text: &str) -> Option<Vec<String>> {
        let pieces = self.special.get(text)?;
        Some(String::from_utf8_lossy(pieces).split('\0').map(String::from).collect())
    }

    /// Whether characters are a special case. What is longer than the longest one is not put together only to be looked up,
    /// which would make the peeling of a long run quadratic.
    fn is_special(&self, s: &[char]) -> bool {
        s.len() <= self.special.longest_key() && self.special.contains(s.iter().collect::<String>())
    }

    fn split(&self, run: &str) -> Vec<String> {
        if let Some(pieces) = self.special(run) {
            return pieces;
        }
        let all: Vec<char> = run.chars().collect();
        let (mut from, mut to) = (0, all.len());
        let text = |from: usize, to: usize| all[from..to].iter().collect::<String>();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        while from < to && !self.is_special(&all[from..to]) {
            let prefix = prefix(&all[from..to]);
            if prefix > 0 && from + prefix < to && self.is_special(&all[from + prefix..to]) {
                before.push(text(from, from + prefix));
                from += prefix;
                break;
            }
            let suffix = suffix(&all[from + prefix..to]);
            if suffix > 0 && suffix < to - from && self.is_special(&all[from..to - suffix]) {
                after.push(text(to - suffix, to));
                to -= suffix;
                break;
            }
            if prefix == 0 && suffix == 0 {
                break;
            }
            if prefix > 0 {
                before.push(text(from, from + prefix));
            }
            if suffix > 0 {
                after.push(text(to - suffix, to));
            }
            from += prefix;
            to -= suffix;
        }
        let mut pieces = before;
        if from < to {
            let middle = text(from, to);
            if let Some(special) = self.special(&middle) {
                pieces.extend(special);
            } else if self.address.is_match(&middle) {
                pieces.push(middle);
            } else {
                cut_at_infixes(&all[from..to], &mut pieces);
            }
        }
        pieces.extend(after.into_iter().rev());
        if pieces.len() > 1 { self.rejoin(pieces) } else { pieces }
    }

    /// Puts pieces together that spell a special case: "Sept" "." becomes "Sept.".
    fn rejoin(&self, pieces: Vec<String>) -> Vec<String> {
        let mut out = Vec::with_capacity(pieces.len());
        let mut i = 0;
        'pieces: while i < pieces.len() {
            for k in [3, 2] {
                let Some(joined) = pieces.get(i..i + k).map(<[String]>::concat) else { continue };
                if let Some(special) = self.special(&joined) {
                    out.extend(special);
                    i += k;
                    continue 'pieces;
                }
            }
            out.push(pieces[i].clone());
            i += 1;
        }
        out
    }
}

/// Length of what comes off the front, 0 for nothing.
fn prefix(s: &[char]) -> usize {
    let Some(&first) = s.first() else { return 0 };
    let next = s.get(1).copied();
    match first {
        '%' | '=' | '—' | '–' => 1,
        '+' => usize::from(!next.is_some_and(|c| c.is_ascii_digit())),
        '.' => dots(s),
        c if [QUOTES, PUNCTUATION, ICONS, CURRENCIES].iter().any(|set| set.contains(c)) => 1,
        _ => DOLLARS.iter().find(|d| starts_with(s, d)).map_or(0, |d| d.len()),
    }
}

/// Length of what comes off the end: the longest of the suffixes that fit.
fn suffix(s: &[char]) -> usize {
    let n = s.len();
    let Some(&last) = s.last() else { return 0 };
    let mut longest = 0;
    let mut fits = |length: usize| longest = longest.max(length);
    if [QUOTES, PUNCTUATION, ICONS].iter().any(|set| set.contains(last)) || matches!(last, '—' | '–') {
        fits(1);
    }
    if s.ends_with(&['…', '…']) {
        fits(2);
    }
    let run = s.iter().rev().take_while(|&&c| c == '.').count();
    if run >= 2 {
        fits(run);
    }
    for ending in POSSESSIVES.iter().filter(|e| ends_with(s, e)) {
        fits(ending.chars().count());
    }
    let before = |length: usize| n.checked_sub(length + 1).map(|i| s[i]);
    let after_digit = |length: usize| before(length).is_some_and(|c| c.is_ascii_digit());
    if last == '+' && after_digit(1) {
        fits(1);
    }
    if CURRENCIES.contains(last) && after_digit(1) {
        fits(1);
    }
    for &ending in DOLLARS.iter().chain(&UNITS) {
        let length = ending.chars().count();
        if ends_with(s, ending) && after_digit(length) {
            fits(length);
        }
    }
    if last == '.' {
        let degrees = n >= 3 && s[n - 3] == '°' && matches!(s[n - 2], 'F' | 'f' | 'C' | 'c' | 'K' | 'k');
        let ordinary = before(1).is_some_and(|c| {
            c.is_ascii_digit()
                || is_lower_latin(c)
                || matches!(c, '%' | '²' | '-' | '+')
                || PUNCTUATION.contains(c)
                || QUOTES.contains(c)
        });
        let capitals = n >= 3 && is_upper_latin(s[n - 3]) && is_upper_latin(s[n - 2]);
        if degrees || ordinary || capitals {
            fits(1);
        }
    }
    longest
}

/// Cuts what is left at infixes, which become pieces themselves. One at the very front is no infix.
fn cut_at_infixes(s: &[char], pieces: &mut Vec<String>) {
    let mut start = 0;
    let mut i = 0;
    while i < s.len() {
        let length = infix(s, i);
        if length == 0 {
            i += 1;
            continue;
        }
        if i > 0 {
            if i > start {
                pieces.push(s[start..i].iter().collect());
            }
            pieces.push(s[i..i + length].iter().collect());
            start = i + length;
        }
        i += length;
    }
    if start < s.len() {
        pieces.push(s[start..].iter().collect());
    }
}

/// Length of the infix at a place, 0 for none.
fn infix(s: &[char], i: usize) -> usize {
    let c = s[i];
    let before = i.checked_sub(1).map(|b| s[b]);
    let letter_at = |at: usize| s.get(at).copied().is_some_and(is_letter);
    let after_word = before.is_some_and(|b| b.is_alphanumeric());
    if c == '.' {
        let run = dots(&s[i..]);
        if run > 0 {
            return run;
        }
        let joins = before.is_some_and(|b| is_lower_latin(b) || QUOTES.contains(b))
            && s.get(i + 1).is_some_and(|&n| is_upper_latin(n) || QUOTES.contains(n));
        return usize::from(joins);
    }
    if c == '…' || ICONS.contains(c) {
        return 1;
    }
    if matches!(c, '+' | '-' | '*' | '^')
        && before.is_some_and(|b| b.is_ascii_digit())
        && s.get(i + 1).is_some_and(|&n| n.is_ascii_digit() || n == '-')
    {
        return 1;
    }
    if c == ',' {
        return usize::from(before.is_some_and(is_letter) && letter_at(i + 1));
    }
    if after_word {
        for dash in ["-", "–", "—", "--", "---", "——", "~"] {
            let length = dash.chars().count();
            if starts_with(&s[i..], dash) && letter_at(i + length) {
                return length;
            }
        }
        if matches!(c, ':' | '<' | '>' | '=' | '/') && letter_at(i + 1) {
            return 1;
        }
    }
    0
}

/// Length of a run of at least two full stops at the front, else 0.
fn dots(s: &[char]) -> usize {
    let run = s.iter().take_while(|&&c| c == '.').count();
    if run >= 2 { run } else { 0 }
}

fn starts_with(s: &[char], text: &str) -> bool {
    let mut chars = s.iter();
    text.chars().all(|c| chars.next() == Some(&c))
}

fn ends_with(s: &[char], text: &str) -> bool {
    let mut chars = s.iter().rev();
    text.chars().rev().all(|c| chars.next() == Some(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[&str]) {
        let special = [("don't", "do\0n't"), ("Mr.", "Mr."), ("10am", "10\0am"), ("Sept.", "Sept."), (":)", ":)")];
        let entries = special.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
        let table = Table::parse(Table::write(entries).unwrap()).unwrap();
        let tokens = Tokeniser::new(table).unwrap().tokens(text);
        let pieces: Vec<&str> = tokens.iter().map(|(t, _)| t.as_str()).collect();
        assert_eq!(pieces, expect, "{text}");
        let joined: String = tokens.iter().map(|(t, space)| format!("{t}{}", if *space { " " } else { "" })).collect();
        assert_eq!(joined.trim_end(), text.split_whitespace().collect::<Vec<_>>().join(" "));
    }

    #[test]
    fn pieces() {
        check("I don't know, Mr. Fox!", &["I", "do", "n't", "know", ",", "Mr.", "Fox", "!"]);
        check("(10am) 5km. 3%", &["(", "10", "am", ")", "5", "km", ".", "3", "%"]);
        check(
            "well-known and/or a.B U.S. NATO.",
            &["well", "-", "known", "and", "/", "or", "a", ".", "B", "U.S.", "NATO", "."],
        );
        check("wait... what?!", &["wait", "...", "what", "?", "!"]);
        check("US$5 5US$ $5", &["US$", "5", "5", "US$", "$", "5"]);
        check("see www.example.com, mail a@b.org.", &["see", "www.example.com", ",", "mail", "a@b.org", "."]);
        check("the dog's “bone”", &["the", "dog", "'s", "“", "bone", "”"]);
        check("Sept.) 7-8 3*4 +5 + .", &["Sept.", ")", "7", "-", "8", "3", "*", "4", "+5", "+", "."]);
        check("--- -x x-- a--b", &["---", "-x", "x--", "a", "--", "b"]);
        check("  ", &[]);
    }

    #[test]
    fn long_runs_end() {
        let special = Table::parse(Table::write(vec![]).unwrap()).unwrap();
        let t = Tokeniser::new(special).unwrap();
        for c in [".", "(", "'", "a", "1", "$", "-", "a.", "1,", "°", "😀", "a-"] {
            assert!(!t.tokens(&c.repeat(3000)).is_empty());
        }
    }
}
