//! The official Python package of the Wyoming protocol, and what Home Assistant does with it.

use crate::environments;
use serde_json::Value;
use std::{net::SocketAddr, path::Path, process::Command};

/// Pinned, so that a test that passes today passes tomorrow.
const WYOMING: &str = "wyoming==1.10.2";

/// Does everything of `home.py` at a listener.
pub fn be_at_home(folder: &Path, listener: SocketAddr, recording: &Path) -> Value {
    let mut command = Command::new(environments::python(folder, WYOMING));
    let script = environments::script("wyoming/home.py");
    let command = command.arg(script).arg(format!("tcp://{listener}")).arg(recording);
    environments::printed(command, "use the official package of Wyoming")
}
