//! An assistant's tool: one request, made from what the model wants, and what it returned.

use super::{Answer, Ask, Outbound, OutboundError};
use nearfield_shared::assistant::http_tool::{FillError, HttpTool, UrlError, UrlTemplate, in_url};
use reqwest::{
    Method, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
};
use serde_json::{Map, Value};
use std::time::Duration;

/// Why a tool returned nothing.
#[derive(Debug, thiserror::Error)]
pub enum ToolFailure {
    /// The assistant has no such tool.
    #[error("the assistant has no such tool")]
    Unknown,
    /// The tool's URL is none.
    #[error("url: {0}")]
    Url(#[from] UrlError),
    /// The arguments do not fit the URL.
    #[error("{0}")]
    Arguments(#[from] FillError),
    /// It could not be asked, or did not answer.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// It answered with an error.
    #[error("HTTP status {0}")]
    Status(u16),
    /// It answered with what is no text.
    #[error("the answer is no text")]
    NotText,
}

impl ToolFailure {
    /// The failure in a few words for the model, which say nothing of hosts and secrets.
    pub fn for_model(&self) -> String {
        match self {
            Self::Arguments(error) => error.to_string(),
            Self::Status(404) => "nothing was found".into(),
            Self::Status(status @ 400..500) => format!("the request was refused with status {status}"),
            Self::Outbound(OutboundError::TimedOut(_)) => "it did not answer in time".into(),
            Self::Outbound(OutboundError::TooLong(_)) => "its answer was too long".into(),
            _ => "it cannot be reached at the moment".into(),
        }
    }
}

/// Calls a tool with these arguments, the text of a JSON object.
///
/// # Errors
/// When it must not be called, or does not answer as it should.
pub async fn call(
    outbound: &Outbound,
    tool: &HttpTool,
    hosts: &[String],
    arguments: &str,
) -> Result<String, ToolFailure> {
    let template = UrlTemplate::parse(&tool.url)?;
    let mut arguments: Map<String, Value> = serde_json::from_str(arguments).unwrap_or_default();
    // What the schema does not name is the model's invention.
    let named = tool.parameters.get("properties").and_then(Value::as_object);
    arguments.retain(|name, _| named.is_some_and(|named| named.contains_key(name)));
    let (url, rest) = template.fill(&arguments)?;
    let mut headers = outbound.headers(tool.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static("application/json, text/plain;q=0.9"));
    let (url, body) = if tool.method.has_body() {
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        (url, Some(Value::Object(rest).to_string().into_bytes()))
    } else {
        (with_query(&url, &rest)?, None)
    };
    let method = Method::from_bytes(tool.method.as_str().as_bytes()).map_err(|_| ToolFailure::Unknown)?;
    let timeout = Duration::from_millis(tool.timeout_ms.into());
    let response_bytes_max = tool.response_bytes_max as usize;
    let ask = Ask { method, url, host: template.host(), headers, body, timeout, response_bytes_max };
    let Answer { status, body } = outbound.ask(ask, hosts).await?;
    if !(200..300).contains(&status) {
        return Err(ToolFailure::Status(status));
    }
    String::from_utf8(body).map_err(|_| ToolFailure::NotText)
}

fn with_query(url: &str, arguments: &Map<String, Value>) -> Result<String, ToolFailure> {
    if arguments.is_empty() {
        return Ok(url.to_owned());
    }
    let mut url: Url = url.parse().map_err(|_| UrlError::Host)?;
    for (name, value) in arguments {
        let text = in_url(value).ok_or_else(|| FillError::Unfit(name.clone()))?;
        url.query_pairs_mut().append_pair(name, &text);
    }
    Ok(url.into())
}
