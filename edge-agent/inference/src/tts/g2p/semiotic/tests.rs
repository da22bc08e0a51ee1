use super::*;

fn check(cases: &[(&str, &str)]) {
    let semiotic = Semiotic::new().expect("the rules compile");
    for (text, expect) in cases {
        assert_eq!(semiotic.write_out(text), *expect, "{text:?}");
    }
}

/// What the rules must leave to others, or alone.
fn check_kept(texts: &[&str]) {
    let cases: Vec<(&str, &str)> = texts.iter().map(|text| (*text, *text)).collect();
    check(&cases);
}

#[test]
fn e_mail_addresses() {
    check(&[
        ("Write to info@example.com.", "Write to info at example dot com."),
        ("jane.doe-2@mail.example.co.uk", "jane dot doe dash 2 at mail dot example dot co dot U K"),
        ("j.smith_1987@gmx.de, please", "J dot smith underscore one nine eight seven at G M X dot D E, please"),
        ("a+b@example.org", "[A](/ˈA/) plus B at example dot org"),
    ]);
    check_kept(&["Follow @nearfield.", "two @ five", "a@b", "@", "x@.com"]);
}

#[test]
fn urls() {
    check(&[
        (
            "See https://www.example.com/help?id=5.",
            "See W W W dot example dot com slash help question mark I D equals 5.",
        ),
        ("Go to example.com/", "Go to example dot com"),
        ("(www.example.org/a-b)", "(W W W dot example dot org slash [A](/ˈA/) dash B)"),
        ("http://localhost:8080", "localhost colon eight zero eight zero"),
        ("example.io!", "example dot I O!"),
    ]);
    check_kept(&[
        "at 5 p.m. we go",
        "the U.S. and the U.K.",
        "I saw it.It was red.",
        "Version 10.0.3",
        "192.168.1.1",
        "[here](https://example.com)",
        "one.two",
    ]);
}

#[test]
fn telephone_numbers() {
    check(&[
        ("Call +49 30 1234567.", "Call plus four nine, three zero, one two three, four five six seven."),
        ("+1 (555) 123-4567", "plus one, five five five, one two three, four five six seven"),
        ("(555) 123-4567", "five five five, one two three, four five six seven"),
        ("(020) 7946 0958", "zero two zero, seven nine four six, zero nine five eight"),
        ("1-800-555-0199", "one, eight zero zero, five five five, zero one nine nine"),
        ("555 123 4567 now", "five five five, one two three, four five six seven now"),
        ("0800 123 456", "zero eight zero zero, one two three, four five six"),
        ("030/1234567", "zero three zero, one two three, four five six seven"),
        ("Dial 112 if it burns.", "Dial one one two if it burns."),
        ("Call 911 or 112.", "Call nine one one or one one two."),
    ]);
    check_kept(&["Call 112 customers.", "555-1234", "2 + 2", "+44", "in 2024 5 people", "3-2 is 1"]);
}

#[test]
fn codes_and_accounts() {
    check(&[
        ("order 84720193", "order eight four seven, two zero one, nine three"),
        ("PIN 0042", "PIN zero zero four two"),
        ("the code is 007", "the code is zero zero seven"),
        ("4711-0815", "four seven one one, zero eight one five"),
        ("ext. 12 and ext. 4021", "extension 12 and extension four zero two one"),
        ("extension 4021", "extension four zero two one"),
        (
            "DE89 3704 0044 0532 0130 00",
            "D E eight nine, three seven zero four, zero zero four four, zero five three two, zero one three zero, zero zero",
        ),
        ("4111 1111 1111 1111", "four one one one, one one one one, one one one one, one one one one"),
    ]);
    check_kept(&["1,000,000 people", "10000000 stars", "in 2024", "room 101", "0.5", "10:05", "flight LH123"]);
}

#[test]
fn prices() {
    check(&[
        ("12.50 €", "€12.50"),
        ("12,50 €.", "€12.50."),
        ("5€ each", "€5 each"),
        ("1.234,56 EUR", "€1234.56"),
        ("1,234 €", "€1234"),
        ("€12,50", "€12.50"),
        ("USD 12.50", "$12.50"),
        ("$1,234.56", "$1234.56"),
        ("$5-$10 per head", "$5 to $10 per head"),
        ("£5–10", "£5 to £10"),
        ("CHF 20", "20 francs"),
        ("1.50 CHF", "1 franc 50"),
    ]);
    check_kept(&["€12.50", "$5", "$3.5 million", "£2bn", "USD 35"]);
}

#[test]
fn spans_times_and_dates() {
    check(&[
        ("50-60%", "50 to 60%"),
        ("5–10°C", "5 to 10°C"),
        ("09:00–17:00", "09:00 to 17:00"),
        ("9am - 5pm", "9am to 5pm"),
        ("from 17:30 h", "from 17:30"),
        ("open 24/7", "open twenty-four seven"),
        ("on 22.11.2026.", "on 2026-11-22."),
        ("1.2.2026", "2026-02-01"),
    ]);
    check_kept(&["10-12", "32.11.2026", "1.2.3", "17:30", "3/4"]);
}

#[test]
fn measures() {
    check(&[
        ("5 m", "5 meters"),
        ("1 h", "1 hour"),
        ("2.5 l of milk", "2.5 liters of milk"),
        ("100 m²", "100 square meters"),
        ("uses 60 W", "uses 60 watts"),
        ("5x5", "5 by 5"),
    ]);
    check_kept(&["$5 m", "5 m-long", "5 mm", "5 I'm", "x5 m", "5 t-shirts", "5G", "5 × 4"]);
}

#[test]
fn abbreviations() {
    check(&[
        ("fruit, e.g. apples, i.e. two", "fruit, for example apples, that is two"),
        ("E.g. this", "For example this"),
        ("pens, etc. are", "pens, et cetera are"),
        ("pens, etc.", "pens, et cetera."),
        ("approx. 5 minutes", "approximately 5 minutes"),
        ("Approx. Five", "Approximately Five"),
        ("Read No. 5, Nos. 6 and 7.", "Read Number 5, Numbers 6 and 7."),
        ("no. 5", "number 5"),
        ("incl. tax", "including tax"),
        ("max. 3, min. 2", "at most 3, at least 2"),
        ("and/or", "and or"),
        ("C++ and C#", "C plus plus and C sharp"),
        ("incl. VAT.", "including [VAT](/vˌiˌAtˈi/)."),
        ("Come ASAP.", "Come as soon as possible."),
    ]);
    check_kept(&["No. Never.", "Max is here.", "5 min. later", "a text. And", "he/she", "fox.txt"]);
}

#[test]
fn what_is_written_out_stays_so() {
    let semiotic = Semiotic::new().expect("the rules compile");
    for text in
        ["info@example.com", "+49 30 1234567", "12,50 €", "22.11.2026", "e.g. 5 m", "DE89 3704 0044 0532 0130 00"]
    {
        let once = semiotic.write_out(text);
        assert_eq!(semiotic.write_out(&once), once, "{text:?}");
    }
}

#[test]
fn hostile_text_ends() {
    let semiotic = Semiotic::new().expect("the rules compile");
    for piece in [
        "1",
        "1.",
        "1,",
        "+1",
        "+1 ",
        "(1",
        "0 ",
        "01 ",
        "a.",
        "a@",
        "a@a.",
        "a-",
        "www.",
        "http://",
        "€1",
        "1€",
        "1 €,",
        "1:1",
        "DE11 1111 ",
        "1111 ",
        "e.g",
        "1-",
        "1x",
        "/",
        "😀",
        "\u{300}",
        "AA11 AAAA ",
    ] {
        let text = piece.repeat(10_000 / piece.len());
        assert!(semiotic.write_out(&text).len() < 40 * text.len(), "{piece}");
    }
}
