//! A TCP listener with bounds: so many connections, and none that stays silent.
//!
//! BACKPRESSURE: with [`CONNECTIONS_MAX`] open, further ones wait in the kernel's queue and beyond that are refused by it. A
//! connection on which nothing comes for [`IDLE_MAX`] is dropped, so that idle ones cannot take all places.

use axum::extract::connect_info::Connected;
use axum_server::{AddrListener, Address};
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};

/// Connections open at once. Answers take well under a millisecond, so this is some 100,000 callers a second.
pub const CONNECTIONS_MAX: usize = 1024;

/// Longest silence of the other side. No answer of this API takes as long.
pub const IDLE_MAX: Duration = Duration::from_secs(90);

/// How long a listener rests after an error of the system, such as too many open files.
const REST: Duration = Duration::from_millis(200);

/// The listener.
pub struct BoundedListener {
    inner: TcpListener,
    places: Arc<Semaphore>,
    idle_max: Duration,
}

impl BoundedListener {
    /// With the usual bounds.
    pub fn new(inner: TcpListener) -> Self {
        Self { inner, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)), idle_max: IDLE_MAX }
    }
}

/// Who has connected.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

impl Address for Peer {
    type Stream = Held;
    type Listener = BoundedListener;
}

impl Connected<Peer> for Peer {
    fn connect_info(peer: Peer) -> Self {
        peer
    }
}

impl AddrListener<Held, Peer> for BoundedListener {
    async fn bind_to(Peer(address): Peer) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self::new)
    }

    async fn accept_stream(&self) -> io::Result<(Held, Peer)> {
        let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match self.inner.accept().await {
                Ok((stream, peer)) => {
                    // Answers are small and complete; waiting to fill a packet only delays them. A failure costs only that.
                    stream.set_nodelay(true).ok();
                    let idle = Box::pin(tokio::time::sleep(self.idle_max));
                    return Ok((Held { stream, _place: place, idle, idle_max: self.idle_max }, Peer(peer)));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    fn get_local_addr(&self) -> io::Result<Peer> {
        self.inner.local_addr().map(Peer)
    }
}

/// A connection that holds its place until it is dropped.
pub struct Held {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    idle: Pin<Box<Sleep>>,
    idle_max: Duration,
}

impl AsyncRead for Held {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            let next = Instant::now() + self.idle_max;
            self.idle.as_mut().reset(next);
            return Poll::Ready(read);
        }
        self.idle.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    async fn listener(places: usize, idle_max: Duration) -> BoundedListener {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        BoundedListener { inner, places: Arc::new(Semaphore::new(places)), idle_max }
    }

    #[tokio::test]
    async fn one_more_than_there_are_places_waits_until_one_is_free() {
        let listener = listener(1, IDLE_MAX).await;
        let Peer(address) = listener.get_local_addr().unwrap();
        let (_a, _b) = (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
        let (first, _) = listener.accept_stream().await.unwrap();
        {
            let second = listener.accept_stream();
            tokio::pin!(second);
            tokio::select! {
                biased;
                _ = &mut second => panic!("there was no place"),
                () = tokio::task::yield_now() => {}
            }
        }
        drop(first);
        listener.accept_stream().await.unwrap();
    }

    #[tokio::test]
    async fn a_silent_connection_is_dropped() {
        let listener = listener(1, Duration::from_millis(20)).await;
        let _client = TcpStream::connect(listener.get_local_addr().unwrap().0).await.unwrap();
        let (mut held, _) = listener.accept_stream().await.unwrap();
        let error = held.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
