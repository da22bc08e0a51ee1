//! Takes fields out of a TOML table and collects what is wrong with them, instead of stopping at the first mistake.

use super::{CatalogueError, Mistake};
use std::{collections::BTreeSet, path::Path, str::FromStr};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A table whose fields are taken out one by one. Each getter returns `None` after noting the mistake.
pub(in crate::registry) struct Fields<'t> {
    text: &'t str,
    table: DeTable<'t>,
    /// Where the table begins, for fields that are missing.
    at: usize,
    /// Put before field names in messages: empty, or for example `sources[1].`.
    prefix: String,
    known: BTreeSet<String>,
    mistakes: Vec<(usize, String)>,
}

impl<'t> Fields<'t> {
    /// Parses a file as far as its syntax allows, noting every syntax error.
    pub fn parse(text: &'t str) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mistakes =
            errors.iter().map(|e| (e.span().map_or(0, |s| s.start), format!("not TOML: {}", e.message()))).collect();
        Self { text, at: 0, table: table.into_inner(), prefix: String::new(), known: BTreeSet::new(), mistakes }
    }

    fn take(&mut self, field: &str) -> Option<Spanned<DeValue<'t>>> {
        self.known.insert(field.to_owned());
        let value = self.table.get(field).cloned();
        if value.is_none() {
            self.mistakes.push((self.at, format!("`{}{field}` is missing", self.prefix)));
        }
        value
    }

    fn note(&mut self, value: &Spanned<DeValue<'t>>, field: &str, what: impl std::fmt::Display) {
        self.mistakes.push((value.span().start, format!("`{}{field}` {what}", self.prefix)));
    }

    /// Notes a mistake in a field that could be read.
    pub fn wrong(&mut self, field: &str, what: impl std::fmt::Display) {
        let at = self.table.get(field).map_or(self.at, |v| v.span().start);
        self.mistakes.push((at, format!("`{}{field}` {what}", self.prefix)));
    }

    /// Text that is not empty.
    pub fn text(&mut self, field: &str) -> Option<String> {
        let value = self.take(field)?;
        match value.get_ref().as_str() {
            Some(s) if !s.trim().is_empty() && s.len() <= 1024 => Some(s.to_owned()),
            Some("") => {
                self.note(&value, field, "is empty");
                None
            }
            Some(_) => {
                self.note(&value, field, "must be 1 to 1024 characters of text");
                None
            }
            None => {
                self.note(&value, field, format!("must be text in quotes, not {}", value.get_ref().type_str()));
                None
            }
        }
    }

    /// A name: letters, digits and `-_.`, at most 64, beginning with a letter or digit, so that it is safe in a path.
    pub fn name(&mut self, field: &str) -> Option<String> {
        let text = self.text(field)?;
        let good = text.len() <= 64
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if good {
            return Some(text);
        }
        self.wrong(
            field,
            format!("is `{text}`; use 1 to 64 letters, digits, `-`, `_` or `.`, beginning with a letter or digit"),
        );
        None
    }

    /// Text that has a meaning of its own.
    pub fn parsed<T: FromStr<Err = String>>(&mut self, field: &str) -> Option<T> {
        let text = self.text(field)?;
        text.parse().map_err(|why| self.wrong(field, format!("cannot be used: {why}"))).ok()
    }

    /// A whole number within bounds.
    pub fn number(&mut self, field: &str, min: u64, max: u64) -> Option<u64> {
        let value = self.take(field)?;
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|i| u64::from_str_radix(i.as_str(), i.radix()).ok())
            .filter(|n| (min..=max).contains(n));
        if number.is_none() {
            self.note(&value, field, format!("must be a whole number from {min} to {max}"));
        }
        number
    }

    /// `true` or `false`.
    pub fn flag(&mut self, field: &str) -> Option<bool> {
        let value = self.take(field)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.note(&value, field, "must be true or false");
        }
        flag
    }

    /// A list of texts.
    pub fn texts(&mut self, field: &str) -> Option<Vec<String>> {
        let value = self.take(field)?;
        let texts = value
            .get_ref()
            .as_array()
            .and_then(|a| a.iter().map(|v| v.get_ref().as_str().map(str::to_owned)).collect::<Option<Vec<_>>>());
        if texts.is_none() {
            self.note(&value, field, "must be a list of texts, for example [\"en\"]");
        }
        texts
    }

    /// The tables of `[[field]]`; at least one must be there.
    pub fn tables(&mut self, field: &str) -> Vec<Fields<'t>> {
        let Some(value) = self.take(field) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array().filter(|a| !a.is_empty()) else {
            self.note(&value, field, format!("must be one or more tables, each beginning with [[{field}]]"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let prefix = format!("{}{field}[{}].", self.prefix, i + 1);
            match item.get_ref().as_table() {
                Some(t) => tables.push(Fields {
                    text: self.text,
                    at: item.span().start,
                    table: t.clone(),
                    prefix,
                    known: BTreeSet::new(),
                    mistakes: Vec::new(),
                }),
                None => self.mistakes.push((item.span().start, format!("`{prefix}` must be a table"))),
            }
        }
        tables
    }

    /// Takes the fields that were not asked for as good.
    pub fn accept_rest(&mut self) {
        self.known.extend(self.table.iter().map(|(key, _)| key.get_ref().to_string()));
    }

    /// Notes every field that nobody asked for: most are misspelt.
    pub fn finish(&mut self) {
        let known = self.known.iter().cloned().collect::<Vec<_>>().join(", ");
        for (key, _) in self.table.iter() {
            let name: &str = key.get_ref();
            if !self.known.contains(name) {
                self.mistakes.push((
                    key.span().start,
                    format!("`{}{name}` is not a field; the fields are {known}", self.prefix),
                ));
            }
        }
    }

    /// Adds the mistakes of an inner table.
    pub fn take_mistakes(&mut self, inner: Fields<'t>) {
        self.mistakes.extend(inner.mistakes);
    }

    /// What was built, or all mistakes in the order of their lines.
    pub fn into_result<T>(mut self, file: &Path, built: Option<T>) -> Result<T, CatalogueError> {
        self.mistakes.sort();
        let text = self.text;
        let mistakes: Vec<Mistake> = self
            .mistakes
            .into_iter()
            .map(|(at, what)| Mistake {
                file: file.to_owned(),
                line: 1 + text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count(),
                what,
            })
            .collect();
        match built {
            Some(built) if mistakes.is_empty() => Ok(built),
            _ => Err(CatalogueError::Mistakes(mistakes)),
        }
    }
}
