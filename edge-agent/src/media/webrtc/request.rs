//! The request that opens a call: an offer alone (`application/sdp`), or a form with the offer and the session.

use crate::{
    media::session::object,
    refusal::Refusal,
    rest::body::{ARRIVES_WITHIN, missing, too_large, too_slow},
};
use axum::{
    body::to_bytes,
    extract::{FromRequest, Request},
    http::{StatusCode, header},
};
use multer::{Constraints, Multipart, SizeLimit, parse_boundary};
use serde_json::{Map, Value};

/// Bytes of an offer, and of a session in a form. A browser's offer has about three thousand.
pub const OFFER_BYTES_MAX: usize = 64 * 1024;

/// An offer and the session that is wanted.
#[derive(Debug, PartialEq)]
pub struct Offer {
    /// The SDP, unread.
    pub sdp: String,
    /// The client's `session` object, where it sent one.
    pub session: Option<Map<String, Value>>,
}

impl<S: Send + Sync> FromRequest<S> for Offer {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Self::Rejection> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or_default().to_owned();
        let reading = async {
            match (kind.split(';').next().map(str::trim), parse_boundary(&kind)) {
                (Some("application/sdp"), _) => {
                    let bytes = to_bytes(request.into_body(), OFFER_BYTES_MAX).await;
                    let bytes = bytes.map_err(|_| too_large(OFFER_BYTES_MAX, "send the offer alone"))?;
                    Ok(Self { sdp: text("sdp", &bytes)?, session: None })
                }
                (_, Ok(boundary)) => {
                    let sizes =
                        SizeLimit::new().whole_stream(4 * OFFER_BYTES_MAX as u64).per_field(OFFER_BYTES_MAX as u64);
                    let body = request.into_body().into_data_stream();
                    form(Multipart::with_constraints(body, boundary, Constraints::new().size_limit(sizes))).await
                }
                _ => {
                    let message = "send the offer as application/sdp, or as multipart/form-data with the fields `sdp` and `session`";
                    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
                }
            }
        };
        tokio::time::timeout(ARRIVES_WITHIN, reading).await.unwrap_or_else(|_| Err(too_slow()))
    }
}

async fn form(mut form: Multipart<'_>) -> Result<Offer, Refusal> {
    let (mut sdp, mut session) = (None, None);
    while let Some(field) = form.next_field().await.map_err(unreadable)? {
        let name = field.name().unwrap_or_default().to_owned();
        let bytes = field.bytes().await.map_err(unreadable)?;
        match name.as_str() {
            "sdp" => sdp = Some(text("sdp", &bytes)?),
            "session" => session = Some(read_session(&bytes)?),
            _ => {}
        }
    }
    Ok(Offer { sdp: sdp.ok_or_else(|| missing("sdp"))?, session })
}

fn unreadable(error: multer::Error) -> Refusal {
    match error {
        multer::Error::FieldSizeExceeded { .. } | multer::Error::StreamSizeExceeded { .. } => {
            too_large(OFFER_BYTES_MAX, "that is the limit of each field")
        }
        // What it says may quote what was sent.
        _ => Refusal::new(StatusCode::BAD_REQUEST, "invalid_multipart", "the form is broken; send `sdp` and `session`"),
    }
}

fn text(field: &'static str, bytes: &[u8]) -> Result<String, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|_| Refusal::field(field, format!("`{field}` is no UTF-8 text")))?;
    if text.trim().is_empty() { Err(missing(field)) } else { Ok(text.to_owned()) }
}

fn read_session(bytes: &[u8]) -> Result<Map<String, Value>, Refusal> {
    let value: Value = serde_json::from_slice(bytes).map_err(|e| {
        Refusal::field("session", format!("`session` is not JSON (line {}, column {})", e.line(), e.column()))
    })?;
    Ok(object(&value, || "session".into())?.clone())
}
