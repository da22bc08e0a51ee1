//! Written forms into words that can be spoken: times, dates, units, money, titles and abbreviations, Roman numerals, telephone
//! numbers, fractions, ranges, symbols. Plain numbers stay digits here; [`super::numeral`] reads them in their context.
//!
//! The order of the rules matters and is the order of [`Normaliser::normalise`]: a time is recognised before its colon could be
//! taken for anything else, a month before its abbreviation loses the full stop. The word tables come with the model.
//!
//! The patterns look around themselves ("not after a letter or a full stop"), which the linear-time engine of `regex` cannot;
//! `fancy-regex` can, and gives up after a fixed number of steps: what follows the last match is then left as it stands, so
//! hostile text costs bounded time and is at worst read letter by letter.

use std::fmt;
use std::marker::PhantomData;

use fancy_regex::{Captures, Regex};
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use super::G2pError;
use super::characters::{ascii_digit, is_space};
use super::numbers;

/// A number with separators between thousands and decimals.
const NUMBER: &str = r"[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?";
/// A Roman numeral below 4000 that does not begin with M or D. A lone C or L is a letter: "Type C", "Grade L".
const ROMAN: &str = r"((?=[IVXLC])(?![CL](?!W))M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3}))";
const SCALE: &str = r"hundred|thousand|million|billion|trillion|[kKmMbB](?!W)";

/// The word tables of the model, as the package ships them.
#[derive(Debug, Deserialize)]
struct Words {
    months: Pairs<String>,
    titles: Pairs<String>,
    abbreviations: Pairs<String>,
    units: Pairs<[String; 2]>,
    symbols: Pairs<String>,
    currency: Pairs<[String; 2]>,
    roman_cardinal: Vec<String>,
    roman_ordinal: Vec<String>,
}

/// A JSON object in the order it was written in: months count from January, symbols are replaced in turn.
struct Pairs<V>(Vec<(String, V)>);

/// Turns written text into words.
#[derive(Debug)]
pub struct Normaliser {
    words: Words,
    rules: Rules,
    /// Symbols that are only read between two things ("a = b").
    between: Vec<(Regex, String)>,
}

#[derive(Debug)]
struct Rules {
    time: Regex,
    date_iso: Regex,
    date_us: Regex,
    big_money: Regex,
    cents: Regex,
    currency: Regex,
    degrees: Regex,
    unit: Regex,
    month_day: Regex,
    day_month: Regex,
    title: Regex,
    abbreviation: Regex,
    number_sign: Regex,
    hash: Regex,
    roman_cardinal: Regex,
    roman_ordinal: Regex,
    telephone: Regex,
    fraction: Regex,
    range: Regex,
    plus: Regex,
    space_before_stop: Regex,
}

impl Normaliser {
    /// Compiles the rules from the word tables (JSON).
    pub fn new(tables: &str) -> Result<Self, G2pError> {
        let words: Words =
            serde_json::from_str(tables).map_err(|e| G2pError::Data { name: "word tables", what: e.to_string() })?;
        if words.months.0.len() != 12 || words.months.0.iter().any(|(k, v)| k.len() != 3 || v.is_empty()) {
            return Err(G2pError::Data {
                name: "word tables",
                what: "there are not twelve months of three letters".into(),
            });
        }
        let units = alternatives(words.units.keys());
        let months = alternatives(
            words
                .months
                .0
                .iter()
                .flat_map(|(short, long)| [long.clone(), super::characters::capitalised(short)])
                .chain(["Sept".to_string()]),
        );
        let rules = Rules {
            time: rule(r"(?<!W)([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?(?: ?([AaPp])\.?[Mm]\.?(?![A-Za-z]))?(?![0-9])")?,
            date_iso: rule(r"(?<!W)([0-9]{4})-([0-9]{2})-([0-9]{2})(?!W)")?,
            date_us: rule(r"(?<!W)([0-9]{1,2})/([0-9]{1,2})/([0-9]{4}|[0-9]{2})(?!W)")?,
            big_money: rule(&format!(r"([$£€])({NUMBER}) ?({SCALE})"))?,
            cents: rule(&format!(r"(?<![W.])({NUMBER}) ?¢"))?,
            currency: rule(&format!(r"(?<!W)([¥₹₩]|Rs\.?|USD|EUR|GBP) ?({NUMBER})(?: ?({SCALE}))?"))?,
            degrees: rule(&format!(r"(?<![W.])(-?{NUMBER}) ?° ?([CF])?(?!W)"))?,
            unit: rule(&format!(r"(?<![W.])(-?{NUMBER}) ?({units})(?!W)"))?,
            month_day: rule(&format!(
                r"(?<!W)({months})\.? ([0-9]{{1,2}})(?:st|nd|rd|th)?(?!W)(?![0-9:%])(,? [0-9]{{4}}(?!W))?"
            ))?,
            day_month: rule(&format!(r"(?<!W)(the )?([0-9]{{1,2}}) (?:of )?({months})(?!W)\.?"))?,
            title: rule(&format!(r"(?<!W)({})\.? (?=[A-Z])", alternatives(words.titles.keys())))?,
            abbreviation: rule(&format!(r"(?<![W.])({})(?!W)", alternatives(words.abbreviations.keys())))?,
            number_sign: rule(r"(?<!W)(No|Nos)\. ?(?=[0-9])")?,
            hash: rule(r"(?<![W&])#(?=[0-9])")?,
            roman_cardinal: rule(&roman(&words.roman_cardinal))?,
            roman_ordinal: rule(&roman(&words.roman_ordinal))?,
            telephone: rule(r"(?<![W.\-])(?:[0-9]{3}-)?[0-9]{3}-[0-9]{4}(?![W.\-])")?,
            fraction: rule(r"(?<![W./])([0-9]{1,2})/([0-9]{1,2})(?![W./])")?,
            range: rule(r"(?<![W.\-])([0-9]{1,4}) ?[-–] ?([0-9]{1,4})(?![W.\-%])")?,
            plus: rule(r"(?<![W+])\+(?=[0-9])")?,
            space_before_stop: rule(r" +([,.;:!?])")?,
        };
        let mut between = Vec::new();
        for (symbol, word) in &words.symbols.0 {
            if "=<>~".contains(symbol.as_str()) {
                between.push((rule(&format!(r"(?<=\S) ?{symbol} ?(?=\S)"))?, format!(" {word} ")));
            }
        }
        Ok(Self { words, rules, between })
    }

    /// Whether a word, without its full stop, is a title ("Dr"), after which a sentence does not end.
    pub fn is_title(&self, word: &str) -> bool {
        self.words.titles.get(word).is_some()
    }

    /// The text with everything written out that the lexicon cannot read on its own. White space becomes single spaces.
    pub fn normalise(&self, text: &str) -> String {
        let text = single_spaced(text);
        if text.is_empty() {
            return text;
        }
        let text: String = text
            .chars()
            .map(|c| match c {
                '’' => '\'',
                '‒' => '-',
                '―' => '—',
                c => ascii_digit(c),
            })
            .collect();
        let (r, w) = (&self.rules, &self.words);
        let text = replace(&r.time, text, time);
        let text = replace(&r.date_iso, text, |m, _| self.date(Some(&m[1]), &m[2], &m[3]));
        let text = replace(&r.date_us, text, |m, _| self.date_us(m));
        let text = replace(&r.big_money, text, |m, _| {
            Some(format!("{} {} {}", &m[2], scale(&m[3]), w.currency.get(&m[1])?[1]))
        });
        let text = replace(&r.cents, text, |m, _| Some(format!("{} {}", &m[1], plural(&m[1], w.currency.get("¢")?))));
        let text = replace(&r.currency, text, |m, _| {
            let names = w.currency.get(m[1].trim_end_matches('.'))?;
            Some(match m.get(3) {
                Some(big) => format!("{} {} {}", &m[2], scale(big.as_str()), names[1]),
                None => format!("{} {}", &m[2], plural(&m[2], names)),
            })
        });
        let text = replace(&r.degrees, text, |m, _| Some(degrees(m)));
        let text = replace(&r.unit, text, |m, _| Some(format!("{} {}", &m[1], plural(&m[1], w.units.get(&m[2])?))));
        let text = replace(&r.month_day, text, |m, _| {
            let year = m.get(3).map_or("", |y| y.as_str());
            Some(format!("{} {}{year}", self.month(&m[1])?, day(&m[2])?))
        });
        let text = replace(&r.day_month, text, |m, _| Some(format!("the {} of {}", day(&m[2])?, self.month(&m[3])?)));
        let text = replace(&r.title, text, |m, _| Some(format!("{} ", w.titles.get(&m[1])?)));
        let text = replace(&r.abbreviation, text, |m, rest| {
            // The full stop of an abbreviation at the end is also that of the sentence.
            let stop = if rest.is_empty() && m[1].ends_with('.') { "." } else { "" };
            Some(format!("{}{stop}", w.abbreviations.get(&m[1])?))
        });
        let text = replace(&r.number_sign, text, |m, _| {
            Some(if &m[1] == "No" { "Number ".to_string() } else { "Numbers ".to_string() })
        });
        let text = replace(&r.hash, text, |_, _| Some("number ".into()));
        let text = replace(&r.roman_cardinal, text, |m, _| Some(format!("{} {}", &m[1], roman_value(&m[2]))));
        let text = replace(&r.roman_ordinal, text, |m, _| {
            Some(format!("{} the {}", &m[1], numbers::ordinal(&roman_value(&m[2]).to_string())))
        });
        let text = replace(&r.telephone, text, |m, _| {
            let marks: Vec<String> = m[0].replace('-', ", ").chars().map(String::from).collect();
            Some(marks.join(" "))
        });
        let text = replace(&r.fraction, text, |m, _| self.fraction(m));
        let text = replace(&r.range, text, |m, _| Some(format!("{} to {}", &m[1], &m[2])));
        let mut text = replace(&r.plus, text, |_, _| Some("plus ".into()));
        let mut between = self.between.iter();
        for (symbol, word) in &w.symbols.0 {
            // The rules of `between` stand in the order of the symbols they were made from.
            let rule = if "=<>~".contains(symbol.as_str()) { between.next() } else { None };
            if !text.contains(symbol.as_str()) {
                continue;
            }
            text = match rule {
                Some((rule, word)) => replace(rule, text, |_, _| Some(word.clone())),
                None if word.is_empty() => text.replace(symbol.as_str(), " "),
                None => text.replace(symbol.as_str(), &format!(" {word} ")),
            };
        }
        replace(&r.space_before_stop, single_spaced(&text), |m, _| Some(m[1].to_string())).trim().to_string()
    }

    /// "March third, 2024"; `None` where no such day exists.
    fn date(&self, year: Option<&str>, month: &str, day_of_month: &str) -> Option<String> {
        let month = month.parse::<usize>().ok()?.checked_sub(1)?;
        let (_, name) = self.words.months.0.get(month)?;
        let year = year.map_or_else(String::new, |y| format!(", {y}"));
        Some(format!("{name} {}{year}", day(day_of_month)?))
    }

    /// Month before day unless only the other order can be right; a year of two digits lies within 1931 to 2030.
    fn date_us(&self, m: &Captures<'_>) -> Option<String> {
        let (first, second, year) = (&m[1], &m[2], &m[3]);
        let year = match year.len() {
            2 if year > "30" => format!("19{year}"),
            2 => format!("20{year}"),
            _ => year.to_string(),
        };
        let (month, day) = if first.parse::<u32>().ok()? <= 12 { (first, second) } else { (second, first) };
        self.date(Some(&year), month, day)
    }

    /// The full name of a month from its first three letters.
    fn month(&self, name: &str) -> Option<&str> {
        let short: String = name.to_lowercase().chars().take(3).collect();
        self.words.months.get(&short).map(String::as_str)
    }

    /// "3 quarters", a day of a month, or "20 slash 40".
    fn fraction(&self, m: &Captures<'_>) -> Option<String> {
        const PARTS: [&str; 11] =
            ["", "", "half", "third", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"];
        let (a, b): (usize, usize) = (m[1].parse().ok()?, m[2].parse().ok()?);
        if 0 < a && a < b && b <= 10 {
            return Some(match (a, b) {
                (_, 2) => "one half".to_string(),
                (1, b) => format!("1 {}", PARTS[b]),
                (a, b) => format!("{a} {}s", PARTS[b]),
            });
        }
        if (1..=12).contains(&a) && (1..=31).contains(&b) {
            return self.date(None, &m[1], &m[2]);
        }
        Some(format!("{a} slash {b}"))
    }
}

/// Replaces every match by what `with` makes of it and the text behind it; `None` leaves the match as it stands.
pub(super) fn replace(rule: &Regex, text: String, with: impl Fn(&Captures<'_>, &str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut copied = 0;
    // An error is the step limit: the rest of the text is kept.
    for m in rule.captures_iter(&text).map_while(Result::ok) {
        let Some(whole) = m.get(0) else { continue };
        if let Some(words) = with(&m, &text[whole.end()..]) {
            out.push_str(&text[copied..whole.start()]);
            out.push_str(&words);
            copied = whole.end();
        }
    }
    if copied == 0 && out.is_empty() {
        return text;
    }
    out.push_str(&text[copied..]);
    out
}

/// Compiles a pattern in which `W` stands for a word character: a letter, digit or number sign of any script, or an underscore.
pub(super) fn rule(pattern: &str) -> Result<Regex, G2pError> {
    let classed = pattern
        .replace("[W", r"[\p{L}\p{N}_")
        .replace("(?<!W)", r"(?<![\p{L}\p{N}_])")
        .replace("(?!W)", r"(?![\p{L}\p{N}_])");
    Regex::new(&classed).map_err(|e| G2pError::Data { name: "word tables", what: format!("the rule {pattern}: {e}") })
}

/// The words as alternatives, the longest first so that none hides another.
fn alternatives(words: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let mut words: Vec<String> = words.into_iter().map(|w| fancy_regex::escape(w.as_ref()).into_owned()).collect();
    words.sort_by_key(|w| std::cmp::Reverse(w.chars().count()));
    words.join("|")
}

fn roman(before: &[String]) -> String {
    format!(r"(?<!W)({}) {ROMAN}(?!W)(?![.'’]\w)", alternatives(before))
}

fn single_spaced(text: &str) -> String {
    text.split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn plural<'a>(number: &str, names: &'a [String; 2]) -> &'a str {
    if matches!(number.replace(',', "").as_str(), "1" | "1.0" | "-1") { &names[0] } else { &names[1] }
}

fn scale(written: &str) -> &str {
    match written {
        "k" | "K" => "thousand",
        "m" | "M" => "million",
        "b" | "B" => "billion",
        word => word,
    }
}

/// A day of a month as an ordinal.
fn day(digits: &str) -> Option<String> {
    digits.parse().ok().filter(|d: &u32| (1..=31).contains(d)).map(|_| numbers::ordinal(digits))
}

fn degrees(m: &Captures<'_>) -> String {
    let number = &m[1];
    let unit = if matches!(number.replace(',', "").as_str(), "1" | "1.0" | "-1") { "degree" } else { "degrees" };
    match m.get(2).map(|s| s.as_str()) {
        Some("C") => format!("{number} {unit} Celsius"),
        Some("F") => format!("{number} {unit} Fahrenheit"),
        _ => format!("{number} {unit}"),
    }
}

/// "seven thirty P.M.": the full stops make the lexicon spell the letters.
fn time(m: &Captures<'_>, rest: &str) -> Option<String> {
    let (hour, minute): (u32, u32) = (m[1].parse().ok()?, m[2].parse().ok()?);
    let second: Option<u32> = m.get(3).and_then(|s| s.as_str().parse().ok());
    if hour > 24 || minute > 59 || second.is_some_and(|s| s > 59) {
        return None;
    }
    let half = m.get(4).map(|h| h.as_str().to_uppercase());
    let name = |n: u32| numbers::small_cardinal(n.into());
    let mut words = name(hour);
    match minute {
        0 if half.is_none() && second.is_none() => words += " o'clock",
        0 => {}
        1..=9 => words += &format!(" oh {}", name(minute)),
        _ => words += &format!(" {}", name(minute)),
    }
    if let Some(s) = second {
        words += &format!(" and {} {}", name(s), if s == 1 { "second" } else { "seconds" });
    }
    if let Some(half) = half {
        words += &format!(" {half}.M{}", if rest.starts_with('.') { "" } else { "." });
    }
    Some(words)
}

/// The value of a Roman numeral; of anything else, what its letters add up to.
fn roman_value(text: &str) -> i64 {
    let value = |c| match c {
        'I' => 1,
        'V' => 5,
        'X' => 10,
        'L' => 50,
        'C' => 100,
        'D' => 500,
        'M' => 1000,
        _ => 0,
    };
    let values: Vec<i64> = text.chars().map(value).collect();
    values.iter().enumerate().map(|(i, &v)| if values.get(i + 1).is_some_and(|&next| next > v) { -v } else { v }).sum()
}

impl<V> Pairs<V> {
    fn get(&self, key: &str) -> Option<&V> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(k, _)| k.as_str())
    }
}

impl<V: fmt::Debug> fmt::Debug for Pairs<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(k, v)| (k, v))).finish()
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for InOrder<V> {
            type Value = Pairs<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

#[cfg(test)]
mod tests;
