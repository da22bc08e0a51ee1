//! Who this node is to its control plane: its key and certificate, and the plane's authority and signing key.
//!
//! Made by `enroll`, renewed while the node runs, read by everything else. The private key never leaves the node. Key and certificate stand
//! in one file, which one rename replaces: whatever moment the process dies at, they belong together.

use crate::{
    durable,
    registry::Trusted,
    secrets::{self, SecretError},
    state_dir::StateDir,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use nearfield_shared::{
    region::RegionId,
    wire::{NodeName, enrol::Enrolled},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use std::io;
use zeroize::Zeroizing;

/// Version of `identity.json`. 1 is the first.
const FILE_VERSION: u32 = 1;

/// Bytes of an Ed25519 public key.
const SIGNING_KEY_BYTES: usize = 32;

/// A node's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The node's name.
    pub node: NodeName,
    /// The region it belongs to.
    pub region: RegionId,
    /// Certificates of the plane's authority, DER.
    pub authority: Vec<CertificateDer<'static>>,
    /// The plane's Ed25519 key for manifests, 32 bytes.
    pub signing_key: Vec<u8>,
    /// This node's certificate chain, DER.
    pub chain: Vec<CertificateDer<'static>>,
    /// When the certificate begins and ends, seconds since 1970.
    pub valid_unix_s: (i64, i64),
}

/// Why there is no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The node was never enrolled.
    #[error(
        "this node is not enrolled; run `edge-agent enroll --plane HOST:PORT --token TOKEN` with a token from `control-plane token create`"
    )]
    NotEnrolled,
    /// A secret is missing or open to others.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A file is damaged.
    #[error("{file} is damaged ({reason}); enrol this node again with `edge-agent enroll --again`")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The disk said no.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct FileForm {
    version: u32,
    node: NodeName,
    region: RegionId,
    authority_pem: String,
    signing_key: String,
}

impl Identity {
    /// Reads the identity of a node.
    pub fn load(dir: &StateDir) -> Result<Self, IdentityError> {
        let path = dir.identity();
        let io = |path: &std::path::Path, source| IdentityError::Io { file: path.display().to_string(), source };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(IdentityError::NotEnrolled),
            Err(e) => return Err(io(&path, e)),
        };
        let damaged = |path: &std::path::Path, reason: String| IdentityError::Damaged {
            file: path.display().to_string(),
            reason,
        };
        let form: FileForm = serde_json::from_slice(&bytes).map_err(|e| damaged(&path, e.to_string()))?;
        if form.version != FILE_VERSION {
            return Err(damaged(&path, format!("its version is {}, this agent reads {FILE_VERSION}", form.version)));
        }
        let (chain, _key) = Self::credentials(dir)?;
        Self::assemble(form.node, form.region, &form.authority_pem, &form.signing_key, chain)
            .map_err(|reason| damaged(&path, reason))
    }

    /// The identity that a control plane's reply makes, checked before anything is stored.
    pub fn from_enrolled(enrolled: &Enrolled) -> Result<Self, String> {
        if let Some(root) = &enrolled.registry_root {
            Trusted::pinned(root).map_err(|e| format!("the registry's root metadata: {e}"))?;
        }
        Self::assemble(
            enrolled.node.clone(),
            enrolled.region.clone(),
            &enrolled.ca_pem,
            &enrolled.signing_key,
            certificates(enrolled.certificate_pem.as_bytes()).map_err(|e| format!("the node's certificate: {e}"))?,
        )
    }

    fn assemble(
        node: NodeName,
        region: RegionId,
        authority_pem: &str,
        signing_key: &str,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<Self, String> {
        let authority =
            certificates(authority_pem.as_bytes()).map_err(|e| format!("the authority's certificate: {e}"))?;
        let signing_key = STANDARD.decode(signing_key).map_err(|e| format!("the signing key: {e}"))?;
        if signing_key.len() != SIGNING_KEY_BYTES {
            return Err(format!("the signing key has {} bytes, not {SIGNING_KEY_BYTES}", signing_key.len()));
        }
        let valid_unix_s = validity(&chain[0])?;
        Ok(Self { node, region, authority, signing_key, chain, valid_unix_s })
    }

    /// The node's certificate chain and the private key for it.
    pub fn credentials(
        dir: &StateDir,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), IdentityError> {
        let path = dir.node_key();
        let damaged = |reason: String| IdentityError::Damaged { file: path.display().to_string(), reason };
        let pem = secrets::read(&path)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|e| damaged(e.to_string()))?;
        let chain = match std::fs::read(dir.node_certificate()) {
            // An older agent left them apart.
            Ok(apart) => certificates(&pem).or_else(|_| certificates(&apart)),
            Err(_) => certificates(&pem),
        };
        Ok((chain.map_err(damaged)?, PrivateKeyDer::Pkcs8(key)))
    }

    /// The same identity with its next certificate, which was stored with [`store_credentials`].
    pub(crate) fn renewed(&self, chain: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        Ok(Self { valid_unix_s: validity(&chain[0])?, chain, ..self.clone() })
    }
}

/// When a certificate begins and ends, seconds since 1970.
fn validity(certificate: &CertificateDer<'_>) -> Result<(i64, i64), String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|e| e.to_string())?;
    Ok((parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp()))
}

/// Stores a private key and the certificate for it, both PEM, in one step.
pub fn store_credentials(dir: &StateDir, key_pem: &str, certificate_pem: &str) -> Result<(), IdentityError> {
    let both = Zeroizing::new(format!("{}\n{certificate_pem}", key_pem.trim_end()));
    secrets::write(&dir.node_key(), both.as_bytes())?;
    match std::fs::remove_file(dir.node_certificate()) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(IdentityError::Io { file: dir.node_certificate().display().to_string(), source })
        }
        _ => Ok(()),
    }
}

/// Stores what an enrolment brought: the old `identity.json` goes first and the new one comes last, so that a crash in
/// between leaves a node that is not enrolled rather than one that is half.
pub fn store(dir: &StateDir, enrolled: &Enrolled, key_pem: &Zeroizing<String>) -> Result<(), IdentityError> {
    match std::fs::remove_file(dir.identity()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(IdentityError::Io { file: dir.identity().display().to_string(), source: e });
        }
        _ => {}
    }
    store_credentials(dir, key_pem, &enrolled.certificate_pem)?;
    pin_registry(dir, enrolled)?;
    let form = FileForm {
        version: FILE_VERSION,
        node: enrolled.node.clone(),
        region: enrolled.region.clone(),
        authority_pem: enrolled.ca_pem.clone(),
        signing_key: enrolled.signing_key.clone(),
    };
    let bytes = serde_json::to_vec_pretty(&form).expect("texts always serialise");
    durable::write(&dir.identity(), &bytes, 0o600)
        .map_err(|source| IdentityError::Io { file: dir.identity().display().to_string(), source })
}

/// The registry's root metadata to begin with; none, where the control plane has none, so that one of an earlier enrolment counts no more.
fn pin_registry(dir: &StateDir, enrolled: &Enrolled) -> Result<(), IdentityError> {
    let path = dir.registry();
    let io = |source| IdentityError::Io { file: path.display().to_string(), source };
    match &enrolled.registry_root {
        Some(root) => {
            Trusted::pinned(root).map_err(io::Error::other).and_then(|pinned| pinned.store(&path)).map_err(io)
        }
        None => match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io(e)),
            _ => Ok(()),
        },
    }
}

/// The certificates in a PEM text; at least one.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    if chain.is_empty() { Err("there is no certificate in it".into()) } else { Ok(chain) }
}
