//! The Wyoming protocol, as Home Assistant speaks it to its voice services: speech to text, text to speech, voice activity.
//!
//! | a client sends | and is told |
//! |---|---|
//! | `describe` | `info` |
//! | `transcribe`, `audio-start`, `audio-chunk`…, `audio-stop` | `transcript-start`, `transcript-chunk`…, `transcript`, `transcript-stop` |
//! | `audio-chunk`… | `voice-started`, `voice-stopped` as they happen, in a stream that is transcribed, too |
//! | `synthesize` | `audio-start`, `audio-chunk`…, `audio-stop` |
//! | `synthesize-start`, `synthesize-chunk`…, `synthesize-stop` | the same while the text comes, and `synthesize-stopped` |
//! | `ping` | `pong` |
//!
//! Events that are not known are passed over, as the protocol demands. What cannot be done is told by an `error` event, which ends the
//! connection: a client that does not know `error` must not wait for ever.
//!
//! The protocol has neither encryption nor a credential, so this listener is on loopback only, and off unless `agent.toml` has
//! `[wyoming]`. Callers of other machines come through a tunnel that has both.
//!
//! BACKPRESSURE: connections ([`SESSIONS_MAX`]), bytes of an event ([`event`]), events between the socket and the work
//! ([`EVENTS_WAITING_MAX`]), time without an event ([`session::IDLE`]), time without reading. Work stands in the lines of the other
//! endpoints ([`crate::rest::Places`]), behind calls. A client that leaves stops its work at once.

pub mod event;
mod info;
mod listening;
mod session;
mod speaking;

use crate::{
    config::Config,
    http::ListenError,
    node::Services,
    refusal::Refusal,
    rest::outlet::{Ended, Gone, READER_PATIENCE},
};
use axum::http::StatusCode;
use event::{Event, ReadError};
use serde_json::json;
use session::Session;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_util::sync::CancellationToken;

/// Connections at once. A household has a few satellites, and each request is a connection of its own.
pub const SESSIONS_MAX: usize = 16;

/// Events that wait between the socket and the work, in either direction.
pub const EVENTS_WAITING_MAX: usize = 4;

/// How long the last events may take to reach a client that is sent away.
const GOODBYE: Duration = Duration::from_secs(2);

/// A pause after a failure to accept: no file handles, which others give back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Takes the address of `[wyoming]`, if there is one.
pub fn bind(config: &Config) -> Result<Option<TcpListener>, ListenError> {
    let Some(address) = config.wyoming else { return Ok(None) };
    if !address.ip().is_loopback() {
        let missing = "the Wyoming protocol has neither encryption nor a credential. Let wyoming.listen be on \
                       127.0.0.1, and reach it through a tunnel (for example `ssh -L` or WireGuard)";
        return Err(ListenError::Unsecured { address, missing: missing.into() });
    }
    let bound = |source| ListenError::Bind { address, source };
    let socket = std::net::TcpListener::bind(address).map_err(bound)?;
    socket.set_nonblocking(true).map_err(bound)?;
    TcpListener::from_std(socket).map(Some).map_err(bound)
}

/// Serves clients until `stop`; then those that are connected are let go.
pub async fn serve(listener: TcpListener, services: Services, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(SESSIONS_MAX));
    // Dropped with this task: no connection outlives the listener.
    let mut sessions = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = sessions.join_next() => continue,
            () = stop.cancelled() => return,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "a connection to the Wyoming listener could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => {
                let services = services.clone();
                sessions.spawn(async move {
                    let _place = place;
                    hold(socket, services).await;
                });
            }
            Err(_) => turn_away(&socket),
        }
    }
}

/// As much as fits into the socket at once; nobody waits for a client that was not let in.
fn turn_away(socket: &TcpStream) {
    let text = format!("this node serves {SESSIONS_MAX} Wyoming connections at once; try again in some seconds");
    let _left = socket.try_write(&error("too_many_connections", &text).encode());
}

/// What cannot be done, in one kind.
fn refused(code: &'static str, message: impl Into<String>) -> Ended {
    Refusal::new(StatusCode::BAD_REQUEST, code, message).into()
}

fn error(code: &str, text: &str) -> Event {
    Event::new("error", json!({ "text": text, "code": code }))
}

/// Serves one client to its end.
async fn hold(socket: TcpStream, services: Services) {
    // Small events follow one another.
    let _slower = socket.set_nodelay(true);
    let (read, write) = socket.into_split();
    let (arrived, events) = mpsc::channel(EVENTS_WAITING_MAX);
    let (answers, waiting) = mpsc::channel(EVENTS_WAITING_MAX);
    let mut writer = tokio::spawn(write_all(write, waiting));
    tokio::select! {
        () = Session::new(services, Answers { events: answers }).run(events) => {}
        () = read_all(BufReader::new(read), arrived) => {}
    }
    // The session is gone, and with it every sender: the writer ends with what it has.
    if tokio::time::timeout(GOODBYE, &mut writer).await.is_err() {
        writer.abort();
    }
}

/// Passes events on, until the client leaves. What is no event is the last thing that is passed on.
async fn read_all(mut from: impl AsyncBufRead + Unpin, to: mpsc::Sender<Result<Event, event::Malformed>>) {
    loop {
        let event = match event::read(&mut from).await {
            Ok(Some(event)) => Ok(event),
            Err(ReadError::Malformed(malformed)) => Err(malformed),
            Ok(None) | Err(ReadError::Io(_)) => return,
        };
        let is_last = event.is_err();
        if to.send(event).await.is_err() || is_last {
            // The session says why, and ends.
            return std::future::pending().await;
        }
    }
}

async fn write_all(mut to: impl AsyncWrite + Unpin, mut events: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(bytes) = events.recv().await {
        let written = tokio::time::timeout(READER_PATIENCE, to.write_all(&bytes)).await;
        written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    }
    to.shutdown().await
}

/// Where events for one client go. Clones share the way.
#[derive(Clone)]
struct Answers {
    events: mpsc::Sender<Vec<u8>>,
}

impl Answers {
    async fn tell(&self, event: &Event) -> Result<(), Gone> {
        self.events.send(event.encode()).await.map_err(|_| Gone)
    }
}
