//! The official Python packages in virtual environments that the tests make, and the conversations they hold.
//! Shared by the test against scripted models (edge-agent) and the one against the real ones (nearfield-tests).
#![allow(missing_docs, dead_code, reason = "each test uses what it needs")]

use crate::environments::{printed, project, python, script, script_in};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The clients that are tested with: pinned, so that a test that passes today passes tomorrow.
const OPENAI: &str = "openai[realtime]==3.54.0";
const AGENTS: &str = "openai-agents==0.24.0";

/// Opens the sessions of `sessions.py` at the node at `http://…`.
pub fn open_sessions(folder: &Path, node: &str, question: &Path) -> Value {
    let mut command = Command::new(python(folder, OPENAI));
    let command = command.arg(script("openai/sessions.py")).arg(format!("{node}/v1")).arg(question);
    printed(command, "open sessions with the official client")
}

/// Holds the conversation of `runner.py` with the node at `ws://…`.
pub fn employ_agent(folder: &Path, node: &str, question: &Path) -> Value {
    let mut command = Command::new(python(folder, AGENTS));
    printed(command.arg(script("openai/runner.py")).arg(format!("{node}/v1/realtime")).arg(question), "run an agent")
}

/// Holds the conversation of `two_turns.py` with the node at `http://…`; `folder` is the build's own for temporary files.
pub fn converse(folder: &Path, node: &str, questions: &[PathBuf]) -> Value {
    let mut command = Command::new(python(folder, OPENAI));
    let found = printed(
        command.arg(script("openai/two_turns.py")).arg(format!("{node}/v1")).args(questions),
        "hold a conversation with the official client",
    );
    assert_eq!(found["problems"], Value::Array(vec![]), "events that do not fit the client's own types");
    assert_eq!(found["refused"], serde_json::json!({"event_id": "mine", "param": "type"}));
    found
}

/// The client for node that is tested with, and what it wants beside it.
const NODE_PACKAGES: [&str; 2] = ["@openai/agents-realtime@0.20.0", "zod@4.6.7"];

/// Holds the conversation of `session.mjs` with the node at `http://…`; nothing where this machine has no node and npm.
pub fn employ_agent_of_npm(folder: &Path, node: &str, question: &Path) -> Option<Value> {
    let project = project(folder, &NODE_PACKAGES)?;
    let mut command = Command::new("node");
    let command = command.arg(script_in(&project, "openai/session.mjs")).arg(node).arg(question);
    Some(printed(command.current_dir(&project), "run an agent of npm"))
}

/// Asks for everything that `rest.py` asks a node for.
pub fn ask_rest(folder: &Path, node: &str, recording: &Path) -> Value {
    let mut command = Command::new(python(folder, OPENAI));
    printed(command.arg(script("openai/rest.py")).arg(format!("{node}/v1")).arg(recording), "use the official client")
}

/// Clients that are tested with, and the WebSocket that one of them wants beside it.
const NODE_CLIENT: [&str; 2] = ["openai@7.57.0", "ws@8.23.0"];

/// Holds the conversation of `realtime_ws.mjs` with the node at `https://…`, whose certificate `authority` has signed; nothing where
/// this machine has no node and npm.
pub fn converse_of_npm(folder: &Path, node: &str, key: &str, authority: &Path, question: &Path) -> Option<Value> {
    let project = project(folder, &NODE_CLIENT)?;
    let mut command = Command::new("node");
    let command = command.arg(script_in(&project, "openai/realtime_ws.mjs")).args([node, key]).arg(question);
    let command = command.env("NODE_EXTRA_CA_CERTS", authority).current_dir(&project);
    Some(printed(command, "hold a conversation with the official client of npm"))
}
