//! A function that a node does itself: one HTTP request, made from what the model wants.
//!
//! ```toml
//! hosts = ["crm.example.com"]
//!
//! [[tools]]
//! name = "order_status"
//! description = "Where an order is."
//! url = "https://crm.example.com/orders/{number}"
//! headers = { Authorization = "Bearer ${crm_token}" }
//! [tools.parameters]
//! type = "object"
//! required = ["number"]
//! properties = { number = { type = "string", description = "The order's number." } }
//! ```
//!
//! `{number}` in the path or the query is an argument, percent-encoded. Arguments that the URL does not name go into the query
//! of a GET or DELETE and into the JSON body of the others. `${crm_token}` in a header is the file `secrets/crm_token` of the node's
//! folder; nothing secret stands in an assistant's file, because that file is pushed to nodes and shown by the control plane.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, fmt};

/// Functions that one assistant may have. What a small model is told of many more it mixes up.
pub const TOOLS_MAX: usize = 8;

/// Bytes of an assistant's functions as JSON: half of what a prompt takes, so that a client's own functions have room beside them.
pub const TOOLS_BYTES_MAX: usize = 2 * 1024;

/// The least and the most milliseconds that a request may take. A caller waits that long.
pub const TIMEOUT_MS: (u32, u32) = (100, 20_000);

/// The most bytes that an answer may have. A prompt takes far less of it.
pub const RESPONSE_BYTES_MAX: u32 = 64 * 1024;

/// Headers of one function.
pub const HEADERS_MAX: usize = 16;

/// Characters of an argument that goes into a URL.
const ARGUMENT_CHARS_MAX: usize = 256;

/// A function that the node does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTool {
    /// Its name: 1 to 64 letters, digits, `_` and `-`.
    pub name: String,
    /// What it is for, in words for the model.
    pub description: String,
    /// Its arguments as a JSON schema of an object.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// The method. Default `GET`.
    #[serde(default)]
    pub method: Method,
    /// `https://HOST/PATH?QUERY` with `{argument}` in path or query; `http` for this machine only.
    pub url: String,
    /// Headers; `${NAME}` in a value is a secret of the node.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Milliseconds that the whole request may take. See [`TIMEOUT_MS`]; default 5,000.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u32,
    /// Bytes that the answer may have. At most [`RESPONSE_BYTES_MAX`]; default 8,192.
    #[serde(default = "default_response_bytes_max")]
    pub response_bytes_max: u32,
}

fn default_timeout_ms() -> u32 {
    5_000
}

fn default_response_bytes_max() -> u32 {
    8 * 1024
}

/// An HTTP method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "they are what they are called")]
pub enum Method {
    #[default]
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 5] = [Method::Get, Method::Post, Method::Put, Method::Patch, Method::Delete];

    /// Its name in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        }
    }

    /// Whether arguments travel in a body.
    pub fn has_body(self) -> bool {
        !matches!(self, Method::Get | Method::Delete)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a URL is none that a node asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Neither `https://` nor `http://`.
    #[error("it must begin with https:// (http:// is for this machine only)")]
    Scheme,
    /// `http` to another machine.
    #[error("plain http is for localhost, 127.0.0.1 and [::1] only; use https")]
    Plain,
    /// The host is missing, or holds what does not belong there.
    #[error("its host must be a plain NAME or NAME:PORT in small letters, without a user, a password or an argument")]
    Host,
    /// A brace without its partner, or what is no name between them.
    #[error("an argument is `{{name}}` with letters, digits, _ or - between the braces")]
    Braces,
    /// Characters that a URL does not have.
    #[error("path and query hold letters, digits and -._~/?&=%+:@!$'()*,; only, and no #fragment")]
    Characters,
}

/// Why a URL could not be filled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// The model left an argument out that the URL needs.
    #[error("the argument {0} is missing")]
    Missing(String),
    /// A list, an object, nothing, or a text that would lead elsewhere.
    #[error("the argument {0} must be a short text, a number or a truth value")]
    Unfit(String),
}

/// A URL with places for arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlTemplate {
    origin: String,
    host: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Argument(String),
}

impl UrlTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// When it is no URL that a node asks.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, rest) = rest.split_at(end);
        if !is_host(host) {
            return Err(UrlError::Host);
        }
        match scheme {
            "https" => {}
            "http" if is_loopback(host) => {}
            "http" => return Err(UrlError::Plain),
            _ => return Err(UrlError::Scheme),
        }
        let mut parts = Vec::new();
        let mut rest = rest;
        while let Some((before, behind)) = rest.split_once('{') {
            let (name, after) = behind.split_once('}').ok_or(UrlError::Braces)?;
            if !is_name(name) {
                return Err(UrlError::Braces);
            }
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Argument(name.to_owned()));
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        for part in &parts {
            if let Part::Text(text) = part {
                if text.contains(['{', '}']) {
                    return Err(UrlError::Braces);
                }
                if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/?&=%+:@!$'()*,;".contains(&b)) {
                    return Err(UrlError::Characters);
                }
            }
        }
        Ok(Self { origin: format!("{scheme}://{host}"), host: host.to_owned(), parts })
    }

    /// The host, with its port where the URL names one.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The arguments that it names.
    pub fn arguments(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Argument(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The URL with these arguments in it, and the arguments that it does not name.
    ///
    /// # Errors
    /// When one that it names is missing or cannot stand in a URL.
    pub fn fill(&self, arguments: &Map<String, Value>) -> Result<(String, Map<String, Value>), FillError> {
        let mut url = self.origin.clone();
        for part in &self.parts {
            match part {
                Part::Text(text) => url.push_str(text),
                Part::Argument(name) => {
                    let value = arguments.get(name).ok_or_else(|| FillError::Missing(name.clone()))?;
                    let text = in_url(value).ok_or_else(|| FillError::Unfit(name.clone()))?;
                    url.push_str(&percent_encoded(&text));
                }
            }
        }
        let mut rest = arguments.clone();
        rest.retain(|name, _| !self.arguments().any(|named| named == name));
        Ok((url, rest))
    }
}

/// A value as it may stand in a URL: short, and no `.` or `..`, which would name another folder however they are encoded.
pub fn in_url(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    let fits = !text.is_empty() && text.chars().count() <= ARGUMENT_CHARS_MAX && text != "." && text != "..";
    fits.then_some(text)
}

/// Everything but letters, digits and `-._~` as `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Whether a text is a host as it stands in a URL, with or without a port.
pub fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (text, None),
    };
    let good_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|n| n != 0 && n.to_string() == port));
    let good_name = match name.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
            (1..=253).contains(&name.len()) && name.bytes().all(good) && !name.starts_with('.')
        }
    };
    good_port && good_name
}

/// Whether a host, with or without a port, is this machine.
pub fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    let name = name.trim_matches(['[', ']']);
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a text can name an argument or a secret.
pub fn is_name(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(good)
}

/// A header's value in pieces: text, and names of secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderPart<'t> {
    /// Text as it stands.
    Text(&'t str),
    /// The secret of this name.
    Secret(&'t str),
}

/// Takes a header's value apart; `None` where `${` is not closed or what it names is no name.
pub fn header_parts(value: &str) -> Option<Vec<HeaderPart<'_>>> {
    let mut parts = Vec::new();
    let mut rest = value;
    while let Some((before, behind)) = rest.split_once("${") {
        let (name, after) = behind.split_once('}')?;
        if !is_name(name) {
            return None;
        }
        parts.extend([HeaderPart::Text(before), HeaderPart::Secret(name)]);
        rest = after;
    }
    parts.push(HeaderPart::Text(rest));
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn filled(url: &str, arguments: Value) -> Result<(String, Value), String> {
        let template = UrlTemplate::parse(url).map_err(|e| e.to_string())?;
        let (url, rest) = template.fill(arguments.as_object().expect("an object")).map_err(|e| e.to_string())?;
        Ok((url, Value::Object(rest)))
    }

    #[test]
    fn arguments_stand_in_path_and_query_and_lead_nowhere_else() {
        let url = "https://crm.example.com/orders/{number}?lang={lang}";
        let ok = |arguments| filled(url, arguments).expect("fills");
        assert_eq!(
            ok(json!({"number": 17, "lang": "en", "more": true})),
            ("https://crm.example.com/orders/17?lang=en".into(), json!({"more": true}))
        );
        assert_eq!(
            ok(json!({"number": "../a b&c=d#e", "lang": "ü"})).0,
            "https://crm.example.com/orders/..%2Fa%20b%26c%3Dd%23e?lang=%C3%BC"
        );
        for (arguments, says) in [
            (json!({"number": 1}), "lang is missing"),
            (json!({"number": "..", "lang": "en"}), "number must be"),
            (json!({"number": " ", "lang": "en"}), "number must be"),
            (json!({"number": ["x"], "lang": "en"}), "number must be"),
            (json!({"number": "x".repeat(300), "lang": "en"}), "number must be"),
        ] {
            let said = filled(url, arguments).expect_err("refused");
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn what_is_no_url_of_an_exact_host_is_refused() {
        for (url, error) in [
            ("crm.example.com/x", UrlError::Scheme),
            ("ftp://crm.example.com/x", UrlError::Scheme),
            ("http://crm.example.com/x", UrlError::Plain),
            ("https://{host}/x", UrlError::Host),
            ("https://user:secret@crm.example.com/", UrlError::Host),
            ("https:///x", UrlError::Host),
            ("https://CRM.example.com", UrlError::Host),
            ("https://crm.example.com:0/", UrlError::Host),
            ("https://crm.example.com:080/", UrlError::Host),
            ("https://crm.example.com/{a b}", UrlError::Braces),
            ("https://crm.example.com/{a", UrlError::Braces),
            ("https://crm.example.com/a}", UrlError::Braces),
            ("https://crm.example.com/a#b", UrlError::Characters),
            ("https://crm.example.com\\@evil.example/", UrlError::Host),
            ("https://crm.example.com/a\\b", UrlError::Characters),
        ] {
            assert_eq!(UrlTemplate::parse(url), Err(error), "{url}");
        }
        for url in ["https://crm.example.com", "http://localhost:8080/x", "http://[::1]:9/{a}", "https://10.0.0.5/"] {
            assert!(UrlTemplate::parse(url).is_ok(), "{url}");
        }
        assert_eq!(UrlTemplate::parse("https://a.example:8443/x").expect("a URL").host(), "a.example:8443");
    }

    #[test]
    fn a_header_names_its_secrets() {
        use HeaderPart::{Secret, Text};
        assert_eq!(header_parts("Bearer ${crm_token}"), Some(vec![Text("Bearer "), Secret("crm_token"), Text("")]));
        assert_eq!(header_parts("plain $5 {x}"), Some(vec![Text("plain $5 {x}")]));
        assert_eq!(header_parts("${../vault.key}"), None);
        assert_eq!(header_parts("${open"), None);
    }

    #[test]
    fn a_file_says_little_and_gets_the_defaults() {
        let tool: HttpTool = toml::from_str(
            "name = \"a\"\ndescription = \"b\"\nurl = \"https://c.example/\"\n[parameters]\ntype = \"object\"\n",
        )
        .expect("reads");
        assert_eq!((tool.method, tool.timeout_ms, tool.response_bytes_max), (Method::Get, 5_000, 8_192));
        assert_eq!(Value::Object(tool.parameters), json!({"type": "object"}));
        assert!(
            toml::from_str::<HttpTool>("name = \"a\"\ndescription = \"b\"\nurl = \"u\"\nmethod = \"TRACE\"").is_err()
        );
    }
}
