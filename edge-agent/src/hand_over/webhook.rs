//! Delivering a notice to whoever finds a person.
//!
//! Each attempt carries `Idempotency-Key` (the notice's id, the same for all of them), `X-Nearfield-Timestamp` (seconds since 1970) and
//! `X-Nearfield-Signature: v1=HEX`, the HMAC-SHA256 of `TIMESTAMP.BODY` under the assistant's webhook secret. A receiver checks the
//! signature and refuses old timestamps, so nobody can make hand-overs up or send one again.
//!
//! An answer of 2xx means that it has arrived. Its body may say `{"status": "accepted"}` (a person takes over) or `"closed"` (nobody will);
//! `"pending"` asks to be asked again while the caller waits.

use crate::{
    control::unix_now_s,
    outbound::{Answer, Ask, Outbound, OutboundError},
};
use nearfield_dialogue::events::HandOverEnd;
use nearfield_shared::assistant::{Webhook, http_tool::UrlTemplate};
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::Value;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The pauses between attempts that fail.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// How often a receiver is asked again that has not decided.
const PENDING_EVERY: Duration = Duration::from_secs(5);

/// How long one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);

/// Bytes of a receiver's answer.
const ANSWER_BYTES_MAX: usize = 4 * 1024;

/// What a receiver says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Arrived,
    Pending,
    End(HandOverEnd),
}

/// Delivers a notice; a receiver that has not decided is asked again until `wanted_until`, or until `is_wanted` says that nobody waits.
/// `None` where it arrived and nothing was decided, or could not be delivered.
pub async fn deliver(
    outbound: &Outbound,
    hook: &Webhook,
    hosts: &[String],
    notice: (Uuid, &Value),
    wanted_until: Instant,
    is_wanted: impl Fn() -> bool,
) -> Option<HandOverEnd> {
    let (id, body) = (notice.0, notice.1.to_string().into_bytes());
    let mut pauses = PAUSES.iter();
    loop {
        let pause = match attempt(outbound, hook, hosts, id, &body).await {
            Ok(Said::End(end)) => return Some(end),
            Ok(Said::Arrived) => return None,
            Ok(Said::Pending) => {
                pauses = PAUSES.iter();
                if Instant::now() + PENDING_EVERY > wanted_until || !is_wanted() {
                    return None;
                }
                PENDING_EVERY
            }
            Err(failure) => match pauses.next().filter(|_| failure.may_pass()) {
                Some(pause) => {
                    tracing::debug!(hand_over = %id, %failure, "a webhook was not delivered; it is tried again");
                    *pause
                }
                None => {
                    tracing::warn!(hand_over = %id, %failure, "a webhook could not be delivered");
                    return None;
                }
            },
        };
        tokio::time::sleep(pause).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    #[error("HTTP status {0}")]
    Status(u16),
    #[error("its URL: {0}")]
    Url(String),
}

impl Failure {
    /// Whether another attempt may succeed.
    fn may_pass(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status, 408 | 425 | 429 | 500..),
            Self::Outbound(OutboundError::Failed(_) | OutboundError::TimedOut(_) | OutboundError::Busy) => true,
            Self::Outbound(_) | Self::Url(_) => false,
        }
    }
}

async fn attempt(
    outbound: &Outbound,
    hook: &Webhook,
    hosts: &[String],
    id: Uuid,
    body: &[u8],
) -> Result<Said, Failure> {
    let url = UrlTemplate::parse(&hook.url).map_err(|e| Failure::Url(e.to_string()))?;
    let (whole, _) = url.fill(&serde_json::Map::new()).map_err(|e| Failure::Url(e.to_string()))?;
    let secret = outbound.secret(&hook.secret)?;
    let timestamp = unix_now_s().to_string();
    let signed = format!("v1={}", signature(&secret, &timestamp, body));
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in
        [("idempotency-key", id.to_string()), ("x-nearfield-timestamp", timestamp), ("x-nearfield-signature", signed)]
    {
        let value = HeaderValue::from_str(&value).map_err(|_| OutboundError::Header(name.to_owned()))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    let ask = Ask {
        method: Method::POST,
        url: whole,
        host: url.host(),
        headers,
        body: Some(body.to_vec()),
        timeout: ATTEMPT_MAX,
        response_bytes_max: ANSWER_BYTES_MAX,
    };
    let Answer { status, body } = outbound.ask(ask, hosts).await?;
    if !(200..300).contains(&status) {
        return Err(Failure::Status(status));
    }
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    Ok(match answer.get("status").and_then(Value::as_str) {
        Some("accepted") => Said::End(HandOverEnd::Accepted),
        Some("closed") => Said::End(HandOverEnd::Closed),
        Some("pending") => Said::Pending,
        _ => Said::Arrived,
    })
}

/// The HMAC-SHA256 of `TIMESTAMP.BODY`, in hexadecimal digits.
pub fn signature(secret: &[u8], timestamp: &str, body: &[u8]) -> String {
    use aws_lc_rs::hmac;
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    context.update(timestamp.as_bytes());
    context.update(b".");
    context.update(body);
    context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::signature;

    #[test]
    fn the_signature_is_the_one_that_openssl_makes() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac key
        let expect = "a438e398bfafc57e4396bb7fc2304422f0f768e965d073ca313cb52e22e6ad03";
        assert_eq!(signature(b"key", "1700000000", b"{\"a\":1}"), expect);
    }
}
