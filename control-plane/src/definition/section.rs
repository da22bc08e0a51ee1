//! Walking a TOML document by hand: every mistake is noted with its line, and the walk goes on. (serde stops at the first.)

use super::Mistake;
use serde_json::Value as Json;
use std::{cell::RefCell, collections::BTreeSet};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// One file, and what is wrong with it so far.
pub struct Document<'t> {
    path: &'t str,
    text: &'t str,
    mistakes: RefCell<Vec<Mistake>>,
}

/// The line of a byte, from 1.
pub fn line_of(text: &str, byte: usize) -> usize {
    1 + text.as_bytes()[..byte.min(text.len())].iter().filter(|b| **b == b'\n').count()
}

impl<'t> Document<'t> {
    /// Parses as much as can be parsed; syntax errors are mistakes.
    pub fn parse(path: &'t str, text: &'t str) -> (Self, DeTable<'t>) {
        let (table, errors) = DeTable::parse_recoverable(text);
        let document = Self { path, text, mistakes: RefCell::default() };
        for error in errors {
            document.note(error.span().map(|span| span.start), error.message().to_owned());
        }
        (document, table.into_inner())
    }

    /// Notes a mistake at a byte.
    pub fn note(&self, at: Option<usize>, message: impl Into<String>) {
        let mistake =
            Mistake { file: self.path.to_owned(), line: at.map(|at| line_of(self.text, at)), message: message.into() };
        let mut mistakes = self.mistakes.borrow_mut();
        // A line that cannot be parsed often gives several errors; one sends the reader there.
        if !mistakes.iter().any(|known| known.line == mistake.line && known.message == mistake.message) {
            mistakes.push(mistake);
        }
    }

    /// Everything noted.
    pub fn into_mistakes(self) -> Vec<Mistake> {
        self.mistakes.into_inner()
    }
}

/// One table of a document; finds keys, notes those that are missing, wrong or not known.
pub struct Section<'d, 't> {
    document: &'d Document<'t>,
    table: &'d DeTable<'t>,
    /// Its name with a dot, for messages; empty for the document itself.
    prefix: String,
    at: Option<usize>,
    known: RefCell<BTreeSet<&'static str>>,
}

/// A value and where it stands.
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Its first byte in the file.
    pub at: usize,
}

type Value<'t> = Spanned<DeValue<'t>>;

impl<'d, 't> Section<'d, 't> {
    /// The document's own keys.
    pub fn root(document: &'d Document<'t>, table: &'d DeTable<'t>) -> Self {
        Self { document, table, prefix: String::new(), at: None, known: RefCell::default() }
    }

    /// Notes a mistake at a byte of the document.
    pub fn note(&self, at: usize, message: impl Into<String>) {
        self.document.note(Some(at), message);
    }

    /// The line of a byte of the document.
    pub fn line(&self, at: usize) -> usize {
        line_of(self.document.text, at)
    }

    /// Notes a mistake about this table as a whole.
    pub fn note_here(&self, message: impl Into<String>) {
        self.document.note(self.at, message);
    }

    /// The table's name as it stands in the file.
    fn named(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn find(&self, key: &'static str) -> Option<&'d Value<'t>> {
        self.known.borrow_mut().insert(key);
        self.table.iter().find(|(name, _)| **name.get_ref() == *key).map(|(_, value)| value)
    }

    fn required(&self, key: &'static str, kind: &str) -> Option<&'d Value<'t>> {
        let value = self.find(key);
        if value.is_none() {
            self.note_here(format!("`{}` is missing ({kind})", self.named(key)));
        }
        value
    }

    fn wrong(&self, key: &str, value: &Value<'t>, kind: &str) {
        let found = value.get_ref().type_str();
        self.note(value.span().start, format!("`{}` must be {kind}, not {found}", self.named(key)));
    }

    fn string_of(&self, key: &str, value: &'d Value<'t>) -> Option<At<&'d str>> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong(key, value, "a string");
        }
        text.map(|text| At { value: text, at: value.span().start })
    }

    /// A string that must be there.
    pub fn string(&self, key: &'static str) -> Option<At<&'d str>> {
        self.required(key, "a string").and_then(|value| self.string_of(key, value))
    }

    /// A string that may be there.
    pub fn optional_string(&self, key: &'static str) -> Option<At<&'d str>> {
        self.find(key).and_then(|value| self.string_of(key, value))
    }

    /// A number that must be there, or may be where `required` is false.
    pub fn number(&self, key: &'static str, range: (f64, f64), required: bool) -> Option<At<f64>> {
        let kind = format!("a number from {} to {}", range.0, range.1);
        let value = if required { self.required(key, &kind) } else { self.find(key) }?;
        let number = match value.get_ref() {
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix()).ok().map(|n| n as f64),
            _ => {
                self.wrong(key, value, &kind);
                return None;
            }
        };
        let good = number.filter(|n| (range.0..=range.1).contains(n));
        if good.is_none() {
            self.note(value.span().start, format!("`{}` must be {kind}", self.named(key)));
        }
        good.map(|found| At { value: found, at: value.span().start })
    }

    /// A whole number that must be there.
    pub fn integer(&self, key: &'static str, range: (i64, i64)) -> Option<At<i64>> {
        let kind = format!("a whole number from {} to {}", range.0, range.1);
        let value = self.required(key, &kind)?;
        self.integer_of(key, value, range)
    }

    /// A whole number that may be there.
    pub fn optional_integer(&self, key: &'static str, range: (i64, i64)) -> Option<At<i64>> {
        self.find(key).and_then(|value| self.integer_of(key, value, range))
    }

    fn integer_of(&self, key: &str, value: &Value<'t>, range: (i64, i64)) -> Option<At<i64>> {
        let kind = format!("a whole number from {} to {}", range.0, range.1);
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong(key, value, &kind);
            return None;
        };
        let found = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let good = found.filter(|n| (range.0..=range.1).contains(n));
        if good.is_none() {
            self.note(value.span().start, format!("`{}` must be {kind}", self.named(key)));
        }
        good.map(|value_found| At { value: value_found, at: value.span().start })
    }

    /// `true` or `false`, must be there.
    pub fn boolean(&self, key: &'static str) -> Option<At<bool>> {
        self.required(key, "true or false").and_then(|value| self.boolean_of(key, value))
    }

    /// `true` or `false`, may be there.
    pub fn optional_boolean(&self, key: &'static str) -> Option<At<bool>> {
        self.find(key).and_then(|value| self.boolean_of(key, value))
    }

    fn boolean_of(&self, key: &str, value: &Value<'t>) -> Option<At<bool>> {
        let found = value.get_ref().as_bool();
        if found.is_none() {
            self.wrong(key, value, "true or false");
        }
        found.map(|found| At { value: found, at: value.span().start })
    }

    /// A list of at least `least` strings.
    pub fn strings(&self, key: &'static str, least: usize) -> Vec<At<&'d str>> {
        let value = if least > 0 { self.required(key, "a list of strings") } else { self.find(key) };
        let Some(value) = value else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong(key, value, "a list of strings");
            return Vec::new();
        };
        if array.len() < least {
            self.note(value.span().start, format!("`{}` must not be empty", self.named(key)));
        }
        array.iter().filter_map(|item| self.string_of(key, item)).collect()
    }

    /// A table; noted where it must be there and is not.
    pub fn table(&self, key: &'static str, required: bool) -> Option<Section<'d, 't>> {
        let kind = format!("a table [{}]", self.named(key));
        let value = if required { self.required(key, &kind) } else { self.find(key) }?;
        self.section(key, value, &kind)
    }

    /// A list of tables, perhaps empty.
    pub fn tables(&self, key: &'static str) -> Vec<Section<'d, 't>> {
        let kind = format!("a list of tables [[{}]]", self.named(key));
        let Some(value) = self.find(key) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong(key, value, &kind);
            return Vec::new();
        };
        array.iter().filter_map(|item| self.section(key, item, &kind)).collect()
    }

    fn section(&self, key: &str, value: &'d Value<'t>, kind: &str) -> Option<Section<'d, 't>> {
        let Some(table) = value.get_ref().as_table() else {
            self.wrong(key, value, kind);
            return None;
        };
        let (prefix, at) = (format!("{}.", self.named(key)), Some(value.span().start));
        Some(Section { document: self.document, table, prefix, at, known: RefCell::default() })
    }

    /// A value of any shape that may be there, as JSON.
    pub fn json(&self, key: &'static str) -> Option<At<Json>> {
        let value = self.find(key)?;
        let json = json_of(value.get_ref());
        if json.is_none() {
            self.wrong(key, value, "what JSON can hold: no date, no time, no infinite number");
        }
        json.map(|json| At { value: json, at: value.span().start })
    }

    /// Every key with its value; for tables whose keys are data.
    pub fn entries(&self) -> impl Iterator<Item = (At<&'d str>, Option<At<&'d str>>)> + use<'_, 'd, 't> {
        self.table.iter().map(|(key, value)| {
            let name: &'d str = key.get_ref().as_ref();
            (At { value: name, at: key.span().start }, self.string_of(name, value))
        })
    }

    /// Notes every key that nothing has asked for, with the one that was probably meant.
    pub fn finish(&self) {
        let known = self.known.borrow();
        for (key, _) in self.table {
            let name = key.get_ref().as_ref();
            if known.contains(name) {
                continue;
            }
            let near = known.iter().map(|k| (distance(k, name), *k)).min().filter(|(d, _)| *d <= 2);
            let hint = match near {
                Some((_, near)) => format!("did you mean `{near}`?"),
                None => format!("known are {}", known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")),
            };
            self.note(key.span().start, format!("`{}` is not known; {hint}", self.named(name)));
        }
    }
}

fn json_of(value: &DeValue<'_>) -> Option<Json> {
    Some(match value {
        DeValue::String(text) => (**text).into(),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix()).ok()?.into(),
        DeValue::Float(float) => serde_json::Number::from_f64(float.as_str().parse().ok()?)?.into(),
        DeValue::Boolean(truth) => (*truth).into(),
        DeValue::Datetime(_) => return None,
        DeValue::Array(values) => Json::Array(values.iter().map(|v| json_of(v.get_ref())).collect::<Option<_>>()?),
        DeValue::Table(table) => {
            let field = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                let key: &std::borrow::Cow<'_, str> = key.get_ref();
                Some((key.to_string(), json_of(value.get_ref())?))
            };
            Json::Object(table.iter().map(field).collect::<Option<_>>()?)
        }
    })
}

/// Edit distance (Levenshtein), for finding what was meant.
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
