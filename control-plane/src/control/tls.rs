//! TLS and transport settings of the plane's endpoint.

use crate::{ca::Ca, config::Config};
use anyhow::Context as _;
use nearfield_shared::wire::{ALPN, ENROL_ALPN};
use quinn::crypto::rustls::QuicServerConfig;
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
