//! TLS towards the control plane: version 1.3, one crypto provider, and only the plane's own authority is trusted.

use crate::{
    identity::{Identity, IdentityError},
    state_dir::StateDir,
};
use aws_lc_rs::digest::{SHA256, digest};
use nearfield_shared::wire::{ALPN, ENROL_ALPN, RENEW_ALPN, enrol::FINGERPRINT_BYTES};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use std::{sync::Arc, time::Duration};

/// Window of one stream in bytes. Together with [`CONNECTION_WINDOW_BYTES`] it lets a model arrive at 1 Gbit/s over 60 ms; the
/// default holds a stream to about 100 Mbit/s at 100 ms.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// A sign of life on the connection itself, well inside [`IDLE_TIMEOUT`], so that a path that died is noticed early.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Why no connection can be configured.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// The identity is of no use.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// TLS refused the certificates.
    #[error("the certificates of this node cannot be used: {0}; enrol it again with `edge-agent enroll --again`")]
    Refused(String),
}

pub(crate) fn refused(e: impl std::fmt::Display) -> TlsSetupError {
    TlsSetupError::Refused(e.to_string())
}

/// The client side of the control link: mutual TLS under the plane's authority.
pub fn link_config(dir: &StateDir, identity: &Identity) -> Result<quinn::ClientConfig, TlsSetupError> {
    node_config(dir, identity, ALPN)
}

/// The same for a renewal and nothing else.
pub fn renew_config(dir: &StateDir, identity: &Identity) -> Result<quinn::ClientConfig, TlsSetupError> {
    node_config(dir, identity, RENEW_ALPN)
}

fn node_config(dir: &StateDir, identity: &Identity, alpn: &[u8]) -> Result<quinn::ClientConfig, TlsSetupError> {
    let (chain, key) = Identity::credentials(dir)?;
    let authority = Authority::Known(Arc::new(roots(&identity.authority)?));
    let tls = builder(authority)?.with_client_auth_cert(chain, key).map_err(refused)?;
    quic(tls, alpn)
}

/// The client side of enrolment: the plane must show the authority whose fingerprint is in the token.
pub fn enrol_config(ca_fingerprint: [u8; FINGERPRINT_BYTES]) -> Result<quinn::ClientConfig, TlsSetupError> {
    quic(builder(Authority::Pinned(ca_fingerprint))?.with_no_client_auth(), ENROL_ALPN)
}

fn builder(
    authority: Authority,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, TlsSetupError> {
    let provider = nearfield_shared::tls::provider();
    let verifier = PlaneVerifier { authority, provider: Arc::clone(&provider) };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(refused)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

fn roots(authority: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in authority {
        roots.add(certificate.clone()).map_err(refused)?;
    }
    Ok(roots)
}

/// Makes sure that a certificate was signed by the plane's authority for a client, and for this key.
pub fn verify_own(
    identity: &Identity,
    chain: &[CertificateDer<'static>],
    key: PrivateKeyDer<'static>,
) -> Result<(), TlsSetupError> {
    let provider = nearfield_shared::tls::provider();
    CertifiedKey::from_der(chain.to_vec(), key, &provider).map_err(refused)?;
    node_verifier(&identity.authority, &provider)?
        .verify_client_cert(&chain[0], &chain[1..], begins(&chain[0]).map_err(refused)?)
        .map_err(refused)?;
    Ok(())
}

/// Verifies certificates that the plane's authority signed for nodes.
pub(crate) fn node_verifier(
    authority: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsSetupError> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority)?), Arc::clone(provider))
        .build()
        .map_err(refused)
}

/// When a certificate begins.
pub(crate) fn begins(certificate: &CertificateDer<'_>) -> Result<UnixTime, TlsError> {
    x509_parser::parse_x509_certificate(certificate)
        .ok()
        .and_then(|(_, parsed)| u64::try_from(parsed.validity().not_before.timestamp()).ok())
        .map(|seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
        .ok_or(TlsError::InvalidCertificate(CertificateError::BadEncoding))
}

fn quic(mut tls: ClientConfig, alpn: &[u8]) -> Result<quinn::ClientConfig, TlsSetupError> {
    tls.alpn_protocols = vec![alpn.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).map_err(refused)?;
    let mut transport = quinn::TransportConfig::default();
    transport
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().map_err(refused)?))
        // The plane opens no streams and sends no datagrams.
        .max_concurrent_bidi_streams(0_u8.into())
        .max_concurrent_uni_streams(0_u8.into())
        .datagram_receive_buffer_size(None);
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Under which authority a plane must be.
#[derive(Debug)]
enum Authority {
    /// The one from the enrolment.
    Known(Arc<RootCertStore>),
    /// The one with this fingerprint.
    Pinned([u8; FINGERPRINT_BYTES]),
}

/// Verifies the plane: its authority, its name, its signature, and not the time.
///
/// A node has no clock that it could trust: one whose battery is empty wakes up years ago. The plane makes its certificate for as
/// long as it runs and keeps the key in memory only, so whoever could steal it could take the authority's key beside it; an expiry would protect
/// from nothing, and would lock out every node whose clock is wrong. So the certificate is verified as of its own beginning.
#[derive(Debug)]
struct PlaneVerifier {
    authority: Authority,
    provider: Arc<CryptoProvider>,
}

/// What a person reads when the fingerprint does not match.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server does not have the certificate authority of this token; check the address, or make a new token on the control plane that answers there"
)]
pub struct WrongAuthority;

impl ServerCertVerifier for PlaneVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let roots = match &self.authority {
            Authority::Known(roots) => Arc::clone(roots),
            Authority::Pinned(fingerprint) => {
                let authority = intermediates
                    .iter()
                    .find(|certificate| digest(&SHA256, certificate).as_ref() == fingerprint)
                    .ok_or_else(|| {
                        TlsError::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(WrongAuthority))))
                    })?;
                let mut roots = RootCertStore::empty();
                roots.add(authority.clone().into_owned())?;
                Arc::new(roots)
            }
        };
        WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&self.provider))
            .build()
            .map_err(|e| TlsError::General(e.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, begins(end_entity)?)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
