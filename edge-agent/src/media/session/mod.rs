//! The `session` object of the Realtime API: what a client can set, merged field by field, and what it is shown.
//!
//! Fields that only steer how OpenAI's own service works are kept and shown again but have no effect here (`PASSED_THROUGH`).
//! A field that would change the conversation and is not supported is refused by name, so that nobody relies on it.

mod detection;
mod fields;
pub mod tools;
mod voice;

pub use detection::Detection;
pub use fields::{
    WireError, boolean, format, number, object, show_format, spoken, text, tokens, unknown, unsupported, voice,
};
pub use voice::Voice;

use super::codec::Format;
use crate::language;
use fields::round;
use nearfield_dialogue::{
    settings::{HandingOver, Settings, Silence, TurnDetection},
    tools::{DoneBy, Tool, ToolChoice, Tools},
};
use serde_json::{Map, Value, json};

/// Bytes of instructions that a client may set. A small model follows a few sentences; a prompt of this size fills its context.
pub const INSTRUCTIONS_BYTES_MAX: usize = 16 * 1024;

/// Tokens of an answer where the client does not say: a spoken answer of a minute is already too long.
const TOKENS_DEFAULT: usize = 192;

/// Kept and shown again, without effect: they name OpenAI's own machinery.
const PASSED_THROUGH: [&str; 6] = ["tracing", "truncation", "include", "prompt", "reasoning", "parallel_tool_calls"];

/// The fields of a transcription session.
const OF_TRANSCRIPTION: [&str; 7] = ["type", "id", "object", "expires_at", "include", "audio", "nearfield"];

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A conversation.
    Realtime,
    /// Words alone: nothing is answered.
    Transcription,
}

/// The settings of one session.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// What it is for.
    pub kind: Kind,
    /// The name in `?model=`, shown again.
    pub model: String,
    /// What the language model is told.
    pub instructions: String,
    /// The voice that speaks.
    pub voice: Voice,
    /// Audio or text answers.
    pub spoken: bool,
    /// Tokens of an answer; `None` where the client did not say.
    pub tokens_max: Option<usize>,
    /// Functions that answers may call.
    pub tools: Tools,
    /// Format of the caller's audio.
    pub input: Format,
    /// Format of the answers' audio.
    pub output: Format,
    /// How fast answers are spoken, as a factor. 0.5 to 1.5.
    pub speed: f32,
    /// How the end of a turn is found.
    pub turn_detection: Option<Detection>,
    /// Whether transcripts of the caller's audio are sent, and what the client called the model for it.
    pub transcription: Option<Map<String, Value>>,
    /// Whether the caller agrees to a transcript being stored in this node's vault.
    pub consent: bool,
    /// How calls of this assistant are handed to a person.
    pub hand_over: Option<HandingOver>,
    /// What a caller who says nothing is told.
    pub silence: Option<Silence>,
    /// The language that the caller's address or a bridge states, as a primary subtag; one in `transcription` goes over it.
    pub language: Option<String>,
    /// The languages that the models know; `None` is any.
    pub languages: Option<Vec<String>>,
    /// What the law of the region wants callers to be told first, where they are answered.
    pub notice: Option<String>,
    passed_through: Map<String, Value>,
    noise_reduction: Value,
}

impl Session {
    /// A session as it begins.
    pub fn new(model: &str, instructions: &str, voice: &str) -> Self {
        Self {
            kind: Kind::Realtime,
            model: model.to_owned(),
            instructions: instructions.trim().to_owned(),
            voice: Voice::new(voice),
            spoken: true,
            tokens_max: None,
            tools: Tools::default(),
            input: Format::default(),
            output: Format::default(),
            speed: 1.0,
            turn_detection: Some(Detection::semantic()),
            transcription: Some(Map::new()),
            consent: false,
            hand_over: None,
            silence: None,
            language: None,
            languages: None,
            notice: None,
            passed_through: Map::new(),
            noise_reduction: Value::Null,
        }
    }

    /// Offers the assistant's own functions, which the node does, beside those that a client sets.
    pub fn offer(&mut self, own: Vec<Tool>) {
        match Tools::new(own, ToolChoice::Auto) {
            Ok(tools) => self.tools = tools,
            // The control plane lets no such file through; one of another release might.
            Err(error) => tracing::warn!(%error, "the assistant's tools are not offered"),
        }
    }

    /// Becomes a session of this kind; what it was for before is as it is when a session begins.
    pub fn become_kind(&mut self, kind: Kind) {
        if self.kind == kind {
            return;
        }
        self.kind = kind;
        self.turn_detection = Some(match kind {
            Kind::Realtime => Detection::semantic(),
            Kind::Transcription => Detection::silence(),
        });
        self.transcription.get_or_insert_default();
    }

    /// What the conversation is told of this.
    pub fn settings(&self, greeting: Option<String>) -> Settings {
        let answers = self.kind == Kind::Realtime;
        let detection = self.turn_detection.as_ref().map(Detection::settings).map(|d| TurnDetection {
            create_response: d.create_response && answers,
            idle_timeout_ms: d.idle_timeout_ms.filter(|_| answers),
            // Who only wants words knows best how they are cut.
            adapts_percent: d.adapts_percent.filter(|_| answers),
            ..d
        });
        Settings {
            turn_detection: detection,
            partial_words: self.transcription.is_some(),
            instructions: self.instructions.clone(),
            spoken: self.spoken,
            tokens_max: self.tokens_max.unwrap_or(TOKENS_DEFAULT),
            tools: self.tools.clone(),
            greeting: greeting.filter(|_| answers),
            hand_over: self.hand_over.clone(),
            silence: self.silence.clone(),
            notice: self.notice.clone().filter(|_| answers),
            not_spoken: self
                .not_spoken()
                .filter(|_| answers)
                .map(|(stated, spoken)| language::apology(&stated, spoken)),
            ..Settings::default()
        }
    }

    /// The language that was stated and no model speaks, and those that are spoken.
    pub fn not_spoken(&self) -> Option<(String, &[String])> {
        let named = self.transcription.as_ref().and_then(|transcription| transcription.get("language"));
        let stated = named.and_then(Value::as_str).and_then(language::primary).or_else(|| self.language.clone())?;
        let spoken = self.languages.as_ref()?;
        (!spoken.contains(&stated)).then_some((stated, spoken))
    }

    /// Lays a client's `session` object over this one: what it names changes, all else stays. On an error nothing changes.
    pub fn merge(&mut self, update: &Map<String, Value>) -> Result<(), WireError> {
        let mut new = self.clone();
        match update.get("type").map(Value::as_str) {
            None => {}
            Some(Some("realtime")) => new.become_kind(Kind::Realtime),
            Some(Some("transcription")) => new.become_kind(Kind::Transcription),
            Some(_) => return Err(WireError::at("session.type", "session.type is realtime or transcription")),
        }
        let all = new.tools.all().iter().cloned();
        let (own, mut tools): (Vec<Tool>, Vec<Tool>) = all.partition(|tool| tool.by == DoneBy::Node);
        let mut choice = new.tools.choice().clone();
        for (key, value) in update {
            let at = || format!("session.{key}");
            if new.kind == Kind::Transcription && !OF_TRANSCRIPTION.contains(&key.as_str()) {
                return Err(unknown(at()));
            }
            match key.as_str() {
                // Shown by us, and harmless when a client sends back what it was shown. The name of a model is only a name here.
                "type" | "id" | "object" | "model" | "expires_at" => {}
                // Some clients name everything, with nothing where they want nothing changed.
                "instructions" | "output_modalities" | "nearfield" if value.is_null() => {}
                "instructions" => new.instructions = text(value, INSTRUCTIONS_BYTES_MAX, at)?,
                "output_modalities" => new.spoken = spoken(value, at)?,
                "max_output_tokens" => new.tokens_max = tokens(value, at)?,
                "tools" => tools = tools::tools(value, at)?,
                "tool_choice" => choice = tools::tool_choice(value, at)?,
                "audio" => new.merge_audio(object(value, at)?)?,
                "nearfield" => new.merge_extension(object(value, at)?)?,
                key if PASSED_THROUGH.contains(&key) => {
                    new.passed_through.insert(key.to_owned(), value.clone());
                }
                _ => return Err(unknown(at())),
            }
        }
        new.tools = Tools::new([own, tools].concat(), choice).map_err(|error| tools::refused(&error, "session"))?;
        *self = new;
        Ok(())
    }

    fn merge_audio(&mut self, audio: &Map<String, Value>) -> Result<(), WireError> {
        for (side, value) in audio {
            let at = || format!("session.audio.{side}");
            let fields = object(value, at)?;
            for (key, value) in fields {
                let at = || format!("session.audio.{side}.{key}");
                match (side.as_str(), key.as_str()) {
                    ("output", _) if self.kind == Kind::Transcription => return Err(unknown(at())),
                    ("input", "format") => self.input = format(value, at)?,
                    ("output", "format") => self.output = format(value, at)?,
                    ("input", "turn_detection") => {
                        self.turn_detection = Detection::merged(self.turn_detection.as_ref(), value)?;
                    }
                    ("input", "transcription") => {
                        // Words are all that a transcription session has.
                        let off = value.is_null() && self.kind == Kind::Realtime;
                        let none = Map::new();
                        let wanted = if value.is_null() { &none } else { object(value, at)? };
                        check_language(wanted, at)?;
                        self.transcription = (!off).then(|| wanted.clone());
                    }
                    ("input", "noise_reduction") => self.noise_reduction = value.clone(),
                    ("output", "voice") => {
                        if let Some(name) = voice(value, at)? {
                            self.voice.choose(&name, at)?;
                        }
                    }
                    ("output", "speed") => self.speed = number(value, 0.5, 1.5, 1.0, at)?,
                    _ => return Err(unknown(at())),
                }
            }
        }
        Ok(())
    }

    fn merge_extension(&mut self, extension: &Map<String, Value>) -> Result<(), WireError> {
        for (key, value) in extension {
            let at = || format!("session.nearfield.{key}");
            match key.as_str() {
                "consent" => self.consent = boolean(value, false, at)?,
                // Shown by us; a client may send back what it was shown.
                "region" | "node" | "jurisdiction" | "assistant" | "transcript" | "generation" => {}
                _ => return Err(unknown(at())),
            }
        }
        Ok(())
    }

    /// The `session` object as a client sees it. `nearfield` is our own part of it.
    pub fn show(&self, id: &str, expires_at_unix_s: u64, nearfield: Value) -> Value {
        let input = json!({
            "format": show_format(self.input),
            "transcription": self.transcription,
            "noise_reduction": self.noise_reduction,
            "turn_detection": self.turn_detection.as_ref().map(Detection::show),
        });
        if self.kind == Kind::Transcription {
            return json!({
                "type": "transcription",
                "object": "realtime.transcription_session",
                "id": id,
                "expires_at": expires_at_unix_s,
                "include": self.passed_through.get("include"),
                "audio": { "input": input },
                "nearfield": nearfield,
            });
        }
        let mut shown = json!({
            "type": "realtime",
            "object": "realtime.session",
            "id": id,
            "expires_at": expires_at_unix_s,
            "model": self.model,
            "output_modalities": [if self.spoken { "audio" } else { "text" }],
            "instructions": self.instructions,
            "tools": tools::show_tools(&self.tools),
            "tool_choice": tools::show_choice(self.tools.choice()),
            "max_output_tokens": self.tokens_max.map_or(json!("inf"), |n| json!(n)),
            "tracing": null,
            "truncation": "auto",
            "prompt": null,
            "include": null,
            "audio": {
                "input": input,
                "output": {
                    "format": show_format(self.output),
                    "voice": self.voice.in_use(),
                    "speed": round(self.speed),
                },
            },
            "nearfield": nearfield,
        });
        if let Some(shown) = shown.as_object_mut() {
            shown.extend(self.passed_through.clone());
        }
        shown
    }
}

/// A language of `transcription` is none, or one that can be understood.
fn check_language(transcription: &Map<String, Value>, at: impl Fn() -> String) -> Result<(), WireError> {
    let fits =
        |stated: &Value| stated.as_str().is_some_and(|text| text.is_empty() || language::primary(text).is_some());
    match transcription.get("language").filter(|stated| !stated.is_null()) {
        Some(stated) if !fits(stated) => {
            Err(WireError::at(format!("{}.language", at()), "language is a BCP 47 tag such as en or de-AT"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_dialogue::settings::EndOfTurn;

    fn session() -> Session {
        Session::new("m", "Be kind.", "heart")
    }

    fn merge(session: &mut Session, update: Value) -> Result<(), WireError> {
        session.merge(update.as_object().expect("an object"))
    }

    #[test]
    fn an_update_changes_what_it_names_and_nothing_else() {
        let mut s = session();
        merge(&mut s, json!({"type": "realtime", "instructions": "Be brief.", "audio": {"output": {"speed": 1.2, "voice": "marin"}}}))
            .expect("fine");
        merge(&mut s, json!({"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 0.7}}}}))
            .expect("fine");
        merge(
            &mut s,
            json!({"audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 200}}}}),
        )
        .expect("fine");
        let shown = s.show("sess_1", 5, Value::Null);
        assert_eq!(shown["instructions"], "Be brief.");
        assert_eq!(
            shown["audio"]["output"],
            json!({"format": {"type": "audio/pcm", "rate": 24000}, "voice": "heart", "speed": 1.2})
        );
        let detection = &shown["audio"]["input"]["turn_detection"];
        assert_eq!((&detection["threshold"], &detection["silence_duration_ms"]), (&json!(0.7), &json!(200)));
        assert_eq!((&detection["prefix_padding_ms"], &detection["create_response"]), (&json!(300), &json!(true)));
        merge(&mut s, json!({"audio": {"input": {"turn_detection": null}}})).expect("fine");
        assert_eq!(s.settings(None).turn_detection, None);
        assert_eq!(s.show("x", 5, Value::Null)["audio"]["input"]["turn_detection"], Value::Null);
    }

    #[test]
    fn a_silence_that_the_client_names_is_exact_and_any_other_follows_the_caller() {
        let mut s = session();
        let mut adapts = |detection: Value| {
            merge(&mut s, json!({"audio": {"input": {"turn_detection": detection}}})).expect("fine");
            s.settings(None).turn_detection.map(|d| (d.by, d.adapts_percent)).expect("one")
        };
        let silence = |silence_ms| EndOfTurn::Silence { silence_ms };
        let meaning = |silence_ms_max| EndOfTurn::Meaning { silence_ms_max };
        assert_eq!(adapts(json!({"type": "semantic_vad"})), (meaning(1_500), Some(100)));
        assert_eq!(adapts(json!({"type": "semantic_vad", "eagerness": "high"})), (meaning(800), Some(60)));
        assert_eq!(adapts(json!({"type": "semantic_vad", "eagerness": "low"})), (meaning(2_500), Some(150)));
        assert_eq!(adapts(json!({"type": "server_vad"})), (silence(500), Some(100)));
        assert_eq!(adapts(json!({"type": "server_vad", "silence_duration_ms": 500})), (silence(500), None));
        assert_eq!(adapts(json!({"type": "server_vad", "threshold": 0.6})), (silence(500), None), "it stays exact");
        merge(&mut s, json!({"type": "transcription"})).expect("fine");
        assert_eq!(s.settings(None).turn_detection.and_then(|d| d.adapts_percent), None);
    }

    #[test]
    fn what_is_shown_can_be_sent_back() {
        let mut s = session();
        merge(&mut s, json!({"audio": {"input": {"format": {"type": "audio/pcmu"}}}, "tracing": "auto"}))
            .expect("fine");
        let shown = s.show("sess_1", 5, json!({"region": "eu"}));
        let before = s.clone();
        let mut back = shown.as_object().expect("object").clone();
        assert_eq!(s.merge(&back), Ok(()));
        back.remove("tracing");
        assert_eq!(Session { passed_through: before.passed_through.clone(), ..s }, before);
    }

    #[test]
    fn functions_are_kept_shown_and_told_to_the_conversation() {
        let mut s = session();
        let tool =
            json!({"type": "function", "name": "f", "description": "Does it.", "parameters": {"type": "object"}});
        merge(&mut s, json!({"tools": [tool]})).expect("fine");
        merge(&mut s, json!({"tool_choice": {"type": "function", "name": "f"}})).expect("fine");
        let shown = s.show("sess_1", 5, Value::Null);
        assert_eq!((&shown["tools"][0], &shown["tool_choice"]["name"]), (&tool, &json!("f")));
        assert!(s.settings(None).tools.are_forced());
        merge(&mut s, json!({"tools": [], "tool_choice": "auto"})).expect("fine");
        assert!(!s.settings(None).tools.are_offered());
    }

    #[test]
    fn a_transcription_session_answers_nothing() {
        let mut s = session();
        let detection = json!({"type": "server_vad", "silence_duration_ms": 300});
        merge(&mut s, json!({"type": "transcription", "audio": {"input": {"turn_detection": detection, "transcription": {"model": "x"}}}}))
            .expect("fine");
        let settings = s.settings(Some("Hello.".into()));
        assert_eq!(settings.turn_detection.map(|d| d.create_response), Some(false));
        assert_eq!(settings.greeting, None);
        let shown = s.show("sess_1", 5, Value::Null);
        assert_eq!((&shown["type"], &shown["audio"]["output"]), (&json!("transcription"), &Value::Null));
        assert_eq!(shown["audio"]["input"]["turn_detection"]["silence_duration_ms"], 300);
        let back = shown.as_object().expect("an object").clone();
        assert_eq!(s.merge(&back), Ok(()), "what is shown can be sent back");
    }

    #[test]
    fn what_is_wrong_is_refused_by_name_and_changes_nothing() {
        let mut s = session();
        let mut check = |update: Value, code: &str, param: &str| {
            let before = s.clone();
            let error = merge(&mut s, update).expect_err(param);
            assert_eq!((error.code, error.param.as_deref()), (code, Some(param)), "{error}");
            assert_eq!(s, before);
        };
        check(json!({"instructions": "x", "sped": 1}), "unknown_parameter", "session.sped");
        check(json!({"instructions": 5}), "invalid_value", "session.instructions");
        check(json!({"instructions": "x".repeat(20_000)}), "string_above_max_length", "session.instructions");
        check(json!({"type": "translation"}), "invalid_value", "session.type");
        check(json!({"type": "transcription", "instructions": "x"}), "unknown_parameter", "session.instructions");
        check(
            json!({"type": "transcription", "audio": {"output": {"speed": 1.0}}}),
            "unknown_parameter",
            "session.audio.output.speed",
        );
        check(json!({"tools": [{"type": "mcp", "server_label": "x"}]}), "unsupported_parameter", "session.tools[0]");
        check(json!({"tools": [{"type": "function", "name": "a b"}]}), "invalid_value", "session.tools");
        check(json!({"tools": "f"}), "invalid_value", "session.tools");
        check(json!({"tool_choice": "required"}), "invalid_value", "session.tool_choice");
        check(json!({"tool_choice": "often"}), "invalid_value", "session.tool_choice");
        check(json!({"output_modalities": ["audio", "text"]}), "invalid_value", "session.output_modalities");
        check(json!({"max_output_tokens": 0}), "invalid_value", "session.max_output_tokens");
        check(
            json!({"audio": {"input": {"format": {"type": "audio/opus"}}}}),
            "invalid_value",
            "session.audio.input.format",
        );
        check(
            json!({"audio": {"output": {"format": {"type": "audio/pcm", "rate": 16000}}}}),
            "invalid_value",
            "session.audio.output.format",
        );
        check(
            json!({"audio": {"input": {"turn_detection": {"type": "magic"}}}}),
            "invalid_value",
            "session.audio.input.turn_detection.type",
        );
        check(
            json!({"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 2}}}}),
            "invalid_value",
            "session.audio.input.turn_detection.threshold",
        );
        check(
            json!({"audio": {"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 600}}}}),
            "invalid_value",
            "session.audio.input.turn_detection.idle_timeout_ms",
        );
        check(json!({"audio": {"output": {"speed": 9}}}), "invalid_value", "session.audio.output.speed");
        check(json!({"nearfield": {"consent": "yes"}}), "invalid_value", "session.nearfield.consent");
    }
}
