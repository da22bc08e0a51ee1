//! Calls in the OpenAI Realtime API: `/v1/realtime` over WebSocket, `/v1/realtime/calls` over WebRTC, and
//! `/v1/realtime/client_secrets`.
//!
//! The handler here decides whether a call is taken (models, place), before the connection becomes a WebSocket, so that a
//! refusal is an ordinary HTTP answer (to a page in a browser, which is not shown that one, an `error` event); the key and the
//! law were checked before it. From then on the call belongs to one task ([`line`]), whatever carries it ([`transport`]).
//!
//! ```text
//! transport -> client_event -> line (owner: nearfield_dialogue::Call) -> jobs -> models
//!                                  \-> server_event -> outbox -> transport
//!                                  \-> audio, where the transport has a track for it
//! ```
//!
//! BACKPRESSURE, from the outside in: calls per node (`CallDoor`), bytes per message ([`MESSAGE_BYTES_MAX`]), buffered audio
//! (`nearfield_dialogue::call::BUFFER_MAX`), reports (`jobs`), events waiting to be sent ([`outbox`]).

pub mod client_event;
pub mod client_secret;
pub mod codec;
mod ear;
pub mod heard;
pub(crate) mod jobs;
pub mod line;
pub mod outbox;
mod phrase;
pub(crate) mod record;
pub mod resample;
pub mod server_event;
pub mod session;
pub mod telephony;
pub mod transport;
mod turns;
pub mod webrtc;
mod websocket;

use crate::{
    assistants::{Assistants, Desk, prepare},
    calls::Refused,
    language,
    node::{Services, Serving},
    refusal::Refusal as NotTaken,
    rest,
    speech::SpeechError,
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, FromRequestParts, Path, Query, State,
        rejection::BytesRejection,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use client_event::Dialect;
use nearfield_shared::caller_key::presented;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use session::{Kind, Session};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use uuid::Uuid;
use webrtc::{Offer, WEBRTC_PATH};

/// Bytes of one message: 15 MiB of audio, as in the OpenAI API, in base64 and a little around it.
pub const MESSAGE_BYTES_MAX: usize = 21 << 20;

/// Where calls are taken.
pub const CALLS_PATH: &str = "/v1/realtime";

/// The WebSocket subprotocol of the Realtime API, as browsers ask for it.
const SUBPROTOCOL: &str = "realtime";

/// How a client asks for the beta of the protocol: the header `OpenAI-Beta`, or the subprotocol where a browser sets none.
const BETA: (&str, &str) = ("realtime=v1", "openai-beta.realtime-v1");

#[derive(Clone)]
struct Door {
    services: Services,
    assistants: Assistants,
}

/// The query of `/v1/realtime`. What OpenAI's clients add besides is ignored.
#[derive(Debug, Deserialize)]
struct RealtimeQuery {
    /// The name of a model; the name of an assistant chooses that one, any other name the region's first.
    model: Option<String>,
    /// The name of an assistant; one that is not there is an error.
    assistant: Option<String>,
    /// `off` where the caller does not want to be greeted; `nobody_came` where they come back because nobody took the call that they
    /// were put through to.
    greeting: Option<String>,
    /// The caller's language, as a tag (`de-AT`) or an English name; a session may state another one.
    language: Option<String>,
    /// `transcription` where words alone are wanted.
    intent: Option<String>,
}

/// The routes of calls, and the REST endpoints beside them. Call it inside a tokio runtime: it starts keeping the assistants ready.
///
/// Who may call (the key, the law) is checked by the layer that `http` lays around these routes.
pub fn router(services: Services) -> Router {
    let assistants = prepare(Arc::clone(&services.speech), services.serving.clone());
    let rest = rest::router(services.clone(), assistants.clone());
    let secrets = post(make_client_secret).layer(DefaultBodyLimit::max(client_secret::BODY_BYTES_MAX));
    let door = Door { services, assistants };
    Router::new()
        .route(CALLS_PATH, get(realtime))
        .route("/v1/realtime/client_secrets", secrets)
        .route(WEBRTC_PATH, post(open_webrtc))
        .route(&format!("{WEBRTC_PATH}/{{call}}/hangup"), post(hang_up))
        .with_state(door.clone())
        .merge(telephony::router(door))
        .merge(rest)
}

/// Whether a path opens or ends calls, which is what client secrets are for.
pub fn opens_calls(path: &str) -> bool {
    path == CALLS_PATH || path.strip_prefix(WEBRTC_PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The key that a request presents.
pub fn presented_key(headers: &HeaderMap) -> Option<&str> {
    let text = |name| headers.get_all(name).iter().filter_map(|value: &HeaderValue| value.to_str().ok());
    presented(text(header::AUTHORIZATION).next(), text(header::SEC_WEBSOCKET_PROTOCOL))
}

fn dialect(headers: &HeaderMap) -> Dialect {
    let names = |name: &str, wanted: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim() == wanted)
    };
    let beta = names("openai-beta", BETA.0) || names(header::SEC_WEBSOCKET_PROTOCOL.as_str(), BETA.1);
    if beta { Dialect::Beta } else { Dialect::Ga }
}

/// `POST /v1/realtime/client_secrets`.
async fn make_client_secret(
    State(door): State<Door>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, NotTaken> {
    let body = body.map_err(|e| NotTaken::new(e.status(), "invalid_body", e.body_text()))?;
    let wanted = client_secret::read(&body)?;
    let name = wanted.session.get("model").and_then(Value::as_str);
    // Whatever is wrong with the session is told to whoever makes the secret, not to the caller who uses it.
    let session = session_at(&door.assistants.take(name), name, None, Some(&wanted.session))?;
    let expires_at = (SystemTime::now() + wanted.lasts).duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let shown = session.show(&format!("sess_{}", Uuid::new_v4().simple()), expires_at, Value::Null);
    let value = door.services.client_secrets.make(wanted.session, wanted.lasts);
    let value = value.map_err(|e| NotTaken::busy("too_many_client_secrets", e.to_string(), 60_000))?;
    Ok(Json(json!({ "value": value, "expires_at": expires_at, "session": shown })))
}

/// What is said to a request that is no WebSocket.
fn websocket_required() -> NotTaken {
    NotTaken::new(
        StatusCode::UPGRADE_REQUIRED,
        "websocket_required",
        "calls are WebSocket connections: connect to this address with ws:// or wss://",
    )
}

/// The upgrade as its own extractor, so that the door's refusals come before "this is no WebSocket".
struct Upgrade(Result<WebSocketUpgrade, WebSocketUpgradeRejection>);

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(WebSocketUpgrade::from_request_parts(parts, state).await))
    }
}

async fn realtime(
    State(door): State<Door>,
    Query(query): Query<RealtimeQuery>,
    headers: HeaderMap,
    Upgrade(upgrade): Upgrade,
) -> Result<Response, NotTaken> {
    let upgrade = upgrade.map_err(|_| websocket_required())?;
    let start = match door.admit(query, &headers, None) {
        Ok(start) => start,
        // A page in a browser is not shown the answer to an upgrade that failed, so it is told by an event.
        Err(refused) if refused.retry_after_s.is_some() && headers.contains_key(header::ORIGIN) => {
            return Ok(upgrade.protocols([SUBPROTOCOL]).on_upgrade(move |socket| turn_away(socket, refused)));
        }
        Err(refused) => return Err(refused),
    };
    let answered_at = answered_at(&start);
    let mut response = upgrade
        .protocols([SUBPROTOCOL])
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .on_upgrade(move |socket| websocket::hold(socket, start));
    response.headers_mut().extend(answered_at);
    Ok(response)
}

/// Headers that say where a call is answered.
fn answered_at(start: &line::Start) -> HeaderMap {
    let region = start.serving.region.as_ref().map(ToString::to_string);
    let said = [("x-nearfield-region", region), ("x-nearfield-node", Some(start.services.node.to_string()))];
    let header = |(name, value): (&'static str, Option<String>)| {
        Some((HeaderName::from_static(name), HeaderValue::from_str(&value?).ok()?))
    };
    said.into_iter().filter_map(header).collect()
}

/// `POST /v1/realtime/calls`: an offer is answered and the call begins when the client has connected.
async fn open_webrtc(
    State(door): State<Door>,
    Query(query): Query<RealtimeQuery>,
    headers: HeaderMap,
    offer: Offer,
) -> Result<Response, NotTaken> {
    let webrtc = &door.services.webrtc;
    let answered = webrtc.answer(&offer.sdp)?;
    let start = door.admit(query, &headers, offer.session.as_ref())?;
    let answered_at = answered_at(&start);
    let (call, sdp) = webrtc.begin(answered, start)?;
    let location = format!("{WEBRTC_PATH}/{call}");
    let told = [(header::CONTENT_TYPE, "application/sdp"), (header::LOCATION, location.as_str())];
    Ok((StatusCode::CREATED, told, answered_at, sdp).into_response())
}

/// `POST /v1/realtime/calls/{call}/hangup`.
async fn hang_up(State(door): State<Door>, Path(call): Path<String>) -> Result<StatusCode, NotTaken> {
    if door.services.webrtc.hang_up(&call) {
        return Ok(StatusCode::OK);
    }
    let message = "no call of this name is in progress here; it may have ended, or be another node's";
    Err(NotTaken::new(StatusCode::NOT_FOUND, "call_not_found", message))
}

/// Says in an event why there is no call and when to try again, and closes the connection.
async fn turn_away(mut socket: WebSocket, refused: NotTaken) {
    let event = server_event::turned_away(refused.code, &refused.message, refused.retry_after_s.unwrap_or(1));
    let close = CloseFrame { code: close_code::AGAIN, reason: refused.code.into() };
    // A caller that has left needs no answer.
    if socket.send(Message::text(event.to_string())).await.is_ok() {
        let _left = socket.send(Message::Close(Some(close))).await;
    }
}

impl Door {
    /// Everything a call needs, or at once the reason why there is none.
    ///
    /// `asked` is the session that came with the request; it goes over that of a client secret.
    fn admit(
        &self,
        query: RealtimeQuery,
        headers: &HeaderMap,
        asked: Option<&Map<String, Value>>,
    ) -> Result<line::Start, NotTaken> {
        let secret = presented_key(headers).filter(|key| key.starts_with(client_secret::PREFIX));
        let bound = match secret.map(|secret| self.services.client_secrets.find(secret)) {
            Some(None) => {
                let message = "this client secret has expired or is of another node; make a new one";
                return Err(NotTaken::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message));
            }
            bound => bound.flatten(),
        };
        let serving = self.ready(&query)?;
        // Measured load first, because it is the bound that a healthy node reaches.
        let place = self.services.speech.admit().map_err(|error| self.overloaded(&error))?;
        let permit = self.services.calls.admit().map_err(full)?;
        let slot = self.services.speech.open_vad().map_err(|error| self.overloaded(&error))?;
        let bound = bound.as_deref();
        let named = |session: &&Map<String, Value>| session.contains_key("model");
        let model = asked.filter(named).or(bound).and_then(|session| session.get("model")).and_then(Value::as_str);
        let model = model.or(query.model.as_deref());
        let desk = self.assistants.take(query.assistant.as_deref().or(model));
        let kind = (query.intent.as_deref() == Some("transcription")).then_some(Kind::Transcription);
        let mut session = session_at(&desk, model, kind, bound)?;
        let notices = serving.policy.as_ref().map(|policy| policy.spoken_notices()).unwrap_or_default();
        session.notice = (!notices.is_empty()).then(|| notices.join(" "));
        session.languages = language::spoken(&serving);
        session.language = query.language.as_deref().and_then(language::primary);
        asked.into_iter().try_for_each(|asked| session.merge(asked))?;
        let greeting = match query.greeting.as_deref() {
            Some("off") => None,
            Some("nobody_came") => Some(desk.assistant.hand_over.closed_words().to_owned()),
            _ => desk.assistant.greeting.clone(),
        };
        Ok(line::Start {
            services: self.services.clone(),
            serving,
            assistants: self.assistants.clone(),
            desk,
            permit: permit.holding(place),
            slot: Some(slot),
            session,
            dialect: dialect(headers),
            greeting,
            put_through: None,
        })
    }

    /// What this node serves, if it can serve such a call at all.
    fn ready(&self, query: &RealtimeQuery) -> Result<Arc<Serving>, NotTaken> {
        let serving = Arc::clone(&self.services.serving.borrow());
        let missing = serving.missing();
        if !missing.is_empty() {
            let stages = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let message = format!("this node has no live model yet for: {stages}; try again soon, or another node");
            return Err(NotTaken::busy("not_ready", message, 10_000));
        }
        if let Some(name) = query.assistant.as_deref()
            && !self.assistants.has(name)
        {
            let names = serving.assistants.iter().map(|a| a.name.as_str()).collect::<Vec<_>>().join(", ");
            let message = format!("there is no assistant `{}` here; there is: {names}", name.escape_debug());
            return Err(NotTaken::new(StatusCode::NOT_FOUND, "assistant_not_found", message));
        }
        Ok(serving)
    }

    /// Whether a call that is about to come would find a place, as far as that is known now.
    fn has_room(&self, query: &RealtimeQuery) -> Result<(), NotTaken> {
        self.ready(query)?;
        self.services.calls.has_room().map_err(full)
    }

    /// The models have no room for one more call.
    fn overloaded(&self, error: &SpeechError) -> NotTaken {
        let retry_after_ms = match error {
            SpeechError::Overloaded { retry_after_ms } => *retry_after_ms,
            _ => 5_000,
        };
        self.services.calls.count_refused();
        NotTaken::busy("overloaded", error.to_string(), retry_after_ms)
    }
}

/// Why the door of the node is closed.
fn full(refused: Refused) -> NotTaken {
    match refused {
        Refused::Full { retry_after_ms, .. } => NotTaken::busy("node_full", refused.to_string(), retry_after_ms),
        Refused::Held => NotTaken::busy("node_drained", refused.to_string(), 30_000),
        Refused::Draining => NotTaken::busy("node_draining", refused.to_string(), 30_000),
    }
}

/// A session as a call at this desk begins: of this kind, and as a client secret binds it.
fn session_at(
    desk: &Desk,
    model: Option<&str>,
    kind: Option<Kind>,
    bound: Option<&Map<String, Value>>,
) -> Result<Session, NotTaken> {
    let model: String = model.unwrap_or(&desk.assistant.name).chars().take(128).collect();
    let mut session = Session::new(&model, &desk.assistant.instructions, &desk.assistant.voice);
    session.offer(desk.tools());
    session.hand_over = desk.handing_over();
    session.silence = desk.silence();
    kind.into_iter().for_each(|kind| session.become_kind(kind));
    bound.into_iter().try_for_each(|bound| session.merge(bound))?;
    Ok(session)
}
