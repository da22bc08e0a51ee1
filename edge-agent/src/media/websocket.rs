//! A call over a WebSocket: one task reads for the call, another writes what it says.

use super::{
    MESSAGE_BYTES_MAX, line,
    outbox::Outbox,
    session::WireError,
    transport::{Arrived, Goodbye, Incoming, Outgoing, binary_message, code},
};
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

/// How often a silent connection is probed, and after how much silence it is dead.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(75));

/// How long the last events and the close frame may take to reach a client.
const GOODBYE: Duration = Duration::from_secs(2);

/// Holds a call on a socket until either side ends it.
pub async fn hold(socket: WebSocket, start: line::Start) {
    let outbox = Arc::new(Outbox::default());
    let mut socket = Socket::open(socket, Arc::clone(&outbox));
    let goodbye = line::hold(&mut socket.reader, Outgoing { outbox, track: None }, start).await;
    socket.close(goodbye).await;
}

/// A socket with a task that writes what is in an outbox.
pub struct Socket {
    /// What comes from the other side.
    pub reader: Reader,
    writer: JoinHandle<Option<SplitSink<WebSocket, Message>>>,
}

impl Socket {
    /// Begins to write what is in the outbox.
    pub fn open(socket: WebSocket, outbox: Arc<Outbox>) -> Self {
        let (sink, frames) = socket.split();
        let (pings, ping_requests) = mpsc::channel(1);
        let writer = tokio::spawn(write(sink, outbox, ping_requests));
        let now = Instant::now();
        Self { reader: Reader { frames, pings, last_frame: now, last_ping: now, leaves: None }, writer }
    }

    /// Ends the connection; the outbox is closed already. A client that still reads gets everything and the reason; one that does not
    /// is left.
    pub async fn close(mut self, goodbye: Option<Goodbye>) {
        let last = async {
            let Ok(Some(mut sink)) = (&mut self.writer).await else { return };
            match &goodbye {
                Some(goodbye) => {
                    let close = CloseFrame { code: goodbye.code, reason: goodbye.reason.into() };
                    let _left = sink.send(Message::Close(Some(close))).await;
                    // The client's own close frame ends the connection cleanly.
                    while let Some(Ok(_)) = self.reader.frames.next().await {}
                }
                // The client said goodbye, and waits for it to be answered.
                None => drop(sink.close().await),
            }
        };
        if tokio::time::timeout(GOODBYE, last).await.is_err() {
            self.writer.abort();
        }
    }
}

/// Sends what is in the outbox; gives the socket back when the outbox is closed and empty, `None` when it broke.
async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    outbox: Arc<Outbox>,
    mut pings: mpsc::Receiver<()>,
) -> Option<SplitSink<WebSocket, Message>> {
    loop {
        let message = tokio::select! {
            text = outbox.next() => match text {
                Some(text) => Message::Text(text.into()),
                None => return Some(sink),
            },
            Some(()) = pings.recv() => Message::Ping(Default::default()),
        };
        sink.send(message).await.ok()?;
    }
}

/// What a client sends.
pub struct Reader {
    frames: SplitStream<WebSocket>,
    pings: mpsc::Sender<()>,
    last_frame: Instant,
    last_ping: Instant,
    /// Why the call ends, once the client was told what it did wrong.
    leaves: Option<Goodbye>,
}

impl Incoming for &mut Reader {
    async fn next(&mut self) -> Arrived {
        loop {
            if let Some(goodbye) = self.leaves.take() {
                return Arrived::Left(Some(goodbye));
            }
            let probe_at = self.last_frame.max(self.last_ping) + PING.0;
            let frame = tokio::select! {
                frame = self.frames.next() => frame,
                () = tokio::time::sleep_until(probe_at.min(self.last_frame + PING.1)) => {
                    self.last_ping = Instant::now();
                    if self.last_ping >= self.last_frame + PING.1 {
                        return Arrived::Left(Goodbye::some(code::NORMAL, "the connection is dead"));
                    }
                    // A probe that is still waiting will do.
                    let _waiting = self.pings.try_send(());
                    continue;
                }
            };
            self.last_frame = Instant::now();
            match frame {
                None | Some(Ok(Message::Close(_))) => return Arrived::Left(None),
                Some(Err(error)) => return self.broken(&error),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Binary(_))) => {
                    self.leaves = Goodbye::some(code::UNSUPPORTED, "binary messages are not part of this protocol");
                    return Arrived::Refused(binary_message());
                }
                Some(Ok(Message::Text(text))) => return Arrived::Event(text.to_string()),
            }
        }
    }
}

impl Reader {
    /// The protocol itself was broken: say so where the connection still carries words.
    fn broken(&mut self, error: &axum::Error) -> Arrived {
        let words = error.to_string();
        tracing::debug!(%error, "a socket broke");
        if words.contains("too long") || words.contains("too large") || words.contains("Space limit") {
            self.leaves = Goodbye::some(code::TOO_BIG, "message too large; send less audio in one event");
            let message = format!("a message may have {MESSAGE_BYTES_MAX} bytes; send less audio in one event");
            return Arrived::Refused(WireError { code: "message_too_large", message, param: None });
        }
        Arrived::Left(None)
    }
}
