//! What `regions/assistants/NAME.toml` may say.

use super::section::{At, Document, Section};
use toml::de::DeTable;

/// Longest text in bytes: what a small language model can still heed, twice over.
const TEXT_BYTES_MAX: usize = 8 << 10;

/// Most questions; each is compared with every spoken one.
const QUESTIONS_MAX: usize = 1_000;

/// Notes everything that is wrong in an assistant's file.
pub fn check(document: &Document<'_>, table: &DeTable<'_>, stem: &str) {
    let root = Section::root(document, table);
    if let Some(name) = root.string("name")
        && name.value != stem
    {
        root.note(
            name.at,
            format!("`name` is \"{}\", but the file is named {stem}.toml; make them the same", name.value),
        );
    }
    text(&root, "instructions", root.string("instructions"));
    text(&root, "voice", root.string("voice"));
    text(&root, "greeting", root.optional_string("greeting"));
    root.number("match_threshold", (0.0, 1.0), false);
    let questions = root.tables("questions");
    if questions.len() > QUESTIONS_MAX {
        root.note_here(format!("{} questions are more than {QUESTIONS_MAX}", questions.len()));
    }
    for question in &questions {
        for ask in question.strings("ask", 1) {
            text(question, "ask", Some(ask));
        }
        text(question, "answer", question.string("answer"));
        question.finish();
    }
    if let Some(hand_over) = root.table("hand_over", false) {
        for ask in hand_over.strings("ask", 0) {
            text(&hand_over, "ask", Some(ask));
        }
        text(&hand_over, "say", hand_over.optional_string("say"));
        hand_over.finish();
    }
    root.finish();
}

fn text(section: &Section<'_, '_>, key: &str, found: Option<At<&str>>) {
    let Some(found) = found else { return };
    if found.value.trim().is_empty() {
        section.note(found.at, format!("`{key}` is empty"));
    } else if found.value.len() > TEXT_BYTES_MAX {
        section.note(found.at, format!("`{key}` has {} bytes, at most {TEXT_BYTES_MAX} fit", found.value.len()));
    }
}
