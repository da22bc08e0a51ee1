//! Releases of the agent: which program a node should run, and who vouches for it.
//!
//! A release is a version with a program for each target. Each program has a manifest of its own, signed by the control plane under
//! another context than models are, so that no signature of a model ever passes for one of a program.

use crate::{
    artefact::{CHUNK_BYTES, Content, Digest, ManifestError, SignedManifest},
    wire::{TargetName, VersionName},
};
use aws_lc_rs::signature::Ed25519KeyPair;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Prefix of every signed manifest of a program.
const SIGNATURE_CONTEXT: &str = "nearfield agent program v1\n";

/// Targets of one release, at most.
pub const TARGETS_MAX: usize = 16;

/// Largest program, in bytes: an agent with everything takes about 100 MB; with symbols some times that.
pub const PROGRAM_BYTES_MAX: u64 = 1 << 30;

/// A release: a version with its programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its version.
    pub version: VersionName,
    /// The signed manifest of each target's program. A node that was told the state by names holds that of its own target only.
    pub programs: BTreeMap<TargetName, SignedManifest>,
}

/// A program of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramManifest {
    /// The release's version.
    pub version: VersionName,
    /// What the program was built for.
    pub target: TargetName,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// BLAKE3 of the file; also its name on disk and on the wire.
    pub digest: Digest,
    /// BLAKE3 of each chunk of [`CHUNK_BYTES`], in order; the last may be shorter.
    pub chunks: Vec<Digest>,
}

impl ProgramManifest {
    /// The manifest of a program in memory.
    pub fn of_file(version: VersionName, target: TargetName, file: &[u8]) -> Self {
        let chunks = file.chunks(CHUNK_BYTES as usize).map(Digest::of).collect();
        Self { version, target, bytes: file.len() as u64, digest: Digest::of(file), chunks }
    }

    /// Signs it with the control plane's key.
    ///
    /// # Errors
    /// Where it cannot be written as JSON.
    pub fn sign(&self, key: &Ed25519KeyPair) -> Result<SignedManifest, ManifestError> {
        SignedManifest::sign_in(SIGNATURE_CONTEXT, self, key)
    }

    /// Checks the signature with the plane's public key (32 bytes) and returns the manifest.
    ///
    /// # Errors
    /// A signature that does not hold, or a manifest that contradicts itself.
    pub fn verify(signed: &SignedManifest, public_key: &[u8]) -> Result<Self, ManifestError> {
        signed.verify_in(SIGNATURE_CONTEXT, public_key)
    }
}

impl Content for ProgramManifest {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn digest(&self) -> Digest {
        self.digest
    }

    fn chunks(&self) -> &[Digest] {
        &self.chunks
    }
}

/// What this very program was built for; `None` on systems for which there are no releases.
pub fn own_target() -> Option<TargetName> {
    let arch = if cfg!(target_arch = "x86_64") {
        "x86_64"
    } else if cfg!(target_arch = "aarch64") {
        "aarch64"
    } else {
        return None;
    };
    let libc = if cfg!(all(target_os = "linux", target_env = "gnu")) {
        "gnu"
    } else if cfg!(all(target_os = "linux", target_env = "musl")) {
        "musl"
    } else {
        return None;
    };
    format!("{arch}-unknown-linux-{libc}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefact::{Manifest, Stage};
    use aws_lc_rs::signature::KeyPair as _;

    #[test]
    fn a_signature_of_a_model_is_none_of_a_program_and_the_other_way_round() {
        let key = Ed25519KeyPair::generate().expect("key");
        let public = key.public_key().as_ref();
        let (version, target) =
            ("1.2.3".parse().expect("version"), "x86_64-unknown-linux-gnu".parse().expect("target"));
        let program = ProgramManifest::of_file(version, target, b"program");
        let signed = program.sign(&key).expect("sign");
        assert_eq!(ProgramManifest::verify(&signed, public), Ok(program.clone()));
        assert_eq!(signed.verify(public), Err(ManifestError::BadSignature));
        let model = SignedManifest::sign(&Manifest::of_file("m", Stage::Vad, "a", b"m"), &key).expect("sign");
        assert_eq!(ProgramManifest::verify(&model, public), Err(ManifestError::BadSignature));
        let cut = ProgramManifest { chunks: vec![], ..program }.sign(&key).expect("sign");
        assert!(matches!(ProgramManifest::verify(&cut, public), Err(ManifestError::ChunkCount { .. })));
    }
}
