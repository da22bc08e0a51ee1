//! Parts of speech (Penn Treebank tags), which decide between the readings of words such as "read", "live" and "record".
//!
//! An averaged perceptron over fifteen features of a word and its neighbours, greedy from left to right. Words that nearly always
//! have the same tag are answered from a dictionary. Weights are tenths, added as `f64` in the order of the features, so that
//! ties fall as they did where the tagger was trained.

use nearfield_shared::table::Table;

use super::G2pError;
use super::characters::{is_alphabetic, is_digits, is_lower, is_upper};

/// What stands before the first word and after the last.
const START: [&str; 2] = ["-START2-", "-START-"];
const END: [&str; 2] = ["-END-", "-END2-"];
/// The tag of a word nothing is known about.
const UNKNOWN: &str = "NN";
/// Bytes of a weight: the tag's place in the list and an `i16` of tenths.
const WEIGHT_BYTES: usize = 3;

/// The tagger's tables.
#[derive(Debug)]
pub struct Tagger {
    tags: Vec<String>,
    /// Word → the one byte of its tag.
    fixed: Table,
    /// Words that stand for themselves in features; all others are represented by their shape.
    vocabulary: Table,
    /// Feature → weights.
    weights: Table,
}

impl Tagger {
    /// From its tables: word → tag index, known words, feature → (tag index, tenths as `i16`) repeated.
    pub fn new(tags: Vec<String>, fixed: Table, vocabulary: Table, weights: Table) -> Result<Self, G2pError> {
        if tags.is_empty() || tags.len() > 256 {
            return Err(G2pError::Data { name: "tagger", what: format!("{} tags, expected 1 to 256", tags.len()) });
        }
        Ok(Self { tags, fixed, vocabulary, weights })
    }

    /// Bytes of the tables in memory.
    pub fn resident_bytes(&self) -> usize {
        self.fixed.resident_bytes() + self.vocabulary.resident_bytes() + self.weights.resident_bytes()
    }

    /// One tag for each word.
    pub fn tags(&self, words: &[&str]) -> Vec<&str> {
        let known = words.iter().map(|w| self.represented(w));
        let context: Vec<String> =
            START.iter().map(ToString::to_string).chain(known).chain(END.iter().map(ToString::to_string)).collect();
        let (mut before, mut before_that) = (START[1], START[0]);
        let mut out = Vec::with_capacity(words.len());
        for (i, word) in words.iter().enumerate() {
            let fixed = self.fixed.get(word).and_then(|tag| self.tags.get(usize::from(*tag.first()?)));
            let tag = match fixed {
                Some(tag) => tag,
                None => self.predict(&features(i, word, &context, before, before_that)),
            };
            out.push(tag);
            (before_that, before) = (before, tag);
        }
        out
    }

    /// The word as it stands in features.
    fn represented(&self, word: &str) -> String {
        let normal = normal(word);
        if self.vocabulary.contains(&normal) { normal } else { format!("<{}>", shape(word)) }
    }

    /// The tag with the highest score; of equals, the last in the alphabet.
    fn predict(&self, features: &[String]) -> &str {
        let mut scores = vec![0f64; self.tags.len()];
        let mut any = false;
        for weights in features.iter().filter_map(|f| self.weights.get(f)) {
            for w in weights.chunks_exact(WEIGHT_BYTES) {
                if let Some(score) = scores.get_mut(usize::from(w[0])) {
                    *score += f64::from(i16::from_le_bytes([w[1], w[2]])) / 10.0;
                    any = true;
                }
            }
        }
        let best = scores.iter().zip(&self.tags).max_by(|a, b| a.0.total_cmp(b.0).then_with(|| a.1.cmp(b.1)));
        best.filter(|_| any).map_or(UNKNOWN, |(_, tag)| tag)
    }
}

/// `context` begins two before the first word.
fn features(i: usize, word: &str, context: &[String], before: &str, before_that: &str) -> [String; 15] {
    let at = |offset: usize| context.get(i + offset).map_or("", String::as_str);
    let first = word.chars().next().map(String::from).unwrap_or_default();
    [
        "b".to_string(),
        format!("s3={}", ending(word)),
        format!("p1={first}"),
        format!("w={}", at(2)),
        format!("sh={}", shape(word)),
        if i == 0 { "i0".to_string() } else { "i+".to_string() },
        format!("t-1={before}"),
        format!("t-2={before_that}"),
        format!("t-12={before},{before_that}"),
        format!("w-1={}", at(1)),
        format!("s3-1={}", ending(at(1))),
        format!("w-2={}", at(0)),
        format!("w+1={}", at(3)),
        format!("s3+1={}", ending(at(3))),
        format!("w+2={}", at(4)),
    ]
}

/// The last three characters.
fn ending(word: &str) -> &str {
    let start = word.char_indices().rev().nth(2).map_or(0, |(i, _)| i);
    &word[start..]
}

fn normal(word: &str) -> String {
    if word.contains('-') && !word.starts_with('-') {
        "!HYPHEN".into()
    } else if is_digits(word) && word.len() == 4 {
        "!YEAR".into()
    } else if word.starts_with(|c: char| c.is_ascii_digit()) {
        "!DIGITS".into()
    } else {
        word.to_lowercase()
    }
}

/// The pattern of capitals, digits and signs.
fn shape(word: &str) -> String {
    if is_alphabetic(word) {
        let rest = word.char_indices().nth(1).map_or("", |(i, _)| &word[i..]);
        let shape = if is_lower(word) {
            "x"
        } else if is_upper(word) {
            if rest.is_empty() { "X1" } else { "XX" }
        } else if word.starts_with(char::is_uppercase) && is_lower(rest) {
            "Xx"
        } else {
            "xX"
        };
        return shape.into();
    }
    if is_digits(word) {
        return "d".into();
    }
    let sign = |c: char| {
        if c.is_ascii_digit() {
            'd'
        } else if c.is_alphabetic() {
            'x'
        } else {
            c
        }
    };
    word.chars().take(4).map(sign).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(&str, &[u8])]) -> Table {
        let entries = entries.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.to_vec())).collect();
        Table::parse(Table::write(entries).unwrap()).unwrap()
    }

    #[test]
    fn dictionary_then_weights_then_the_alphabet() {
        let tags = ["DT", "NN", "VB"].map(String::from).to_vec();
        let weights = table(&[
            ("w-1=the", &[1, 25, 0]),
            ("t-1=DT", &[2, 30, 0]),
            ("s3=ead", &[2, 0xfb, 0xff]), // -0.5
            ("p1=q", &[9, 1, 0]),         // a tag that does not exist
        ]);
        let t = Tagger::new(tags, table(&[("the", &[0])]), table(&[("the", &[])]), weights).unwrap();
        // 3.0 - 0.5 against 2.5: equal, so the later name wins.
        assert_eq!(t.tags(&["the", "read"]), ["DT", "VB"]);
        assert_eq!(t.tags(&["the", "reed"]), ["DT", "VB"]);
        assert_eq!(t.tags(&["qqq", ""]), ["NN", "NN"]);
        assert!(t.tags(&[]).is_empty());
    }

    #[test]
    fn shapes_and_normal_forms() {
        let cases = [
            ("abc", "x", "abc"),
            ("ABC", "XX", "abc"),
            ("A", "X1", "a"),
            ("Abc", "Xx", "abc"),
            ("aBc", "xX", "abc"),
            ("1234", "d", "!YEAR"),
            ("12", "d", "!DIGITS"),
            ("12,345", "dd,d", "!DIGITS"),
            ("well-known", "xxxx", "!HYPHEN"),
            ("-x", "-x", "-x"),
            ("n't", "x'x", "n't"),
        ];
        for (word, s, n) in cases {
            assert_eq!((shape(word).as_str(), normal(word).as_str()), (s, n), "{word}");
        }
        assert_eq!((ending("über"), ending("é"), ending("")), ("ber", "é", ""));
    }
}
