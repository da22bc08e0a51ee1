//! LiveKit's plugins for the OpenAI API, unmodified, and what they hear and say.

use crate::environments;
use serde_json::Value;
use std::{path::Path, process::Command};

/// Pinned, so that a test that passes today passes tomorrow.
const PLUGINS: &str = "livekit-plugins-openai==1.8.9";

/// Does everything of `hear_and_speak.py` at the node at `http://…`.
pub fn hear_and_speak(folder: &Path, node: &str, recording: &Path) -> Value {
    let mut command = Command::new(environments::python(folder, PLUGINS));
    let command = command.arg(environments::script("livekit/hear_and_speak.py")).arg(node).arg(recording);
    environments::printed(command, "use the plugins of LiveKit")
}
