//! The plane's own certificate authority.
//!
//! Agents trust it and nothing else, and the plane trusts only certificates that it signed itself. A node's certificate says who it
//! is in one URI, `nearfield://REGION/NODE`; the plane's own is valid for [`PLANE_SERVER_NAME`]. Node certificates live two weeks and are
//! renewed with a new key at half of that, so that a copy of a node's disk is soon of no use; the CA lives ten years, since replacing it means enrolling every
//! node again.

use aws_lc_rs::hmac;
use nearfield_shared::{
    region::RegionId,
    wire::{NODE_URI_SCHEME, NodeName, PLANE_SERVER_NAME},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a node's certificate is valid.
pub const NODE_VALIDITY: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// How long the plane's server certificate is valid; the server makes itself a new one every day.
pub const SERVER_VALIDITY: Duration = Duration::from_secs(30 * 24 * 60 * 60);

const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Certificates begin this long before they are made, for nodes whose clock is behind.
const BACKDATED: Duration = DAY;

/// What the reset key is derived for: the authority's key signs nothing that begins like this.
const RESET_KEY_LABEL: &[u8] = b"nearfield quic stateless reset key";

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

impl std::fmt::Display for NodeCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "certificate {} until {}", self.serial, crate::api::views::time(self.expires_unix_s))
    }
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
    /// When the certificate begins and ends, seconds since 1970. Whoever asks has to judge it.
    pub valid_unix_s: (i64, i64),
}

impl NodeIdentity {
    /// When the certificate was signed, seconds since 1970, by the authority's clock.
    pub fn issued_unix_s(&self) -> i64 {
        self.valid_unix_s.0 + BACKDATED.as_secs() as i64
    }
}

/// A certificate that is on the revocation list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedCertificate {
    /// Its serial number in hex.
    pub serial: String,
    /// Since when it is not good, seconds since 1970.
    pub revoked_unix_s: i64,
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

    /// Whether the key is the one of the certificate.
    pub fn key_fits(&self) -> bool {
        x509_parser::parse_x509_certificate(&self.der)
            .is_ok_and(|(_, parsed)| parsed.public_key().raw == self.issuer.key().subject_public_key_info().as_slice())
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
        self.sign(&csr, node, region, now)
    }

    /// Signs the request for the next certificate of a node. The names are the plane's here too, and a request with other ones is
    /// refused: it is a mistake, or somebody tries what works.
    pub fn renew_node(
        &self,
        csr_pem: &str,
        node: &NodeName,
        region: &RegionId,
        now: i64,
    ) -> Result<NodeCertificate, CaError> {
        let csr = CertificateSigningRequestParams::from_pem(csr_pem).map_err(|e| CaError::BadRequest(e.to_string()))?;
        let ours = node_uri(node, region)?;
        let named_otherwise = csr.params.subject_alt_names.iter().any(|name| *name != ours)
            || csr.params.distinguished_name != named(node.as_str());
        if named_otherwise {
            let message = format!("it names somebody else than node {node} in {region}, whose connection this is");
            return Err(CaError::BadRequest(message));
        }
        self.sign(&csr, node, region, now)
    }

    fn sign(
        &self,
        csr: &CertificateSigningRequestParams,
        node: &NodeName,
        region: &RegionId,
        now: i64,
    ) -> Result<NodeCertificate, CaError> {
        let mut serial = [0_u8; 16];
        aws_lc_rs::rand::fill(&mut serial).map_err(broken)?;
        // A positive number without leading zeros reads back as the same bytes.
        serial[0] = serial[0] & 0x7f | 0x40;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(node.as_str());
        params.subject_alt_names = vec![node_uri(node, region)?];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let expires_unix_s = set_validity(&mut params, now, NODE_VALIDITY)?;
        let certificate =
            params.signed_by(&csr.public_key, &self.issuer).map_err(|e| CaError::BadRequest(e.to_string()))?;
        Ok(NodeCertificate { pem: certificate.pem(), serial: hex(&serial), expires_unix_s })
    }

    /// The list of revoked certificates in PEM. `number` grows with each list; `now` in seconds since 1970.
    pub fn revocation_list(&self, revoked: &[RevokedCertificate], number: u64, now: i64) -> Result<String, CaError> {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let entry = |certificate: &RevokedCertificate| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(
                    &from_hex(&certificate.serial)
                        .ok_or_else(|| CaError::Broken(format!("{} is not a serial number", certificate.serial)))?,
                ),
                revocation_time: epoch + since_epoch(certificate.revoked_unix_s)?,
                reason_code: None,
                invalidity_date: None,
            })
        };
        let list = CertificateRevocationListParams {
            this_update: epoch + since_epoch(now)?,
            // A list holds until there is a newer one: its number tells, and no clock.
            next_update: epoch + since_epoch(now)? + CA_VALIDITY,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect::<Result<_, CaError>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).and_then(|list| list.pem()).map_err(broken)
    }
}

/// The one name in a node's certificate.
fn node_uri(node: &NodeName, region: &RegionId) -> Result<SanType, CaError> {
    Ok(SanType::URI(format!("{NODE_URI_SCHEME}{region}/{node}").try_into().map_err(broken)?))
}

/// When a certificate begins. It is verified as of then, and whether it is good now is another question: no clock that jumps may keep a
/// node out ([`crate::control`]).
pub fn begins(certificate: &CertificateDer<'_>) -> Result<UnixTime, CaError> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|e| CaError::BadRequest(e.to_string()))?;
    let seconds = u64::try_from(parsed.validity().not_before.timestamp())
        .map_err(|_| CaError::BadRequest("it begins before 1970".into()))?;
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}

/// Reads who a certificate belongs to. The caller has verified it against the authority.
pub fn identity(certificate: &CertificateDer<'_>) -> Result<NodeIdentity, CaError> {
    use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
    let bad = |what: &str| CaError::BadRequest(format!("the certificate does not name a node: {what}"));
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|e| bad(&e.to_string()))?;
    let names = parsed.subject_alternative_name().map_err(|e| bad(&e.to_string()))?.ok_or_else(|| bad("no names"))?;
    let [GeneralName::URI(uri)] = names.value.general_names[..] else { return Err(bad("one URI is expected")) };
    let (region, node) =
        uri.strip_prefix(NODE_URI_SCHEME).and_then(|rest| rest.split_once('/')).ok_or_else(|| bad(uri))?;
    Ok(NodeIdentity {
        node: node.parse().map_err(|e: String| bad(&e))?,
        region: region.parse().map_err(|e: String| bad(&e))?,
        serial: hex(parsed.raw_serial()),
        valid_unix_s: (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp()),
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

fn from_hex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

/// The time since 1970 that a clock states.
fn since_epoch(unix_s: i64) -> Result<Duration, CaError> {
    u64::try_from(unix_s)
        .map(Duration::from_secs)
        .map_err(|_| CaError::Broken("the clock says that it is before 1970; set it".into()))
}

/// Sets when a certificate begins and ends; returns the end.
fn set_validity(params: &mut CertificateParams, now: i64, validity: Duration) -> Result<i64, CaError> {
    let (epoch, now_since) = (rcgen::date_time_ymd(1970, 1, 1), since_epoch(now)?);
    params.not_before = epoch + now_since.saturating_sub(BACKDATED);
    params.not_after = epoch + now_since + validity;
    Ok(now + validity.as_secs() as i64)
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
        assert_eq!(node.expires_unix_s, NOW + 14 * 24 * 3600);
        assert_eq!(identity.valid_unix_s, (NOW - 24 * 3600, NOW + 14 * 24 * 3600));
    }

    #[test]
    fn a_renewal_for_other_names_than_the_nodes_own_is_refused() {
        let (node, region) = ("fra-1".parse().unwrap(), "eu".parse().unwrap());
        let request = |name: &str, uri: Option<&str>| {
            let mut params = CertificateParams::default();
            params.distinguished_name = named(name);
            params.subject_alt_names = uri.map(|uri| SanType::URI(uri.try_into().unwrap())).into_iter().collect();
            params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
        };
        let ca = ca();
        let renew = |csr: &str| ca.renew_node(csr, &node, &region, NOW);
        assert!(renew(&request("fra-1", None)).is_ok());
        assert!(renew(&request("fra-1", Some("nearfield://eu/fra-1"))).is_ok());
        for (name, uri) in
            [("fra-2", None), ("fra-1", Some("nearfield://eu/fra-2")), ("fra-1", Some("nearfield://us/fra-1"))]
        {
            let refused = renew(&request(name, uri)).unwrap_err().to_string();
            assert!(refused.contains("somebody else than node fra-1"), "{refused}");
        }
    }

    #[test]
    fn a_revocation_list_holds_its_serials_and_its_number() {
        use x509_parser::prelude::FromDer as _;
        let ca = ca();
        let revoked = |serial: &str| RevokedCertificate { serial: serial.into(), revoked_unix_s: NOW };
        let pem = ca.revocation_list(&[revoked("41ff00"), revoked("42")], 7, NOW).unwrap();
        let der = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents;
        let (_, list) = x509_parser::revocation_list::CertificateRevocationList::from_der(&der).unwrap();
        let serials: Vec<_> = list.iter_revoked_certificates().map(|entry| hex(entry.raw_serial())).collect();
        assert_eq!(serials, ["41ff00", "42"]);
        assert_eq!(list.crl_number().unwrap().to_u64_digits(), [7]);
        assert!(ca.revocation_list(&[], 8, NOW).is_ok() && ca.revocation_list(&[revoked("4x")], 9, NOW).is_err());
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
