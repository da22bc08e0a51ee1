//! What is not wrong in an assistant's file and would still disappoint callers.

use crate::definition::section::{Document, Section};
use toml::de::DeTable;

/// Characters of an answer that takes about 25 seconds to say: nobody listens longer to a voice that was asked something.
const ANSWER_CHARS_MAX: usize = 360;

/// Characters of instructions that a small model still heeds.
const INSTRUCTIONS_CHARS_MAX: usize = 1_500;

/// Notes advice. The file is taken to have no mistakes.
pub fn advise(document: &Document<'_>, table: &DeTable<'_>) {
    let root = Section::root(document, table);
    if let Some(instructions) = root.string("instructions")
        && instructions.value.chars().count() > INSTRUCTIONS_CHARS_MAX
    {
        let message =
            format!("instructions of more than {INSTRUCTIONS_CHARS_MAX} characters delay every answer; shorten them");
        root.note(instructions.at, message);
    }
    for question in root.tables("questions") {
        let asks = question.strings("ask", 1);
        if let [only] = asks.as_slice() {
            question.note(only.at, "one way of asking is few; three or four find far more callers");
        }
        if let Some(answer) = question.string("answer")
            && answer.value.chars().count() > ANSWER_CHARS_MAX
        {
            let message = format!(
                "an answer of {} characters takes more than 25 seconds to say; say the beginning and offer the rest",
                answer.value.chars().count()
            );
            question.note(answer.at, message);
        }
    }
    let asks_for_person = root.table("hand_over", false).is_some_and(|table| !table.strings("ask", 0).is_empty());
    if !asks_for_person {
        document.note(
            None,
            "nobody can ask for a person: add [hand_over] with ask = [\"Can I speak to a person?\"] and say = \"...\"",
        );
    }
}
