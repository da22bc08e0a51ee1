//! Calls by telephone: a provider takes them from the telephone network and carries their audio over a WebSocket.
//!
//! | path | who asks |
//! |---|---|
//! | `POST /v1/telephony/incoming` | Twilio, when somebody calls: the answer is TwiML that connects the call to a stream, or rejects it |
//! | `GET /v1/telephony/stream` | the provider's media stream, as a WebSocket |
//! | `POST /v1/telephony/after`, `…/dialled` | Twilio, when a stream is over, and when a person was dialled: see [`transfer`] |
//!
//! Both are there only where `agent.toml` has `[telephony]`. Whoever asks proves to be the provider: Twilio signs every request with the
//! account's auth token, the WebSocket's too; Telnyx signs no stream, so its stream brings the same secret among its parameters. The
//! address that asks is the provider's and says nothing about the caller, so the law is asked about the country that the provider
//! states: Twilio's `FromCountry`, or the parameter `country` of the stream. Parameters of a stream are `country`, `assistant`,
//! `greeting` (`off`), `language`, with Telnyx `secret`, and with Twilio `transfer` (`on`) where the TwiML goes on to ask
//! `/v1/telephony/after`. Telnyx is asked to put callers through: see [`call_control`].
//!
//! BACKPRESSURE: streams whose call did not begin ([`STREAMS_WAITING_MAX`]) and for how long ([`START_WITHIN`]), bytes of a message
//! ([`message::MESSAGE_BYTES_MAX`]) and of a form ([`FORM_BYTES_MAX`]), callers to be put through ([`TRANSFERS_MAX`]); then the bounds of any other call.

pub mod call_control;
mod incoming;
pub mod message;
mod order;
mod phone;
pub mod signature;
mod stream;
mod transfer;
mod twiml;

pub use call_control::PutThrough;

use super::Door;
use crate::{
    config::Config,
    http,
    node::Serving,
    refusal::Refusal as NotTaken,
    secrets::{self, SecretError},
};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderMap, StatusCode, Uri},
    routing::{get, post},
};
use call_control::CallControl;
use message::Provider;
use nearfield_shared::routing::{NoRoute, RouteQuery};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// What begins every path here. The signature stands in the place of the caller key, the stated country in that of the address.
pub const PATHS: &str = "/v1/telephony/";

/// Where Twilio asks what to do with a call.
const INCOMING_PATH: &str = "/v1/telephony/incoming";

/// Where media streams connect.
const STREAM_PATH: &str = "/v1/telephony/stream";

/// Streams that are connected and did not say what they carry yet.
pub const STREAMS_WAITING_MAX: usize = 64;

/// How long a stream may take to begin.
pub const START_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of the form that comes with a call.
pub const FORM_BYTES_MAX: usize = 32 << 10;

/// Callers whose stream was ended to put them through, and after whom the provider did not ask yet.
pub const TRANSFERS_MAX: usize = 1_024;

/// The least bytes of a secret. Twilio's auth tokens have 32.
pub const SECRET_BYTES_MIN: usize = 16;

/// `[telephony]` in `agent.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Who carries the calls.
    pub provider: Provider,
    /// File with the provider's secret, mode 0600.
    pub secret: PathBuf,
    /// How Telnyx is asked to put callers through, where it is.
    pub call_control: Option<call_control::Settings>,
}

/// Why a node does not take calls by telephone.
#[derive(Debug, thiserror::Error)]
pub enum TelephonyError {
    /// The file with the secret is open to others, or not there.
    #[error("telephony.secret: {0}")]
    Secret(#[from] SecretError),
    /// The secret is too short to be one.
    #[error("{file}: a secret has {SECRET_BYTES_MIN} bytes at least; put the auth token of the account there")]
    ShortSecret {
        /// The file.
        file: String,
    },
    /// The file with the key of the call control API cannot be used.
    #[error("telephony.api_key: {0}")]
    ApiKey(SecretError),
    /// The address of the call control API is none.
    #[error("telephony.api: {0}")]
    Api(String),
    /// The address that the provider dials is not known.
    #[error("telephony needs `url` in agent.toml, the https:// address that the provider dials")]
    NoUrl,
}

/// What a node needs to know to take calls by telephone.
pub struct Telephony {
    provider: Provider,
    secret: Zeroizing<Vec<u8>>,
    /// The address that the provider dials, without a path.
    url: String,
    waiting: Arc<Semaphore>,
    transfers: transfer::Transfers,
    call_control: Option<Arc<CallControl>>,
}

impl Telephony {
    /// As `agent.toml` says; `None` where it says nothing.
    pub fn read(config: &Config) -> Result<Option<Arc<Self>>, TelephonyError> {
        let Some(Settings { provider, secret, call_control }) = &config.telephony else { return Ok(None) };
        let url = config.url.as_deref().ok_or(TelephonyError::NoUrl)?;
        let mut telephony = Self::new(*provider, secret, url)?;
        if let Some(settings) = call_control {
            telephony.use_call_control(settings)?;
        }
        Ok(Some(Arc::new(telephony)))
    }

    /// Has callers put through by asking Telnyx.
    pub fn use_call_control(&mut self, settings: &call_control::Settings) -> Result<(), TelephonyError> {
        self.call_control = Some(Arc::new(CallControl::new(settings)?));
        Ok(())
    }

    /// With the secret in this file, at this address.
    pub fn new(provider: Provider, secret: &Path, url: &str) -> Result<Self, TelephonyError> {
        let bytes = secrets::read(secret)?;
        let secret_text = Zeroizing::new(bytes.trim_ascii().to_vec());
        if secret_text.len() < SECRET_BYTES_MIN {
            return Err(TelephonyError::ShortSecret { file: secret.display().to_string() });
        }
        let waiting = Arc::new(Semaphore::new(STREAMS_WAITING_MAX));
        let url = url.trim_end_matches('/').to_owned();
        let transfers = transfer::Transfers::default();
        Ok(Self { provider, secret: secret_text, url, waiting, transfers, call_control: None })
    }

    /// Checks that a request is the provider's, where that signs requests.
    fn check_signature(
        &self,
        scheme: Scheme,
        uri: &Uri,
        headers: &HeaderMap,
        form: &[(String, String)],
    ) -> Result<(), NotTaken> {
        if self.provider != Provider::Twilio {
            return Ok(());
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let url = format!("{}{path}", self.url_as(scheme));
        let signature = headers.get(signature::HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if signature::holds(&self.secret, &url, form, signature) {
            return Ok(());
        }
        let message = "X-Twilio-Signature does not sign this request; is `url` in agent.toml the address that Twilio \
                       dials, and telephony.secret the account's auth token?";
        Err(NotTaken::new(StatusCode::FORBIDDEN, "invalid_signature", message))
    }

    /// Whether a stream brings the secret, where the provider signs no requests.
    fn opens(&self, secret: Option<&str>) -> bool {
        self.provider == Provider::Twilio
            || secret.is_some_and(|given| verify_slices_are_equal(given.as_bytes(), &self.secret).is_ok())
    }

    /// Our own address, for requests or for WebSockets.
    fn url_as(&self, scheme: Scheme) -> String {
        match (scheme, self.url.strip_prefix("http")) {
            (Scheme::WebSocket, Some(rest)) => format!("ws{rest}"),
            _ => self.url.clone(),
        }
    }
}

/// How an address is dialled.
#[derive(Debug, Clone, Copy)]
enum Scheme {
    Http,
    WebSocket,
}

/// The routes, where this node takes calls by telephone.
pub(super) fn router(door: Door) -> Router {
    let Some(telephony) = door.services.telephony.clone() else { return Router::new() };
    let mut router = Router::new().route(STREAM_PATH, get(stream::connect));
    if telephony.provider == Provider::Twilio {
        let asks = Router::new()
            .route(INCOMING_PATH, post(incoming::answer))
            .route(transfer::AFTER_PATH, post(transfer::after))
            .route(transfer::DIALLED_PATH, post(transfer::dialled))
            .layer(DefaultBodyLimit::max(FORM_BYTES_MAX));
        router = router.merge(asks);
    }
    router.with_state(Exchange { door, telephony })
}

/// What the handlers work with.
#[derive(Clone)]
struct Exchange {
    door: Door,
    telephony: Arc<Telephony>,
}

/// Whether this node may serve a caller from this country, or from one that nobody states.
fn permit(serving: &Serving, country: Option<&str>) -> Result<(), NoRoute> {
    let country = country.filter(|country| !country.is_empty()).map(str::to_owned);
    let stated = RouteQuery { country, latitude: None, longitude: None, address: None };
    http::permit(serving, &stated.caller(None, |_| None)?)
}
