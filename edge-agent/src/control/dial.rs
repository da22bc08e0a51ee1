//! Dialling the control plane: resolve, connect, open the control stream, exchange hellos.

use nearfield_shared::wire::{CLOSE_NOT_LEADING, CLOSE_RENEW, Hello, PLANE_SERVER_NAME, hello::HELLO_BYTES};
use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Addresses of one name that are tried, so that a name with many cannot hold a dial for minutes.
const ADDRESSES_MAX: usize = 8;

/// Longest reason of a plane that is shown, in characters.
const REASON_MAX: usize = 200;

/// A control stream after the hellos.
pub struct Dialled {
    /// The connection; further streams ask for artefacts.
    pub connection: quinn::Connection,
    /// The control stream, towards the plane.
    pub send: quinn::SendStream,
    /// The control stream, from the plane.
    pub recv: quinn::RecvStream,
}

/// Why the plane was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("`{plane}` cannot be resolved: {reason}; check the address in agent.toml and this machine's DNS")]
    Resolve {
        /// `HOST:PORT`.
        plane: String,
        /// What the resolver said.
        reason: String,
    },
    /// None of the addresses answers as it should.
    #[error("the control plane at `{plane}` cannot be reached: {reason}")]
    Connect {
        /// `HOST:PORT`.
        plane: String,
        /// The last address and what happened there.
        reason: String,
    },
    /// The plane wants a newer certificate first.
    #[error("the control plane at `{plane}` finds that this node's certificate is not valid now; it is renewed")]
    MustRenew {
        /// `HOST:PORT`.
        plane: String,
    },
    /// Another plane leads.
    #[error(
        "the control plane at `{plane}` does not lead ({reason}); if no other one is named in agent.toml, add it to `plane` there"
    )]
    NotLeading {
        /// `HOST:PORT`.
        plane: String,
        /// What it says.
        reason: String,
    },
    /// The other side is no control plane of a version we speak.
    #[error("{0}")]
    Hello(String),
}

impl DialError {
    /// What became of a connection on which something has failed: if the plane has closed it with a reason, that counts.
    pub fn of(plane: &str, connection: &quinn::Connection, reason: String) -> Self {
        Self::closed(plane, connection.close_reason().as_ref())
            .unwrap_or_else(|| Self::Connect { plane: plane.to_owned(), reason })
    }

    /// What a plane means that has closed the connection with one of the codes for that.
    fn closed(plane: &str, why: Option<&quinn::ConnectionError>) -> Option<Self> {
        let Some(quinn::ConnectionError::ApplicationClosed(closed)) = why else { return None };
        let plane = plane.to_owned();
        if closed.error_code == CLOSE_RENEW.into() {
            return Some(Self::MustRenew { plane });
        }
        let reason = String::from_utf8_lossy(&closed.reason);
        let reason = reason.chars().filter(|c| !c.is_control()).take(REASON_MAX).collect();
        (closed.error_code == CLOSE_NOT_LEADING.into()).then_some(Self::NotLeading { plane, reason })
    }
}

/// The sockets that dials go out from: one for each address family, bound at the first dial and kept for all that follow.
#[derive(Debug, Clone, Default)]
pub struct Dialer {
    sockets: Arc<Mutex<Sockets>>,
}

#[derive(Debug, Default)]
struct Sockets {
    v4: Option<quinn::Endpoint>,
    v6: Option<quinn::Endpoint>,
}

impl Sockets {
    fn connect(&mut self, address: SocketAddr, config: &quinn::ClientConfig) -> Result<quinn::Connecting, String> {
        let (socket, local): (_, SocketAddr) = match address {
            SocketAddr::V4(_) => (&mut self.v4, (Ipv4Addr::UNSPECIFIED, 0).into()),
            SocketAddr::V6(_) => (&mut self.v6, (Ipv6Addr::UNSPECIFIED, 0).into()),
        };
        if let Some(endpoint) = socket {
            match endpoint.connect_with(config.clone(), address, PLANE_SERVER_NAME) {
                // The system has taken this socket away; a new one may still work.
                Err(quinn::ConnectError::EndpointStopping) => {}
                begun => return begun.map_err(|e| e.to_string()),
            }
        }
        let endpoint = socket.insert(quinn::Endpoint::client(local).map_err(|e| e.to_string())?);
        endpoint.connect_with(config.clone(), address, PLANE_SERVER_NAME).map_err(|e| e.to_string())
    }
}

impl Dialer {
    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        // Whoever panicked under the lock left a socket or none; both are good.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects to the first address of `plane`, `HOST:PORT`, that answers.
    pub async fn connect(&self, plane: &str, config: &quinn::ClientConfig) -> Result<quinn::Connection, DialError> {
        let resolve = |reason: String| DialError::Resolve { plane: plane.to_owned(), reason };
        let addresses: Vec<SocketAddr> =
            tokio::net::lookup_host(plane).await.map_err(|e| resolve(e.to_string()))?.take(ADDRESSES_MAX).collect();
        let mut last = None;
        for address in addresses {
            let connecting = self.sockets().connect(address, config);
            let connected = match connecting {
                Ok(connecting) => match connecting.await {
                    Ok(connection) => Ok(connection),
                    Err(error) => match DialError::closed(plane, Some(&error)) {
                        // Told within the handshake already.
                        Some(told) => return Err(told),
                        None => Err(error.to_string()),
                    },
                },
                Err(reason) => Err(reason),
            };
            match connected {
                Ok(connection) => return Ok(connection),
                Err(reason) => last = Some(format!("{address}: {reason}")),
            }
        }
        match last {
            Some(reason) => Err(DialError::Connect { plane: plane.to_owned(), reason }),
            None => Err(resolve("it has no address".into())),
        }
    }

    /// Dials and greets. The caller bounds the time.
    pub async fn dial(&self, plane: &str, config: &quinn::ClientConfig) -> Result<Dialled, DialError> {
        let connection = self.connect(plane, config).await?;
        let broken = |reason: String| DialError::of(plane, &connection, reason);
        let (mut send, mut recv) = connection.open_bi().await.map_err(|e| broken(e.to_string()))?;
        send.write_all(&Hello::OURS.to_bytes()).await.map_err(|e| broken(e.to_string()))?;
        let mut theirs = [0; HELLO_BYTES];
        recv.read_exact(&mut theirs).await.map_err(|e| broken(e.to_string()))?;
        let theirs = Hello::from_bytes(&theirs).map_err(|e| DialError::Hello(e.to_string()))?;
        Hello::OURS.agree(theirs).map_err(|e| DialError::Hello(e.to_string()))?;
        Ok(Dialled { connection, send, recv })
    }

    /// Waits until the last packets of connections that were closed are out.
    pub async fn wait_idle(&self) {
        let endpoints: Vec<_> = {
            let sockets = self.sockets();
            sockets.v4.iter().chain(&sockets.v6).cloned().collect()
        };
        for endpoint in endpoints {
            endpoint.wait_idle().await;
        }
    }
}
