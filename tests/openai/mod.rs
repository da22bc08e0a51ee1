//! The official `openai` package in a virtual environment that the test makes, and the conversation it holds.
//! Shared by the test against scripted models (edge-agent) and the one against the real ones (nearfield-tests).
#![allow(missing_docs)]

use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The client that is tested with: pinned, so that a test that passes today passes tomorrow.
const PACKAGE: &str = "openai[realtime]==3.54.0";

/// The python of a virtual environment with the package, made once for each build folder.
fn python(folder: &Path) -> PathBuf {
    let venv = folder.join(format!("openai-{}", PACKAGE.rsplit("==").next().unwrap_or("any")));
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
            Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE]),
            "install the official client; is a package index reachable?",
        );
        std::fs::write(done, "").expect("the build folder can be written");
    }
    python
}

fn run(command: &mut Command, what: &str) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("could not {what}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "could not {what}:\n{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Holds the conversation of `two_turns.py` with the node at `http://…`; `folder` is the build's own for temporary files.
pub fn converse(folder: &Path, node: &str, questions: &[PathBuf]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find_map(|dir| {
        let script = dir.join("tests/openai/two_turns.py");
        script.exists().then_some(script)
    });
    let script = script.expect("tests/openai/two_turns.py is in the repository");
    let printed = run(
        Command::new(python(folder)).arg(script).arg(format!("{node}/v1")).args(questions),
        "hold a conversation with the official client",
    );
    let found: Value = serde_json::from_str(printed.trim()).expect("the script prints JSON");
    assert_eq!(found["problems"], Value::Array(vec![]), "events that do not fit the client's own types");
    assert_eq!(found["refused"], serde_json::json!({"event_id": "mine", "param": "type"}));
    found
}
