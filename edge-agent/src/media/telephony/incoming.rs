//! `POST /v1/telephony/incoming`: somebody calls, and Twilio asks what to do.
//!
//! Twilio shows HTTP errors to nobody and tells the caller of an "application error", so a call that is not taken is rejected in TwiML:
//! as busy where another attempt may succeed, else as not in service.

use super::{
    Exchange, STREAM_PATH, Scheme, Telephony, permit,
    transfer::AFTER_PATH,
    twiml::{escaped, twiml},
};
use crate::{media::RealtimeQuery, refusal::Refusal as NotTaken};
use axum::{
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, Uri},
    response::Response,
};
use std::fmt::Write as _;

/// What Twilio asks about a call, and proved to have asked.
pub(super) struct Asked {
    uri: Uri,
    form: Vec<(String, String)>,
}

impl Asked {
    /// Reads a request.
    pub fn read(telephony: &Telephony, uri: Uri, headers: &HeaderMap, body: &[u8]) -> Result<Self, NotTaken> {
        let form = form(body)?;
        telephony.check_signature(Scheme::Http, &uri, headers, &form)?;
        Ok(Self { uri, form })
    }

    /// A field of the form, where it is there and says something.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.form.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Where to ask next: a path of ours, with what this request was asked with.
    pub fn url(&self, telephony: &Telephony, path: &str) -> String {
        let query = self.uri.query().map_or_else(String::new, |query| format!("?{query}"));
        format!("{}{path}{query}", telephony.url_as(Scheme::Http))
    }
}

pub(super) async fn answer(
    State(exchange): State<Exchange>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, NotTaken> {
    let asked = Asked::read(&exchange.telephony, uri, &headers, &body)?;
    conversation(&exchange, &asked, None)
}

/// Connects a call to a conversation, whose greeting may be another than the query says, or rejects it.
pub(super) fn conversation(exchange: &Exchange, asked: &Asked, greeting: Option<&str>) -> Result<Response, NotTaken> {
    let Exchange { door, telephony } = exchange;
    let Query(query) = Query::<RealtimeQuery>::try_from_uri(&asked.uri)
        .map_err(|e| NotTaken::new(StatusCode::BAD_REQUEST, "bad_query", e.body_text()))?;
    let country = asked.field("FromCountry");
    let serving = door.services.serving.borrow().clone();
    if let Err(refused) = permit(&serving, country) {
        // Not the country: it says something about the caller.
        tracing::info!(code = refused.code(), "a call by telephone was rejected by law");
        return Ok(twiml(&reject("rejected")));
    }
    if let Err(refused) = door.has_room(&query) {
        tracing::info!(code = refused.code, "a call by telephone was rejected");
        let reason = if refused.retry_after_s.is_some() { "busy" } else { "rejected" };
        return Ok(twiml(&reject(reason)));
    }
    let parameters = [
        ("country", country),
        ("assistant", query.assistant.as_deref()),
        ("greeting", greeting.or(query.greeting.as_deref())),
        ("language", query.language.as_deref()),
        ("transfer", Some("on")),
    ];
    let given = parameters.into_iter().filter_map(|(name, value)| Some((name, value.filter(|v| !v.is_empty())?)));
    let stream = connect(&format!("{}{STREAM_PATH}", telephony.url_as(Scheme::WebSocket)), given);
    let after = escaped(&asked.url(telephony, AFTER_PATH));
    Ok(twiml(&format!("{stream}<Redirect method=\"POST\">{after}</Redirect>")))
}

/// The fields of a form; it is written as a query is.
fn form(body: &[u8]) -> Result<Vec<(String, String)>, NotTaken> {
    let bad = || {
        let message = "the form of a call is application/x-www-form-urlencoded, as Twilio sends it";
        NotTaken::new(StatusCode::BAD_REQUEST, "invalid_form", message)
    };
    let text = std::str::from_utf8(body).map_err(|_| bad())?;
    let uri: Uri = format!("/?{text}").parse().map_err(|_| bad())?;
    let Query(fields) = Query::try_from_uri(&uri).map_err(|_| bad())?;
    Ok(fields)
}

fn reject(reason: &str) -> String {
    format!("<Reject reason=\"{reason}\"/>")
}

fn connect<'a>(url: &str, parameters: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut inside = String::new();
    for (name, value) in parameters {
        let _infallible = write!(inside, "<Parameter name=\"{name}\" value=\"{}\"/>", escaped(value));
    }
    format!("<Connect><Stream url=\"{}\">{inside}</Stream></Connect>", escaped(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_somebody_states_gets_out_of_its_attribute() {
        let evil = "\"/></Stream><Dial>+1900</Dial>\u{0}&'";
        let connect = connect("wss://a/b", [("assistant", evil)].into_iter());
        assert_eq!(connect.matches('<').count(), 5, "{connect}");
        assert!(connect.contains("value=\"&quot;/&gt;&lt;/Stream&gt;") && !connect.contains('\u{0}'), "{connect}");
    }

    #[test]
    fn forms_are_read_as_they_are_sent() {
        let fields = form(b"From=%2B4930123&FromCountry=DE&Name=A+B%26C&Empty=").expect("a form");
        let expect = [("From", "+4930123"), ("FromCountry", "DE"), ("Name", "A B&C"), ("Empty", "")];
        assert!(fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).eq(expect), "{fields:?}");
        for bad in [&b"\xff\xfe"[..], b"a b\r\n\r\n"] {
            assert_eq!(form(bad).expect_err("no form").code, "invalid_form");
        }
    }
}
