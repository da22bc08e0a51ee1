//! What a client or an assistant can set about a call, with the defaults of the OpenAI Realtime API.

use crate::tools::Tools;
use std::time::Duration;

/// Settings of one call. They may change at any time; a response keeps those it began with.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How the end of a turn is found; `None` leaves it to the client (commit and create).
    pub turn_detection: Option<TurnDetection>,
    /// Whether the caller's words are told while they are still speaking. Default true.
    pub partial_words: bool,
    /// What the language model is told before the conversation.
    pub instructions: String,
    /// Whether answers are spoken; otherwise they are text alone.
    pub spoken: bool,
    /// Tokens one answer may have. 1 to [`TOKENS_MAX`].
    pub tokens_max: usize,
    /// Functions that answers may call.
    pub tools: Tools,
    /// Characters after which a spoken answer of the model ends with the sentence it is in. Default 360, about 25 seconds:
    /// nobody listens longer to a voice that was asked something, and a small model says its best first.
    pub spoken_chars_max: usize,
    /// Said before anything else, where set, and cut short by nobody.
    pub notice: Option<String>,
    /// Said first, where set.
    pub greeting: Option<String>,
    /// Said when a client asks for an answer to audio in which no words were found.
    pub unheard: String,
    /// Said while a function that this node does takes longer than a moment.
    pub filler: String,
    /// How the call is handed to a person; without it the caller is told so and nothing waits.
    pub hand_over: Option<HandingOver>,
    /// Whether the caller is still listened to when a person has the call: only where a transcript of it may be kept. Default false.
    pub hears_with_person: bool,
    /// Whether all audio goes through one track that the caller hears, so that spoken answers come one after the other. Default false:
    /// a client gets audio in events and tells answers apart.
    pub one_track: bool,
    /// Said when the caller has been silent for [`TurnDetection::idle_timeout_ms`].
    pub idle: String,
    /// Said once, before the greeting: that no model here speaks the caller's language. Only where that is so.
    pub not_spoken: Option<String>,
    /// What a caller who says nothing is told by this assistant. Where the client set [`TurnDetection::idle_timeout_ms`], that holds instead.
    pub silence: Option<Silence>,
    /// Characters of history that go into a prompt. Default 2,400, about 600 tokens: a small model loses the thread in
    /// more, and every token of it delays the first word.
    pub context_chars_max: usize,
}

/// Tokens of the longest answer. Default 512: more than two minutes of speech.
pub const TOKENS_MAX: usize = 512;

impl Default for Settings {
    fn default() -> Self {
        Self {
            turn_detection: Some(TurnDetection::default()),
            partial_words: true,
            instructions: String::new(),
            spoken: true,
            tokens_max: TOKENS_MAX,
            tools: Tools::default(),
            spoken_chars_max: 360,
            notice: None,
            greeting: None,
            unheard: "Sorry, I did not catch that.".to_owned(),
            filler: "One moment, please.".to_owned(),
            hand_over: None,
            hears_with_person: false,
            one_track: false,
            idle: "Are you still there?".to_owned(),
            not_spoken: None,
            silence: None,
            context_chars_max: 2_400,
        }
    }
}

/// How a call is handed to a person.
#[derive(Debug, Clone, PartialEq)]
pub struct HandingOver {
    /// Said when it begins by itself.
    pub words: String,
    /// Misunderstandings in a row after which it begins by itself; 0 is never.
    pub misunderstandings: u8,
    /// Mean [`sentiment`](crate::sentiment::sentiment) of the caller's last two turns at or below which it begins by itself.
    pub sentiment: Option<f32>,
    /// Whether what carries the call connects the caller with a person by itself, as soon as the caller has heard that it will.
    pub transfers: Transfers,
    /// Said again and again while the caller waits.
    pub waiting: String,
    /// The silence after which it is said.
    pub told_every: Duration,
    /// How long the caller waits; zero is not at all.
    pub wait: Duration,
    /// Said when a person takes over.
    pub accepted: String,
    /// Said when none will.
    pub closed: String,
}

/// Whether what carries a call connects its caller with a person. Nobody waits in the call then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transfers {
    /// It does not: callers wait in the call.
    #[default]
    No,
    /// It does when the call is over here.
    ByEnding,
    /// It does when it is asked, and says whether it could; the call is over then.
    ByAsking,
}

/// What a caller who says nothing is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// Silence after an answer was played, in milliseconds.
    pub after_ms: u32,
    /// Said then.
    pub ask: String,
    /// How often it is said in a row.
    pub times: u32,
    /// Said after one more such silence; then the call is over.
    pub goodbye: String,
}

/// How the end of a turn is found.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnDetection {
    /// What decides.
    pub by: EndOfTurn,
    /// Probability at which a frame counts as speech. 0.0 to 1.0, default 0.5.
    pub threshold: f32,
    /// Audio kept from before the first speech, in milliseconds. Default 300.
    pub prefix_padding_ms: u32,
    /// Whether the end of a turn begins an answer. Default true.
    pub create_response: bool,
    /// Whether speech over an answer stops it. Default true.
    pub interrupt_response: bool,
    /// Whether the silence that ends a turn follows the caller's own pauses, and how much of what these suggest is waited for, in
    /// percent: then the silence in `by` is the one before anything is known about the caller. `None`, the default, where it is exact.
    pub adapts_percent: Option<u32>,
    /// Silence after an answer was played, in milliseconds, after which the caller is spoken to. Default none.
    pub idle_timeout_ms: Option<u32>,
}

impl Default for TurnDetection {
    fn default() -> Self {
        Self {
            by: EndOfTurn::Silence { silence_ms: 500 },
            threshold: 0.5,
            prefix_padding_ms: 300,
            create_response: true,
            interrupt_response: true,
            adapts_percent: None,
            idle_timeout_ms: None,
        }
    }
}

/// What decides that a turn has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndOfTurn {
    /// Silence alone (`server_vad`). OpenAI's default is 500 ms.
    Silence {
        /// The silence in milliseconds.
        silence_ms: u32,
    },
    /// The turn model at each pause, and a longer silence where it says no (`semantic_vad`).
    Meaning {
        /// The silence that ends the turn whatever the model says, in milliseconds.
        silence_ms_max: u32,
    },
}
