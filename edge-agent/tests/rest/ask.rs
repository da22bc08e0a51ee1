//! A client that asks and looks at what comes back.
#![allow(clippy::unwrap_used)]

use crate::support::Node;
use reqwest::{Response, StatusCode};
use serde_json::Value;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub retry_after: Option<String>,
    pub body: Value,
}

impl Answer {
    pub async fn of(response: Response) -> Self {
        let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        let (status, text) = (response.status(), response.text().await.unwrap());
        let body = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{status}: {e}: {text}"));
        Self { status: status.as_u16(), retry_after, body }
    }

    /// The body of what was done.
    pub fn done(self) -> Value {
        assert_eq!(self.status, StatusCode::OK.as_u16(), "{}", self.body);
        self.body
    }

    /// Checks that it was refused in the API's shape: status, code, field, and a word of the message.
    pub fn refused(&self, status: u16, code: &str, param: Option<&str>, word: &str) {
        let error = &self.body["error"];
        let message = error["message"].as_str().unwrap_or_default();
        let found = (self.status, error["code"].as_str(), error["param"].as_str(), message.contains(word));
        assert_eq!(found, (status, Some(code), param, true), "`{word}` in {}", self.body);
        let kind = error["type"].as_str().unwrap();
        assert!(["invalid_request_error", "server_error", "rate_limit_error"].contains(&kind), "{kind}");
    }
}

pub async fn get(node: &Node, path: &str) -> Answer {
    Answer::of(reqwest::get(format!("http://{}{path}", node.address)).await.unwrap()).await
}

/// Sends JSON, and returns the response as it begins.
pub async fn begin(node: &Node, path: &str, body: &Value) -> Response {
    reqwest::Client::new().post(format!("http://{}{path}", node.address)).json(body).send().await.unwrap()
}

pub async fn post(node: &Node, path: &str, body: &Value) -> Answer {
    Answer::of(begin(node, path, body).await).await
}

/// A form with a file in it.
pub struct Form {
    body: Vec<u8>,
}

const BOUNDARY: &str = "----nearfield";

impl Form {
    pub fn new() -> Self {
        Self { body: Vec::new() }
    }

    pub fn field(mut self, name: &str, value: &str) -> Self {
        let part = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        self.body.extend(part.into_bytes());
        self
    }

    pub fn file(mut self, name: &str, bytes: &[u8]) -> Self {
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        self.body.extend(head.into_bytes());
        self.body.extend(bytes);
        self.body.extend(b"\r\n");
        self
    }

    pub fn request(mut self, url: &str) -> reqwest::RequestBuilder {
        self.body.extend(format!("--{BOUNDARY}--\r\n").into_bytes());
        let kind = format!("multipart/form-data; boundary={BOUNDARY}");
        reqwest::Client::new().post(url).header("content-type", kind).body(self.body)
    }
}

pub async fn post_form(node: &Node, path: &str, form: Form) -> Response {
    form.request(&format!("http://{}{path}", node.address)).send().await.unwrap()
}

/// All events of a stream; `[DONE]` as a string.
pub async fn events(response: Response) -> Vec<Value> {
    let text = response.text().await.unwrap();
    let event = |event: &str| {
        let data = event.strip_prefix("data: ").unwrap_or_else(|| panic!("no event: {event}"));
        serde_json::from_str(data).unwrap_or_else(|_| Value::from(data))
    };
    text.split("\n\n").filter(|event| !event.is_empty()).map(event).collect()
}
