//! A desired state as a node keeps it on its disk: JSON with a version and a checksum, so that a file that was cut or changed is told from one that is whole.

use super::DesiredState;
use crate::artefact::Digest;
use serde::{Deserialize, Serialize};

/// Version of the form. 1 is the first.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Form {
    version: u32,
    /// BLAKE3 of `state`.
    checksum: Digest,
    /// JSON of the desired state, as text, so that the checksum covers exactly what is parsed.
    state: String,
}

/// The bytes of the file.
pub fn encode(state: &DesiredState) -> Result<Vec<u8>, serde_json::Error> {
    let state = serde_json::to_string(state)?;
    serde_json::to_vec(&Form { version: VERSION, checksum: Digest::of(state.as_bytes()), state })
}

/// The state in the file, or what is wrong with it.
pub fn decode(bytes: &[u8]) -> Result<DesiredState, String> {
    let form: Form = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if form.version != VERSION {
        return Err(format!("its version is {}, this agent reads {VERSION}", form.version));
    }
    if Digest::of(form.state.as_bytes()) != form.checksum {
        return Err("its checksum does not match".into());
    }
    serde_json::from_str(&form.state).map_err(|e| e.to_string())
}
