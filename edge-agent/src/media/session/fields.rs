//! Fields of the wire's objects, read one by one: each with its bounds, and an error that names it.

use super::super::codec::Format;
use nearfield_dialogue::settings::TOKENS_MAX;
use serde_json::{Map, Value, json};

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

/// A format as the wire shows it.
pub fn show_format(format: Format) -> Value {
    match format {
        Format::Pcm => json!({ "type": format.name(), "rate": format.rate_hz() }),
        _ => json!({ "type": format.name() }),
    }
}

/// Characters of the longest name of a voice.
const VOICE_CHARS_MAX: usize = 128;

/// A voice is a name, or an object with one; `None` is none.
pub fn voice(value: &Value, at: impl Fn() -> String) -> Result<Option<String>, WireError> {
    let name = value.as_str().or_else(|| value.get("id")?.as_str());
    match name.filter(|name| (1..=VOICE_CHARS_MAX).contains(&name.chars().count())) {
        Some(name) => Ok(Some(name.to_owned())),
        None if value.is_null() => Ok(None),
        None => Err(WireError::at(at(), format!("a voice is a name of 1 to {VOICE_CHARS_MAX} characters"))),
    }
}

/// A float without the digits that 32 bits do not have.
pub(super) fn round(value: f32) -> f64 {
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

/// A switch.
pub fn boolean(value: &Value, default: bool, at: impl Fn() -> String) -> Result<bool, WireError> {
    match value {
        Value::Null => Ok(default),
        Value::Bool(b) => Ok(*b),
        _ => Err(WireError::at(at(), format!("{} is true or false", at()))),
    }
}

/// A number within bounds.
pub fn number(value: &Value, min: f64, max: f64, default: f64, at: impl Fn() -> String) -> Result<f32, WireError> {
    match value {
        Value::Null => Ok(default as f32),
        Value::Number(n) if n.as_f64().is_some_and(|n| (min..=max).contains(&n)) => {
            Ok(n.as_f64().unwrap_or(default) as f32)
        }
        _ => Err(WireError::at(at(), format!("{} is a number from {min} to {max}", at()))),
    }
}

/// A format of audio.
pub fn format(value: &Value, at: impl Fn() -> String) -> Result<Format, WireError> {
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
