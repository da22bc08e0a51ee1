//! Languages that callers state, and whether the models that are live speak them.
//!
//! Nothing is guessed from audio: the recogniser writes English words for whatever it hears and tells no confidence, so its transcripts are
//! no evidence. What counts is what a client states.

use crate::node::Serving;
use nearfield_shared::artefact::Stage;

/// Letters of the longest tag that is looked at; BCP 47 recommends room for 35.
pub const TAG_BYTES_MAX: usize = 35;

/// What callers may call a language besides its tag, which is its name for people, too.
const NAMES: [(&str, &str); 32] = [
    ("ar", "Arabic"),
    ("bg", "Bulgarian"),
    ("bn", "Bengali"),
    ("cs", "Czech"),
    ("da", "Danish"),
    ("de", "German"),
    ("el", "Greek"),
    ("en", "English"),
    ("es", "Spanish"),
    ("et", "Estonian"),
    ("fi", "Finnish"),
    ("fr", "French"),
    ("he", "Hebrew"),
    ("hi", "Hindi"),
    ("hr", "Croatian"),
    ("hu", "Hungarian"),
    ("id", "Indonesian"),
    ("it", "Italian"),
    ("ja", "Japanese"),
    ("ko", "Korean"),
    ("lt", "Lithuanian"),
    ("nl", "Dutch"),
    ("no", "Norwegian"),
    ("pl", "Polish"),
    ("pt", "Portuguese"),
    ("ro", "Romanian"),
    ("ru", "Russian"),
    ("sv", "Swedish"),
    ("tr", "Turkish"),
    ("uk", "Ukrainian"),
    ("vi", "Vietnamese"),
    ("zh", "Chinese"),
];

/// The stages that have to know a caller's language.
const SPEAKING: [Stage; 3] = [Stage::Asr, Stage::Llm, Stage::Tts];

/// The language of a tag (`de-AT`) or an English name (`german`), as its primary subtag (`de`); `None` for what is neither.
pub fn primary(stated: &str) -> Option<String> {
    let stated = stated.trim();
    if let Some((tag, _)) = NAMES.iter().find(|(_, name)| name.eq_ignore_ascii_case(stated)) {
        return Some((*tag).to_owned());
    }
    let subtag = stated.split(['-', '_']).next().unwrap_or_default();
    let fits =
        stated.len() <= TAG_BYTES_MAX && stated.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    (fits && matches!(subtag.len(), 2 | 3) && subtag.bytes().all(|b| b.is_ascii_alphabetic()))
        .then(|| subtag.to_ascii_lowercase())
}

/// The languages that all models of a conversation know, as primary subtags; `None` where they do not say, which means any.
pub fn spoken(serving: &Serving) -> Option<Vec<String>> {
    let models = SPEAKING.iter().filter_map(|stage| serving.models.get(stage));
    let of_each = models.map(|model| model.languages.iter().filter_map(|tag| primary(tag)).collect::<Vec<_>>());
    of_each.filter(|languages| !languages.is_empty()).reduce(|mut all, languages| {
        all.retain(|language| languages.contains(language));
        all
    })
}

/// What a caller is told, in English: the one language that every voice here has so far.
pub fn apology(stated: &str, spoken: &[String]) -> String {
    let names: Vec<&str> = spoken.iter().filter_map(|tag| name(tag)).collect();
    let not = name(stated)
        .map_or_else(|| "I do not speak your language.".to_owned(), |name| format!("I do not speak {name}."));
    match names.split_last() {
        None => format!("I am sorry. {not}"),
        Some((last, [])) => format!("I am sorry. {not} I speak {last}."),
        Some((last, others)) => format!("I am sorry. {not} I speak {} and {last}.", others.join(", ")),
    }
}

fn name(tag: &str) -> Option<&'static str> {
    NAMES.iter().find(|(known, _)| *known == tag).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_names_are_languages_and_nothing_else_is() {
        for (stated, expect) in [
            ("en", Some("en")),
            ("de-AT", Some("de")),
            ("PT_br", Some("pt")),
            ("German", Some("de")),
            (" english ", Some("en")),
            ("gsw", Some("gsw")),
            ("", None),
            ("x", None),
            ("klingon", None),
            ("d3", None),
            ("de AT", None),
            ("de-\u{e9}", None),
        ] {
            assert_eq!(primary(stated).as_deref(), expect, "{stated}");
        }
        assert_eq!(primary(&format!("de-{}", "a".repeat(40))), None, "too long");
    }

    #[test]
    fn the_apology_names_both_languages() {
        let spoken = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
        assert_eq!(apology("de", &spoken(&["en"])), "I am sorry. I do not speak German. I speak English.");
        assert_eq!(
            apology("gsw", &spoken(&["en", "fr"])),
            "I am sorry. I do not speak your language. I speak English and French."
        );
        assert_eq!(apology("de", &[]), "I am sorry. I do not speak German.");
    }
}
