//! The `session` object of the Realtime API: what a client can set, merged field by field, and what it is shown.
//!
//! Fields that only steer how OpenAI's own service works are kept and shown again but have no effect here (`PASSED_THROUGH`).
//! A field that would change the conversation and is not supported is refused by name, so that nobody relies on it.

use super::codec::Format;
use nearfield_dialogue::settings::{EndOfTurn, Settings, TOKENS_MAX, TurnDetection};
use serde_json::{Map, Value, json};

/// Bytes of instructions that a client may set. A small model follows a few sentences; a prompt of this size fills its context.
pub const INSTRUCTIONS_BYTES_MAX: usize = 16 * 1024;

/// Tokens of an answer where the client does not say: a spoken answer of a minute is already too long.
const TOKENS_DEFAULT: usize = 192;

/// Kept and shown again, without effect: they name OpenAI's own machinery.
const PASSED_THROUGH: [&str; 8] =
    ["tracing", "truncation", "include", "tool_choice", "prompt", "reasoning", "parallel_tool_calls", "expires_at"];

/// Why a client's event was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct WireError {
    /// A short code for programs.
    pub code: &'static str,
    /// Words for a person, with the remedy.
    pub message: String,
    /// The field that is wrong.
    pub param: Option<String>,
}

impl WireError {
    /// An error about one field.
    pub fn at(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: "invalid_value", message: message.into(), param: Some(param.into()) }
    }
}

/// The settings of one session.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// The name in `?model=`, shown again.
    pub model: String,
    /// What the language model is told.
    pub instructions: String,
    /// The voice that speaks; the assistant's, whatever a client asks for.
    pub voice: String,
    /// Audio or text answers.
    pub spoken: bool,
    /// Tokens of an answer; `None` where the client did not say.
    pub tokens_max: Option<usize>,
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
    passed_through: Map<String, Value>,
    noise_reduction: Value,
}

/// Turn detection as the wire states it.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    eagerness: Option<Eagerness>,
    detection: TurnDetection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Eagerness {
    Low,
    Medium,
    High,
    Auto,
}

impl Eagerness {
    const ALL: [(Eagerness, &'static str); 4] =
        [(Eagerness::Low, "low"), (Eagerness::Medium, "medium"), (Eagerness::High, "high"), (Eagerness::Auto, "auto")];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(eagerness, _)| *eagerness == self).map_or("auto", |(_, name)| name)
    }

    /// The silence that ends a turn although the turn model says no. OpenAI names 8, 4 and 2 s as the most; on a
    /// telephone that is dead air, and our turn model is wrong about one finished utterance in four.
    fn silence_ms_max(self) -> u32 {
        match self {
            Eagerness::Low => 3_000,
            Eagerness::Medium | Eagerness::Auto => 1_500,
            Eagerness::High => 800,
        }
    }
}

impl Detection {
    /// What a session begins with: the turn model at each pause, a silence where it says no.
    pub fn semantic() -> Self {
        let by = EndOfTurn::Meaning { silence_ms_max: Eagerness::Auto.silence_ms_max() };
        Self { eagerness: Some(Eagerness::Auto), detection: TurnDetection { by, ..TurnDetection::default() } }
    }

    fn show(&self) -> Value {
        let common = (self.detection.create_response, self.detection.interrupt_response);
        match (self.eagerness, self.detection.by) {
            (None, EndOfTurn::Silence { silence_ms }) => json!({
                "type": "server_vad",
                "threshold": round(self.detection.threshold),
                "prefix_padding_ms": self.detection.prefix_padding_ms,
                "silence_duration_ms": silence_ms,
                "idle_timeout_ms": null,
                "create_response": common.0,
                "interrupt_response": common.1,
            }),
            (eagerness, _) => json!({
                "type": "semantic_vad",
                "eagerness": eagerness.unwrap_or(Eagerness::Auto).name(),
                "create_response": common.0,
                "interrupt_response": common.1,
            }),
        }
    }

    /// Lays a client's object over what is in force. Another `type` begins from the defaults of that type.
    fn merged(current: Option<&Self>, update: &Value) -> Result<Option<Self>, WireError> {
        const AT: &str = "session.audio.input.turn_detection";
        let object = match update {
            Value::Null => return Ok(None),
            Value::Object(object) => object,
            _ => return Err(WireError::at(AT, "turn_detection is an object, or null to decide about turns yourself")),
        };
        let semantic = match object.get("type").and_then(Value::as_str) {
            Some("server_vad") => false,
            Some("semantic_vad") => true,
            None if current.is_some() && !object.contains_key("type") => current.is_some_and(|c| c.eagerness.is_some()),
            _ => return Err(WireError::at(format!("{AT}.type"), "turn_detection.type is server_vad or semantic_vad")),
        };
        let mut new = match current {
            Some(current) if current.eagerness.is_some() == semantic => current.clone(),
            _ if semantic => Self::semantic(),
            _ => Self { eagerness: None, detection: TurnDetection::default() },
        };
        for (key, value) in object {
            let at = || format!("{AT}.{key}");
            match (key.as_str(), semantic) {
                ("type", _) => {}
                ("create_response", _) => new.detection.create_response = boolean(value, true, at)?,
                ("interrupt_response", _) => new.detection.interrupt_response = boolean(value, true, at)?,
                ("threshold", false) => new.detection.threshold = number(value, 0.0, 1.0, 0.5, at)?,
                ("prefix_padding_ms", false) => {
                    new.detection.prefix_padding_ms = number(value, 0.0, 5_000.0, 300.0, at)? as u32;
                }
                ("silence_duration_ms", false) => {
                    let silence_ms = number(value, 100.0, 10_000.0, 500.0, at)? as u32;
                    new.detection.by = EndOfTurn::Silence { silence_ms };
                }
                ("idle_timeout_ms", false) if value.is_null() => {}
                ("eagerness", true) => {
                    let name = value.as_str().unwrap_or("auto");
                    let eagerness = Eagerness::ALL.iter().find(|(_, n)| *n == name).map(|(eagerness, _)| *eagerness);
                    let eagerness = eagerness
                        .filter(|_| value.is_null() || value.is_string())
                        .ok_or_else(|| WireError::at(at(), "eagerness is low, medium, high or auto"))?;
                    new.eagerness = Some(eagerness);
                    new.detection.by = EndOfTurn::Meaning { silence_ms_max: eagerness.silence_ms_max() };
                }
                _ => return Err(unknown(at())),
            }
        }
        Ok(Some(new))
    }
}

impl Session {
    /// A session as it begins.
    pub fn new(model: &str, instructions: &str, voice: &str) -> Self {
        Self {
            model: model.to_owned(),
            instructions: instructions.trim().to_owned(),
            voice: voice.to_owned(),
            spoken: true,
            tokens_max: None,
            input: Format::default(),
            output: Format::default(),
            speed: 1.0,
            turn_detection: Some(Detection::semantic()),
            transcription: Some(Map::new()),
            consent: false,
            passed_through: Map::new(),
            noise_reduction: Value::Null,
        }
    }

    /// What the conversation is told of this.
    pub fn settings(&self, greeting: Option<String>) -> Settings {
        Settings {
            turn_detection: self.turn_detection.as_ref().map(|d| d.detection.clone()),
            partial_words: self.transcription.is_some(),
            instructions: self.instructions.clone(),
            spoken: self.spoken,
            tokens_max: self.tokens_max.unwrap_or(TOKENS_DEFAULT),
            greeting,
            ..Settings::default()
        }
    }

    /// Lays a client's `session` object over this one: what it names changes, all else stays. On an error nothing changes.
    pub fn merge(&mut self, update: &Map<String, Value>) -> Result<(), WireError> {
        let mut new = self.clone();
        for (key, value) in update {
            let at = || format!("session.{key}");
            match key.as_str() {
                "type" => match value.as_str() {
                    Some("realtime") => {}
                    Some("transcription") => {
                        return Err(unsupported(at(), "transcription-only sessions"));
                    }
                    _ => return Err(WireError::at(at(), "session.type is realtime")),
                },
                // Shown by us, and harmless when a client sends back what it was shown. The name of a model is only a name here.
                "id" | "object" | "model" => {}
                "instructions" => new.instructions = text(value, INSTRUCTIONS_BYTES_MAX, at)?,
                "output_modalities" => new.spoken = spoken(value, at)?,
                "max_output_tokens" => new.tokens_max = tokens(value, at)?,
                "tools" => no_tools(value, at)?,
                "audio" => new.merge_audio(object(value, at)?)?,
                "nearfield" => new.merge_extension(object(value, at)?)?,
                key if PASSED_THROUGH.contains(&key) => {
                    new.passed_through.insert(key.to_owned(), value.clone());
                }
                _ => return Err(unknown(at())),
            }
        }
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
                    ("input", "format") => self.input = format(value, at)?,
                    ("output", "format") => self.output = format(value, at)?,
                    ("input", "turn_detection") => {
                        self.turn_detection = Detection::merged(self.turn_detection.as_ref(), value)?;
                    }
                    ("input", "transcription") => {
                        self.transcription = if value.is_null() { None } else { Some(object(value, at)?.clone()) };
                    }
                    ("input", "noise_reduction") => self.noise_reduction = value.clone(),
                    ("output", "voice") => {
                        let named = value.is_string() || value.get("id").is_some_and(Value::is_string);
                        if !named && !value.is_null() {
                            return Err(WireError::at(at(), "a voice is a name"));
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
    pub fn show(&self, id: &str, nearfield: Value) -> Value {
        let mut shown = json!({
            "type": "realtime",
            "object": "realtime.session",
            "id": id,
            "model": self.model,
            "output_modalities": [if self.spoken { "audio" } else { "text" }],
            "instructions": self.instructions,
            "tools": [],
            "tool_choice": "auto",
            "max_output_tokens": self.tokens_max.map_or(json!("inf"), |n| json!(n)),
            "tracing": null,
            "truncation": "auto",
            "prompt": null,
            "include": null,
            "audio": {
                "input": {
                    "format": show_format(self.input),
                    "transcription": self.transcription,
                    "noise_reduction": self.noise_reduction,
                    "turn_detection": self.turn_detection.as_ref().map(Detection::show),
                },
                "output": {
                    "format": show_format(self.output),
                    "voice": self.voice,
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

/// A format as the wire shows it.
pub fn show_format(format: Format) -> Value {
    match format {
        Format::Pcm => json!({ "type": format.name(), "rate": format.rate_hz() }),
        _ => json!({ "type": format.name() }),
    }
}

/// A float without the digits that 32 bits do not have.
fn round(value: f32) -> f64 {
    (f64::from(value) * 1e4).round() / 1e4
}

/// `max_output_tokens`: a number, or `"inf"` for this node's own limit.
pub fn tokens(value: &Value, at: impl Fn() -> String) -> Result<Option<usize>, WireError> {
    match value {
        Value::Null => Ok(None),
        Value::String(inf) if inf == "inf" => Ok(None),
        Value::Number(n) if n.as_u64().is_some_and(|n| (1..=4096).contains(&n)) => {
            Ok(n.as_u64().map(|n| (n as usize).min(TOKENS_MAX)))
        }
        _ => Err(WireError::at(at(), "max_output_tokens is 1 to 4096, or \"inf\"")),
    }
}

/// `output_modalities`: audio or text, not both.
pub fn spoken(value: &Value, at: impl Fn() -> String) -> Result<bool, WireError> {
    let names: Vec<&str> = value.as_array().map(|a| a.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
    match names.as_slice() {
        ["audio"] => Ok(true),
        ["text"] => Ok(false),
        _ => Err(WireError::at(at(), "output_modalities is [\"audio\"] or [\"text\"]")),
    }
}

/// Function tools are not there yet; an empty list is.
pub fn no_tools(value: &Value, at: impl Fn() -> String) -> Result<(), WireError> {
    match value {
        Value::Null => Ok(()),
        Value::Array(tools) if tools.is_empty() => Ok(()),
        _ => Err(unsupported(at(), "tools")),
    }
}

/// A string of at most so many bytes.
pub fn text(value: &Value, bytes_max: usize, at: impl Fn() -> String) -> Result<String, WireError> {
    let text = value.as_str().ok_or_else(|| WireError::at(at(), format!("{} is a string", at())))?;
    if text.len() > bytes_max {
        return Err(WireError {
            code: "string_above_max_length",
            message: format!("{} has {} bytes, {bytes_max} is the most; shorten it", at(), text.len()),
            param: Some(at()),
        });
    }
    Ok(text.to_owned())
}

/// An object.
pub fn object(value: &Value, at: impl Fn() -> String) -> Result<&Map<String, Value>, WireError> {
    value.as_object().ok_or_else(|| WireError::at(at(), format!("{} is an object", at())))
}

/// A field that nobody knows.
pub fn unknown(at: String) -> WireError {
    WireError { code: "unknown_parameter", message: format!("unknown parameter: {at}"), param: Some(at) }
}

/// Something of the API that this node does not do.
pub fn unsupported(at: String, what: &str) -> WireError {
    let message = format!("{what} are not supported by this node; leave {at} out");
    WireError { code: "unsupported_parameter", message, param: Some(at) }
}

fn boolean(value: &Value, default: bool, at: impl Fn() -> String) -> Result<bool, WireError> {
    match value {
        Value::Null => Ok(default),
        Value::Bool(b) => Ok(*b),
        _ => Err(WireError::at(at(), format!("{} is true or false", at()))),
    }
}

fn number(value: &Value, min: f64, max: f64, default: f64, at: impl Fn() -> String) -> Result<f32, WireError> {
    match value {
        Value::Null => Ok(default as f32),
        Value::Number(n) if n.as_f64().is_some_and(|n| (min..=max).contains(&n)) => {
            Ok(n.as_f64().unwrap_or(default) as f32)
        }
        _ => Err(WireError::at(at(), format!("{} is a number from {min} to {max}", at()))),
    }
}

fn format(value: &Value, at: impl Fn() -> String) -> Result<Format, WireError> {
    let wrong = |what: &str| WireError::at(at(), what);
    let object = value
        .as_object()
        .ok_or_else(|| wrong("a format is an object such as {\"type\": \"audio/pcm\", \"rate\": 24000}"))?;
    let name = object.get("type").and_then(Value::as_str).unwrap_or("audio/pcm");
    let format = Format::named(name).ok_or_else(|| wrong("format.type is audio/pcm, audio/pcmu or audio/pcma"))?;
    match object.get("rate") {
        None | Some(Value::Null) => Ok(format),
        Some(rate) if rate.as_u64() == Some(u64::from(format.rate_hz())) => Ok(format),
        Some(_) => Err(wrong(&format!("{} has a rate of {} Hz; resample to it", format.name(), format.rate_hz()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let shown = s.show("sess_1", Value::Null);
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
        assert_eq!(s.show("x", Value::Null)["audio"]["input"]["turn_detection"], Value::Null);
    }

    #[test]
    fn what_is_shown_can_be_sent_back() {
        let mut s = session();
        merge(&mut s, json!({"audio": {"input": {"format": {"type": "audio/pcmu"}}}, "tracing": "auto"}))
            .expect("fine");
        let shown = s.show("sess_1", json!({"region": "eu"}));
        let before = s.clone();
        let mut back = shown.as_object().expect("object").clone();
        assert_eq!(s.merge(&back), Ok(()));
        back.remove("tracing");
        assert_eq!(Session { passed_through: before.passed_through.clone(), ..s }, before);
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
        check(json!({"type": "transcription"}), "unsupported_parameter", "session.type");
        check(json!({"tools": [{"type": "function", "name": "f"}]}), "unsupported_parameter", "session.tools");
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
            json!({"audio": {"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 6000}}}}),
            "unknown_parameter",
            "session.audio.input.turn_detection.idle_timeout_ms",
        );
        check(json!({"audio": {"output": {"speed": 9}}}), "invalid_value", "session.audio.output.speed");
        check(json!({"nearfield": {"consent": "yes"}}), "invalid_value", "session.nearfield.consent");
    }
}
