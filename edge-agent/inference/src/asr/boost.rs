//! Phrases that a caller is likely to say: names and terms of art that the network alone would write as something else.
//!
//! Contextual biasing by shallow fusion (Zhao et al., "Shallow-Fusion End-to-End Contextual Biasing", 2019): whatever goes on along a
//! phrase gets a bonus on its logit. Two things differ from the usual token trie. Phrases are followed by their letters and not by
//! one tokenisation of them, since the network spells a rare name as it likes. And a greedy transcript has no other hypothesis to which a
//! refund could be weighed, so the refund is to go back: where a phrase that a bonus began does not come whole, what was written is
//! taken back to that token and written again without it.
//!
//! What is not boosted is not touched: without a phrase on its way the likeliest token is taken, the very same as without a list.

use super::vocabulary::Vocabulary;
use nearfield_shared::assistant::{WORD_CHARS, WORDS_MAX};

/// What a token that goes on along a phrase is given: it may be e to this power less likely than the likeliest one. Much, because what
/// does not become a whole phrase is taken back. With 3.5 four of the twelve phrases in `tests/tests/asr_boost.rs` are heard, with 5
/// eight, with 6 and more nine; from 8 on small words beside a phrase begin to vanish.
const BONUS: f32 = 6.0;

/// Times that one transcript goes back; after that its list is let go of. Each costs a few tokens.
const BACKTRACKS_MAX: usize = 16;

/// The phrases of one transcript, and how far they have come.
pub(super) struct Boost {
    /// Each with a space before it, because a phrase begins with a word.
    phrases: Vec<Vec<u8>>,
    /// Tokens with which a phrase can begin: the phrase, the token, its length.
    begins: Vec<(usize, u32, usize)>,
    matches: Vec<Match>,
    /// Places of tokens that only a bonus made the likeliest, and that are not yet part of a whole phrase.
    forced: Vec<usize>,
    /// Places at which no bonus is given any more.
    banned: Vec<usize>,
    is_off: bool,
}

/// A phrase that may be on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Match {
    phrase: usize,
    /// Bytes of it that were written.
    matched: usize,
    /// Place of its first token.
    begins: usize,
}

impl Boost {
    /// Prepares phrases; `None` where nothing of the list can be boosted.
    pub fn new(words: &[String], vocabulary: &Vocabulary) -> Option<Self> {
        let mut phrases: Vec<Vec<u8>> = Vec::new();
        for word in words.iter().take(WORDS_MAX) {
            let word = word.split_whitespace().collect::<Vec<_>>().join(" ");
            if word.is_empty() || word.chars().count() > WORD_CHARS.1 {
                continue;
            }
            // At the beginning of a sentence it has a capital letter.
            let mut letters = word.chars();
            let capital: String = letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect();
            for spelling in [word, capital] {
                let bytes = format!(" {spelling}").into_bytes();
                if !phrases.contains(&bytes) {
                    phrases.push(bytes);
                }
            }
        }
        let begins: Vec<_> = (0..)
            .zip(&phrases)
            .flat_map(|(n, phrase)| vocabulary.beginnings(phrase).map(move |(token, length)| (n, token, length)))
            .collect();
        let (matches, forced, banned) = (Vec::new(), Vec::new(), Vec::new());
        (!begins.is_empty()).then_some(Self { phrases, begins, matches, forced, banned, is_off: false })
    }

    /// The token for the next place, where `likeliest` is the network's own.
    pub fn choose(&self, place: usize, likeliest: u32, logits: &[f32], vocabulary: &Vocabulary) -> u32 {
        if self.is_off || self.banned.contains(&place) {
            return likeliest;
        }
        let logit = |token: u32| logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let begin = self.begins.iter().map(|(_, token, _)| *token);
        let go_on = self.matches.iter().flat_map(|m| vocabulary.beginnings(&self.phrases[m.phrase][m.matched..]));
        let boosted = begin.chain(go_on.map(|(token, _)| token));
        let (mut best, mut score) = (likeliest, logit(likeliest));
        for token in boosted {
            let with_bonus = logit(token) + BONUS;
            if with_bonus > score {
                (best, score) = (token, with_bonus);
            }
        }
        best
    }

    /// Takes note of a token that was written at a place, or of the transcript's end where it is `None`. Returns the place to which the
    /// transcript goes back, where a phrase that a bonus began has not come whole.
    pub fn wrote(&mut self, place: usize, token: Option<u32>, forced: bool, vocabulary: &Vocabulary) -> Option<usize> {
        if forced {
            self.forced.push(place);
        }
        let bytes = token.map_or(&[][..], |token| vocabulary.bytes(token));
        let before = self.matches.clone();
        self.follow(place, token, bytes);
        // After a whole phrase the word must end, too: `renew` is not meant where `renewal` is said.
        let ends_word =
            token.is_none() || bytes.first().is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte < 0x80);
        let is_whole = |m: &Match| m.matched == self.phrases[m.phrase].len();
        for whole in before.iter().filter(|m| is_whole(m) && ends_word) {
            self.forced.retain(|at| !(whole.begins..place).contains(at));
        }
        let on_its_way = |at: usize| self.matches.iter().any(|m| m.begins <= at);
        let lost = self.forced.iter().copied().filter(|at| !on_its_way(*at)).min()?;
        self.banned.push(lost);
        self.is_off |= self.banned.len() >= BACKTRACKS_MAX;
        Some(lost)
    }

    /// The transcript went back to these tokens.
    pub fn went_back(&mut self, tokens: &[u32], vocabulary: &Vocabulary) {
        self.forced.retain(|at| *at < tokens.len());
        self.matches.clear();
        for (place, token) in tokens.iter().enumerate() {
            self.follow(place, Some(*token), vocabulary.bytes(*token));
        }
    }

    /// Moves on along the phrases; those that do not go on are let go of.
    fn follow(&mut self, place: usize, token: Option<u32>, bytes: &[u8]) {
        let phrases = &self.phrases;
        self.matches.retain_mut(|m| {
            let goes_on = !bytes.is_empty() && phrases[m.phrase][m.matched..].starts_with(bytes);
            m.matched += bytes.len();
            goes_on
        });
        let begun = self.begins.iter().filter(|(_, begin, _)| Some(*begin) == token);
        self.matches.extend(begun.map(|(phrase, _, matched)| Match {
            phrase: *phrase,
            matched: *matched,
            begins: place,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u32 = 0;

    fn vocabulary() -> Vocabulary {
        Vocabulary::of(&["", " my", " Sio", "bh", "an", " She", " is", " Shiv", "on", ".", " renew", "al", " S", "i"])
    }

    fn token(text: &str, vocabulary: &Vocabulary) -> u32 {
        (0..).find(|id| vocabulary.bytes(*id) == text.as_bytes()).expect("a token")
    }

    /// Writes what a network would that gives each step's texts these logits; anything else has none.
    fn write(words: &[&str], network: impl Fn(&[u32], &Vocabulary) -> Vec<(&'static str, f32)>) -> (String, usize) {
        let vocabulary = vocabulary();
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        let mut boost = Boost::new(&words, &vocabulary);
        let (mut tokens, mut steps) = (Vec::new(), 0);
        loop {
            steps += 1;
            assert!(steps < 200, "it ends");
            let mut logits = vec![-100.0f32; vocabulary.len()];
            for (text, logit) in network(&tokens, &vocabulary) {
                logits[if text.is_empty() { END } else { token(text, &vocabulary) } as usize] = logit;
            }
            let likeliest = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).expect("some") as u32;
            let place = tokens.len();
            let chosen = boost.as_ref().map_or(likeliest, |b| b.choose(place, likeliest, &logits, &vocabulary));
            let written = (chosen != END).then_some(chosen);
            tokens.extend(written);
            let back = boost.as_mut().and_then(|b| b.wrote(place, written, chosen != likeliest, &vocabulary));
            match back {
                Some(place) => {
                    tokens.truncate(place);
                    boost.as_mut().expect("it went back").went_back(&tokens, &vocabulary);
                }
                None if written.is_none() => return (vocabulary.text(&tokens), steps),
                None => {}
            }
        }
    }

    /// A network that hears "Siobhan" as "Shivon", and knows the letters of the name if it is led there.
    fn hears_shivon(tokens: &[u32], v: &Vocabulary) -> Vec<(&'static str, f32)> {
        match v.text(tokens).as_str() {
            "" => vec![(" my", 5.0)],
            "my" => vec![(" Shiv", 5.0), (" Sio", 3.0), (" S", 2.0)],
            "my Shiv" => vec![("on", 5.0)],
            "my Sio" => vec![("bh", 4.0), ("on", 6.0)],
            "my Siobh" => vec![("an", 4.0), (".", 5.0)],
            _ => vec![("", 5.0)],
        }
    }

    #[test]
    fn a_name_is_written_with_its_list_and_otherwise_what_the_network_hears() {
        assert_eq!(write(&[], hears_shivon), ("my Shivon".into(), 4));
        assert_eq!(write(&["Siobhan"], hears_shivon), ("my Siobhan".into(), 5));
        assert_eq!(write(&["renewal"], hears_shivon), ("my Shivon".into(), 4), "a list of other words changes nothing");
    }

    #[test]
    fn a_phrase_that_does_not_come_whole_is_taken_back() {
        // Led to " Sio", the network hears nothing of the rest.
        let network = |tokens: &[u32], v: &Vocabulary| match v.text(tokens).as_str() {
            "my Sio" => vec![("on", 9.0), ("bh", 1.0)],
            _ => hears_shivon(tokens, v),
        };
        let (text, steps) = write(&["Siobhan"], network);
        assert_eq!(text, "my Shivon");
        assert!(steps <= 7, "{steps}");
        // Nor where the transcript ends in the middle of it.
        let ends = |tokens: &[u32], v: &Vocabulary| match v.text(tokens).as_str() {
            "my Siobh" => vec![("", 9.0), ("an", 1.0)],
            _ => hears_shivon(tokens, v),
        };
        assert_eq!(write(&["Siobhan"], ends).0, "my Shivon");
    }

    #[test]
    fn a_whole_phrase_must_end_its_word_where_a_bonus_made_it() {
        let network = |tokens: &[u32], v: &Vocabulary| match v.text(tokens).as_str() {
            "" => vec![(" is", 5.0), (" renew", 4.0)],
            "renew" => vec![("al", 9.0)],
            _ => vec![("", 5.0)],
        };
        assert_eq!(write(&["renew"], network).0, "is");
        assert_eq!(write(&["renewal"], network).0, "renewal");
    }

    #[test]
    fn going_back_has_an_end() {
        // Every place tempts with the beginning of the phrase, and nothing of it follows.
        let network = |tokens: &[u32], _: &Vocabulary| {
            if tokens.len() < 40 { vec![(" is", 5.0), (" Sio", 4.0)] } else { vec![("", 5.0)] }
        };
        let (text, steps) = write(&["Siobhan"], network);
        assert_eq!(text, ["is"; 40].join(" "));
        assert!(steps <= 41 + 2 * BACKTRACKS_MAX, "{steps}");
    }

    #[test]
    fn lists_are_bounded_and_begin_sentences_with_a_capital() {
        let v = vocabulary();
        let many: Vec<String> = (0..3 * WORDS_MAX).map(|n| format!("is {n}")).collect();
        assert_eq!(Boost::new(&many, &v).expect("some").phrases.len(), 2 * WORDS_MAX);
        assert!(Boost::new(&["x".repeat(WORD_CHARS.1 + 1), " ".into()], &v).is_none());
        let phrases = Boost::new(&["is  renewal".into()], &v).expect("some").phrases;
        assert_eq!(phrases, [b" is renewal".to_vec(), b" Is renewal".to_vec()]);
    }
}
