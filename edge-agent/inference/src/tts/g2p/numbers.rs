//! Numbers in English words: cardinals, ordinals, years, decimals.
//!
//! The wording is that of the package `num2words`, which the training data was read with: "one thousand, two hundred and
//! thirty-four". The caller splits the words at everything that is not a small letter and drops "and" where it is not spoken.

const ONES: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
const SCALES: [&str; 12] = [
    "",
    "thousand",
    "million",
    "billion",
    "trillion",
    "quadrillion",
    "quintillion",
    "sextillion",
    "septillion",
    "octillion",
    "nonillion",
    "decillion",
];
const ORDINALS: [(&str, &str); 7] = [
    ("one", "first"),
    ("two", "second"),
    ("three", "third"),
    ("five", "fifth"),
    ("eight", "eighth"),
    ("nine", "ninth"),
    ("twelve", "twelfth"),
];
/// Digits of the longest number that has a name here; a longer one is read digit by digit.
const NAMED_DIGITS: usize = 3 * SCALES.len();

/// "one thousand, two hundred and thirty-four". Numbers beyond the decillions are read digit by digit.
pub fn cardinal(digits: &str) -> String {
    let significant = digits.trim_start_matches('0');
    if significant.len() > NAMED_DIGITS {
        return spelled(digits);
    }
    // At most 36 digits, which a u128 holds.
    significant.parse().map_or_else(|_| small_cardinal(0), small_cardinal)
}

/// As [`cardinal`], of a number at hand.
pub fn small_cardinal(mut n: u128) -> String {
    if n < 1000 {
        return below_1000(n as usize);
    }
    let mut groups = Vec::new();
    let mut scale = 0;
    while n > 0 {
        let group = (n % 1000) as usize;
        if group > 0 {
            let name = SCALES.get(scale).copied().unwrap_or_default();
            groups.push(if scale > 0 { format!("{} {name}", below_1000(group)) } else { below_1000(group) });
        }
        n /= 1000;
        scale += 1;
    }
    let last = groups.remove(0);
    groups.reverse();
    if groups.is_empty() {
        return last;
    }
    // "one thousand and one", but "one thousand, two hundred" and "one million, two thousand".
    let joint = if last.contains(' ') { ", " } else { " and " };
    format!("{}{joint}{last}", groups.join(", "))
}

/// "twenty-third", "one hundred and first", "thousandth".
pub fn ordinal(digits: &str) -> String {
    let words = cardinal(digits);
    let cut = words.rfind([' ', '-']).map_or(0, |i| i + 1);
    let (head, last) = words.split_at(cut);
    let last = match ORDINALS.iter().find(|(c, _)| *c == last) {
        Some((_, o)) => (*o).to_string(),
        None => match last.strip_suffix('y') {
            Some(stem) => format!("{stem}ieth"),
            None => format!("{last}th"),
        },
    };
    format!("{head}{last}")
}

/// "nineteen oh-five", "two thousand and five", "twenty ten".
pub fn year(n: u32) -> String {
    let (high, low) = (n / 100, n % 100);
    if high == 0 || (high % 10 == 0 && low < 10) || high >= 100 {
        return small_cardinal(n.into());
    }
    let low = match low {
        0 => "hundred".to_string(),
        1..=9 => format!("oh-{}", small_cardinal(low.into())),
        _ => small_cardinal(low.into()),
    };
    format!("{} {low}", small_cardinal(high.into()))
}

/// "three point one four"; zeros at the end are not read.
pub fn decimal(text: &str) -> String {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = fraction.trim_end_matches('0');
    let whole = cardinal(whole);
    if fraction.is_empty() { whole } else { format!("{whole} point {}", spelled(fraction)) }
}

/// Each digit by its name; anything else is left out.
pub fn spelled(digits: &str) -> String {
    let names: Vec<&str> = digits.chars().filter_map(|c| c.to_digit(10)).map(|d| ONES[d as usize]).collect();
    names.join(" ")
}

fn below_1000(n: usize) -> String {
    let mut words = Vec::new();
    if n >= 100 {
        words.extend([ONES[n / 100], "hundred"]);
        if !n.is_multiple_of(100) {
            words.push("and");
        }
    }
    let rest = n % 100;
    let tens;
    if rest >= 20 {
        tens = match rest % 10 {
            0 => TENS[rest / 10].to_string(),
            one => format!("{}-{}", TENS[rest / 10], ONES[one]),
        };
        words.push(&tens);
    } else if rest > 0 || words.is_empty() {
        words.push(ONES[rest]);
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cardinals() {
        let cases = [
            ("0", "zero"),
            ("007", "seven"),
            ("", "zero"),
            ("19", "nineteen"),
            ("20", "twenty"),
            ("21", "twenty-one"),
            ("100", "one hundred"),
            ("101", "one hundred and one"),
            ("999", "nine hundred and ninety-nine"),
            ("1000", "one thousand"),
            ("1001", "one thousand and one"),
            ("1021", "one thousand and twenty-one"),
            ("1100", "one thousand, one hundred"),
            ("1234", "one thousand, two hundred and thirty-four"),
            ("1002000", "one million, two thousand"),
            ("1000002", "one million and two"),
            (
                "123456789",
                "one hundred and twenty-three million, four hundred and fifty-six thousand, seven hundred and eighty-nine",
            ),
            ("1000000000000000000000000000000000", "one decillion"),
            (
                "1000000000000000000000000000000000000",
                "one zero zero zero zero zero zero zero zero zero zero zero zero zero \
              zero zero zero zero zero zero zero zero zero zero zero zero zero zero zero zero zero zero zero zero zero zero zero",
            ),
        ];
        for (n, words) in cases {
            assert_eq!(cardinal(n), words, "{n}");
        }
        assert_eq!(cardinal(&"9".repeat(5000)).split(' ').count(), 5000);
    }

    #[test]
    fn ordinals() {
        let cases = [
            ("0", "zeroth"),
            ("1", "first"),
            ("12", "twelfth"),
            ("20", "twentieth"),
            ("23", "twenty-third"),
            ("100", "one hundredth"),
            ("101", "one hundred and first"),
            ("1000", "one thousandth"),
        ];
        for (n, words) in cases {
            assert_eq!(ordinal(n), words, "{n}");
        }
    }

    #[test]
    fn years_and_decimals() {
        let years = [
            (1905, "nineteen oh-five"),
            (1900, "nineteen hundred"),
            (2000, "two thousand"),
            (2005, "two thousand and five"),
            (2010, "twenty ten"),
            (2026, "twenty twenty-six"),
            (1066, "ten sixty-six"),
            (1001, "one thousand and one"),
            (99, "ninety-nine"),
        ];
        for (n, words) in years {
            assert_eq!(year(n), words, "{n}");
        }
        for (n, words) in
            [("3.14", "three point one four"), ("2.50", "two point five"), ("7.0", "seven"), (".5", "zero point five")]
        {
            assert_eq!(decimal(n), words, "{n}");
        }
    }
}
