//! How a word is read in its sentence: dictionaries, special cases that depend on the part of speech and on what follows, and
//! endings (-s, -ed, -ing) put to stems that are known.
//!
//! These are the rules of misaki, the grapheme-to-phoneme library that Kokoro and Hibari were trained with, for American English.
//! A pronunciation of `None` anywhere means "I cannot read this"; the caller falls back to the network for unknown words.

use nearfield_shared::table::Table;

use super::alphabet::Alphabet;
use super::characters::is_alphabetic;
use super::dictionary::{Dictionary, Entry, Reading};
use super::stress::{self, PRIMARY, SECONDARY};

/// Vowels and the r before which a t is flapped.
const FLAPS_T: &str = "AIOWYiuæɑəɛɪɹʊʌ";
/// Stress that a capital letter gives: to a word with some capitals, and to one of only capitals.
const CAPITAL_STRESS: [f32; 2] = [0.5, 2.0];
/// Signs that are read as words.
const SYMBOLS: [(&str, &str); 4] = [("%", "percent"), ("&", "and"), ("+", "plus"), ("@", "at")];

/// What follows the word being read. Reading goes from the end of a sentence to its beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Context {
    /// Whether the next sound is a vowel; `None` before a pause.
    pub vowel_follows: Option<bool>,
    /// Whether the next word is "to".
    pub to_follows: bool,
}

/// A word as the lexicon is asked for it.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Its letters.
    pub text: &'a str,
    /// Its part of speech.
    pub tag: &'a str,
    /// The currency sign that stood before it.
    pub currency: Option<&'a str>,
    /// Whether it begins a run of characters without white space.
    pub is_head: bool,
}

/// Both dictionaries and the rules over them.
#[derive(Debug)]
pub struct Lexicon {
    /// Checked by hand.
    gold: Dictionary,
    /// Larger, less sure; not asked for proper names in capitals.
    silver: Dictionary,
    pub(super) alphabet: Alphabet,
}

impl Lexicon {
    /// Over the two dictionaries.
    pub fn new(gold: Table, silver: Table, alphabet: Alphabet) -> Self {
        Self { gold: Dictionary::new(gold), silver: Dictionary::new(silver), alphabet }
    }

    /// Bytes of the dictionaries in memory.
    pub fn resident_bytes(&self) -> usize {
        self.gold.resident_bytes() + self.silver.resident_bytes()
    }

    /// Entries of both dictionaries.
    pub fn len(&self) -> usize {
        self.gold.len() + self.silver.len()
    }

    /// The phonemes of a word, a number or an abbreviation.
    pub fn read(&self, query: Query<'_>, context: Context) -> Option<String> {
        let word = plain(query.text);
        let small = word.to_lowercase();
        let stress = (word != small).then(|| CAPITAL_STRESS[usize::from(word == word.to_uppercase())]);
        if let Some(phonemes) = self.word(&word, query.tag, stress, context) {
            return Some(self.with_currency(phonemes, query.currency));
        }
        if self.is_number(&word, query.is_head) { self.number(&word, query.currency, query.is_head) } else { None }
    }

    /// Looks a known word up and gives it the stress. `tag` and `context` choose between readings; a word the dictionaries do
    /// not have is spelled.
    pub(super) fn look_up(
        &self,
        word: &str,
        tag: Option<&str>,
        stress: Option<f32>,
        context: Option<Context>,
    ) -> Option<String> {
        let shouted = word == word.to_uppercase() && !self.gold.contains(word);
        let lowered;
        let word = if shouted {
            lowered = word.to_lowercase();
            &lowered
        } else {
            word
        };
        let is_name = shouted && tag == Some("NNP");
        let mut phonemes = match self.gold.get(word, &self.alphabet) {
            Some(entry) => self.reading(entry, tag, context),
            None if is_name => None,
            None => self.silver.get(word, &self.alphabet).map(|e| e.phonemes),
        };
        if is_name {
            // A name in capitals that has no main stress of its own is an abbreviation.
            phonemes = phonemes.filter(|p| p.contains(PRIMARY));
        }
        match phonemes {
            Some(p) => Some(stress::apply(&p, stress)),
            None => self.spelled(word),
        }
    }

    /// The reading of a gold entry for a part of speech: before a pause its own, then the tag's, then the tag's class'.
    fn reading(&self, entry: Entry, tag: Option<&str>, context: Option<Context>) -> Option<String> {
        if !entry.has_readings {
            return Some(entry.phonemes);
        }
        let of = |tag: &str| self.gold.reading(&entry, tag, &self.alphabet);
        let mut reading = Reading::Default;
        if context.is_some_and(|c| c.vowel_follows.is_none()) {
            reading = of("None");
        }
        if reading == Reading::Default
            && let Some(tag) = tag
        {
            reading = of(tag);
            if reading == Reading::Default {
                reading = of(class(tag));
            }
        }
        match reading {
            Reading::Default => Some(entry.phonemes),
            Reading::Spell => None,
            Reading::Phonemes(p) => Some(p),
        }
    }

    /// Letter by letter, with the main stress on the last.
    fn spelled(&self, word: &str) -> Option<String> {
        let mut phonemes = String::new();
        for c in word.chars().filter(|c| c.is_alphabetic()) {
            let capital: String = c.to_uppercase().collect();
            phonemes += &self.gold.get(&capital, &self.alphabet)?.phonemes;
        }
        let phonemes = stress::apply(&phonemes, Some(0.0));
        Some(match phonemes.rsplit_once(SECONDARY) {
            Some((head, tail)) => format!("{head}{PRIMARY}{tail}"),
            None => phonemes,
        })
    }

    fn symbol(word: &str) -> Option<&'static str> {
        SYMBOLS.iter().find(|(s, _)| *s == word).map(|(_, name)| *name)
    }

    /// Words whose sound depends on their neighbours, and signs.
    fn special(&self, word: &str, tag: &str, stress: Option<f32>, context: Context) -> Option<String> {
        let gold = |word: &str| self.gold.get(word, &self.alphabet);
        let own = |phonemes: &str| Some(phonemes.to_string());
        match (word, tag) {
            (".", "ADD") => return self.look_up("dot", None, Some(-0.5), Some(context)),
            ("/", "ADD") => return self.look_up("slash", None, Some(-0.5), Some(context)),
            _ => {}
        }
        if let Some(name) = Self::symbol(word) {
            return self.look_up(name, None, None, Some(context));
        }
        if word.trim_matches('.').contains('.')
            && is_alphabetic(&word.replace('.', ""))
            && word.split('.').all(|part| part.chars().count() < 3)
        {
            return self.spelled(word);
        }
        match word {
            "a" | "A" => own(if tag == "DT" { "ɐ" } else { "ˈA" }),
            "am" | "Am" | "AM" => {
                if tag.starts_with("NN") {
                    self.spelled(word)
                } else if context.vowel_follows.is_none() || word != "am" || stress.is_some_and(|s| s > 0.0) {
                    gold("am").map(|e| e.phonemes)
                } else {
                    own("ɐm")
                }
            }
            "AN" if tag.starts_with("NN") => self.spelled(word),
            "an" | "An" | "AN" => own("ɐn"),
            "I" if tag == "PRP" => own("ˌI"),
            "by" | "By" | "BY" if class(tag) == "ADV" => own("bˈI"),
            "to" | "To" | "TO" if word != "TO" || matches!(tag, "TO" | "IN") => match context.vowel_follows {
                None => gold("to").map(|e| e.phonemes),
                Some(false) => own("tə"),
                Some(true) => own("tʊ"),
            },
            "in" | "In" | "IN" if word != "IN" || tag != "NNP" => {
                own(if context.vowel_follows.is_none() || tag != "IN" { "ˈɪn" } else { "ɪn" })
            }
            "the" | "The" | "THE" if word != "THE" || tag == "DT" => {
                own(if context.vowel_follows == Some(true) { "ði" } else { "ðə" })
            }
            _ if tag == "IN" && matches!(word.to_lowercase().as_str(), "vs" | "vs.") => {
                self.look_up("versus", None, None, Some(context))
            }
            "used" | "Used" | "USED" => {
                let entry = gold("used")?;
                let past = context.to_follows && matches!(tag, "VBD" | "JJ");
                match self.gold.reading(&entry, "VBD", &self.alphabet) {
                    Reading::Phonemes(p) if past => Some(p),
                    _ => Some(entry.phonemes),
                }
            }
            _ => None,
        }
    }

    /// Whether [`Lexicon::look_up`] can read a word other than by guessing.
    fn knows(&self, word: &str) -> bool {
        if self.gold.contains(word) || Self::symbol(word).is_some() || self.silver.contains(word) {
            return true;
        }
        if !word.bytes().all(|b| b.is_ascii_alphabetic()) || word.is_empty() {
            return false;
        }
        if word.len() == 1 {
            return true;
        }
        let capitals = |part: &str| !part.bytes().any(|b| b.is_ascii_lowercase());
        (capitals(word) && self.gold.contains(&word.to_lowercase())) || capitals(&word[1..])
    }

    /// A word, not a number.
    fn word(&self, word: &str, tag: &str, stress: Option<f32>, context: Context) -> Option<String> {
        if let Some(phonemes) = self.special(word, tag, stress, context) {
            return Some(phonemes);
        }
        let small = word.to_lowercase();
        let (tag, context) = (Some(tag), Some(context));
        let lower = self.is_only_capitalised(word, &small, tag, stress, context);
        let word = if lower { small.as_str() } else { word };
        if self.knows(word) {
            return self.look_up(word, tag, stress, context);
        }
        if let Some(stem) = word.strip_suffix("s'") {
            let singular = format!("{stem}'s");
            if self.knows(&singular) {
                return self.look_up(&singular, tag, stress, context);
            }
        }
        if let Some(stem) = word.strip_suffix('\'')
            && self.knows(stem)
        {
            return self.look_up(stem, tag, stress, context);
        }
        self.with_s(word, tag, stress, context)
            .or_else(|| self.with_ed(word, tag, stress, context))
            .or_else(|| self.with_ing(word, tag, stress.or(Some(0.5)), context))
    }

    /// Whether a word the dictionaries do not have in this form is a known one with capitals.
    fn is_only_capitalised(
        &self,
        word: &str,
        small: &str,
        tag: Option<&str>,
        stress: Option<f32>,
        context: Option<Context>,
    ) -> bool {
        let length = word.chars().count();
        let rest = word.char_indices().nth(1).map_or("", |(i, _)| &word[i..]);
        length > 1
            && is_alphabetic(&word.replace('\'', ""))
            && word != small
            && (tag != Some("NNP") || length > 7)
            && !self.gold.contains(word)
            && !self.silver.contains(word)
            && (word == word.to_uppercase() || rest == rest.to_lowercase())
            && (self.gold.contains(small)
                || self.silver.contains(small)
                || self.with_s(small, tag, stress, context).is_some_and(|p| !p.is_empty())
                || self.with_ed(small, tag, stress, context).is_some_and(|p| !p.is_empty())
                || self.with_ing(small, tag, stress, context).is_some_and(|p| !p.is_empty()))
    }

    /// A known stem with -s.
    pub(super) fn with_s(
        &self,
        word: &str,
        tag: Option<&str>,
        stress: Option<f32>,
        context: Option<Context>,
    ) -> Option<String> {
        let length = word.chars().count();
        let stem = word.strip_suffix('s').filter(|_| length >= 3)?;
        let ies = word.ends_with("ies");
        let shorter = word.strip_suffix("'s").or_else(|| word.strip_suffix("es").filter(|_| length > 4 && !ies));
        let stem = if !word.ends_with("ss") && self.knows(stem) {
            stem.to_string()
        } else if let Some(stem) = shorter.filter(|s| self.knows(s)) {
            stem.to_string()
        } else {
            let stem = format!("{}y", word.strip_suffix("ies").filter(|_| length > 4)?);
            if !self.knows(&stem) {
                return None;
            }
            stem
        };
        plural(&self.look_up(&stem, tag, stress, context)?)
    }

    /// A known stem with -ed.
    fn with_ed(&self, word: &str, tag: Option<&str>, stress: Option<f32>, context: Option<Context>) -> Option<String> {
        let length = word.chars().count();
        let stem = word.strip_suffix('d').filter(|_| length >= 4)?;
        let stem = if !word.ends_with("dd") && self.knows(stem) {
            stem
        } else {
            let stem = word.strip_suffix("ed").filter(|_| length > 4 && !word.ends_with("eed"))?;
            if !self.knows(stem) {
                return None;
            }
            stem
        };
        past(&self.look_up(stem, tag, stress, context)?)
    }

    /// A known stem with -ing.
    fn with_ing(&self, word: &str, tag: Option<&str>, stress: Option<f32>, context: Option<Context>) -> Option<String> {
        let length = word.chars().count();
        let stem = word.strip_suffix("ing").filter(|_| length >= 5)?;
        let with_e = format!("{stem}e");
        let stem = if length > 5 && self.knows(stem) {
            stem
        } else if self.knows(&with_e) {
            &with_e
        } else {
            let mut end = stem.chars().rev();
            let last = end.next()?;
            let doubled = end.next() == Some(last) && "bcdgklmnprstvxz".contains(last);
            let single = stem.strip_suffix(last).filter(|_| length > 5 && (doubled || stem.ends_with("ck")))?;
            if !self.knows(single) {
                return None;
            }
            single
        };
        progressive(&self.look_up(stem, tag, stress, context)?)
    }
}

/// The class of a part of speech that dictionary readings are listed under.
pub fn class(tag: &str) -> &str {
    match tag {
        t if t.starts_with("VB") => "VERB",
        t if t.starts_with("NN") => "NOUN",
        t if t.starts_with("ADV") || t.starts_with("RB") => "ADV",
        t if t.starts_with("ADJ") || t.starts_with("JJ") => "ADJ",
        t => t,
    }
}

/// -s after a stem: "cats", "dogs", "horses".
pub(super) fn plural(stem: &str) -> Option<String> {
    Some(match stem.chars().next_back()? {
        'p' | 't' | 'k' | 'f' | 'θ' => format!("{stem}s"),
        's' | 'z' | 'ʃ' | 'ʒ' | 'ʧ' | 'ʤ' => format!("{stem}ᵻz"),
        _ => format!("{stem}z"),
    })
}

/// -ed after a stem: "walked", "played", "wanted".
pub(super) fn past(stem: &str) -> Option<String> {
    let mut end = stem.chars().rev();
    let (last, before) = (end.next()?, end.next());
    Some(match (last, before) {
        ('p' | 'k' | 'f' | 'θ' | 'ʃ' | 's' | 'ʧ', _) => format!("{stem}t"),
        ('d', _) => format!("{stem}ᵻd"),
        ('t', None) => format!("{stem}ɪd"),
        ('t', Some(v)) if FLAPS_T.contains(v) => format!("{}ɾᵻd", &stem[..stem.len() - 1]),
        ('t', _) => format!("{stem}ᵻd"),
        _ => format!("{stem}d"),
    })
}

/// -ing after a stem; a t between vowels is flapped.
pub(super) fn progressive(stem: &str) -> Option<String> {
    let mut end = stem.chars().rev();
    Some(match (end.next()?, end.next()) {
        ('t', Some(v)) if FLAPS_T.contains(v) => format!("{}ɾɪŋ", &stem[..stem.len() - 1]),
        _ => format!("{stem}ɪŋ"),
    })
}

/// Curly quotes straight, compatibility characters (ligatures, full width, circled) as what they stand for.
fn plain(text: &str) -> String {
    let text = text.replace(['‘', '’'], "'");
    if text.is_ascii() {
        return text;
    }
    let mut normal = tokenizers::NormalizedString::from(text);
    normal.nfkc();
    normal.get().chars().map(super::characters::ascii_digit).collect()
}

/// Whether any character is a digit.
pub(super) fn has_digit(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_digit())
}
