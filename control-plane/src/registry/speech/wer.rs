//! Word errors between what was said and what was heard, after both were written the same way: lower case, digits as words, no
//! punctuation. What a figure counts is the whole point of a figure, so every test uses this one function.

/// Edits that turn one text into the other, and the words they are measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WordErrors {
    /// Words inserted, left out or replaced.
    pub errors: usize,
    /// Words of the reference.
    pub words: usize,
}

impl WordErrors {
    /// Errors as a share of the words, in percent.
    pub fn percent(self) -> f64 {
        100.0 * self.errors as f64 / self.words.max(1) as f64
    }
}

impl std::ops::AddAssign for WordErrors {
    fn add_assign(&mut self, other: Self) {
        self.errors += other.errors;
        self.words += other.words;
    }
}

/// Compares what was heard with what was said.
pub fn word_errors(said: &str, heard: &str) -> WordErrors {
    let (said, heard) = (words(said), words(heard));
    WordErrors { errors: distance(&said, &heard), words: said.len() }
}

/// The words of a text, written one way.
pub fn words(text: &str) -> Vec<String> {
    const NUMBERS: [&str; 13] =
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
    let text = text.to_lowercase().replace('’', "'").replace("mr.", "mister").replace("mr ", "mister ");
    let text = text.replace("metres", "meters");
    let runs = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
    let mut spaced = String::with_capacity(text.len());
    let mut last = ' ';
    for c in text.chars() {
        // A long run of digits was read out digit by digit.
        if runs >= 4 && c.is_ascii_digit() && last.is_ascii_digit() {
            spaced.push(' ');
        }
        last = c;
        spaced.push(if c.is_ascii_alphanumeric() || c == '\'' { c } else { ' ' });
    }
    spaced
        .split_whitespace()
        .map(|w| match w.parse::<usize>() {
            Ok(n) if n < NUMBERS.len() && w == n.to_string() => NUMBERS[n].to_owned(),
            _ => w.replace('\'', ""),
        })
        .collect()
}

fn distance(a: &[String], b: &[String]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_compared_as_spoken() {
        let check = |said: &str, heard: &str, errors: usize, words: usize| {
            assert_eq!(word_errors(said, heard), WordErrors { errors, words }, "{said} / {heard}");
        };
        check("go forward ten meters", "Go forward 10 metres.", 0, 4);
        check("two nine three four zero", "29340", 0, 5);
        check("mister john dashwood", "Mr. John Dashwood", 0, 3);
        check("he might even", "He might have even", 1, 3);
        check("don't", "Don’t!", 0, 1);
        check("one two three", "", 3, 3);
        check("", "hello", 1, 0);
        check("a b c", "a x c", 1, 3);
        assert_eq!(word_errors("a b c d", "a b c").percent(), 25.0);
    }
}
