//! Numbers that are no quantities: telephone numbers, card and account numbers, codes. They are read digit by digit, with a pause between
//! groups.

use super::super::numbers::spelled;
use super::{Rules, group};
use fancy_regex::Captures;

/// Digits of the shortest number with an area code, and of the longest card.
const DIGITS: (usize, usize) = (7, 20);

pub(super) const RULES: Rules = &[
    // Before the telephone numbers, which its groups look like: DE89 3704 0044 0532 0130 00
    (r"(?<![W])([A-Z]{2})([0-9]{2}(?: [0-9A-Z]{4}){3,7}(?: [0-9A-Z]{1,3})?)(?![W])", account),
    // +49 30 1234567, +1 (555) 123-4567
    (r"(?<![W+])\+[0-9]{1,3}(?:[ .\-/]?\(?[0-9]{1,8}\)?){1,6}(?![W])", telephone),
    // (555) 123-4567, (020) 7946 0958
    (r"(?<![W])\([0-9]{2,5}\) ?[0-9]{3,8}(?:[ .\-][0-9]{2,8}){0,4}(?![W])", telephone),
    // 1-800-555-0199, 555-123-4567, 555.123.4567, 555 123 4567
    (r"(?<![W.,+\-])(?:1[ .\-])?[0-9]{3}([ .\-])[0-9]{3}\1[0-9]{4}(?![W\-]|\.[0-9])", telephone),
    // 030 123456, 0171/1234567, 0800 123 456
    (r"(?<![W.,+\-])0[0-9]{1,5}[ /\-][0-9]{2,8}(?:[ \-][0-9]{1,8}){0,4}(?![W\-]|[.,][0-9])", telephone),
    // 4111 1111 1111 1111
    (r"(?<![W.,+\-])[0-9]{4}(?: [0-9]{4}){2,4}(?![W\-]|[.,][0-9])", telephone),
    // 0042, 4711-0815: a zero in front is no part of a quantity.
    (r"(?<![W.,:/+\-])(?:[0-9]{2,8}-)?0[0-9]{2,11}(?![W\-/:]|[.,][0-9])", zero_first),
    // Call 112 now.
    (
        r"(?<![W])([Cc]all|[Dd]ial|[Rr]ing|[Tt]ext) (112|911|999|110|111|101|116117|311|411|988)(?: or (112|911|999|110|111|101))?(?![W\-/:%]|[.,][0-9]| [a-z]+s\b)",
        emergency,
    ),
    // Extension 4021, ext. 12, PIN 4711
    (r"(?<![W])([Ee]xtension|[Ee]xt\.|PIN|[Cc]ode|code is|PIN is) ([0-9]{3,12})(?![W\-/:%]|[.,][0-9])", named),
    // What is longer than any year, price or street number without a separator is a number of something.
    (r"(?<![W.,$£€¥+\-])[0-9]{7,20}(?![W\-%]|[.,][0-9]| ?[$£€¥°])", code),
];

/// The groups as they are written; a long one is heard better in threes.
fn groups(written: &str) -> String {
    let groups = written.split(|c: char| !c.is_ascii_digit()).filter(|group| !group.is_empty());
    groups.flat_map(threes).map(spelled).collect::<Vec<_>>().join(", ")
}

/// Pieces of three digits, and at the end what is left, up to four. Up to five digits stay together.
fn threes(group: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = group;
    while rest.len() > 5 || (rest.len() == 5 && !pieces.is_empty()) {
        let (piece, after) = rest.split_at(3);
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

fn telephone(m: &Captures<'_>) -> Option<String> {
    let written = group(m, 0);
    let digits = written.bytes().filter(u8::is_ascii_digit).count();
    let (least, most) = DIGITS;
    let plus = if written.starts_with('+') { "plus " } else { "" };
    (least..=most).contains(&digits).then(|| format!("{plus}{}", groups(written)))
}

fn zero_first(m: &Captures<'_>) -> Option<String> {
    Some(groups(group(m, 0)))
}

fn account(m: &Captures<'_>) -> Option<String> {
    let read = |group: &str| {
        let one = |c: char| if c.is_ascii_digit() { spelled(&c.to_string()) } else { c.to_string() };
        group.chars().map(one).collect::<Vec<_>>().join(" ")
    };
    let groups: Vec<String> = group(m, 2).split(' ').map(read).collect();
    Some(format!("{} {}", read(group(m, 1)), groups.join(", ")))
}

fn emergency(m: &Captures<'_>) -> Option<String> {
    let second = m.get(3).map_or_else(String::new, |second| format!(" or {}", spelled(second.as_str())));
    Some(format!("{} {}{second}", group(m, 1), spelled(group(m, 2))))
}

fn named(m: &Captures<'_>) -> Option<String> {
    let name = if group(m, 1).eq_ignore_ascii_case("ext.") { "extension" } else { group(m, 1) };
    Some(format!("{name} {}", groups(group(m, 2))))
}

fn code(m: &Captures<'_>) -> Option<String> {
    // A round number is a quantity: 10000000.
    let digits = group(m, 0);
    (!digits.ends_with("000")).then(|| groups(digits))
}
