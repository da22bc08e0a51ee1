//! Dialling the control plane: resolve, connect, open the control stream, exchange hellos.

use nearfield_shared::wire::{Hello, PLANE_SERVER_NAME, hello::HELLO_BYTES};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// Addresses of one name that are tried, so that a name with many cannot hold a dial for minutes.
const ADDRESSES_MAX: usize = 8;

/// A control stream after the hellos.
pub struct Dialled {
    /// The connection; further streams ask for artefacts.
    pub connection: quinn::Connection,
    /// The control stream, towards the plane.
    pub send: quinn::SendStream,
    /// The control stream, from the plane.
    pub recv: quinn::RecvStream,
    /// Holds the socket.
    pub endpoint: quinn::Endpoint,
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
    /// The other side is no control plane of a version we speak.
    #[error("{0}")]
    Hello(String),
}

/// Connects to the first address of `plane` that answers.
pub async fn connect(
    plane: &str,
    config: &quinn::ClientConfig,
) -> Result<(quinn::Endpoint, quinn::Connection), DialError> {
    let resolve = |reason: String| DialError::Resolve { plane: plane.to_owned(), reason };
    let addresses: Vec<SocketAddr> =
        tokio::net::lookup_host(plane).await.map_err(|e| resolve(e.to_string()))?.take(ADDRESSES_MAX).collect();
    let mut last = None;
    for address in addresses {
        match connect_to(address, config).await {
            Ok(connected) => return Ok(connected),
            Err(reason) => last = Some(format!("{address}: {reason}")),
        }
    }
    match last {
        Some(reason) => Err(DialError::Connect { plane: plane.to_owned(), reason }),
        None => Err(resolve("it has no address".into())),
    }
}

async fn connect_to(
    address: SocketAddr,
    config: &quinn::ClientConfig,
) -> Result<(quinn::Endpoint, quinn::Connection), String> {
    let local: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let endpoint = quinn::Endpoint::client(local).map_err(|e| e.to_string())?;
    let connecting = endpoint.connect_with(config.clone(), address, PLANE_SERVER_NAME).map_err(|e| e.to_string())?;
    let connection = connecting.await.map_err(|e| e.to_string())?;
    Ok((endpoint, connection))
}

/// Dials and greets. The caller bounds the time.
pub async fn dial(plane: &str, config: &quinn::ClientConfig) -> Result<Dialled, DialError> {
    let (endpoint, connection) = connect(plane, config).await?;
    let broken = |reason: String| DialError::Connect { plane: plane.to_owned(), reason };
    let (mut send, mut recv) = connection.open_bi().await.map_err(|e| broken(e.to_string()))?;
    send.write_all(&Hello::OURS.to_bytes()).await.map_err(|e| broken(e.to_string()))?;
    let mut theirs = [0; HELLO_BYTES];
    recv.read_exact(&mut theirs).await.map_err(|e| broken(e.to_string()))?;
    let theirs = Hello::from_bytes(&theirs).map_err(|e| DialError::Hello(e.to_string()))?;
    Hello::OURS.agree(theirs).map_err(|e| DialError::Hello(e.to_string()))?;
    Ok(Dialled { connection, send, recv, endpoint })
}
