//! The node's next certificate: asked for at half of the life of the one in use, stored in one step, then used.
//!
//! FAILURE LADDER. A renewal that fails is tried again, each time after a longer wait, while the certificate in use goes on. The plane takes
//! both until the new one was used, so a crash at any step leaves a node that can connect: before the rename with the old one, after it with the
//! new one. A node whose certificate ended while it was cut off renews on a connection of its own. Only a revocation
//! wants a person.

use super::{
    dial::{DialError, Dialer},
    tls::{self, TlsSetupError},
};
use crate::{
    artefacts::read_frame,
    identity::{self, Identity, IdentityError},
    state_dir::StateDir,
};
use nearfield_shared::wire::{Limit, RenewReply, RenewRequest, message::Refused};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::time::Duration;
use zeroize::Zeroizing;

/// Longest time for the plane's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no next certificate. The one in use is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// No request could be made.
    #[error("the certificate request could not be made: {0}")]
    Request(String),
    /// The plane was not reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection ended, or the plane is older than renewals.
    #[error("the control plane did not answer: {0}")]
    NoAnswer(String),
    /// The plane says no.
    #[error("the control plane does not renew this node's certificate: {}", .0.reason)]
    Refused(Refused),
    /// What came cannot be used.
    #[error("the certificate that came cannot be used: {0}")]
    Useless(String),
    /// The certificates cannot be used for TLS.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// The disk said no.
    #[error("the new certificate cannot be stored: {0}")]
    Store(#[from] IdentityError),
}

/// A new key, and the request for its certificate.
pub struct Request {
    key_pem: Zeroizing<String>,
    key: PrivateKeyDer<'static>,
    csr_pem: String,
}

impl Request {
    /// With a key of its own, so that whoever has a copy of the old one is out once this one is used.
    pub fn new(identity: &Identity) -> Result<Self, RenewError> {
        let failed = |e: rcgen::Error| RenewError::Request(e.to_string());
        let key = rcgen::KeyPair::generate().map_err(failed)?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, identity.node.as_str());
        let csr_pem = params.serialize_request(&key).and_then(|request| request.pem()).map_err(failed)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Self { key_pem: Zeroizing::new(key.serialize_pem()), key: der, csr_pem })
    }

    /// Asks on a connection that stands; returns the certificate, PEM.
    pub async fn ask(&self, connection: &quinn::Connection) -> Result<String, RenewError> {
        let broken = |e: &dyn std::fmt::Display| RenewError::NoAnswer(e.to_string());
        let exchange = async {
            let (mut send, mut recv) = connection.open_bi().await.map_err(|e| broken(&e))?;
            let bytes = RenewRequest { csr_pem: self.csr_pem.clone() }.encode().map_err(|e| broken(&e))?;
            send.write_all(&bytes).await.map_err(|e| broken(&e))?;
            send.finish().map_err(|e| broken(&e))?;
            let frame = read_frame(&mut recv, Limit::ENROL).await.map_err(RenewError::NoAnswer)?;
            RenewReply::decode(&frame).map_err(|e| broken(&e))
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, exchange).await {
            Err(_) => Err(RenewError::NoAnswer(format!("nothing came within {} s", ANSWER_TIMEOUT.as_secs()))),
            Ok(Err(error)) => Err(error),
            Ok(Ok(RenewReply::Renewed(renewed))) => Ok(renewed.certificate_pem),
            Ok(Ok(RenewReply::Refused(refused))) => Err(RenewError::Refused(refused)),
            Ok(Ok(RenewReply::Unknown(kind))) => Err(RenewError::NoAnswer(format!("its reply is of kind {kind}"))),
        }
    }

    /// Stores the key and its certificate in place of what was there, once it is certain that they can be used.
    pub fn keep(self, dir: &StateDir, identity: &Identity, certificate_pem: &str) -> Result<Identity, RenewError> {
        let chain = identity::certificates(certificate_pem.as_bytes()).map_err(RenewError::Useless)?;
        tls::verify_own(identity, &chain, self.key).map_err(|e| RenewError::Useless(e.to_string()))?;
        let renewed = identity.renewed(chain).map_err(RenewError::Useless)?;
        identity::store_credentials(dir, &self.key_pem, certificate_pem)?;
        Ok(renewed)
    }
}

/// The whole renewal on a connection that stands.
pub async fn renew(
    dir: &StateDir,
    identity: &Identity,
    connection: &quinn::Connection,
) -> Result<Identity, RenewError> {
    let request = Request::new(identity)?;
    let certificate_pem = request.ask(connection).await?;
    let (dir, identity) = (dir.clone(), identity.clone());
    // It syncs the disk. A process that stops lets it end.
    tokio::task::spawn_blocking(move || request.keep(&dir, &identity, &certificate_pem))
        .await
        .map_err(|_| RenewError::Useless("storing it panicked".into()))?
}

/// The same on a connection of its own, for a certificate that the plane does not take for more.
pub async fn renew_alone(
    dialer: &Dialer,
    dir: &StateDir,
    identity: &Identity,
    plane: &str,
) -> Result<Identity, RenewError> {
    let config = tls::renew_config(dir, identity)?;
    let connection = dialer.connect(plane, &config).await?;
    let renewed = renew(dir, identity, &connection).await;
    connection.close(0_u32.into(), b"done");
    renewed
}
