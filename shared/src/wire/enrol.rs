//! Enrolment, ALPN `nearfield-enrol/1`: how a node gets its first certificate.
//!
//! The admin makes a token on the plane and hands its text to whoever installs the node. The text carries a secret and the
//! SHA-256 of the plane's CA certificate, so the node can authenticate the plane before it trusts anything else: the TLS
//! chain must contain a CA with that fingerprint, and the server certificate must verify under it for
//! [`super::PLANE_SERVER_NAME`].
//!
//! On one bidirectional stream the node sends an [`EnrolRequest`] frame and gets an [`EnrolReply`] frame. The private
//! key never leaves the node; the certificate request proves that the node holds it. The plane keeps only a hash of the secret,
//! and a token works once and until it expires.

use super::{
    frame::{Frame, FrameError, Limit},
    names::{NodeName, VersionName},
};
use crate::region::RegionId;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use zeroize::Zeroizing;

/// Bytes of a token's secret: 192 bits, beyond guessing, 32 characters of text.
pub const SECRET_BYTES: usize = 24;

/// Bytes of a fingerprint: SHA-256 of a certificate's DER.
pub const FINGERPRINT_BYTES: usize = 32;

const TOKEN_PREFIX: &str = "nfe1";

/// Kind of [`EnrolRequest`].
pub const KIND_REQUEST: u8 = 1;
/// Kind of [`EnrolReply::Enrolled`].
pub const KIND_ENROLLED: u8 = 1;
/// Kind of [`EnrolReply::Refused`].
pub const KIND_REFUSED: u8 = 2;

/// The one-time token that an admin hands over, as text `nfe1.SECRET.FINGERPRINT`. Never prints its secret by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolToken {
    secret: Zeroizing<[u8; SECRET_BYTES]>,
    ca_fingerprint: [u8; FINGERPRINT_BYTES],
}

impl EnrolToken {
    /// A token from a random secret and the SHA-256 of the plane's CA certificate (DER).
    pub fn new(secret: [u8; SECRET_BYTES], ca_fingerprint: [u8; FINGERPRINT_BYTES]) -> Self {
        Self { secret: Zeroizing::new(secret), ca_fingerprint }
    }

    /// SHA-256 of the CA certificate (DER) that the plane must show.
    pub fn ca_fingerprint(&self) -> &[u8; FINGERPRINT_BYTES] {
        &self.ca_fingerprint
    }

    /// The secret as it goes into [`EnrolRequest::secret`].
    pub fn secret_text(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.secret.as_slice()))
    }

    /// The text for the admin to hand over.
    pub fn to_text(&self) -> Zeroizing<String> {
        let fingerprint = URL_SAFE_NO_PAD.encode(self.ca_fingerprint);
        Zeroizing::new(format!("{TOKEN_PREFIX}.{}.{fingerprint}", self.secret_text().as_str()))
    }
}

impl fmt::Debug for EnrolToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnrolToken(..)")
    }
}

impl FromStr for EnrolToken {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            "this is not an enrolment token; copy the whole text that `control-plane token create` printed".to_owned()
        };
        let mut parts = s.trim().split('.');
        let (Some(TOKEN_PREFIX), Some(secret), Some(fingerprint), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.decode(secret).map_err(|_| wrong())?);
        let fingerprint = URL_SAFE_NO_PAD.decode(fingerprint).map_err(|_| wrong())?;
        Ok(Self::new(
            secret.as_slice().try_into().map_err(|_| wrong())?,
            fingerprint.as_slice().try_into().map_err(|_| wrong())?,
        ))
    }
}

/// What a node asks for.
#[derive(Clone, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The token's secret ([`EnrolToken::secret_text`]).
    pub secret: String,
    /// PKCS#10 certificate request, PEM. Only its public key is used; names come from the token.
    pub csr_pem: String,
    /// The name that the node would like; the token's, where it has one, wins.
    #[serde(default)]
    pub node: Option<NodeName>,
    /// The agent's version.
    pub agent_version: VersionName,
}

impl fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolRequest")
            .field("node", &self.node)
            .field("agent_version", &self.agent_version)
            .finish_non_exhaustive()
    }
}

/// What a node gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnrolReply {
    /// It is enrolled.
    Enrolled(Enrolled),
    /// It is not.
    Refused(EnrolRefused),
    /// A reply of a later version.
    Unknown(u8),
}

/// Everything a node needs from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// Its name.
    pub node: NodeName,
    /// Its region.
    pub region: RegionId,
    /// Its certificate, PEM.
    pub certificate_pem: String,
    /// The CA that signed it and the plane's server certificate, PEM.
    pub ca_pem: String,
    /// The plane's Ed25519 public key for manifests, 32 bytes, base64 (standard).
    pub signing_key: String,
    /// When the certificate expires, seconds since 1970.
    pub expires_unix_s: i64,
    /// `HOST:PORT` of every control plane that the node may dial; empty where the one that it enrolled at is all, or says nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub planes: Vec<String>,
    /// The registry's root metadata, from which on the node trusts what the registry signs; `None` from a plane that has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_root: Option<String>,
}

/// Why a node is not enrolled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct EnrolRefused {
    /// For programs.
    pub code: EnrolRefusal,
    /// For people, with the remedy.
    pub reason: String,
}

/// Codes of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnrolRefusal {
    /// No such token.
    WrongToken,
    /// The token was used before.
    UsedToken,
    /// The token's time is over.
    ExpiredToken,
    /// The certificate request is not valid.
    BadRequest,
    /// A node of this name exists already.
    NameTaken,
    /// Too many enrolments at once; try again.
    Busy,
    /// The plane failed; its log says how.
    Failed,
    /// A code of a later version.
    #[serde(other)]
    Unknown,
}

impl EnrolRequest {
    /// The frame's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        Frame::encode(KIND_REQUEST, self, Limit::ENROL)
    }

    /// Reads a request; `None` where a later version asks for something that this one does not know.
    pub fn decode(frame: &Frame) -> Result<Option<Self>, FrameError> {
        if frame.kind == KIND_REQUEST { frame.json().map(Some) } else { Ok(None) }
    }
}

impl EnrolReply {
    /// The frame's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        match self {
            Self::Enrolled(body) => Frame::encode(KIND_ENROLLED, body, Limit::ENROL),
            Self::Refused(body) => Frame::encode(KIND_REFUSED, body, Limit::ENROL),
            Self::Unknown(kind) => Frame::encode(*kind, &(), Limit::ENROL),
        }
    }

    /// Reads a reply.
    pub fn decode(frame: &Frame) -> Result<Self, FrameError> {
        Ok(match frame.kind {
            KIND_ENROLLED => Self::Enrolled(frame.json()?),
            KIND_REFUSED => Self::Refused(frame.json()?),
            kind => Self::Unknown(kind),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_as_text_and_hides_its_secret() {
        let token = EnrolToken::new([7; SECRET_BYTES], [9; FINGERPRINT_BYTES]);
        let text = token.to_text();
        assert_eq!(format!(" {}\n", text.as_str()).parse(), Ok(token.clone()), "pasted with blanks");
        assert!(!format!("{token:?}").contains(token.secret_text().as_str()));
        let request = EnrolRequest {
            secret: token.secret_text().to_string(),
            csr_pem: String::new(),
            node: None,
            agent_version: "0.1.0".parse().unwrap(),
        };
        assert!(!format!("{request:?}").contains(token.secret_text().as_str()));
    }

    #[test]
    fn half_a_token_is_named_as_such() {
        let text = EnrolToken::new([7; SECRET_BYTES], [9; FINGERPRINT_BYTES]).to_text();
        for bad in [
            "",
            "nfe1",
            &text[..text.len() - 1],
            &text[1..],
            &text.replace("nfe1", "nfe2"),
            &format!("{}.x", text.as_str()),
        ] {
            let error = bad.parse::<EnrolToken>().expect_err(bad);
            assert!(error.contains("control-plane token create"), "{error}");
        }
    }

    #[test]
    fn a_later_refusal_is_still_a_refusal() {
        let frame = Frame { kind: KIND_REFUSED, body: br#"{"code":"full_moon","reason":"wait"}"#.to_vec() };
        let reply = EnrolReply::decode(&frame).expect("decodes");
        assert_eq!(reply, EnrolReply::Refused(EnrolRefused { code: EnrolRefusal::Unknown, reason: "wait".into() }));
    }
}
