//! A process that panics, for the tests of every daemon that keeps the words of a panic out of its log.

use std::process::Command;

/// The words that must appear nowhere.
const MARKED: &str = "xylophone-aardvark-4711";

/// Panics on a thread of its own, as a task of a call would.
pub fn panic_with_marked_words() {
    let call = std::thread::Builder::new().name("call-7".into());
    let ended = call.spawn(|| panic!("no answer to `{MARKED}`")).unwrap().join();
    ended.expect_err("it panicked");
}

/// Runs the test of this name, which is ignored, in a process of its own. It starts a daemon's log and panics.
pub fn check(test: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env_remove("RUST_LOG")
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    assert!(said.contains("ERROR") && said.contains("call-7") && said.contains("panicking/mod.rs:"), "{said}");
    assert!(!said.contains(MARKED), "what the panic said is in the log: {said}");
}
