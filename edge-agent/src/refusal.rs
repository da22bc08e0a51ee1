//! Why a request over HTTP is not done, in the shape that clients of the OpenAI API know:
//! `{"error": {"message", "type", "param", "code"}}`.

use crate::{media::session::WireError, speech::SpeechError};
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// How long to wait for a model that is not there yet: an activation takes some seconds.
const MODEL_RETRY_MS: u64 = 10_000;

/// A refusal. What a caller sent is never part of it, but for names of fields and models.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// A short code for programs.
    pub code: &'static str,
    /// Words for a person, with the remedy.
    pub message: String,
    /// The field that is wrong.
    pub param: Option<String>,
    /// When another attempt may succeed.
    pub retry_after_s: Option<u64>,
}

impl Refusal {
    /// A refusal that names no field.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), param: None, retry_after_s: None }
    }

    /// A field with a value that cannot be.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        let refusal = Self::new(StatusCode::BAD_REQUEST, "invalid_value", message);
        Self { param: Some(param.into()), ..refusal }
    }

    /// What can be done later, or by another node.
    pub fn busy(code: &'static str, message: impl Into<String>, retry_after_ms: u64) -> Self {
        let retry_after_s = Some(retry_after_ms.div_ceil(1_000).max(1));
        Self { retry_after_s, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message) }
    }

    /// The error object, as it stands in a body and in an event of a stream.
    pub fn body(&self) -> Value {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({ "error": { "message": self.message, "type": kind, "param": self.param, "code": self.code } })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<WireError> for Refusal {
    fn from(WireError { code, message, param }: WireError) -> Self {
        Self { param, ..Self::new(StatusCode::BAD_REQUEST, code, message) }
    }
}

impl From<SpeechError> for Refusal {
    fn from(error: SpeechError) -> Self {
        let (code, message) = (error.code(), error.to_string());
        match error {
            SpeechError::Overloaded { retry_after_ms } => Self::busy(code, message, retry_after_ms),
            SpeechError::NoModel(_) => Self::busy(code, message, MODEL_RETRY_MS),
            SpeechError::WorkerDied | SpeechError::Cancelled => Self::busy(code, message, 1_000),
            SpeechError::BadInput(_) => Self::new(StatusCode::BAD_REQUEST, code, message),
            // What a model says about its failure is for the operator.
            SpeechError::Model(_) => {
                tracing::error!(%error, "a model failed at a request");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    code,
                    "a model failed at this request; try again, or another node",
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_a_status_a_kind_and_a_time_to_come_back() {
        let check = |error: SpeechError, status: u16, kind: &str, retry: Option<u64>| {
            let refusal = Refusal::from(error);
            assert_eq!((refusal.status.as_u16(), refusal.retry_after_s), (status, retry), "{refusal}");
            assert_eq!(refusal.body()["error"]["type"], kind);
        };
        check(SpeechError::Overloaded { retry_after_ms: 1_200 }, 503, "server_error", Some(2));
        check(SpeechError::WorkerDied, 503, "server_error", Some(1));
        check(SpeechError::NoModel(nearfield_shared::artefact::Stage::Asr), 503, "server_error", Some(10));
        check(SpeechError::BadInput("too long".into()), 400, "invalid_request_error", None);
        check(SpeechError::Model("tensor 7".into()), 500, "server_error", None);
        assert!(!Refusal::from(SpeechError::Model("tensor 7".into())).message.contains("tensor"));
        assert_eq!(Refusal::field("input", "no").body()["error"]["param"], "input");
    }
}
