//! The official Python packages in virtual environments that the tests make, and the conversations they hold.
//! Shared by the test against scripted models (edge-agent) and the one against the real ones (nearfield-tests).
#![allow(missing_docs, dead_code, reason = "each test uses what it needs")]

use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The clients that are tested with: pinned, so that a test that passes today passes tomorrow.
const OPENAI: &str = "openai[realtime]==3.54.0";
const AGENTS: &str = "openai-agents==0.24.0";

/// The python of a virtual environment with the package, made once for each build folder.
fn python(folder: &Path, package: &str) -> PathBuf {
    let name = package.split(['[', '=']).next().unwrap_or(package);
    let venv = folder.join(format!("{name}-{}", package.rsplit("==").next().unwrap_or("any")));
    let python = venv.join("bin/python");
    let done = venv.join("ready");
    // One test process makes it, others wait: pip would break a folder that two of them fill.
    let lock = std::fs::File::create(folder.join("openai.lock")).expect("the build folder can be written");
    lock.lock().expect("a lock");
    if !done.exists() {
        let _left_over = std::fs::remove_dir_all(&venv);
        run(
            Command::new("python3").args(["-m", "venv"]).arg(&venv),
            "make a virtual environment (Debian: apt install python3-venv)",
        );
        run(
            Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]),
            "install the official client; is a package index reachable?",
        );
        std::fs::write(done, "").expect("the build folder can be written");
    }
    python
}

fn run(command: &mut Command, what: &str) -> String {
    // Scripts import one another, and leave nothing beside them.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let output = command.output().unwrap_or_else(|e| panic!("could not {what}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "could not {what}:\n{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A script beside this file.
fn script(name: &str) -> PathBuf {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let found = folders.map(|dir| dir.join("tests/openai").join(name)).find(|script| script.exists());
    found.unwrap_or_else(|| panic!("tests/openai/{name} is in the repository"))
}

fn printed(command: &mut Command, what: &str) -> Value {
    serde_json::from_str(run(command, what).trim()).expect("the script prints JSON")
}

/// Opens the sessions of `sessions.py` at the node at `http://…`.
pub fn open_sessions(folder: &Path, node: &str, question: &Path) -> Value {
    let mut command = Command::new(python(folder, OPENAI));
    let command = command.arg(script("sessions.py")).arg(format!("{node}/v1")).arg(question);
    printed(command, "open sessions with the official client")
}

/// Holds the conversation of `runner.py` with the node at `ws://…`.
pub fn employ_agent(folder: &Path, node: &str, question: &Path) -> Value {
    let mut command = Command::new(python(folder, AGENTS));
    printed(command.arg(script("runner.py")).arg(format!("{node}/v1/realtime")).arg(question), "run an agent")
}

/// Holds the conversation of `two_turns.py` with the node at `http://…`; `folder` is the build's own for temporary files.
pub fn converse(folder: &Path, node: &str, questions: &[PathBuf]) -> Value {
    let mut command = Command::new(python(folder, OPENAI));
    let found = printed(
        command.arg(script("two_turns.py")).arg(format!("{node}/v1")).args(questions),
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
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !there("node") || !there("npm") {
        println!("SKIPPED: there is no `node` or no `npm` on this machine (Debian: apt install nodejs npm)");
        return None;
    }
    let project = folder.join(NODE_PACKAGES[0].replace(['@', '/'], "-"));
    let lock = std::fs::File::create(folder.join("npm.lock")).expect("the build folder can be written");
    lock.lock().expect("a lock");
    if !project.join("ready").exists() {
        let _left_over = std::fs::remove_dir_all(&project);
        std::fs::create_dir(&project).expect("the build folder can be written");
        std::fs::write(project.join("package.json"), "{}").expect("the build folder can be written");
        let install = ["install", "--no-audit", "--no-fund", "--silent"];
        run(
            Command::new("npm").args(install).args(NODE_PACKAGES).current_dir(&project),
            "install the official client; is a package registry reachable?",
        );
        std::fs::write(project.join("ready"), "").expect("the build folder can be written");
    }
    // Packages are looked for beside the script.
    std::fs::copy(script("session.mjs"), project.join("session.mjs")).expect("the build folder can be written");
    drop(lock);
    let mut command = Command::new("node");
    Some(printed(command.arg("session.mjs").arg(node).arg(question).current_dir(&project), "run an agent of npm"))
}

/// Asks for everything that `rest.py` asks a node for.
pub fn ask_rest(folder: &Path, node: &str, recording: &Path) -> Value {
    let mut command = Command::new(python(folder, OPENAI));
    printed(command.arg(script("rest.py")).arg(format!("{node}/v1")).arg(recording), "use the official client")
}
