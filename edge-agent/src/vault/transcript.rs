//! A transcript, and the header that stands in the clear beside it.

use nearfield_shared::pii::Pii;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

/// Who spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaker {
    /// The person who called.
    Caller,
    /// The assistant; what the caller really heard, not what was planned.
    Assistant,
}

/// One thing that was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Utterance {
    /// Who said it.
    pub speaker: Speaker,
    /// The words.
    pub text: Pii<String>,
}

/// What was said in one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// The call, a random identifier that says nothing about the caller.
    pub call: Uuid,
    /// The assistant that took it.
    pub assistant: String,
    /// In the order it was said.
    pub said: Vec<Utterance>,
}

/// What the vault tells about a record without opening it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The call.
    pub call: Uuid,
    /// When it was stored, in seconds since 1970 UTC.
    pub stored_at_s: u64,
    /// When it will be erased, in seconds since 1970 UTC.
    pub expires_at_s: u64,
    /// Size of the sealed transcript in bytes.
    pub bytes: u64,
}

/// The plain form that exists only between sealing and opening.
#[derive(Serialize, Deserialize)]
struct Plain {
    assistant: String,
    said: Vec<(Speaker, String)>,
}

impl Transcript {
    /// The bytes to seal, wiped when dropped.
    pub(super) fn to_plain(&self) -> Zeroizing<Vec<u8>> {
        let plain = Plain {
            assistant: self.assistant.clone(),
            said: self.said.iter().map(|said| (said.speaker, said.text.reveal().clone())).collect(),
        };
        Zeroizing::new(serde_json::to_vec(&plain).expect("strings always serialise"))
    }

    /// The transcript of these opened bytes; `None` if they are none.
    pub(super) fn from_plain(call: Uuid, plain: &[u8]) -> Option<Self> {
        let plain: Plain = serde_json::from_slice(plain).ok()?;
        let said = plain.said.into_iter().map(|(speaker, text)| Utterance { speaker, text: Pii::new(text) }).collect();
        Some(Self { call, assistant: plain.assistant, said })
    }
}
