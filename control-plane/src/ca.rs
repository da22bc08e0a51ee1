//! The plane's own certificate authority.
//!
//! Agents trust it and nothing else, and the plane trusts only certificates that it signed itself. A node's certificate says who it
//! is in one URI, `nearfield://REGION/NODE`; the plane's own is valid for [`PLANE_SERVER_NAME`]. Node certificates live 30
//! days, so that a lost one is of little use; the CA lives ten years, since replacing it means enrolling every node again.

use aws_lc_rs::hmac;
use nearfield_shared::{
    region::RegionId,
    wire::{NodeName, PLANE_SERVER_NAME},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a node's certificate is valid.
pub const NODE_VALIDITY: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How long the plane's server certificate is valid; the server makes itself a new one every day.
pub const SERVER_VALIDITY: Duration = Duration::from_secs(30 * 24 * 60 * 60);

const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Certificates begin this long before they are made, for nodes whose clock is behind.
const BACKDATED: Duration = DAY;

/// What the reset key is derived for: the authority's key signs nothing that begins like this.
const RESET_KEY_LABEL: &[u8] = b"nearfield quic stateless reset key";

const URI_SCHEME: &str = "nearfield://";

/// Why the authority did not sign.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The request is not one, or its signature does not hold.
    #[error("the certificate request cannot be used: {0}")]
    BadRequest(String),
    /// The authority's own files are damaged.
    #[error("{0}")]
    Broken(String),
}

/// A certificate for a node.
#[derive(Debug, Clone)]
pub struct NodeCertificate {
    /// PEM.
    pub pem: String,
    /// Serial number in hex; what the plane remembers and revokes.
    pub serial: String,
    /// When it expires, seconds since 1970.
    pub expires_unix_s: i64,
}

/// Who a certificate belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The node.
    pub node: NodeName,
    /// Its region.
    pub region: RegionId,
    /// Serial number in hex.
    pub serial: String,
}

/// The certificate authority.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    reset_key: hmac::Key,
    pem: String,
    der: CertificateDer<'static>,
}

impl Ca {
    /// Makes a new authority: certificate and private key, both PEM.
    pub fn generate() -> Result<(String, zeroize::Zeroizing<String>), CaError> {
        let key = KeyPair::generate().map_err(broken)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("Nearfield control plane CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // The authority is made by a command, whose clock is the only one there is.
        let now = jiff::Timestamp::now().as_second();
        set_validity(&mut params, now, CA_VALIDITY)?;
        let certificate = params.self_signed(&key).map_err(broken)?;
        Ok((certificate.pem(), key.serialize_pem().into()))
    }

    /// Reads an authority back.
    pub fn load(pem: &str, key_pem: &str) -> Result<Self, CaError> {
        let key = KeyPair::from_pem(key_pem).map_err(broken)?;
        let own = hmac::Key::new(hmac::HMAC_SHA256, key.serialized_der());
        let reset_key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&own, RESET_KEY_LABEL).as_ref());
        let issuer = Issuer::from_ca_cert_pem(pem, key).map_err(broken)?;
        let der = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(broken)?.1.contents;
        Ok(Self { issuer, reset_key, pem: pem.to_owned(), der: CertificateDer::from(der) })
    }

    /// The key of QUIC's stateless resets. It is derived from the authority's, so that a plane that was killed can tell agents, by
    /// answering the first packet of a connection it no longer knows, that they have to dial again.
    pub fn reset_key(&self) -> &hmac::Key {
        &self.reset_key
    }

    /// The certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificate, DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// SHA-256 of the certificate; part of every enrolment token.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }

    /// A server certificate for the plane with its chain up to the authority, and its key. `now` in seconds since 1970.
    pub fn server_certificate(
        &self,
        now: i64,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CaError> {
        let key = KeyPair::generate().map_err(broken)?;
        let mut params = CertificateParams::new([PLANE_SERVER_NAME.to_owned()]).map_err(broken)?;
        params.distinguished_name = named(PLANE_SERVER_NAME);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        set_validity(&mut params, now, SERVER_VALIDITY)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(broken)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok((vec![certificate.der().clone(), self.der.clone()], key))
    }

    /// Signs a node's request. Of the request only the public key is used, after its proof of possession has held;
    /// every name is the plane's. `now` in seconds since 1970.
    pub fn sign_node(
        &self,
        csr_pem: &str,
        node: &NodeName,
        region: &RegionId,
        now: i64,
    ) -> Result<NodeCertificate, CaError> {
        let csr = CertificateSigningRequestParams::from_pem(csr_pem).map_err(|e| CaError::BadRequest(e.to_string()))?;
        let mut serial = [0_u8; 16];
        aws_lc_rs::rand::fill(&mut serial).map_err(broken)?;
        // A positive number without leading zeros reads back as the same bytes.
        serial[0] = serial[0] & 0x7f | 0x40;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(node.as_str());
        let uri = format!("{URI_SCHEME}{region}/{node}").try_into().map_err(broken)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let expires_unix_s = set_validity(&mut params, now, NODE_VALIDITY)?;
        let certificate =
            params.signed_by(&csr.public_key, &self.issuer).map_err(|e| CaError::BadRequest(e.to_string()))?;
        Ok(NodeCertificate { pem: certificate.pem(), serial: hex(&serial), expires_unix_s })
    }
}

/// Reads who a certificate belongs to. The caller has verified it against the authority.
pub fn identity(certificate: &CertificateDer<'_>) -> Result<NodeIdentity, CaError> {
    use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
    let bad = |what: &str| CaError::BadRequest(format!("the certificate does not name a node: {what}"));
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|e| bad(&e.to_string()))?;
    let names = parsed.subject_alternative_name().map_err(|e| bad(&e.to_string()))?.ok_or_else(|| bad("no names"))?;
    let [GeneralName::URI(uri)] = names.value.general_names[..] else { return Err(bad("one URI is expected")) };
    let (region, node) = uri.strip_prefix(URI_SCHEME).and_then(|rest| rest.split_once('/')).ok_or_else(|| bad(uri))?;
    Ok(NodeIdentity {
        node: node.parse().map_err(|e: String| bad(&e))?,
        region: region.parse().map_err(|e: String| bad(&e))?,
        serial: hex(parsed.raw_serial()),
    })
}

fn broken(e: impl std::fmt::Display) -> CaError {
    CaError::Broken(e.to_string())
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sets when a certificate begins and ends; returns the end.
fn set_validity(params: &mut CertificateParams, now: i64, validity: Duration) -> Result<i64, CaError> {
    let now_s =
        u64::try_from(now).map_err(|_| CaError::Broken("the clock says that it is before 1970; set it".into()))?;
    let end = now_s + validity.as_secs();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now_s.saturating_sub(BACKDATED.as_secs()));
    params.not_after = epoch + Duration::from_secs(end);
    Ok(end as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn ca() -> Ca {
        let (pem, key) = Ca::generate().unwrap();
        Ca::load(&pem, &key).unwrap()
    }

    fn csr() -> String {
        let mut params = CertificateParams::new(["evil.example".to_owned()]).unwrap();
        params.distinguished_name = named("someone else");
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    #[test]
    fn a_node_gets_the_planes_names_and_not_its_own() {
        let node = ca().sign_node(&csr(), &"fra-1".parse().unwrap(), &"eu-central".parse().unwrap(), NOW).unwrap();
        let der = x509_parser::pem::parse_x509_pem(node.pem.as_bytes()).unwrap().1.contents;
        assert!(!String::from_utf8_lossy(&der).contains("evil"));
        let identity = identity(&CertificateDer::from(der)).unwrap();
        assert_eq!((identity.node.as_str(), identity.region.as_str()), ("fra-1", "eu-central"));
        assert_eq!(identity.serial, node.serial);
        assert_eq!(node.expires_unix_s, NOW + 30 * 24 * 3600);
    }

    #[test]
    fn a_request_that_is_not_signed_by_its_key_is_refused() {
        let good = csr();
        let der = x509_parser::pem::parse_x509_pem(good.as_bytes()).unwrap().1.contents;
        let mut bad = der.clone();
        *bad.last_mut().unwrap() ^= 1;
        use base64::Engine as _;
        let pem = |der: &[u8]| {
            let body = base64::engine::general_purpose::STANDARD.encode(der);
            format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
        };
        let sign = |csr: &str| ca().sign_node(csr, &"n".parse().unwrap(), &"r".parse().unwrap(), NOW);
        assert!(sign(&pem(&der)).is_ok());
        for bad in [pem(&bad), "not a request".to_owned(), String::new()] {
            assert!(matches!(sign(&bad), Err(CaError::BadRequest(_))), "{bad}");
        }
    }

    #[test]
    fn the_server_certificate_names_no_node() {
        let ca = ca();
        let (chain, _) = ca.server_certificate(NOW).unwrap();
        assert_eq!(chain.len(), 2);
        assert_eq!(&chain[1], ca.der());
        assert!(identity(&chain[0]).is_err());
    }
}
