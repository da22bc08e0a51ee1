//! Whom a caller in a shell trusts over `wss://`: what this system trusts, or one private authority.

use super::CallError;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use std::{path::Path, sync::Arc};

/// TLS towards a node. With `ca`, a PEM file, only certificates of the authorities in it are trusted.
pub(super) fn client_config(ca: Option<&Path>) -> Result<Arc<ClientConfig>, CallError> {
    let roots = match ca {
        Some(file) => authorities(file)?,
        None => of_this_system()?,
    };
    let provider = nearfield_shared::tls::provider();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| CallError::Authority(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // WebSocket upgrades need HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn authorities(file: &Path) -> Result<RootCertStore, CallError> {
    let wrong = |reason: String| CallError::Authority(format!("{}: {reason}", file.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|e| wrong(e.to_string()))? {
        let certificate = certificate.map_err(|e| wrong(e.to_string()))?;
        roots.add(certificate).map_err(|e| wrong(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("there is no certificate in it; a PEM file is expected".into()));
    }
    Ok(roots)
}

fn of_this_system() -> Result<RootCertStore, CallError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Old and odd certificates lie in the stores of many systems; those that can be read are enough.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reason = "this system trusts no certificate authority; install its package `ca-certificates`, or name an authority with --ca FILE";
        return Err(CallError::Authority(reason.into()));
    }
    Ok(roots)
}
