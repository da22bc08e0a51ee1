//! Written forms that the package's rules read wrongly or not at all, put into words before the text is cut into sentences:
//! e-mail addresses and URLs, telephone numbers and other numbers that are read digit by digit, prices with the sign behind, dates of
//! the day-month order, spans of time, abbreviations whose full stop would end a sentence.
//!
//! Such classes of tokens are called semiotic (Taylor 2009, *Text-to-Speech Synthesis*, chapter 5). What is made here is again plain
//! text, which [`super::normalise`] and the lexicon read like any other; a form that no rule knows is left as it stands. Only what is
//! spoken changes: captions, history and ledger hold the text as it was written.
//!
//! The rules are for English text, in which forms of other countries stand as well ("12,50 €", "22.11.2026", "+49 30 …").

mod abbreviations;
mod addresses;
mod amounts;
mod digits;

use fancy_regex::{Captures, Regex};

use super::G2pError;
use super::normalise::{replace, rule};

/// One rule: a pattern, and what becomes of a match. `None` leaves it as it stands.
struct Rule {
    pattern: Regex,
    read: fn(&Captures<'_>) -> Option<String>,
}

/// All rules, in their order: an address before its digits, an amount before its comma, a unit last.
pub struct Semiotic {
    rules: Vec<Rule>,
}

impl std::fmt::Debug for Semiotic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Semiotic").field("rules", &self.rules.len()).finish()
    }
}

impl Semiotic {
    /// Compiles the rules.
    pub fn new() -> Result<Self, G2pError> {
        let all = [addresses::RULES, amounts::RULES, digits::RULES, abbreviations::RULES];
        let compiled =
            all.into_iter().flatten().map(|(pattern, read)| Ok(Rule { pattern: rule(pattern)?, read: *read }));
        Ok(Self { rules: compiled.collect::<Result<_, G2pError>>()? })
    }

    /// The text with what these rules know written out.
    pub fn write_out(&self, text: &str) -> String {
        self.rules.iter().fold(text.to_owned(), |text, rule| replace(&rule.pattern, text, |m, _| (rule.read)(m)))
    }
}

/// What a module of rules offers: patterns as [`rule`] takes them.
type Rules = &'static [(&'static str, fn(&Captures<'_>) -> Option<String>)];

/// What group `n` matched, or nothing.
fn group<'m>(m: &Captures<'m>, n: usize) -> &'m str {
    m.get(n).map_or("", |found| found.as_str())
}

#[cfg(test)]
mod tests;
