//! The endpoint's socket: it holds what a whole fleet sends at once, and batches packets only while models are sent.
//!
//! A fleet that comes back sends thousands of first packets in the time of one handshake. What the system's buffer cannot hold is lost, and each
//! loss costs its node a second and more; so the buffer is made as large as the system permits.
//!
//! quinn keeps, for each connection, a buffer as large as the largest batch of packets that it ever sent in one call of the system: 27 KB
//! after one desired state, which thousands of idle agents would hold for ever. Batches are what makes a model quick to send, and
//! little else gains by them.

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use socket2::SockRef;
use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

/// Bytes of packets that may wait for the plane: the first packets of 3,500 handshakes, as the system counts them.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// Binds the address.
///
/// # Errors
/// When it is taken.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    let sized = SockRef::from(&socket);
    // The system gives what it permits and does not say that it is less.
    let outcome = sized.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).and_then(|()| sized.recv_buffer_size());
    match outcome {
        Ok(bytes) if bytes >= RECEIVE_BUFFER_BYTES => {}
        Ok(bytes) => tracing::info!(
            bytes,
            "the system keeps the receive buffer small; a large fleet comes back sooner with `sysctl net.core.rmem_max={RECEIVE_BUFFER_BYTES}`"
        ),
        Err(error) => tracing::info!(%error, "the receive buffer keeps its size"),
    }
    Ok(socket)
}

/// How many models are being sent now. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Transfers(Arc<AtomicUsize>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Transfer(Transfers);

impl Transfers {
    /// One more.
    pub fn begin(&self) -> Transfer {
        self.0.fetch_add(1, Ordering::Relaxed);
        Transfer(self.clone())
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A socket that batches while there are transfers.
#[derive(Debug)]
pub struct Socket {
    inner: Arc<dyn AsyncUdpSocket>,
    transfers: Transfers,
}

impl Socket {
    /// Around the runtime's own socket.
    pub fn new(inner: Arc<dyn AsyncUdpSocket>, transfers: Transfers) -> Arc<Self> {
        Arc::new(Self { inner, transfers })
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        match self.transfers.0.load(Ordering::Relaxed) {
            0 => 1,
            _ => self.inner.max_transmit_segments(),
        }
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_go_in_batches_while_a_model_is_sent() {
        use quinn::Runtime as _;
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let inner = quinn::TokioRuntime.wrap_udp_socket(udp).unwrap();
        let most = inner.max_transmit_segments();
        let transfers = Transfers::default();
        let socket = Socket::new(inner, transfers.clone());
        assert_eq!(socket.max_transmit_segments(), 1);
        let (one, other) = (transfers.begin(), transfers.begin());
        drop(one);
        assert_eq!(socket.max_transmit_segments(), most);
        drop(other);
        assert_eq!(socket.max_transmit_segments(), 1);
    }
}
