//! The newest list of revoked certificates, kept on the disk so that it holds while the control plane is away.

use crate::{durable, state_dir::StateDir};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject as _};
use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};
use x509_parser::{prelude::FromDer as _, revocation_list::CertificateRevocationList};

/// Most bytes of a list: what one message holds, with room.
const LIST_BYTES_MAX: u64 = 4 << 20;

/// Why a list is not taken.
#[derive(Debug, thiserror::Error)]
pub enum RevokedError {
    /// It cannot be read.
    #[error("the list of revoked certificates cannot be read: {0}")]
    Malformed(String),
    /// The control plane's authority has not signed it.
    #[error("the list of revoked certificates is not signed by this node's authority")]
    BadSignature,
    /// The disk said no.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What is known of the newest list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its number; only ever grows.
    pub number: u64,
    /// Certificates on it.
    pub certificates: usize,
}

/// A list that the authority has signed.
#[derive(Debug)]
struct List {
    held: Held,
    serials: HashSet<Vec<u8>>,
}

/// The list of one node.
#[derive(Debug)]
pub struct RevokedList {
    path: PathBuf,
    authority: Vec<CertificateDer<'static>>,
    held: Mutex<Option<List>>,
}

impl RevokedList {
    /// The list that this folder holds, if it holds one; a damaged one counts as none, since the next welcome brings it anew.
    pub fn open(dir: &StateDir, authority: &[CertificateDer<'static>]) -> Self {
        let path = dir.revoked();
        let small = std::fs::metadata(&path).is_ok_and(|about| about.len() <= LIST_BYTES_MAX);
        let held = small.then(|| std::fs::read(&path).ok()).flatten().and_then(|pem| {
            verified(&pem, authority)
                .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "the stored list is not used"))
                .ok()
        });
        Self { path, authority: authority.to_vec(), held: Mutex::new(held) }
    }

    /// What is held.
    pub fn held(&self) -> Option<Held> {
        self.list().as_ref().map(|list| list.held)
    }

    /// Whether a certificate with this serial number, as it stands in the certificate, is on it.
    pub fn holds(&self, serial: &[u8]) -> bool {
        self.list().as_ref().is_some_and(|list| list.serials.contains(serial))
    }

    fn list(&self) -> MutexGuard<'_, Option<List>> {
        // Whoever panicked under the lock left a whole list or none.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a list that is newer than the one held, and stores it; an older one changes nothing. Syncs the disk, so it blocks.
    pub fn take(&self, pem: &[u8]) -> Result<(), RevokedError> {
        let told = verified(pem, &self.authority)?;
        let mut held = self.list();
        if held.as_ref().is_some_and(|list| list.held.number >= told.held.number) {
            return Ok(());
        }
        durable::write(&self.path, pem, 0o600)
            .map_err(|source| RevokedError::Io { path: self.path.clone(), source })?;
        *held = Some(told);
        Ok(())
    }
}

/// Checks that the authority has signed a list.
fn verified(pem: &[u8], authority: &[CertificateDer<'static>]) -> Result<List, RevokedError> {
    let malformed = |e: &dyn std::fmt::Display| RevokedError::Malformed(e.to_string());
    let der = CertificateRevocationListDer::from_pem_slice(pem).map_err(|e| malformed(&e))?;
    let (_, list) = CertificateRevocationList::from_der(&der).map_err(|e| malformed(&e))?;
    let signed = authority.iter().any(|certificate| {
        let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
        // The authority's key is of the one kind that the control plane makes.
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &parsed.public_key().subject_public_key.data);
        key.verify(list.tbs_cert_list.as_ref(), &list.signature_value.data).is_ok()
    });
    if !signed {
        return Err(RevokedError::BadSignature);
    }
    let number = list.crl_number().and_then(|number| u64::try_from(number).ok());
    let number = number.ok_or_else(|| malformed(&"it has no number"))?;
    let serials: HashSet<_> = list.iter_revoked_certificates().map(|entry| entry.raw_serial().to_vec()).collect();
    Ok(List { held: Held { number, certificates: serials.len() }, serials })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
        RevokedCertParams, date_time_ymd,
    };

    fn authority() -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let certificate = params.self_signed(&key).expect("certificate");
        (certificate.der().clone(), Issuer::new(params, key))
    }

    fn list(issuer: &Issuer<'static, KeyPair>, number: u64, serials: u64) -> Vec<u8> {
        let entry = |serial: u64| RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2036, 1, 1),
            crl_number: number.into(),
            issuing_distribution_point: None,
            revoked_certs: (1..=serials).map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(issuer).and_then(|list| list.pem()).expect("list").into_bytes()
    }

    #[test]
    fn only_a_newer_list_of_our_own_authority_is_taken_and_a_restart_keeps_it() {
        let folder = tempfile::tempdir().expect("dir");
        let dir = StateDir::open(&folder.path().join("node")).expect("dir");
        let ((ours, issuer), (_, stranger)) = (authority(), authority());
        let revoked = RevokedList::open(&dir, std::slice::from_ref(&ours));
        assert_eq!(revoked.held(), None);
        revoked.take(&list(&issuer, 5, 3)).expect("taken");
        let held = Some(Held { number: 5, certificates: 3 });
        revoked.take(&list(&issuer, 4, 1)).expect("an older one changes nothing");
        assert_eq!(revoked.held(), held);
        assert!(revoked.holds(&[3]) && !revoked.holds(&[4]));
        assert!(matches!(revoked.take(&list(&stranger, 9, 1)), Err(RevokedError::BadSignature)));
        assert!(matches!(revoked.take(b"no list"), Err(RevokedError::Malformed(_))));
        assert_eq!(RevokedList::open(&dir, std::slice::from_ref(&ours)).held(), held);
        let pem = String::from_utf8(std::fs::read(dir.revoked()).expect("read")).expect("pem");
        std::fs::write(dir.revoked(), pem.replace('A', "B")).expect("write");
        assert_eq!(RevokedList::open(&dir, &[ours]).held(), None, "a changed byte");
    }
}
