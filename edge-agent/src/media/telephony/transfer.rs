//! Putting a caller through to a person, as Twilio does it.
//!
//! The TwiML of a call connects it to a stream, and then asks `/v1/telephony/after` what to do. When a conversation has told its caller that
//! they are put through, it ends the stream, so that Twilio asks: then it is told to dial. It asks `/v1/telephony/dialled` how to go on
//! when that call is over: with the end, or, when nobody took it, with the conversation again, whose first words say so.

use super::{
    Exchange, TRANSFERS_MAX,
    incoming::{Asked, conversation},
    twiml::{escaped, twiml},
};
use crate::refusal::Refusal as NotTaken;
use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, Uri},
    response::Response,
};
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Where Twilio asks what comes after a stream.
pub(super) const AFTER_PATH: &str = "/v1/telephony/after";

/// Where Twilio asks what comes after a person was dialled.
pub(super) const DIALLED_PATH: &str = "/v1/telephony/dialled";

/// How long it takes Twilio at most to ask, after a stream was ended.
const ASKED_WITHIN: Duration = Duration::from_secs(60);

/// How long a telephone rings before nobody came.
const RINGS_S: u32 = 30;

/// Callers who are to be put through, until the provider asks.
#[derive(Default)]
pub(super) struct Transfers(Mutex<VecDeque<Transfer>>);

struct Transfer {
    call: String,
    number: String,
    since: Instant,
}

impl Transfers {
    /// The stream of a call was ended to put its caller through to this number.
    pub fn put(&self, call: String, number: String, now: Instant) {
        let mut transfers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        transfers.retain(|transfer| now < transfer.since + ASKED_WITHIN);
        if transfers.len() >= TRANSFERS_MAX {
            transfers.pop_front();
        }
        transfers.push_back(Transfer { call, number, since: now });
    }

    /// Where the caller of this call is put through to. Answered once.
    pub fn take(&self, call: &str, now: Instant) -> Option<String> {
        let mut transfers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = transfers.iter().position(|transfer| transfer.call == call)?;
        transfers.remove(at).filter(|transfer| now < transfer.since + ASKED_WITHIN).map(|transfer| transfer.number)
    }
}

/// `POST /v1/telephony/after`: a stream has ended.
pub(super) async fn after(
    State(exchange): State<Exchange>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, NotTaken> {
    let asked = Asked::read(&exchange.telephony, uri, &headers, &body)?;
    let number = asked.field("CallSid").and_then(|call| exchange.telephony.transfers.take(call, Instant::now()));
    Ok(twiml(&number.map_or_else(hang_up, |number| {
        let action = escaped(&asked.url(&exchange.telephony, DIALLED_PATH));
        format!(
            "<Dial answerOnBridge=\"true\" timeout=\"{RINGS_S}\" method=\"POST\" action=\"{action}\"><Number>{}</Number></Dial>",
            escaped(&number)
        )
    })))
}

/// `POST /v1/telephony/dialled`: the call with a person is over, or none came about.
pub(super) async fn dialled(
    State(exchange): State<Exchange>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, NotTaken> {
    let asked = Asked::read(&exchange.telephony, uri, &headers, &body)?;
    let spoke = matches!(asked.field("DialCallStatus"), Some("completed" | "answered"));
    if spoke {
        return Ok(twiml(&hang_up()));
    }
    tracing::info!("nobody took a call that was put through");
    conversation(&exchange, &asked, Some("nobody_came"))
}

fn hang_up() -> String {
    "<Hangup/>".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_done_once_in_time_and_their_number_is_bounded() {
        let (transfers, now) = (Transfers::default(), Instant::now());
        transfers.put("CA1".into(), "+4930".into(), now);
        assert_eq!(transfers.take("CA2", now), None);
        assert_eq!(transfers.take("CA1", now).as_deref(), Some("+4930"));
        assert_eq!(transfers.take("CA1", now), None);
        transfers.put("CA1".into(), "+4930".into(), now);
        assert_eq!(transfers.take("CA1", now + ASKED_WITHIN), None);
        for n in 0..2 * TRANSFERS_MAX {
            transfers.put(n.to_string(), "+4930".into(), now);
        }
        assert_eq!(transfers.take("0", now), None);
        assert!(transfers.take(&(2 * TRANSFERS_MAX - 1).to_string(), now).is_some());
        assert!(transfers.0.lock().expect("whole").len() < TRANSFERS_MAX);
    }
}
