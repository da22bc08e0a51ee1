//! What `regions/assistants/NAME.toml` may say.

mod advice;
mod hand_over;
mod secret_words;
mod tools;

pub use advice::advise;

use super::section::{At, Document, Section};
use nearfield_shared::assistant::{WORD_CHARS, WORDS_MAX, http_tool::is_host};
use std::collections::BTreeMap;
use toml::de::DeTable;

/// Longest text in bytes: what a small language model can still heed, twice over.
const TEXT_BYTES_MAX: usize = 8 << 10;

/// Most questions; each is compared with every spoken one.
const QUESTIONS_MAX: usize = 1_000;

/// Most hosts that one assistant may name.
const HOSTS_MAX: usize = 32;

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
    words(&root);
    let hosts = hosts(&root);
    let mut asks = Asks::default();
    let questions = root.tables("questions");
    if questions.len() > QUESTIONS_MAX {
        root.note_here(format!("{} questions are more than {QUESTIONS_MAX}", questions.len()));
    }
    for question in &questions {
        asks.take(question, question.strings("ask", 1));
        text(question, "answer", question.string("answer"));
        question.finish();
    }
    if let Some(hand_over) = root.table("hand_over", false) {
        asks.take(&hand_over, hand_over.strings("ask", 0));
        hand_over::check(&hand_over, &hosts);
        hand_over.finish();
    }
    if let Some(silence) = root.table("silence", false) {
        silence.integer("after_s", (3, 120));
        silence.optional_integer("times", (0, 10));
        text(&silence, "ask", silence.optional_string("ask"));
        text(&silence, "goodbye", silence.optional_string("goodbye"));
        silence.finish();
    }
    for topic in root.tables("forbidden") {
        asks.take(&topic, topic.strings("ask", 1));
        text(&topic, "say", topic.string("say"));
        topic.number("threshold", (0.0, 1.0), false);
        topic.optional_boolean("hand_over");
        topic.finish();
    }
    tools::check(&root, &hosts);
    secret_words::check(document, table);
    root.finish();
}

/// Words that the recogniser is told of.
fn words(root: &Section<'_, '_>) {
    let words = root.strings("words", 0);
    if words.len() > WORDS_MAX {
        root.note_here(format!("{} `words` are more than {WORDS_MAX}; keep those that are heard wrongly", words.len()));
    }
    let (least, most) = WORD_CHARS;
    for word in words {
        if !(least..=most).contains(&word.value.trim().chars().count()) {
            root.note(word.at, format!("\"{}\" must have {least} to {most} characters", word.value));
        }
    }
}

/// The allow-list.
fn hosts<'d>(root: &Section<'d, '_>) -> Vec<&'d str> {
    let hosts = root.strings("hosts", 0);
    if hosts.len() > HOSTS_MAX {
        root.note_here(format!("{} `hosts` are more than {HOSTS_MAX}", hosts.len()));
    }
    for host in &hosts {
        if !is_host(host.value) {
            let message =
                "a host is NAME or NAME:PORT in small letters, without https:// and path; each is meant exactly";
            root.note(host.at, format!("\"{}\" is no host: {message}", host.value));
        }
    }
    hosts.into_iter().map(|host| host.value).collect()
}

/// Ways of asking that were seen, to find those that lead to two places.
#[derive(Default)]
struct Asks {
    seen: BTreeMap<String, usize>,
}

impl Asks {
    fn take(&mut self, section: &Section<'_, '_>, asks: Vec<At<&str>>) {
        for ask in asks {
            let words = ask.value.to_lowercase();
            let words: Vec<&str> = words.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
            let line = section.line(ask.at);
            if !words.is_empty()
                && let Some(before) = self.seen.insert(words.join(" "), line)
            {
                let message = format!("\"{}\" stands in line {before} already; keep one of the two", ask.value);
                section.note(ask.at, message);
            }
            text(section, "ask", Some(ask));
        }
    }
}

fn text(section: &Section<'_, '_>, key: &str, found: Option<At<&str>>) {
    let Some(found) = found else { return };
    if found.value.trim().is_empty() {
        section.note(found.at, format!("`{key}` is empty"));
    } else if found.value.len() > TEXT_BYTES_MAX {
        section.note(found.at, format!("`{key}` has {} bytes, at most {TEXT_BYTES_MAX} fit", found.value.len()));
    }
}
