//! TLS and transport settings of the plane's endpoint.

use crate::{ca::Ca, config::Config};
use anyhow::Context as _;
use aws_lc_rs::hmac;
use nearfield_shared::wire::{ALPN, ENROL_ALPN};
use quinn::crypto::rustls::QuicServerConfig;
use quinn_proto::HashedConnectionIdGenerator;
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use std::{sync::Arc, time::Duration};

/// A connection without any packet for this long is gone. Agents send a keepalive well within it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes in flight towards one agent: 100 ms of 2 Gbit/s. (quinn's default holds one stream to about 100 Mbit/s at 100 ms.)
const SEND_WINDOW_BYTES: u64 = 24 << 20;

/// Bytes that an agent may send ahead on one stream. Agents send messages, never models.
const STREAM_RECEIVE_BYTES: u32 = 128 << 10;

/// The same for all streams of a connection.
const RECEIVE_BYTES: u32 = 512 << 10;

/// Binds the endpoint. The outer error is about the settings, the inner one about the address.
pub fn endpoint(ca: &Ca, config: &Config, now_unix_s: i64) -> anyhow::Result<std::io::Result<quinn::Endpoint>> {
    let server = server_config(ca, config, now_unix_s)?;
    let key = ca.reset_key();
    let mut endpoint = quinn::EndpointConfig::new(Arc::new(key.clone()));
    // A plane answers only for connection ids that it can have given out, so these must be told by the same key after a restart.
    let ids = hmac::sign(key, b"connection ids");
    let ids = u64::from_be_bytes(*ids.as_ref().first_chunk().expect("SHA-256 has 32 bytes"));
    endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    // After a crash every agent is owed one at once. A reset is smaller than the packet it answers, so it amplifies nothing.
    endpoint.min_reset_interval(Duration::ZERO);
    let runtime = quinn::default_runtime().context("no runtime")?;
    let bound = std::net::UdpSocket::bind(config.agents)
        .and_then(|socket| quinn::Endpoint::new(endpoint, Some(server), socket, runtime));
    Ok(bound)
}

/// The endpoint's configuration with a server certificate made now.
pub fn server_config(ca: &Ca, config: &Config, now_unix_s: i64) -> anyhow::Result<quinn::ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).context("the authority's certificate cannot be used")?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .context("client certificates cannot be verified")?;
    let (chain, key) = ca.server_certificate(now_unix_s)?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![ALPN.to_vec(), ENROL_ALPN.to_vec()];
    // A resumed session would skip the certificate, and with it a revocation.
    tls.send_tls13_tickets = 0;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    server.transport_config(Arc::new(transport(config)?));
    Ok(server)
}

fn transport(config: &Config) -> anyhow::Result<quinn::TransportConfig> {
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams((config.artefact_streams_max + 1).into())
        .max_concurrent_uni_streams(0_u32.into())
        .stream_receive_window(STREAM_RECEIVE_BYTES.into())
        .receive_window(RECEIVE_BYTES.into())
        .send_window(SEND_WINDOW_BYTES)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().context("the idle timeout")?));
    Ok(transport)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_shared::wire::PLANE_SERVER_NAME;
    use quinn::{ConnectionError, crypto::rustls::QuicClientConfig};
    use std::net::SocketAddr;

    fn client(ca: &Ca) -> quinn::ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let mut tls =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        tls.alpn_protocols = vec![ENROL_ALPN.to_vec()];
        let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let mut transport = quinn::TransportConfig::default();
        transport.keep_alive_interval(Some(Duration::from_millis(50)));
        client.transport_config(Arc::new(transport));
        client
    }

    /// An endpoint on a runtime of its own, which ends like a process that is killed: without a word.
    fn plane(ca: Arc<Ca>, agents: SocketAddr) -> (tokio::runtime::Runtime, SocketAddr) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let address = runtime.block_on(async {
            let config = Config { agents, ..Config::on_loopback() };
            let endpoint = endpoint(&ca, &config, crate::plane::now_unix_s()).unwrap().unwrap();
            let address = endpoint.local_addr().unwrap();
            tokio::spawn(async move {
                let mut open = Vec::new();
                while let Some(incoming) = endpoint.accept().await {
                    open.push(incoming.await.unwrap());
                }
            });
            address
        });
        (runtime, address)
    }

    #[test]
    fn a_plane_that_was_killed_tells_agents_at_their_next_packet() {
        let (pem, key) = Ca::generate().unwrap();
        let ca = Arc::new(Ca::load(&pem, &key).unwrap());
        let (first, address) = plane(ca.clone(), SocketAddr::from(([127, 0, 0, 1], 0)));
        let agents = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let connections = agents.block_on(async {
            let dialler = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            let mut connections = Vec::new();
            for _ in 0..20 {
                connections.push(dialler.connect_with(client(&ca), address, PLANE_SERVER_NAME).unwrap().await.unwrap());
            }
            connections
        });
        drop(first);
        let (second, _) = plane(ca.clone(), address);
        for connection in connections {
            assert_eq!(agents.block_on(connection.closed()), ConnectionError::Reset);
        }
        drop(second);
    }
}
