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
use tokio::{sync::mpsc, time::Instant};

/// How often a silent connection is probed, and after how much silence it is dead.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(75));

/// How long the last events and the close frame may take to reach a client.
const GOODBYE: Duration = Duration::from_secs(2);

/// Holds a call on a socket until either side ends it.
pub async fn hold(socket: WebSocket, start: line::Start) {
    let (sink, frames) = socket.split();
    let outbox = Arc::new(Outbox::default());
    let (pings, ping_requests) = mpsc::channel(1);
    let mut writer = tokio::spawn(write(sink, Arc::clone(&outbox), ping_requests));
    let now = Instant::now();
    let mut reader = Reader { frames, pings, last_frame: now, last_ping: now, leaves: None };
    let goodbye = line::hold(&mut reader, Outgoing { outbox, track: None }, start).await;
    // A client that still reads gets everything and the reason; one that does not is left.
    let last = async {
        let Ok(Some(mut sink)) = (&mut writer).await else { return };
        match &goodbye {
            Some(goodbye) => {
                let close = CloseFrame { code: goodbye.code, reason: goodbye.reason.into() };
                let _left = sink.send(Message::Close(Some(close))).await;
                // The client's own close frame ends the connection cleanly.
                while let Some(Ok(_)) = reader.frames.next().await {}
            }
            // The client said goodbye, and waits for it to be answered.
            None => drop(sink.close().await),
        }
    };
    if tokio::time::timeout(GOODBYE, last).await.is_err() {
        writer.abort();
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

struct Reader {
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
