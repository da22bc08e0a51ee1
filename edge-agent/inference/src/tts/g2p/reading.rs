//! One sentence: tokens, their parts, and the phonemes of each.
//!
//! Reading goes from the last word to the first, because what a word sounds like depends on the sound that follows ("the end",
//! "the start"). Tokens without white space between them ("well-known", "B52s") are one run: the reader looks for the longest part
//! the lexicon knows from the left, shortens from the left and then from the right, and gives the whole run to the network for
//! unknown words when a part of it stays unreadable.

use super::characters::{is_apostrophe, is_letter, is_space, is_word};
use super::lexicon::{Context, Lexicon, Query};
use super::numeral::CURRENCIES;
use super::stress::{self, CONSONANTS, PRIMARY, is_vowel};
use super::subtokens::subtokens;

/// Marks that end a phrase.
const PAUSES: &str = ";:,.!?—…";
/// Punctuation that the voice knows: pauses and quotes.
const PUNCTUATION: &str = ";:,.!?—…\"“”";
/// Parts of a run that are looked at together. Finding the longest readable stretch is cubic in them; the longest web address in
/// the texts this was tried on has 50.
const RUN_PARTS_MAX: usize = 64;
/// Signs inside of words that need no sound.
const SILENT: &str = "',-._‘’/";

/// One token of a sentence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Token {
    /// Its letters.
    pub text: String,
    /// Its part of speech.
    pub tag: String,
    /// Whether white space follows.
    pub space: bool,
    /// Its phonemes, once known.
    pub phonemes: Option<String>,
    is_head: bool,
    /// Read as this word instead of its letters.
    alias: Option<&'static str>,
    currency: Option<&'static str>,
    space_before: bool,
}

impl Token {
    /// A token yet to be read.
    pub fn new(text: impl Into<String>, tag: impl Into<String>, space: bool) -> Self {
        Self { text: text.into(), tag: tag.into(), space, is_head: true, ..Self::default() }
    }

    fn is_settled(&self) -> bool {
        self.alias.is_some() || self.phonemes.is_some()
    }

    fn is_silent(&self) -> bool {
        self.text.chars().all(|c| SILENT.contains(c))
    }

    fn query(&self) -> Query<'_> {
        Query { text: self.alias.unwrap_or(&self.text), tag: &self.tag, currency: self.currency, is_head: self.is_head }
    }

    /// What this word is to the one before it.
    fn context(&self, after: Context, phonemes: &str) -> Context {
        let sound = phonemes.chars().find(|&c| is_vowel(c) || CONSONANTS.contains(c) || PAUSES.contains(c));
        let vowel_follows = match sound {
            None => after.vowel_follows,
            Some(c) if PAUSES.contains(c) => None,
            Some(c) => Some(is_vowel(c)),
        };
        let to_follows = matches!(self.text.as_str(), "to" | "To")
            || (self.text == "TO" && matches!(self.tag.as_str(), "TO" | "IN"));
        Context { vowel_follows, to_follows }
    }
}

/// A word, or the parts of a run without white space.
#[derive(Debug)]
enum Word {
    One(Token),
    Run(Vec<Token>),
}

/// The phonemes of a sentence. `unknown` reads the letters of a word that the lexicon does not know.
pub fn phonemes(tokens: Vec<Token>, lexicon: &Lexicon, unknown: &dyn Fn(&str) -> Option<String>) -> String {
    let reader = Reader { lexicon, unknown };
    let mut words = words(tokens);
    let mut context = Context::default();
    for word in words.iter_mut().rev() {
        match word {
            Word::One(token) => {
                if token.phonemes.is_none() {
                    token.phonemes =
                        Some(lexicon.read(token.query(), context).unwrap_or_else(|| reader.fall_back(&token.text)));
                }
                context = token.context(context, token.phonemes.as_deref().unwrap_or_default());
            }
            Word::Run(run) => context = reader.run(run, context),
        }
    }
    let mut out = String::new();
    for word in words {
        let (phonemes, space) = match word {
            Word::One(token) => (token.phonemes.unwrap_or_default(), token.space),
            Word::Run(run) => (joined_phonemes(&run), run.last().is_some_and(|t| t.space)),
        };
        // The flapped t and the glottal stop of the dictionary are written differently in the voice's alphabet.
        out.extend(phonemes.chars().map(|c| match c {
            'ɾ' => 'T',
            'ʔ' => 't',
            c => c,
        }));
        if space {
            out.push(' ');
        }
    }
    out.trim_matches(is_space).to_string()
}

/// Cuts tokens into parts, settles those that are punctuation or currency signs, and gathers runs.
fn words(tokens: Vec<Token>) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut currency: Option<&'static str> = None;
    for (i, token) in tokens.iter().enumerate() {
        let mut parts = if token.is_settled() { vec![token.clone()] } else { parts(token) };
        if let Some(last) = parts.last_mut() {
            last.space = token.space;
        }
        let count = parts.len();
        let ends: Vec<(Option<char>, Option<char>)> =
            parts.iter().map(|p| (p.text.chars().next(), p.text.chars().next_back())).collect();
        for (j, mut part) in parts.into_iter().enumerate() {
            let sign = CURRENCIES.iter().map(|(sign, _)| *sign).find(|sign| *sign == part.text);
            if part.is_settled() {
            } else if let Some(sign) = sign.filter(|_| part.tag == "$") {
                currency = Some(sign);
                part.phonemes = Some(String::new());
            } else if part.tag == ":" && matches!(part.text.as_str(), "-" | "–") {
                part.phonemes = Some("—".into());
            } else if let Some(mark) = punctuation(&part) {
                part.phonemes = Some(mark);
            } else if currency.is_some() {
                if part.tag != "CD" {
                    currency = None;
                } else if j + 1 == count && tokens.get(i + 1).is_none_or(|next| next.tag != "CD") {
                    part.currency = currency;
                }
            } else if 0 < j && j + 1 < count && part.text == "2" {
                let letter = |c: Option<char>| c.is_some_and(char::is_alphabetic);
                if letter(ends[j - 1].1) && letter(ends[j + 1].0) {
                    part.alias = Some("to");
                }
            }
            if part.is_settled() {
                words.push(Word::One(part));
                continue;
            }
            match words.last_mut() {
                Some(Word::Run(run)) if run.len() < RUN_PARTS_MAX && run.last().is_some_and(|t| !t.space) => {
                    part.is_head = false;
                    run.push(part);
                }
                _ if part.space => words.push(Word::One(part)),
                _ => words.push(Word::Run(vec![part])),
            }
        }
    }
    for word in &mut words {
        if let Word::Run(run) = word
            && run.len() == 1
            && let Some(only) = run.pop()
        {
            *word = Word::One(only);
        }
    }
    words
}

fn parts(token: &Token) -> Vec<Token> {
    let texts = subtokens(&token.text);
    if texts.is_empty() {
        return vec![token.clone()];
    }
    let part = |text| Token { text, space: false, is_head: true, space_before: false, ..token.clone() };
    texts.into_iter().map(part).collect()
}

/// What a token with a punctuation tag sounds like, unless it is letters.
fn punctuation(part: &Token) -> Option<String> {
    let tags = [".", ",", "-LRB-", "-RRB-", "``", "\"\"", "''", ":", "$", "#", "NFP"];
    let letters = part.text.chars().all(|c| c.to_lowercase().all(|l| l.is_ascii_lowercase()));
    if !tags.contains(&part.tag.as_str()) || letters {
        return None;
    }
    Some(match part.tag.as_str() {
        "-LRB-" => "(".into(),
        "-RRB-" => ")".into(),
        "``" => "“".into(),
        "\"\"" | "''" => "”".into(),
        _ => part.text.chars().filter(|&c| PUNCTUATION.contains(c)).collect(),
    })
}

struct Reader<'a> {
    lexicon: &'a Lexicon,
    unknown: &'a dyn Fn(&str) -> Option<String>,
}

impl Reader<'_> {
    /// Reads a run in place and says what it is to the word before it.
    fn run(&self, run: &mut [Token], mut context: Context) -> Context {
        let (mut left, mut right) = (0, run.len());
        // The longest stretch ending at `right` that the lexicon reads; then again before it.
        while left < right {
            let stretch = &run[left..right];
            let merged = (!stretch.iter().any(Token::is_settled)).then(|| merge(stretch));
            let read = merged.and_then(|m| Some((self.lexicon.read(m.query(), context)?, m)));
            if let Some((phonemes, merged)) = read {
                context = merged.context(context, &phonemes);
                for token in &mut run[left + 1..right] {
                    token.phonemes = Some(String::new());
                }
                run[left].phonemes = Some(phonemes);
                right = left;
                left = 0;
            } else if left + 1 < right {
                left += 1;
            } else {
                right -= 1;
                let token = &mut run[right];
                if token.phonemes.is_none() {
                    if !token.is_silent() {
                        // A part that cannot be read: the whole run goes to the network.
                        let whole = merge(run);
                        for token in run.iter_mut() {
                            token.phonemes = Some(String::new());
                        }
                        run[0].phonemes = Some(self.fall_back(&whole.text));
                        return context;
                    }
                    token.phonemes = Some(String::new());
                }
                left = 0;
            }
        }
        settle_run(run);
        context
    }

    /// A word nobody knows: letters go to the network, digits are read as a number, signs by their names.
    fn fall_back(&self, text: &str) -> String {
        let mut read = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (length, phonemes) = if is_letter(first) {
                let length = letters(rest);
                (length, (self.unknown)(&rest[..length]))
            } else if first.is_ascii_digit() {
                let length = digits(rest);
                (length, self.lexicon.number(&rest[..length], None, false))
            } else if is_word(first) || is_space(first) {
                (first.len_utf8(), None)
            } else {
                let length = rest.find(|c| is_word(c) || is_space(c)).unwrap_or(rest.len());
                (length, Some(rest[..length].chars().map(sign).collect()))
            };
            read.extend(phonemes.filter(|p| !p.is_empty()));
            rest = &rest[length..];
        }
        read.join(" ")
    }
}

/// Bytes of letters at the front, with apostrophes between them.
fn letters(text: &str) -> usize {
    let mut end = 0;
    loop {
        let tail = &text[end..];
        let run = tail.find(|c| !is_letter(c)).unwrap_or(tail.len());
        end += run;
        let mut next = text[end..].chars();
        match (next.next(), next.next()) {
            (Some(a), Some(l)) if is_apostrophe(a) && a != '‘' && is_letter(l) => end += a.len_utf8(),
            _ => return end,
        }
    }
}

/// Bytes of digits at the front, with single separators between them.
fn digits(text: &str) -> usize {
    let b = text.as_bytes();
    let digit = |i: usize| b.get(i).is_some_and(u8::is_ascii_digit);
    let mut end = 0;
    while digit(end) || (matches!(b.get(end), Some(b',' | b'.')) && digit(end + 1)) {
        end += 1;
    }
    end
}

/// The name of a sign that stands where letters were expected.
fn sign(c: char) -> &'static str {
    match c {
        '/' => "slˈæʃ",
        '=' => "ˈikwᵊlz",
        '+' => "plˈʌs",
        '&' => "ænd",
        '@' => "æt",
        '%' => "pəɹsˈɛnt",
        '#' => "hˈæʃ",
        '*' => "ˈæstəɹˌɪsk",
        '~' => "tˈɪldə",
        '^' => "kˈɛɹət",
        '<' => "lˈɛs ðən",
        '>' => "ɡɹˈATəɹ ðən",
        '—' => "—",
        _ => "",
    }
}

/// Several tokens as one; the part of speech is that of the longest, capitals counting double.
fn merge(tokens: &[Token]) -> Token {
    let mut text = String::new();
    let last = tokens.len().saturating_sub(1);
    for (i, token) in tokens.iter().enumerate() {
        text += &token.text;
        if token.space && i < last {
            text.push(' ');
        }
    }
    let weight = |t: &Token| -> usize { t.text.chars().map(|c| if c.to_lowercase().eq([c]) { 1 } else { 2 }).sum() };
    let mut heaviest = tokens.first();
    for token in tokens {
        if heaviest.is_none_or(|h| weight(token) > weight(h)) {
            heaviest = Some(token);
        }
    }
    Token {
        text,
        tag: heaviest.map(|t| t.tag.clone()).unwrap_or_default(),
        space: tokens.last().is_some_and(|t| t.space),
        is_head: tokens.first().is_some_and(|t| t.is_head),
        currency: tokens.iter().filter_map(|t| t.currency).max(),
        ..Token::default()
    }
}

/// Settles what a run that was read in parts still lacks: silent signs, spaces between parts of different kinds, and stress,
/// of which a word has one main.
fn settle_run(run: &mut [Token]) {
    let whole = merge(run).text;
    let mut kinds = [false; 3];
    for c in whole.chars().filter(|&c| !SILENT.contains(c)) {
        kinds[if c.is_alphabetic() { 0 } else { 2 - usize::from(c.is_ascii_digit()) }] = true;
    }
    let apart = whole.contains([' ', '/']) || kinds.iter().filter(|&&k| k).count() > 1;
    let last = run.len().saturating_sub(1);
    for (i, token) in run.iter_mut().enumerate() {
        if token.phonemes.is_none() {
            let mut chars = token.text.chars();
            let pause = chars.next().is_some_and(|c| PAUSES.contains(c)) && chars.next().is_none();
            if i == last && pause {
                token.phonemes = Some(token.text.clone());
            } else if token.is_silent() {
                token.phonemes = Some(String::new());
            }
        } else if i > 0 {
            token.space_before = apart;
        }
    }
    if apart {
        return;
    }
    let mut sounding: Vec<(bool, usize, usize)> = run
        .iter()
        .enumerate()
        .filter_map(|(i, t)| {
            let p = t.phonemes.as_deref().filter(|p| !p.is_empty())?;
            Some((p.contains(PRIMARY), stress::weight(p), i))
        })
        .collect();
    // "T-shirt": one letter keeps the main stress.
    let first_is_letter = sounding.first().is_some_and(|&(_, _, i)| run[i].text.chars().count() == 1);
    let mut weaken = |i: usize| {
        let weaker = run[i].phonemes.as_deref().map(|p| stress::apply(p, Some(-0.5)));
        run[i].phonemes = weaker;
    };
    if let [_, (_, _, second)] = sounding[..]
        && first_is_letter
    {
        weaken(second);
        return;
    }
    let stressed = sounding.iter().filter(|(primary, ..)| *primary).count();
    if sounding.len() < 2 || stressed <= sounding.len().div_ceil(2) {
        return;
    }
    let half = sounding.len() / 2;
    sounding.sort_unstable();
    for &(_, _, i) in &sounding[..half] {
        weaken(i);
    }
}

/// The phonemes of a run, with spaces where parts of different kinds meet.
fn joined_phonemes(run: &[Token]) -> String {
    let mut out = String::new();
    for token in run {
        let phonemes = token.phonemes.as_deref().unwrap_or_default();
        if token.space_before && !phonemes.is_empty() && out.chars().next_back().is_some_and(|c| !is_space(c)) {
            out.push(' ');
        }
        out += phonemes;
    }
    out
}
