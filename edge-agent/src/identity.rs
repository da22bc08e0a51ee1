//! Who this node is to its control plane: its key and certificate, and the plane's authority and signing key.
//!
//! Made by `enroll`, read by everything else. The private key never leaves the node.

use crate::{
    durable,
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
        let certificate = dir.node_certificate();
        let certificate_pem = std::fs::read_to_string(&certificate).map_err(|e| io(&certificate, e))?;
        Self::assemble(form.node, form.region, &form.authority_pem, &form.signing_key, &certificate_pem)
            .map_err(|reason| damaged(&path, reason))
    }

    /// The identity that a control plane's reply makes, checked before anything is stored.
    pub fn from_enrolled(enrolled: &Enrolled) -> Result<Self, String> {
        Self::assemble(
            enrolled.node.clone(),
            enrolled.region.clone(),
            &enrolled.ca_pem,
            &enrolled.signing_key,
            &enrolled.certificate_pem,
        )
    }

    fn assemble(
        node: NodeName,
        region: RegionId,
        authority_pem: &str,
        signing_key: &str,
        certificate_pem: &str,
    ) -> Result<Self, String> {
        let authority = certificates(authority_pem).map_err(|e| format!("the authority's certificate: {e}"))?;
        let chain = certificates(certificate_pem).map_err(|e| format!("the node's certificate: {e}"))?;
        let signing_key = STANDARD.decode(signing_key).map_err(|e| format!("the signing key: {e}"))?;
        if signing_key.len() != SIGNING_KEY_BYTES {
            return Err(format!("the signing key has {} bytes, not {SIGNING_KEY_BYTES}", signing_key.len()));
        }
        let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).map_err(|e| e.to_string())?;
        let validity = leaf.validity();
        let valid_unix_s = (validity.not_before.timestamp(), validity.not_after.timestamp());
        Ok(Self { node, region, authority, signing_key, chain, valid_unix_s })
    }

    /// The node's private key.
    pub fn private_key(dir: &StateDir) -> Result<PrivateKeyDer<'static>, IdentityError> {
        let path = dir.node_key();
        let pem = secrets::read(&path)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&pem)
            .map_err(|e| IdentityError::Damaged { file: path.display().to_string(), reason: e.to_string() })?;
        Ok(PrivateKeyDer::Pkcs8(key))
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
    secrets::write(&dir.node_key(), key_pem.as_bytes())?;
    let write = |path: std::path::PathBuf, bytes: &[u8]| {
        durable::write(&path, bytes, 0o600)
            .map_err(|source| IdentityError::Io { file: path.display().to_string(), source })
    };
    write(dir.node_certificate(), enrolled.certificate_pem.as_bytes())?;
    let form = FileForm {
        version: FILE_VERSION,
        node: enrolled.node.clone(),
        region: enrolled.region.clone(),
        authority_pem: enrolled.ca_pem.clone(),
        signing_key: enrolled.signing_key.clone(),
    };
    write(dir.identity(), &serde_json::to_vec_pretty(&form).expect("texts always serialise"))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    if chain.is_empty() { Err("there is no certificate in it".into()) } else { Ok(chain) }
}
