//! Assistants: the schema of `regions/assistants/*.toml`.

use serde::{Deserialize, Serialize};

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

/// When the call is handed to a person.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandOver {
    /// Ways a caller asks for a person, matched like questions.
    #[serde(default)]
    pub ask: Vec<String>,
    /// What is said when that happens.
    #[serde(default)]
    pub say: Option<String>,
}
