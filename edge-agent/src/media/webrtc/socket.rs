//! The one UDP socket of all calls: finds the call that a datagram belongs to.
//!
//! A caller's first datagrams are ICE checks, which name the call by the user name that only its answer told. From then on
//! their address stands for it. Everything else is dropped unread; whether a check is genuine, the call itself finds out.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use str0m::ice::StunMessage;
use tokio::{net::UdpSocket, sync::mpsc};
use tokio_util::sync::CancellationToken;

/// Bytes of a datagram: more than any that a path carries whole.
const DATAGRAM_BYTES_MAX: usize = 2_000;

/// Datagrams that wait for a call: half a second of everything that a client sends.
const DATAGRAMS_MAX: usize = 64;

/// Addresses from which one call may be reached: every interface of a caller, twice over.
const SOURCES_MAX: usize = 16;

/// A datagram as it came.
pub struct Datagram {
    /// Who sent it.
    pub source: SocketAddr,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The calls that a socket serves.
#[derive(Default)]
pub struct Peers(Mutex<Routes>);

#[derive(Default)]
struct Routes {
    /// By ICE user name.
    calls: HashMap<String, Route>,
    /// The ICE user name of the call that an address belongs to.
    by_source: HashMap<SocketAddr, String>,
}

struct Route {
    name: String,
    datagrams: mpsc::Sender<Datagram>,
    sources: Vec<SocketAddr>,
    hung_up: CancellationToken,
}

impl Peers {
    /// Adds a call; it gets its datagrams until what is returned is dropped.
    pub fn register(
        self: &Arc<Self>,
        ufrag: String,
        name: String,
        hung_up: CancellationToken,
    ) -> (Registered, mpsc::Receiver<Datagram>) {
        let (sender, datagrams) = mpsc::channel(DATAGRAMS_MAX);
        let route = Route { name, datagrams: sender, sources: Vec::new(), hung_up };
        self.lock().calls.insert(ufrag.clone(), route);
        (Registered { peers: Arc::clone(self), ufrag }, datagrams)
    }

    /// Tells the call of this name to end.
    pub fn hang_up(&self, name: &str) -> bool {
        let routes = self.lock();
        let found = routes.calls.values().find(|route| route.name == name);
        found.inspect(|route| route.hung_up.cancel()).is_some()
    }

    fn find(&self, source: SocketAddr, bytes: &[u8]) -> Option<mpsc::Sender<Datagram>> {
        let mut routes = self.lock();
        let routes = &mut *routes;
        // STUN is what begins with a byte below 2 (RFC 7983).
        if bytes.first().is_none_or(|first| *first >= 2) {
            let ufrag = routes.by_source.get(&source)?;
            return Some(routes.calls.get(ufrag)?.datagrams.clone());
        }
        let check = StunMessage::parse(bytes).ok().filter(StunMessage::is_binding_request)?;
        let ufrag = check.split_username()?.0;
        let route = routes.calls.get_mut(ufrag)?;
        if !route.sources.contains(&source) && route.sources.len() < SOURCES_MAX {
            route.sources.push(source);
            routes.by_source.insert(source, ufrag.to_owned());
        }
        Some(route.datagrams.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Routes> {
        // Every change is whole before anything that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's place in [`Peers`].
pub struct Registered {
    peers: Arc<Peers>,
    ufrag: String,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut routes = self.peers.lock();
        routes.calls.remove(&self.ufrag);
        routes.by_source.retain(|_, ufrag| *ufrag != self.ufrag);
    }
}

/// Reads datagrams and hands them to their calls, for ever.
pub async fn read(socket: Arc<UdpSocket>, peers: Arc<Peers>) {
    let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, source)) if length <= DATAGRAM_BYTES_MAX => {
                let bytes = &buffer[..length];
                if let Some(datagrams) = peers.find(source, bytes) {
                    // A call that is behind loses datagrams, as on a slow network.
                    let _lost = datagrams.try_send(Datagram { source, bytes: bytes.to_vec() });
                }
            }
            Ok(_) => {}
            // An unreachable caller is told here on some systems; the socket is none the worse.
            Err(error) => {
                tracing::debug!(%error, "a datagram could not be received");
                tokio::task::yield_now().await;
            }
        }
    }
}
