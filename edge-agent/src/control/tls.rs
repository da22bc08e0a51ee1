//! TLS towards the control plane: version 1.3, one crypto provider, and only the plane's own authority is trusted.

use crate::{
    identity::{Identity, IdentityError},
    state_dir::StateDir,
};
use aws_lc_rs::digest::{SHA256, digest};
use nearfield_shared::wire::{ALPN, ENROL_ALPN, enrol::FINGERPRINT_BYTES};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs::default_provider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
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

fn refused(e: impl std::fmt::Display) -> TlsSetupError {
    TlsSetupError::Refused(e.to_string())
}

/// The client side of the control link: mutual TLS under the plane's authority.
pub fn link_config(dir: &StateDir, identity: &Identity) -> Result<quinn::ClientConfig, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in &identity.authority {
        roots.add(certificate.clone()).map_err(refused)?;
    }
    let mut tls = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(refused)?
        .with_root_certificates(roots)
        .with_client_auth_cert(identity.chain.clone(), Identity::private_key(dir)?)
        .map_err(refused)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    quic(tls)
}

/// The client side of enrolment: the plane must show the authority whose fingerprint is in the token.
pub fn enrol_config(ca_fingerprint: [u8; FINGERPRINT_BYTES]) -> Result<quinn::ClientConfig, TlsSetupError> {
    let provider = Arc::new(default_provider());
    let verifier = PinnedAuthority { ca_fingerprint, provider: Arc::clone(&provider) };
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(refused)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ENROL_ALPN.to_vec()];
    quic(tls)
}

fn quic(tls: ClientConfig) -> Result<quinn::ClientConfig, TlsSetupError> {
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

/// Trusts the certificate authority with this fingerprint, and a server only under it.
#[derive(Debug)]
struct PinnedAuthority {
    ca_fingerprint: [u8; FINGERPRINT_BYTES],
    provider: Arc<CryptoProvider>,
}

/// What a person reads when the fingerprint does not match.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server does not have the certificate authority of this token; check the address, or make a new token on the control plane that answers there"
)]
pub struct WrongAuthority;

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let authority = intermediates
            .iter()
            .find(|certificate| digest(&SHA256, certificate).as_ref() == self.ca_fingerprint)
            .ok_or_else(|| {
                TlsError::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(WrongAuthority))))
            })?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|e| TlsError::General(e.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
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
