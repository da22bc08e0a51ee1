//! `POST /v1/telephony/incoming`: somebody calls, and Twilio asks what to do.
//!
//! Twilio shows HTTP errors to nobody and tells the caller of an "application error", so a call that is not taken is rejected in TwiML:
//! as busy where another attempt may succeed, else as not in service.

use super::{Exchange, STREAM_PATH, Scheme, permit};
use crate::{media::RealtimeQuery, refusal::Refusal as NotTaken};
use axum::{
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use std::fmt::Write as _;

pub(super) async fn answer(
    State(Exchange { door, telephony }): State<Exchange>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, NotTaken> {
    let form = form(&body)?;
    telephony.check_signature(Scheme::Http, &uri, &headers, &form)?;
    let Query(query) = Query::<RealtimeQuery>::try_from_uri(&uri)
        .map_err(|e| NotTaken::new(StatusCode::BAD_REQUEST, "bad_query", e.body_text()))?;
    let country = form.iter().find(|(name, _)| name == "FromCountry").map(|(_, value)| value.as_str());
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
        ("greeting", query.greeting.as_deref()),
        ("language", query.language.as_deref()),
    ];
    let given = parameters.into_iter().filter_map(|(name, value)| Some((name, value.filter(|v| !v.is_empty())?)));
    Ok(twiml(&connect(&format!("{}{STREAM_PATH}", telephony.url_as(Scheme::WebSocket)), given)))
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

fn twiml(verbs: &str) -> Response {
    let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response>{verbs}</Response>\n");
    ([(header::CONTENT_TYPE, "text/xml; charset=utf-8")], text).into_response()
}

/// Text inside an attribute. What XML has no place for is left out.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            c if c.is_control() => {}
            c => escaped.push(c),
        }
    }
    escaped
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
