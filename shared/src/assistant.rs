//! Assistants: the schema of `regions/assistants/*.toml`.

pub mod http_tool;
pub mod matching;

pub use http_tool::HttpTool;

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Words that are boosted; more make each other less sure.
pub const WORDS_MAX: usize = 100;

/// Characters of one boosted phrase.
pub const WORD_CHARS: (usize, usize) = (3, 64);

/// How the voice at the other end behaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assistant {
    /// Its name; must equal the file's stem.
    pub name: String,
    /// What the language model is told before a call.
    pub instructions: String,
    /// Spoken first, where set.
    #[serde(default)]
    pub greeting: Option<String>,
    /// The voice, as the speech model names it, for example `heart`.
    pub voice: String,
    /// Least cosine similarity at which a spoken question counts as one of the known ones. 0.0 to 1.0.
    #[serde(default = "default_match_threshold")]
    pub match_threshold: f32,
    /// Questions whose answers are known.
    #[serde(default)]
    pub questions: Vec<KnownQuestion>,
    /// When a person takes over.
    #[serde(default)]
    pub hand_over: HandOver,
    /// What the assistant does not speak about. Like all that follows, left out on the wire where there is none, so that older
    /// agents read it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forbidden: Vec<ForbiddenTopic>,
    /// Words and phrases that callers are likely to say and that a recogniser alone would write as something else: names, terms of art.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<String>,
    /// Functions that the node does itself, by HTTP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<HttpTool>,
    /// Hosts that the node may ask for this assistant, each exactly as it stands in a URL: `NAME` or `NAME:PORT`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// What a caller who says nothing is told. Left out on the wire where it is not said, so that older agents read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<Silence>,
}

impl Default for Assistant {
    /// An assistant without a name that knows nothing: what a file says where it says nothing.
    fn default() -> Self {
        Self {
            name: String::new(),
            instructions: String::new(),
            greeting: None,
            voice: "heart".into(),
            match_threshold: default_match_threshold(),
            questions: Vec::new(),
            hand_over: HandOver::default(),
            forbidden: Vec::new(),
            words: Vec::new(),
            tools: Vec::new(),
            hosts: Vec::new(),
            silence: None,
        }
    }
}

/// What a caller who says nothing is told, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Silence {
    /// Silence after an answer was heard, in seconds. 3 to 120.
    pub after_s: u32,
    /// Said then.
    #[serde(default = "default_silence_ask")]
    pub ask: String,
    /// How often it is said in a row. 0 to 10, default 2.
    #[serde(default = "default_silence_times")]
    pub times: u32,
    /// Said after one more such silence; then the call ends.
    #[serde(default = "default_silence_goodbye")]
    pub goodbye: String,
}

fn default_silence_ask() -> String {
    "Are you still there?".into()
}

fn default_silence_times() -> u32 {
    2
}

fn default_silence_goodbye() -> String {
    "I cannot hear you, so I will end the call. Goodbye.".into()
}

fn default_match_threshold() -> f32 {
    0.62
}

/// A question with its fixed answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownQuestion {
    /// Ways of asking it; at least one.
    pub ask: Vec<String>,
    /// What is spoken.
    pub answer: String,
}

/// Something that the assistant does not speak about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForbiddenTopic {
    /// Ways of asking about it; at least one.
    pub ask: Vec<String>,
    /// What is said instead of an answer.
    pub say: String,
    /// Least cosine similarity at which it counts; the assistant's own where it is not said.
    #[serde(default)]
    pub threshold: Option<f32>,
    /// Whether the call is handed to a person, too.
    #[serde(default)]
    pub hand_over: bool,
}

/// When the call is handed to a person.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandOver {
    /// Ways a caller asks for a person, matched like questions.
    #[serde(default)]
    pub ask: Vec<String>,
    /// What is said when that happens.
    #[serde(default)]
    pub say: Option<String>,
    /// Misunderstandings in a row after which a person is fetched unasked; 0 is never. Like all that follows, left out on the wire where
    /// it is not said, so that older agents read it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub misunderstandings: u8,
    /// Mean sentiment of a caller's last two turns, from -1 to 0, at or below which a person is fetched unasked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentiment: Option<f32>,
    /// The telephone number that callers by telephone are put through to, as `+` and digits (E.164). Others wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<String>,
    /// Said while the caller waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// Seconds of silence after which that is said; see [`TOLD_EVERY_S`]. Default 15.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_every_s: Option<u16>,
    /// Seconds that the caller waits for a person; see [`WAIT_S`]. Default 120; 0 is not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_s: Option<u16>,
    /// Said when a person takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<String>,
    /// Said when none will, or none did in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// Who is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
}

/// Digits of a telephone number behind its `+` (E.164).
const NUMBER_DIGITS: std::ops::RangeInclusive<usize> = 7..=15;

/// Whether a text is a telephone number that can be dialled from anywhere, as E.164 has it.
pub fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or_default();
    NUMBER_DIGITS.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0')
}

/// The least and the most of [`HandOver::told_every_s`].
pub const TOLD_EVERY_S: (u16, u16) = (5, 120);

/// The most of [`HandOver::wait_s`].
pub const WAIT_S: u16 = 1_800;

/// Who is told that a call is handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where the notice goes; its host must be in the assistant's `hosts`.
    pub url: String,
    /// The name of the secret that signs it: a file in the folder `secrets` of each node.
    pub secret: String,
}

fn is_zero(n: &u8) -> bool {
    *n == 0
}

/// What is said at a hand-over where the assistant's file does not say it.
const HAND_OVER_SAY: &str = "One moment please, I will put you through to a colleague.";

impl HandOver {
    /// What is said at a hand-over.
    pub fn words(&self) -> &str {
        self.say.as_deref().unwrap_or(HAND_OVER_SAY)
    }

    /// What is said while the caller waits.
    pub fn waiting_words(&self) -> &str {
        self.waiting.as_deref().unwrap_or("Thank you for waiting. I am still looking for a colleague.")
    }

    /// What is said when a person takes over.
    pub fn accepted_words(&self) -> &str {
        self.accepted.as_deref().unwrap_or("A colleague takes over now.")
    }

    /// What is said when none will.
    pub fn closed_words(&self) -> &str {
        self.closed.as_deref().unwrap_or("I am sorry, nobody is free at the moment. Please try again later.")
    }

    /// The silence after which a caller who waits is told so.
    pub fn told_every(&self) -> Duration {
        Duration::from_secs(self.told_every_s.unwrap_or(15).clamp(TOLD_EVERY_S.0, TOLD_EVERY_S.1).into())
    }

    /// How long a caller waits.
    pub fn wait(&self) -> Duration {
        Duration::from_secs(self.wait_s.unwrap_or(120).min(WAIT_S).into())
    }
}
