//! Prices, spans, dates and measures in the forms that the package's rules do not know.

use super::{Rules, group};
use fancy_regex::Captures;

pub(super) const RULES: Rules = &[
    // 12.50 €, 12,50 EUR, 5€, 1.234,56 €
    (r"(?<![W.,])([0-9]+(?:[.,][0-9]{3})*(?:[.,][0-9]{1,2})?) ?(€|\$|£|EUR|USD|GBP)(?![W]|[0-9])", sign_behind),
    // €12,50, EUR 12.50
    (
        r"(?<![W])(€|\$|£|EUR|USD|GBP) ?([0-9]+(?:[.,][0-9]{3})*[.,][0-9]{2})(?![W]|[.,][0-9]| ?(?:million|billion|trillion|thousand))",
        sign_before,
    ),
    // CHF 20
    (r"(?<![W])CHF ?([0-9]+(?:[.,'’][0-9]{3})*(?:[.,][0-9]{1,2})?)(?![W])", francs),
    (r"(?<![W.,])([0-9]+(?:[.,'’][0-9]{3})*(?:[.,][0-9]{1,2})?) ?CHF(?![W])", francs),
    // $5-$10, €5–10
    (
        r"([$£€])([0-9]+(?:\.[0-9]{2})?) ?[\-–] ?\1?([0-9]+(?:\.[0-9]{2})?)(?![W]|[.,][0-9]| ?(?:million|billion|trillion|thousand|[kKmMbB]\b))",
        prices,
    ),
    // 50-60 %, 5-10°C, 2-3 kg
    (
        r"(?<![W.,\-])([0-9]{1,4}(?:\.[0-9]+)?) ?[\-–] ?([0-9]{1,4}(?:\.[0-9]+)?)(?= ?(?:%|°|(?:km|cm|mm|kg|mg|lbs?|oz|ml|GB|MB|mins?|hrs?|secs?)(?![W])))",
        span,
    ),
    // 09:00–17:00, 9 am - 5 pm
    (
        r"(?<![W:])([0-9]{1,2}:[0-9]{2}(?: ?[AaPp]\.?[Mm]\.?)?|[0-9]{1,2} ?[AaPp]\.?[Mm]\.?) ?[\-–] ?(?=[0-9]{1,2}(?::[0-9]{2}| ?[AaPp]\.?[Mm]))",
        span_of_time,
    ),
    // 17:30 h, 17:30 hrs
    (r"(?<![W:])([0-9]{1,2}:[0-9]{2}) ?(?:h|hrs|Uhr)(?![W])", clock),
    (r"(?<![W/])24/7(?![W/])", around_the_clock),
    // 22.11.2026
    (r"(?<![W.])(0?[1-9]|[12][0-9]|3[01])\.(0?[1-9]|1[0-2])\.((?:19|20)[0-9]{2})(?![W]|\.[0-9])", day_first),
    // 5 m, 100 m², 2 h, 3 L; what has longer names is in the package's own table
    (
        r"(?<![W.,$£€])([0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?) ?(m²|km²|m³|m/s|kcal|ha|m|g|l|L|h|W|V)(?![W]|[/'’\-])",
        measure,
    ),
    // 5x5, 5 x 5
    (r"(?<![W.,])([0-9]+(?:\.[0-9]+)?) ?x ?(?=[0-9])", by),
];

/// The amount with a point before the hundredths and nothing between the thousands; `None` where it cannot be told which is which.
fn plain(amount: &str) -> Option<String> {
    let digits = |s: &str| s.chars().filter(char::is_ascii_digit).collect::<String>();
    match amount.rfind(['.', ',']) {
        Some(at) if amount.len() - at - 1 < 3 => Some(format!("{}.{:0<2}", digits(&amount[..at]), &amount[at + 1..])),
        // What has a mark before three digits is a number of thousands, in either custom.
        _ => Some(digits(amount)),
    }
}

fn sign(written: &str) -> &str {
    match written {
        "EUR" => "€",
        "USD" => "$",
        "GBP" => "£",
        sign => sign,
    }
}

fn sign_behind(m: &Captures<'_>) -> Option<String> {
    Some(format!("{}{}", sign(group(m, 2)), plain(group(m, 1))?))
}

fn sign_before(m: &Captures<'_>) -> Option<String> {
    Some(format!("{}{}", sign(group(m, 1)), plain(group(m, 2))?))
}

fn francs(m: &Captures<'_>) -> Option<String> {
    let amount = plain(group(m, 1))?;
    let (whole, hundredths) = amount.split_once('.').unwrap_or((&amount, "00"));
    let francs = if whole == "1" { "franc" } else { "francs" };
    Some(match hundredths.trim_start_matches('0') {
        "" => format!("{whole} {francs}"),
        hundredths => format!("{whole} {francs} {hundredths}"),
    })
}

fn prices(m: &Captures<'_>) -> Option<String> {
    let sign = group(m, 1);
    Some(format!("{sign}{} to {sign}{}", group(m, 2), group(m, 3)))
}

fn span(m: &Captures<'_>) -> Option<String> {
    Some(format!("{} to {}", group(m, 1), group(m, 2)))
}

fn span_of_time(m: &Captures<'_>) -> Option<String> {
    Some(format!("{} to ", group(m, 1)))
}

fn clock(m: &Captures<'_>) -> Option<String> {
    Some(group(m, 1).to_owned())
}

fn around_the_clock(_: &Captures<'_>) -> Option<String> {
    Some("twenty-four seven".to_owned())
}

/// As the ISO form, which the package's rules read.
fn day_first(m: &Captures<'_>) -> Option<String> {
    Some(format!("{}-{:0>2}-{:0>2}", group(m, 3), group(m, 2), group(m, 1)))
}

fn measure(m: &Captures<'_>) -> Option<String> {
    let (number, one) = (group(m, 1), group(m, 1) == "1");
    let (singular, plural) = match group(m, 2) {
        "m" => ("meter", "meters"),
        "m²" => ("square meter", "square meters"),
        "km²" => ("square kilometer", "square kilometers"),
        "m³" => ("cubic meter", "cubic meters"),
        "m/s" => ("meter per second", "meters per second"),
        "g" => ("gram", "grams"),
        "l" | "L" => ("liter", "liters"),
        "h" => ("hour", "hours"),
        "W" => ("watt", "watts"),
        "V" => ("volt", "volts"),
        "ha" => ("hectare", "hectares"),
        "kcal" => ("kilocalorie", "kilocalories"),
        _ => return None,
    };
    Some(format!("{number} {}", if one { singular } else { plural }))
}

fn by(m: &Captures<'_>) -> Option<String> {
    Some(format!("{} by ", group(m, 1)))
}
