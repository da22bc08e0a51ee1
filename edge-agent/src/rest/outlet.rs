//! Bodies that are sent while they are made.
//!
//! BACKPRESSURE: at most [`CHUNKS_WAITING_MAX`] chunks wait for the client; a client that takes nothing for [`READER_PATIENCE`] is
//! given up. A body that does not come to its end is broken off, so that no client takes a part for the whole. A client that leaves
//! stops the work at once: the work's future is dropped, which stops its jobs in the engine.

use crate::refusal::Refusal;
use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use serde_json::Value;
use std::{future::Future, time::Duration};
use tokio::sync::mpsc;

/// Chunks between the work and the connection. A chunk is a piece of text or a phrase of audio, at most some hundred kilobytes.
const CHUNKS_WAITING_MAX: usize = 8;

/// How long a client may take nothing.
pub const READER_PATIENCE: Duration = Duration::from_secs(30);

/// The client has left, or takes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// Why the work ends early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The client has left, or takes nothing.
    Gone,
    /// It cannot be done to its end.
    Refused(Refusal),
}

impl From<Gone> for Ended {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Where the work puts what it has made.
pub struct Outlet {
    chunks: mpsc::Sender<Chunk>,
    patience: Duration,
}

enum Chunk {
    Bytes(Bytes),
    End,
}

/// What a body that was broken off ends with.
#[derive(Debug, thiserror::Error)]
#[error("the answer was broken off")]
struct BrokenOff;

impl Outlet {
    /// Sends bytes; nothing is sent for none.
    pub async fn send(&self, bytes: impl Into<Bytes>) -> Result<(), Gone> {
        let bytes = bytes.into();
        if bytes.is_empty() { Ok(()) } else { self.put(Chunk::Bytes(bytes)).await }
    }

    /// Sends a server-sent event.
    pub async fn event(&self, event: &Value) -> Result<(), Gone> {
        self.send(format!("data: {event}\n\n")).await
    }

    async fn put(&self, chunk: Chunk) -> Result<(), Gone> {
        match tokio::time::timeout(self.patience, self.chunks.send(chunk)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }
}

/// An answer whose body is what `work` sends. What goes wrong on the way is told by an event where the body is of events; any other
/// body is broken off.
pub fn streamed<Work>(content_type: &'static str, work: impl FnOnce(Outlet) -> Work) -> Response
where
    Work: Future<Output = Result<(), Ended>> + Send + 'static,
{
    let body = body(READER_PATIENCE, content_type == EVENTS, work);
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    // What is said here is nobody else's to keep.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The type of a stream of events.
pub const EVENTS: &str = "text/event-stream; charset=utf-8";

fn body<Work>(patience: Duration, is_events: bool, work: impl FnOnce(Outlet) -> Work) -> Body
where
    Work: Future<Output = Result<(), Ended>> + Send + 'static,
{
    let (chunks, waiting) = mpsc::channel(CHUNKS_WAITING_MAX);
    let end = Outlet { chunks: chunks.clone(), patience };
    let work = work(Outlet { chunks, patience });
    tokio::spawn(async move {
        let done = tokio::select! {
            done = work => done,
            () = end.chunks.closed() => Err(Ended::Gone),
        };
        let done = match done {
            Err(Ended::Refused(refusal)) if is_events => end.event(&refusal.body()).await.map_err(Ended::from),
            done => done,
        };
        if done.is_ok() {
            // A client that leaves at the very end has what it wanted.
            let _left = end.put(Chunk::End).await;
        }
    });
    Body::from_stream(futures_util::stream::unfold(Some(waiting), |waiting| async {
        let mut waiting = waiting?;
        match waiting.recv().await {
            Some(Chunk::Bytes(bytes)) => Some((Ok(bytes), Some(waiting))),
            Some(Chunk::End) => None,
            None => Some((Err(BrokenOff), None)),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    #[tokio::test]
    async fn a_body_is_what_was_sent_and_only_whole_if_the_work_came_to_its_end() {
        let whole = body(READER_PATIENCE, false, |outlet| async move {
            outlet.send("a").await?;
            outlet.send("").await?;
            Ok(outlet.event(&serde_json::json!({"b": 1})).await?)
        });
        assert_eq!(to_bytes(whole, 1_000).await.expect("whole"), "adata: {\"b\":1}\n\n");
        let broken = body(READER_PATIENCE, false, |outlet| async move {
            outlet.send("a").await?;
            Err(Ended::Gone)
        });
        to_bytes(broken, 1_000).await.expect_err("broken off");
        let failing = |is_events| {
            body(READER_PATIENCE, is_events, |_| async { Err(Refusal::busy("overloaded", "later", 1_000).into()) })
        };
        to_bytes(failing(false), 1_000).await.expect_err("broken off, because bytes of audio cannot tell");
        let told = to_bytes(failing(true), 1_000).await.expect("whole");
        assert!(told.starts_with(b"data: {\"error\":{") && told.ends_with(b"}}\n\n"), "{told:?}");
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up() {
        let given_up = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&given_up);
        let unread = body(Duration::from_millis(20), false, |outlet| async move {
            loop {
                if outlet.send("x").await.is_err() {
                    told.store(true, Ordering::SeqCst);
                    return Err(Ended::Gone);
                }
            }
        });
        while !given_up.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        to_bytes(unread, 1_000).await.expect_err("and what it has is not the whole");
    }

    #[tokio::test]
    async fn a_client_that_leaves_stops_the_work() {
        struct Stopped(Arc<AtomicBool>);
        impl Drop for Stopped {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let stopped = Arc::new(AtomicBool::new(false));
        let work = Stopped(Arc::clone(&stopped));
        let left = body(READER_PATIENCE, false, |outlet| async move {
            let _work = work;
            outlet.send("x").await?;
            std::future::pending().await
        });
        drop(left);
        while !stopped.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
