//! Who is a member of this node's region, by the certificates of both sides.

use crate::{
    control::{LinkState, revoked::RevokedList, tls},
    identity::Identity,
    state_dir::StateDir,
};
use nearfield_shared::{
    clock::Clock,
    region::RegionId,
    wire::{NEIGHBOUR_ALPN, NODE_URI_SCHEME},
};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use std::{fmt, sync::Arc, time::Duration};
use tokio::sync::watch;
use x509_parser::prelude::GeneralName;

/// A connection without any packet for this long is gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes in flight towards one neighbour, and that one may send ahead: 80 ms of what a neighbour gives.
const WINDOW_BYTES: u32 = 2 << 20;

/// Judges certificates.
pub struct Members {
    authority: Arc<dyn ClientCertVerifier>,
    region: RegionId,
    revoked: Arc<RevokedList>,
    clock: Arc<dyn Clock>,
    link: watch::Receiver<LinkState>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Members({})", self.region)
    }
}

impl Members {
    /// Of this node's region, under its plane's authority.
    ///
    /// # Errors
    /// When the authority's certificate cannot be used.
    pub fn new(
        identity: &Identity,
        revoked: Arc<RevokedList>,
        clock: Arc<dyn Clock>,
        link: watch::Receiver<LinkState>,
    ) -> Result<Self, tls::TlsSetupError> {
        let provider = nearfield_shared::tls::provider();
        let authority = tls::node_verifier(&identity.authority, &provider)?;
        Ok(Self { authority, region: identity.region.clone(), revoked, clock, link, provider })
    }

    /// The plane's time in seconds since 1970; `None` before its first welcome.
    fn now_unix_s(&self) -> Option<i64> {
        let (unix_s, at) = self.link.borrow().plane_time?;
        Some(unix_s.saturating_add(self.clock.elapsed().saturating_sub(at).as_secs() as i64))
    }

    /// Whether a certificate makes its owner a member.
    fn judge(&self, end_entity: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> Result<(), TlsError> {
        let refused = |why: CertificateError| TlsError::InvalidCertificate(why);
        // As of its own beginning, like everywhere; whether it is good now is asked of the plane's time below.
        self.authority.verify_client_cert(end_entity, chain, tls::begins(end_entity)?)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(end_entity).map_err(|_| refused(CertificateError::BadEncoding))?;
        let now = self.now_unix_s().ok_or_else(|| TlsError::General("the plane's time is not known yet".into()))?;
        if now < parsed.validity().not_before.timestamp() {
            return Err(refused(CertificateError::NotValidYet));
        }
        if now >= parsed.validity().not_after.timestamp() {
            return Err(refused(CertificateError::Expired));
        }
        if self.revoked.holds(parsed.raw_serial()) {
            return Err(refused(CertificateError::Revoked));
        }
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.as_ref().map_or(&[][..], |names| &names.value.general_names[..]);
        let [GeneralName::URI(uri)] = names else { return Err(refused(CertificateError::NotValidForName)) };
        match uri.strip_prefix(NODE_URI_SCHEME).and_then(|rest| rest.split_once('/')) {
            Some((region, _)) if region == self.region.as_str() => Ok(()),
            _ => Err(refused(CertificateError::NotValidForName)),
        }
    }

    fn signed(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn signed_tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Members {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.judge(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.signed_tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.signed(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Members {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.authority.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.judge(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.signed_tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.signed(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

/// This node's certificate, read from its folder whenever a configuration is made, so that a renewed one is used at once.
#[derive(Debug, Clone)]
pub struct Credentials {
    dir: StateDir,
    members: Arc<Members>,
}

impl Credentials {
    /// In this folder; the other side has to be a member.
    pub fn new(dir: StateDir, members: Members) -> Self {
        Self { dir, members: Arc::new(members) }
    }

    /// For connections that come in.
    ///
    /// # Errors
    /// When the certificate cannot be read or used.
    pub fn server(&self) -> Result<quinn::ServerConfig, tls::TlsSetupError> {
        let (chain, key) = Identity::credentials(&self.dir)?;
        let mut server = rustls::ServerConfig::builder_with_provider(self.members.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| builder.with_client_cert_verifier(self.members.clone()).with_single_cert(chain, key))
            .map_err(tls::refused)?;
        server.alpn_protocols = vec![NEIGHBOUR_ALPN.to_vec()];
        // A resumed session would skip the certificate, and with it a revocation.
        server.send_tls13_tickets = 0;
        let crypto = QuicServerConfig::try_from(server).map_err(tls::refused)?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(Arc::new(transport(1)?));
        Ok(config)
    }

    /// For connections that go out.
    ///
    /// # Errors
    /// As for [`Credentials::server`].
    pub fn client(&self) -> Result<quinn::ClientConfig, tls::TlsSetupError> {
        let (chain, key) = Identity::credentials(&self.dir)?;
        let mut client = rustls::ClientConfig::builder_with_provider(self.members.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| {
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(self.members.clone())
                    .with_client_auth_cert(chain, key)
            })
            .map_err(tls::refused)?;
        client.alpn_protocols = vec![NEIGHBOUR_ALPN.to_vec()];
        let crypto = QuicClientConfig::try_from(client).map_err(tls::refused)?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport(0)?));
        Ok(config)
    }
}

/// `streams` that the other side may open at once.
fn transport(streams: u8) -> Result<quinn::TransportConfig, tls::TlsSetupError> {
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(streams.into())
        .max_concurrent_uni_streams(0_u8.into())
        .stream_receive_window(WINDOW_BYTES.into())
        .receive_window(WINDOW_BYTES.into())
        .send_window(WINDOW_BYTES.into())
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().map_err(tls::refused)?));
    Ok(transport)
}
