//! Putting a caller through to a person, as Telnyx does it: its Call Control API is asked to transfer the call.
//!
//! The request is made when the caller has heard that they are put through, while the stream goes on: only when Telnyx has taken it, the
//! stream is ended, so that a caller whom Telnyx does not put through is still there to be told. All attempts of one transfer have one
//! `command_id`, and Telnyx does a command once. Whether the person takes the call is told to the operator's own application
//! (`call.hangup` of the other leg), because a webhook of Telnyx's goes to one address for all of a call.
//!
//! The key can dial, so it is asked for at each request from its file, and goes to one host alone.

use super::TelephonyError;
use crate::{
    outbound::{Ask, Outbound, OutboundError},
    secrets::{self, SecretError},
};
use nearfield_shared::assistant::http_tool::UrlTemplate;
use reqwest::{
    Method,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde_json::{Map, Value, json};
use std::{path::PathBuf, sync::Arc, time::Duration};
use uuid::Uuid;
use zeroize::Zeroizing;

/// Where Telnyx takes commands, where `agent.toml` names no other address.
pub const API: &str = "https://api.telnyx.com/v2";

/// The pauses between attempts that fail. With them and three attempts the caller waits for 16 s at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(1)];

/// How long one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// How long a telephone rings before nobody came.
const RINGS_S: u32 = 30;

/// Characters of the longest name of a call; Telnyx's have about a hundred.
const CALL_CHARS_MAX: usize = 512;

/// `telephony.api_key` and `telephony.api` in `agent.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// File with an API key of the account, mode 0600.
    pub key: PathBuf,
    /// The address of the API, without a slash at its end.
    pub api: String,
}

/// Telnyx's Call Control API.
pub struct CallControl {
    key: PathBuf,
    transfer: UrlTemplate,
}

/// One caller who is to be put through.
#[derive(Clone)]
pub struct PutThrough {
    control: Arc<CallControl>,
    call: String,
    number: String,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    #[error("HTTP status {0}")]
    Status(u16),
    #[error("the API key: {0}")]
    Key(#[from] SecretError),
    #[error("the API key, or the name of the call, cannot be sent")]
    Unsendable,
}

impl Failure {
    /// Whether another attempt may succeed.
    fn may_pass(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status, 408 | 425 | 429 | 500..),
            Self::Outbound(OutboundError::Failed(_) | OutboundError::TimedOut(_) | OutboundError::Busy) => true,
            Self::Outbound(_) | Self::Key(_) | Self::Unsendable => false,
        }
    }
}

impl CallControl {
    /// With the key in this file, which is looked at now and read at each request.
    pub fn new(settings: &Settings) -> Result<Self, TelephonyError> {
        secrets::read(&settings.key).map_err(TelephonyError::ApiKey)?;
        let transfer = format!("{}/calls/{{call}}/actions/transfer", settings.api.trim_end_matches('/'));
        let transfer = UrlTemplate::parse(&transfer).map_err(|error| TelephonyError::Api(error.to_string()))?;
        Ok(Self { key: settings.key.clone(), transfer })
    }
}

impl PutThrough {
    /// The caller of this call, by the provider's name for it, is put through to this number.
    pub fn new(control: Arc<CallControl>, call: &str, number: &str) -> Self {
        Self { control, call: call.to_owned(), number: number.to_owned() }
    }

    /// Asks for it, again where that may help; says whether the provider does it.
    pub async fn ask(&self, outbound: &Outbound) -> bool {
        let command = Uuid::new_v4();
        let mut pauses = PAUSES.iter();
        loop {
            let failure = match self.attempt(outbound, command).await {
                Ok(()) => return true,
                Err(failure) => failure,
            };
            match pauses.next().filter(|_| failure.may_pass()) {
                Some(pause) => {
                    tracing::debug!(%command, %failure, "a caller was not put through; it is tried again");
                    tokio::time::sleep(*pause).await;
                }
                None => {
                    tracing::warn!(%command, %failure, "a caller could not be put through");
                    return false;
                }
            }
        }
    }

    async fn attempt(&self, outbound: &Outbound, command: Uuid) -> Result<(), Failure> {
        let CallControl { key, transfer } = &*self.control;
        if self.call.chars().count() > CALL_CHARS_MAX {
            return Err(Failure::Unsendable);
        }
        let call = Map::from_iter([("call".to_owned(), Value::from(self.call.as_str()))]);
        let (url, _) = transfer.fill(&call).map_err(|_| Failure::Unsendable)?;
        let bytes = secrets::read(key)?;
        let text = std::str::from_utf8(bytes.trim_ascii()).map_err(|_| Failure::Unsendable)?;
        let bearer = Zeroizing::new(format!("Bearer {text}"));
        let mut authorization = HeaderValue::from_str(&bearer).map_err(|_| Failure::Unsendable)?;
        authorization.set_sensitive(true);
        let json_type = HeaderValue::from_static("application/json");
        let body = json!({ "to": self.number, "command_id": command, "timeout_secs": RINGS_S });
        let ask = Ask {
            method: Method::POST,
            url,
            host: transfer.host(),
            headers: HeaderMap::from_iter([(AUTHORIZATION, authorization), (CONTENT_TYPE, json_type)]),
            body: Some(body.to_string().into_bytes()),
            timeout: ATTEMPT_MAX,
            response_bytes_max: ANSWER_BYTES_MAX,
        };
        let answer = outbound.ask(ask, &[transfer.host().to_owned()]).await?;
        if (200..300).contains(&answer.status) { Ok(()) } else { Err(Failure::Status(answer.status)) }
    }
}
