//! Texts at which an answer stops.

/// Looks for them while the answer arrives. What may be the beginning of one is held back.
#[derive(Debug, Clone, Default)]
pub struct Stops {
    stops: Vec<String>,
    held: String,
    is_found: bool,
}

impl Stops {
    /// Stops at any of these; none of them is empty.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new(), is_found: false }
    }

    /// Takes the next words; returns those that are certainly before a stop.
    pub fn push(&mut self, words: &str) -> String {
        if self.is_found {
            return String::new();
        }
        self.held.push_str(words);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.is_found = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let begins = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let until = self.held.char_indices().map(|(at, _)| at).find(begins).unwrap_or(self.held.len());
        let rest = self.held.split_off(until);
        std::mem::replace(&mut self.held, rest)
    }

    /// Whether the answer has come to a stop.
    pub fn is_found(&self) -> bool {
        self.is_found
    }

    /// The answer is over: returns what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut stops = Stops::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut out: String = pieces.iter().map(|piece| stops.push(piece)).collect();
        out.push_str(&stops.finish());
        (out, stops.is_found())
    }

    #[test]
    fn an_answer_ends_before_the_first_stop_wherever_it_was_cut() {
        assert_eq!(run(&["END"], &["one E", "N", "D two"]), ("one ".into(), true));
        assert_eq!(run(&["END"], &["one E", "N", "T"]), ("one ENT".into(), false));
        assert_eq!(run(&["b", "ab"], &["xab"]), ("x".into(), true));
        assert_eq!(run(&["aab"], &["aa", "ab"]), ("a".into(), true));
        assert_eq!(run(&["ü"], &["über"]), ("".into(), true));
        assert_eq!(run(&[], &["all", " of it"]), ("all of it".into(), false));
        assert_eq!(run(&["\n"], &["a\nb", "c\n"]), ("a".into(), true));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[abü]{0,30}", stops in prop::collection::vec("[abü]{1,4}", 0..4)) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let letters: Vec<String> = text.chars().map(String::from).collect();
            let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
            let (out, found) = run(&stops, &letters);
            prop_assert_eq!(found, stops.iter().any(|stop| text.contains(stop)));
            prop_assert!(text.starts_with(&out) && stops.iter().all(|stop| !out.contains(stop)));
            if !found {
                prop_assert_eq!(out, text);
            }
        }
    }
}
