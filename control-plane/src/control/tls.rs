//! TLS and transport settings of the plane's endpoint.

use super::socket::{Socket, Transfers, bind};
use crate::{
    ca::{self, Ca},
    config::Config,
};
use anyhow::Context as _;
use aws_lc_rs::hmac;
use nearfield_shared::{
    clock::Clock,
    wire::{ALPN, ENROL_ALPN, RENEW_ALPN},
};
use quinn::crypto::rustls::QuicServerConfig;
use quinn_proto::HashedConnectionIdGenerator;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    server::{
        ClientHello, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The server certificate is made anew when it is this old; it is valid thirty times as long.
const SERVER_RENEWAL: Duration = Duration::from_secs(24 * 60 * 60);

/// A connection without any packet for this long is gone. Agents send a keepalive well within it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections that wait for their handshake, at most. A handshake costs about 1 ms of one core, so this is two seconds of work, well
/// within the time that an agent gives a dial.
pub const WAITING_MAX: usize = 2048;

/// Bytes in flight towards one agent: 100 ms of 2 Gbit/s. (quinn's default holds one stream to about 100 Mbit/s at 100 ms.)
const SEND_WINDOW_BYTES: u64 = 24 << 20;

/// Bytes that an agent may send ahead on one stream. Agents send messages, never models.
const STREAM_RECEIVE_BYTES: u32 = 128 << 10;

/// The same for all streams of a connection.
const RECEIVE_BYTES: u32 = 512 << 10;

/// Binds the endpoint. The outer error is about the settings, the inner one about the address.
pub fn endpoint(
    ca: &Arc<Ca>,
    config: &Config,
    clock: &Arc<dyn Clock>,
    transfers: &Transfers,
) -> anyhow::Result<std::io::Result<quinn::Endpoint>> {
    let server = server_config(ca, config, clock)?;
    let key = ca.reset_key();
    let mut endpoint = quinn::EndpointConfig::new(Arc::new(key.clone()));
    // A plane answers only for connection ids that it can have given out, so these must be told by the same key after a restart.
    let ids = hmac::sign(key, b"connection ids");
    let ids = u64::from_be_bytes(*ids.as_ref().first_chunk().expect("SHA-256 has 32 bytes"));
    endpoint.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    // After a crash every agent is owed one at once. A reset is smaller than the packet it answers, so it amplifies nothing.
    endpoint.min_reset_interval(Duration::ZERO);
    let runtime = quinn::default_runtime().context("no runtime")?;
    let bound = bind(config.agents).and_then(|socket| {
        let socket = Socket::new(runtime.wrap_udp_socket(socket)?, transfers.clone());
        quinn::Endpoint::new_with_abstract_socket(endpoint, Some(server), socket, runtime)
    });
    Ok(bound)
}

/// The endpoint's configuration. It makes its own certificate, and makes it anew while it serves.
pub fn server_config(ca: &Arc<Ca>, config: &Config, clock: &Arc<dyn Clock>) -> anyhow::Result<quinn::ServerConfig> {
    let provider = nearfield_shared::tls::provider();
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).context("the authority's certificate cannot be used")?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .context("client certificates cannot be verified")?;
    let identity =
        ServerIdentity { ca: ca.clone(), clock: clock.clone(), provider: provider.clone(), made: Mutex::default() };
    // A plane that cannot make one should not start.
    identity.current()?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(WhateverTheTime(verifier)))
        .with_cert_resolver(Arc::new(identity));
    tls.alpn_protocols = vec![ALPN.to_vec(), ENROL_ALPN.to_vec(), RENEW_ALPN.to_vec()];
    // A resumed session would skip the certificate, and with it a revocation.
    tls.send_tls13_tickets = 0;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    server.transport_config(Arc::new(transport(config)?));
    server.max_incoming(WAITING_MAX);
    Ok(server)
}

/// The server's certificate, looked at in every handshake, so that neither a timer nor a jump of the clock can leave an old one.
struct ServerIdentity {
    ca: Arc<Ca>,
    clock: Arc<dyn Clock>,
    provider: Arc<CryptoProvider>,
    /// When it was made, seconds since 1970, and itself.
    made: Mutex<Option<(i64, Arc<CertifiedKey>)>>,
}

impl ServerIdentity {
    fn current(&self) -> anyhow::Result<Arc<CertifiedKey>> {
        let now = self.clock.unix_s();
        // The lock is held while one is made, a millisecond once a day; whoever panicked under it has left a whole one.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, key)) = &*made
            && (*at..*at + SERVER_RENEWAL.as_secs() as i64).contains(&now)
        {
            return Ok(key.clone());
        }
        let (chain, key) = self.ca.server_certificate(now)?;
        let key = Arc::new(CertifiedKey::from_der(chain, key, &self.provider)?);
        *made = Some((now, key.clone()));
        Ok(key)
    }
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerIdentity(..)")
    }
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
            .inspect_err(|error| {
                tracing::error!(error = format!("{error:#}"), "the server certificate cannot be made anew")
            })
            .ok()
    }
}

/// Verifies everything of a certificate but that it is valid now: whose time is over may still renew it ([`super`]).
#[derive(Debug)]
struct WhateverTheTime(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for WhateverTheTime {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let begins = ca::begins(end_entity).map_err(|_| TlsError::InvalidCertificate(CertificateError::BadEncoding))?;
        self.0.verify_client_cert(end_entity, intermediates, begins)
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
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
            let clock: Arc<dyn Clock> = Arc::new(nearfield_shared::clock::SystemClock::default());
            let endpoint = endpoint(&ca, &config, &clock, &Transfers::default()).unwrap().unwrap();
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
