//! Texts that look like secrets, wherever in the file they stand. The file is pushed to nodes, shown in plans and kept in
//! repositories, so nothing secret may be in it.

use crate::definition::section::Document;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Beginnings of keys and tokens of wide use, and how many letters and digits follow at least.
const BEGINNINGS: [(&str, usize); 11] = [
    ("sk-", 20),
    ("sk_live_", 16),
    ("rk_live_", 16),
    ("ghp_", 30),
    ("github_pat_", 30),
    ("glpat-", 18),
    ("xoxb-", 20),
    ("xoxp-", 20),
    ("AKIA", 16),
    ("AIza", 30),
    ("eyJ", 40),
];

/// Notes each of them.
pub fn check(document: &Document<'_>, table: &DeTable<'_>) {
    table.values().for_each(|value| look(document, value));
}

fn look(document: &Document<'_>, value: &Spanned<DeValue<'_>>) {
    match value.get_ref() {
        DeValue::String(text) if is_secret(text) => {
            let message = "this looks like a key or a token; put it into the file secrets/NAME of each node's folder \
                           (mode 0600), write ${NAME} in a header instead, and renew it, since it was written down";
            document.note(Some(value.span().start), message);
        }
        DeValue::Array(values) => values.iter().for_each(|value| look(document, value)),
        DeValue::Table(table) => check(document, table),
        _ => {}
    }
}

fn is_secret(text: &str) -> bool {
    text.contains("-----BEGIN ")
        || text.split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '=' | ',')).any(|word| {
            BEGINNINGS.iter().any(|(beginning, least)| {
                let rest = word.strip_prefix(beginning).unwrap_or_default();
                rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')).count()
                    >= *least
            })
        })
}

#[cfg(test)]
mod tests {
    use super::is_secret;

    #[test]
    fn keys_are_told_from_words() {
        for secret in [
            "Bearer sk-abcdefghijklmnopqrstuv",
            "AKIAABCDEFGHIJKLMNOP",
            "-----BEGIN PRIVATE KEY-----",
            "x=glpat-abcdefghijklmnopqr",
        ] {
            assert!(is_secret(secret), "{secret}");
        }
        for words in ["sk-ip that", "Bearer ${token}", "Ask for AKIA, our shop.", "Is it ready?", "eyJam"] {
            assert!(!is_secret(words), "{words}");
        }
    }
}
