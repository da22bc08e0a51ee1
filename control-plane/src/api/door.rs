//! What secures the callers' API where other machines can reach it: TLS, and the key that callers present.
//!
//! On loopback it is neither: there a proxy of the operator's own stands before it, or nobody but this machine asks.

use crate::{
    config::{Config, TlsFiles, unsecured},
    secret_file::{self, SecretFileError},
    state_dir::StateDir,
};
use nearfield_shared::caller_key::{CallerKey, ShortKey};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use std::{io, path::Path, sync::Arc};

/// Why the callers' API does not open.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// Something that secures it is missing.
    #[error("refusing to listen for callers: {0}")]
    Unsecured(String),
    /// The certificate or its key is of no use.
    #[error("{file}: {reason}")]
    Certificate {
        /// The PEM file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A key file is open to others, or cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// The callers' key can be guessed.
    #[error("{file}: {source}")]
    ShortKey {
        /// The key file.
        file: String,
        /// What is wrong.
        source: ShortKey,
    },
}

/// What callers beyond this machine have to go through.
#[derive(Clone)]
pub struct Door {
    /// The server's side of TLS.
    pub tls: Arc<ServerConfig>,
    /// The key that callers present.
    pub key: Arc<CallerKey>,
}

impl Door {
    /// The door that the configuration asks for; none where only this machine can call.
    ///
    /// # Errors
    /// What is missing or of no use, with the remedy.
    pub fn new(dir: &StateDir, config: &Config) -> Result<Option<Self>, DoorError> {
        if config.api.ip().is_loopback() {
            return Ok(None);
        }
        let files = config.tls.as_ref().ok_or_else(|| DoorError::Unsecured(unsecured(config.api)))?;
        let tls = Arc::new(server_tls(files)?);
        Ok(Some(Self { tls, key: Arc::new(caller_key(&dir.caller_key())?) }))
    }
}

fn caller_key(path: &Path) -> Result<CallerKey, DoorError> {
    let bytes = secret_file::read(path).map_err(|e| match e {
        SecretFileError::Io { error, .. } if error.kind() == io::ErrorKind::NotFound => {
            DoorError::Unsecured(CallerKey::missing(path))
        }
        e => e.into(),
    })?;
    CallerKey::new(&bytes).map_err(|source| DoorError::ShortKey { file: path.display().to_string(), source })
}

fn server_tls(files: &TlsFiles) -> Result<ServerConfig, DoorError> {
    let wrong = |path: &Path, reason: &dyn std::fmt::Display| DoorError::Certificate {
        file: path.display().to_string(),
        reason: reason.to_string(),
    };
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(&files.certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|e| wrong(&files.certificate, &e))?;
    let key = PrivateKeyDer::from_pem_slice(&secret_file::read(&files.key)?).map_err(|e| wrong(&files.key, &e))?;
    let provider = nearfield_shared::tls::provider();
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|e| wrong(&files.certificate, &e))?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}
