//! E-mail addresses and URLs: names as words where they can be words, else letter by letter.

use super::super::numbers::spelled;
use super::{Rules, group};
use fancy_regex::Captures;

/// Endings by which a bare name ("example.com") is known as a host. Those that are also English words ("it", "at", "me", "so") are left
/// out: a missing space behind a full stop is commoner than such a host without scheme and path.
pub(super) const RULES: Rules = &[
    (
        r"(?<![W.+\-@])([A-Za-z0-9][A-Za-z0-9._+\-]{0,63})@((?:[A-Za-z0-9\-]{1,63}\.){1,8}[A-Za-z]{2,24})(?![W\-@])",
        e_mail,
    ),
    (
        r"(?<![W.@/\-])(?<!\]\()(?:(?:https?|ftp)://)((?:[A-Za-z0-9\-]{1,63}\.){0,8}[A-Za-z0-9\-]{1,63}(?::[0-9]{1,5})?)((?:[/?#][^\s<>\x22)]*)?)",
        url,
    ),
    (
        r"(?<![W.@/\-])(?<!\]\()(www\.(?:[A-Za-z0-9\-]{1,63}\.){1,8}[A-Za-z]{2,24}(?::[0-9]{1,5})?)((?:[/?#][^\s<>\x22)]*)?)(?![W@])",
        url,
    ),
    (
        r"(?<![W.@/\-])(?<!\]\()((?:[A-Za-z0-9\-]{1,63}\.){1,8}(?:com|org|net|edu|gov|info|biz|app|dev|shop|online|example|io|ai|eu|uk|us|ca|au|de|fr|ch|es|nl|se|pl|dk|fi|ie|tv)(?::[0-9]{1,5})?)((?:/[^\s<>\x22)]*)?)(?![W@])",
        bare_url,
    ),
];

fn e_mail(m: &Captures<'_>) -> Option<String> {
    Some(format!("{} at {}", read(group(m, 1)), host(group(m, 2))))
}

fn url(m: &Captures<'_>) -> Option<String> {
    let path = group(m, 2);
    let end = path.trim_end_matches(['.', ',', ';', ':', '!', '?', '\'', '*', '_']);
    let kept = &path[end.len()..];
    let path = end.trim_end_matches('/');
    let host = host(group(m, 1));
    Some(if path.is_empty() { format!("{host}{kept}") } else { format!("{host} {}{kept}", read(path)) })
}

/// `U.S.` and `e.g.` are no hosts: a name of a host without scheme has more than one letter before its ending, in small letters.
fn bare_url(m: &Captures<'_>) -> Option<String> {
    let name = group(m, 1).split(':').next().unwrap_or_default();
    let ending = name.rsplit('.').next().unwrap_or_default();
    let label = name.rsplit('.').nth(1).unwrap_or_default();
    (label.len() > 1 && ending.chars().all(|c| c.is_ascii_lowercase())).then(|| url(m)).flatten()
}

/// The name of a host; an ending of two letters is spelled, but for the "co" of "co.uk".
fn host(name: &str) -> String {
    let (name, port) = name.split_once(':').map_or((name, None), |(name, port)| (name, Some(port)));
    let labels: Vec<&str> = name.split('.').collect();
    let last = labels.len() - 1;
    let label = |(at, label): (usize, &&str)| match at {
        at if at == last && last > 0 && label.len() == 2 => letters(label),
        _ => read(label),
    };
    let read: Vec<String> = labels.iter().enumerate().map(label).collect();
    let port = port.map(|port| format!(" colon {}", spelled(port))).unwrap_or_default();
    read.join(" dot ") + &port
}

/// Part of an address: words, and names for the signs between them.
fn read(part: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut rest = part;
    while let Some(first) = rest.chars().next() {
        let run = |is: fn(char) -> bool| rest.find(|c| !is(c)).unwrap_or(rest.len());
        let end = match first {
            c if c.is_alphabetic() => run(char::is_alphabetic),
            c if c.is_ascii_digit() => run(|c| c.is_ascii_digit()),
            c => c.len_utf8(),
        };
        let (piece, after) = rest.split_at(end);
        rest = after;
        words.push(match first {
            c if c.is_alphabetic() => word(piece),
            c if c.is_ascii_digit() && (piece.len() > 2 || piece.starts_with('0')) => spelled(piece),
            c if c.is_ascii_digit() => piece.to_owned(),
            c => match sign(c) {
                Some(name) => name.to_owned(),
                None => continue,
            },
        });
    }
    words.join(" ")
}

fn sign(c: char) -> Option<&'static str> {
    Some(match c {
        '.' => "dot",
        '/' => "slash",
        '-' => "dash",
        '_' => "underscore",
        '?' => "question mark",
        '=' => "equals",
        '&' => "and",
        '#' => "hash",
        '%' => "percent",
        '~' => "tilde",
        '+' => "plus",
        ':' => "colon",
        '@' => "at",
        ',' => "comma",
        _ => return None,
    })
}

/// A run of letters: a word if it can be one, else its letters.
fn word(run: &str) -> String {
    let has_vowel = run.chars().any(|c| "aeiouyAEIOUY".contains(c) || !c.is_ascii());
    let is_word = has_vowel && run.chars().count() > 2 || SHORT_WORDS.contains(&run.to_ascii_lowercase().as_str());
    if is_word { run.to_owned() } else { letters(run) }
}

/// Words of two letters that stand in addresses as words.
const SHORT_WORDS: [&str; 12] = ["co", "go", "my", "we", "us", "do", "to", "me", "no", "on", "in", "up"];

/// Letter by letter, as the lexicon reads capitals that stand alone; but it takes an A for the article.
fn letters(run: &str) -> String {
    let letter = |c: char| match c.to_ascii_uppercase() {
        'A' => "[A](/ˈA/)".to_owned(),
        c => c.to_string(),
    };
    run.chars().map(letter).collect::<Vec<_>>().join(" ")
}
