//! Abbreviations that are not read as their letters, and those whose full stop the cutting into sentences would take for an end.

use super::{Rules, group};
use fancy_regex::Captures;

pub(super) const RULES: Rules = &[
    (r"(?<![W.])([Ee])\.g\.?(?![W])", for_example),
    (r"(?<![W.])([Ii])\.e\.?(?![W])", that_is),
    (r"(?<![W.])etc\.(?= [a-z0-9(]|[,;:)])", etcetera),
    (r"(?<![W.])etc(?![W.])", etcetera),
    // The full stop that is left ends the sentence.
    (r"(?<![W.])etc(?=\.)", etcetera),
    (
        r"(?<![W.])(approx|ca|incl|excl|max|tel|Tel|ext|Ext|Approx|Incl|Excl|Max|vs|Vs|cf|Cf|dept|Dept|esp|Nr|nr)\.(?= ?[\w(+€$£])",
        expanded,
    ),
    (r"(?<![W.])(min)\.(?= [0-9])", expanded),
    (r"(?<![W.])([Nn]o|[Nn]os)\. ?(?=[0-9])", number),
    (r"(?<![W])c/o(?![W])", care_of),
    (r"(?<![W])and/or(?![W])", and_or),
    (r"(?<![W])([A-Za-z])\+\+(?![W+])", plus_plus),
    (r"(?<![W])([CF])#(?![W])", sharp),
    (r"(?<![W\[])(VAT|JSON)(?![W\]])", in_phonemes),
    (r"(?<![W])(?:asap|ASAP|a\.s\.a\.p\.?)(?![W])", as_soon_as_possible),
];

/// As capital or small as its first letter was.
fn like(first: &str, words: &str) -> String {
    let mut letters = words.chars();
    match letters.next().filter(|_| first.starts_with(char::is_uppercase)) {
        Some(c) => c.to_uppercase().chain(letters).collect(),
        None => words.to_owned(),
    }
}

fn for_example(m: &Captures<'_>) -> Option<String> {
    Some(like(group(m, 1), "for example"))
}

fn that_is(m: &Captures<'_>) -> Option<String> {
    Some(like(group(m, 1), "that is"))
}

fn etcetera(_: &Captures<'_>) -> Option<String> {
    Some("et cetera".to_owned())
}

fn expanded(m: &Captures<'_>) -> Option<String> {
    let short = group(m, 1);
    let words = match short.to_ascii_lowercase().as_str() {
        "approx" => "approximately",
        "ca" => "about",
        "incl" => "including",
        "excl" => "excluding",
        "max" => "at most",
        "min" => "at least",
        "tel" => "telephone",
        "ext" => "extension",
        "vs" => "versus",
        "cf" => "compare",
        "dept" => "department",
        "esp" => "especially",
        "nr" => "number",
        _ => return None,
    };
    Some(like(short, words))
}

fn number(m: &Captures<'_>) -> Option<String> {
    let one = group(m, 1).len() == 2;
    Some(format!("{} ", like(group(m, 1), if one { "number" } else { "numbers" })))
}

fn care_of(_: &Captures<'_>) -> Option<String> {
    Some("care of".to_owned())
}

fn and_or(_: &Captures<'_>) -> Option<String> {
    Some("and or".to_owned())
}

fn plus_plus(m: &Captures<'_>) -> Option<String> {
    Some(format!("{} plus plus", group(m, 1)))
}

fn sharp(m: &Captures<'_>) -> Option<String> {
    Some(format!("{} sharp", group(m, 1)))
}

fn as_soon_as_possible(_: &Captures<'_>) -> Option<String> {
    Some("as soon as possible".to_owned())
}

/// Words that the lexicon holds for others, or spells, with their phonemes.
fn in_phonemes(m: &Captures<'_>) -> Option<String> {
    let word = group(m, 1);
    let phonemes = match word {
        "VAT" => "vˌiˌAtˈi",
        "JSON" => "ʤˈAsᵊn",
        _ => return None,
    };
    Some(format!("[{word}](/{phonemes}/)"))
}
