//! Artefacts: what a model file is, who vouches for it, and how it is checked while it arrives.
//!
//! A [`Manifest`] names the file by its BLAKE3 and lists the digest of every [`CHUNK_BYTES`] chunk, so a receiver can
//! verify bytes as they come in, resume at any byte, and never keep a chunk that is wrong. The manifest as a whole
//! is signed by the control plane ([`SignedManifest`]); a plain list of chunk digests was chosen over an outboard hash tree
//! because the list of a 100 MB model is 100 lines long and the signature already covers it.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Bytes in one verified chunk of an artefact: 1 MiB, so a wrong byte costs at most 1 MiB and the list stays short.
pub const CHUNK_BYTES: u64 = 1 << 20;

/// A stage of the voice pipeline. One model serves one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Voice activity detection: is someone speaking in this 32 ms frame?
    Vad,
    /// Turn detection: has the caller finished what they wanted to say?
    Turn,
    /// Automatic speech recognition.
    Asr,
    /// The language model.
    Llm,
    /// Speech synthesis.
    Tts,
    /// Sentence embedding, for matching questions.
    Embed,
}

impl Stage {
    /// Every stage, in pipeline order.
    pub const ALL: [Stage; 6] = [Stage::Vad, Stage::Turn, Stage::Asr, Stage::Llm, Stage::Tts, Stage::Embed];

    /// The name used in files, messages and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Vad => "vad",
            Stage::Turn => "turn",
            Stage::Asr => "asr",
            Stage::Llm => "llm",
            Stage::Tts => "tts",
            Stage::Embed => "embed",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Stage::ALL
            .into_iter()
            .find(|stage| stage.as_str() == s)
            .ok_or_else(|| format!("`{s}` is not a stage; the stages are vad, turn, asr, llm, tts, embed"))
    }
}

/// A BLAKE3 digest, 32 bytes, written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The 64 hex digits.
    pub fn to_hex(self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.to_hex())
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        blake3::Hash::from_hex(s)
            .map(|hash| Digest(*hash.as_bytes()))
            .map_err(|_| format!("`{s}` is not a BLAKE3 digest: 64 hex digits are expected"))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A file that can be fetched: what its bytes must be, as a verified manifest says it.
pub trait Content {
    /// Size of the file in bytes.
    fn bytes(&self) -> u64;
    /// BLAKE3 of the whole file.
    fn digest(&self) -> Digest;
    /// BLAKE3 of each chunk of [`CHUNK_BYTES`], in order.
    fn chunks(&self) -> &[Digest];
}

/// What a model is and how its file is verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The catalogue name, for example `moonshine-tiny`.
    pub name: String,
    /// The version, as the catalogue states it.
    pub version: String,
    /// The stage it serves.
    pub stage: Stage,
    /// The network architecture, for example `moonshine`; the agent NACKs one that it cannot run.
    pub architecture: String,
    /// Version of the stage's interface (inputs, outputs, units) that the file was converted for.
    pub interface: u32,
    /// How the weights are stored, for example `Q8_0`.
    pub quantisation: String,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// BCP 47 tags of the languages it handles; empty where language does not matter.
    pub languages: Vec<String>,
    /// Audio sample rate in hertz at its input or output; 0 where there is no audio.
    pub sample_rate_hz: u32,
    /// Size of the GGUF file in bytes.
    pub bytes: u64,
    /// BLAKE3 of the whole file; also its name on disk and on the wire.
    pub digest: Digest,
    /// BLAKE3 of each chunk of [`CHUNK_BYTES`], in order; the last may be shorter.
    pub chunks: Vec<Digest>,
    /// Golden cases inside the file (metadata key `nearfield.golden`) that a device must reproduce before it serves.
    pub golden_cases: u32,
}

impl Manifest {
    /// The manifest of a file in memory that was made and not imported, as tests and tools do: version `1`, our own licence, and
    /// nothing said about languages, sound or golden cases.
    pub fn of_file(name: impl Into<String>, stage: Stage, architecture: &str, file: &[u8]) -> Self {
        Self {
            name: name.into(),
            version: "1".into(),
            stage,
            architecture: architecture.into(),
            interface: 1,
            quantisation: "F32".into(),
            licence: "MIT".into(),
            languages: Vec::new(),
            sample_rate_hz: 0,
            bytes: file.len() as u64,
            digest: Digest::of(file),
            chunks: file.chunks(CHUNK_BYTES as usize).map(Digest::of).collect(),
            golden_cases: 0,
        }
    }
}

impl Content for Manifest {
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

/// A manifest with the control plane's Ed25519 signature over exactly these bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedManifest {
    /// The manifest's JSON, as it was signed. Parse it only through [`SignedManifest::verify`].
    pub body: String,
    /// Ed25519 signature over [`SIGNATURE_CONTEXT`] and the body, base64.
    pub signature: String,
}

/// Prefix of every signed manifest, so that a signature made for something else never passes for one.
pub const SIGNATURE_CONTEXT: &str = "nearfield manifest v1\n";

/// Why a manifest was not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ManifestError {
    /// The signature does not match the body and the key.
    #[error(
        "the manifest's signature does not verify with this control plane's key; import it again on the control plane this agent is enrolled with"
    )]
    BadSignature,
    /// The body is not a manifest.
    #[error("the signed manifest cannot be read: {0}")]
    Malformed(String),
    /// The chunk list contradicts the size.
    #[error("the manifest lists {listed} chunks, but {bytes} bytes make {expected}")]
    ChunkCount {
        /// Chunks in the list.
        listed: usize,
        /// Size that the manifest states.
        bytes: u64,
        /// Chunks that this size needs.
        expected: u64,
    },
}

impl SignedManifest {
    /// Signs a model's manifest with an Ed25519 key.
    pub fn sign(manifest: &Manifest, key: &aws_lc_rs::signature::Ed25519KeyPair) -> Result<Self, ManifestError> {
        Self::sign_in(SIGNATURE_CONTEXT, manifest, key)
    }

    /// Signs what stands under this context.
    pub(crate) fn sign_in(
        context: &str,
        manifest: &impl Serialize,
        key: &aws_lc_rs::signature::Ed25519KeyPair,
    ) -> Result<Self, ManifestError> {
        use base64::Engine as _;
        let body = serde_json::to_string(manifest).map_err(|e| ManifestError::Malformed(e.to_string()))?;
        let signature = key.sign(format!("{context}{body}").as_bytes());
        Ok(Self { body, signature: base64::engine::general_purpose::STANDARD.encode(signature.as_ref()) })
    }

    /// BLAKE3 of signature and body: the name under which a state refers to it.
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        // No signature holds a line end, so the two parts cannot be shifted against one another.
        hasher.update(self.signature.as_bytes()).update(b"\n").update(self.body.as_bytes());
        Digest(*hasher.finalize().as_bytes())
    }

    /// Checks the signature with the plane's public key (32 bytes) and returns the model's manifest.
    pub fn verify(&self, public_key: &[u8]) -> Result<Manifest, ManifestError> {
        self.verify_in(SIGNATURE_CONTEXT, public_key)
    }

    /// The same of what was signed under this context.
    pub(crate) fn verify_in<M: Content + serde::de::DeserializeOwned>(
        &self,
        context: &str,
        public_key: &[u8],
    ) -> Result<M, ManifestError> {
        use base64::Engine as _;
        let signature = base64::engine::general_purpose::STANDARD
            .decode(&self.signature)
            .map_err(|_| ManifestError::BadSignature)?;
        aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, public_key)
            .verify(format!("{context}{}", self.body).as_bytes(), &signature)
            .map_err(|_| ManifestError::BadSignature)?;
        let manifest: M = serde_json::from_str(&self.body).map_err(|e| ManifestError::Malformed(e.to_string()))?;
        let (listed, bytes) = (manifest.chunks().len(), manifest.bytes());
        let expected = bytes.div_ceil(CHUNK_BYTES);
        if listed as u64 != expected {
            return Err(ManifestError::ChunkCount { listed, bytes, expected });
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    fn manifest() -> Manifest {
        Manifest::of_file("m", Stage::Vad, "silero", b"abc")
    }

    #[test]
    fn a_changed_byte_or_another_key_is_refused() {
        let key = Ed25519KeyPair::generate().expect("key");
        let other = Ed25519KeyPair::generate().expect("key");
        let signed = SignedManifest::sign(&manifest(), &key).expect("sign");
        assert_eq!(signed.verify(key.public_key().as_ref()), Ok(manifest()));
        assert_eq!(signed.verify(other.public_key().as_ref()), Err(ManifestError::BadSignature));
        let mut changed = signed.clone();
        changed.body = changed.body.replace("MIT", "mit");
        assert_eq!(changed.verify(key.public_key().as_ref()), Err(ManifestError::BadSignature));
    }

    #[test]
    fn a_chunk_list_that_contradicts_the_size_is_refused() {
        let key = Ed25519KeyPair::generate().expect("key");
        let signed = SignedManifest::sign(&Manifest { chunks: vec![], ..manifest() }, &key).expect("sign");
        assert_eq!(
            signed.verify(key.public_key().as_ref()),
            Err(ManifestError::ChunkCount { listed: 0, bytes: 3, expected: 1 })
        );
    }
}
