//! The HTTP side: [`public`] for callers, [`admin`] for whoever has an account.

pub(crate) mod access;
mod accounts;
pub mod admin;
mod audit;
pub mod door;
pub mod listener;
mod prometheus;
pub mod public;
pub mod rollout_view;
mod rollouts;
pub mod standing_by;
pub mod views;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

/// The code of an error that says that another control plane leads.
pub const NOT_LEADING: &str = "not_leading";

/// An error as it goes over the wire, in the form that the agents' API has too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// Always `invalid_request_error` or `server_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// For programs.
    pub code: String,
    /// For people, with the remedy.
    pub message: String,
}

/// An error answer.
pub(crate) fn error(status: StatusCode, code: &str, message: impl Into<String>) -> Response {
    let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
    let detail = ErrorDetail { kind: kind.into(), code: code.into(), message: message.into() };
    (status, Json(ErrorBody { error: detail })).into_response()
}
