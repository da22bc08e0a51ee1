//! Bodies of requests: bounded, read in a bounded time, and refused in the API's error shape.

use crate::{media::session, refusal::Refusal};
use axum::{
    body::to_bytes,
    extract::{FromRequest, Request},
    http::StatusCode,
};
use serde_json::{Map, Value};
use std::time::Duration;

/// Bytes of a JSON body: 2,048 sentences of 1,000 characters, and far more than any prompt.
pub const JSON_BYTES_MAX: usize = 4 << 20;

/// How long a body may take to arrive: 25 MB at 1.7 Mbit/s.
pub const ARRIVES_WITHIN: Duration = Duration::from_secs(120);

/// A JSON object. Fields that the API has and this node does not know are for each endpoint to judge.
pub struct JsonBody(Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Self::Rejection> {
        let arriving = to_bytes(request.into_body(), JSON_BYTES_MAX);
        let Ok(arrived) = tokio::time::timeout(ARRIVES_WITHIN, arriving).await else { return Err(too_slow()) };
        let bytes = arrived.map_err(|_| too_large(JSON_BYTES_MAX, "send less at once"))?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            // What serde says may quote what was sent, so only the place is told.
            Err(e) => Err(not_json(format!("the body is not JSON (line {}, column {})", e.line(), e.column()))),
            Ok(_) => Err(not_json("the body is a JSON object".into())),
        }
    }
}

fn not_json(message: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "invalid_json", message)
}

/// A body that came too slowly.
pub fn too_slow() -> Refusal {
    let message = format!("the body did not arrive within {} s; send it again", ARRIVES_WITHIN.as_secs());
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
}

/// A body of too many bytes.
pub fn too_large(bytes_max: usize, remedy: &str) -> Refusal {
    let message = format!("the body has more than {bytes_max} bytes, the most that is taken; {remedy}");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}

impl JsonBody {
    /// A field; `null` where it is not there.
    pub fn get(&self, field: &str) -> &Value {
        self.0.get(field).unwrap_or(&Value::Null)
    }

    /// A string that must be there.
    pub fn text(&self, field: &'static str, bytes_max: usize) -> Result<String, Refusal> {
        match self.get(field) {
            Value::Null => Err(missing(field)),
            value => Ok(session::text(value, bytes_max, || field.to_owned())?),
        }
    }

    /// One of some words; the first where the field is not there.
    pub fn one_of<'a, T: Copy>(&self, field: &'static str, words: &'a [(&'a str, T)]) -> Result<T, Refusal> {
        one_of(field, self.get(field).as_str().map_or_else(|| self.get(field).is_null().then_some(""), Some), words)
    }

    /// A number within bounds, if it is there.
    pub fn number(&self, field: &'static str, min: f64, max: f64) -> Result<Option<f32>, Refusal> {
        match self.get(field) {
            Value::Null => Ok(None),
            value => Ok(Some(session::number(value, min, max, min, || field.to_owned())?)),
        }
    }

    /// A switch; off where it is not there.
    pub fn switch(&self, field: &'static str) -> Result<bool, Refusal> {
        Ok(session::boolean(self.get(field), false, || field.to_owned())?)
    }
}

/// A field that must be there.
pub fn missing(field: &'static str) -> Refusal {
    let refusal = Refusal::field(field, format!("`{field}` is missing; send it"));
    Refusal { code: "missing_required_parameter", ..refusal }
}

/// One of some words; the first for the empty word. `None` is what is no word at all.
pub fn one_of<T: Copy>(field: &'static str, word: Option<&str>, words: &[(&str, T)]) -> Result<T, Refusal> {
    let found = match word {
        Some("") => words.first(),
        Some(word) => words.iter().find(|(name, _)| *name == word),
        None => None,
    };
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names = words.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Refusal::field(field, format!("`{field}` is one of {names}"))
    })
}
