//! A process that panics, for the tests of every daemon that keeps the words of a panic out of its log.

use std::process::Command;

/// The words that must appear nowhere.
const MARKED: &str = "xylophone-aardvark-4711";

/// Panics on a thread of its own, as a task of a call would.
fn panic_with_marked_words() {
    let call = std::thread::Builder::new().name("call-7".into());
    let ended = call.spawn(|| panic!("no answer to `{MARKED}`")).unwrap().join();
    ended.expect_err("it panicked");
}

/// Set in the process that is to panic.
const PANICS: &str = "NEARFIELD_TEST_PANICS";

/// Runs the calling test, whose name this is, once more in a process of its own, which starts a daemon's log and panics.
pub fn check(test: &str, start_log: impl FnOnce()) {
    if std::env::var_os(PANICS).is_some() {
        start_log();
        return panic_with_marked_words();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(PANICS, "1")
        .env_remove("RUST_LOG")
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    assert!(said.contains("ERROR") && said.contains("call-7") && said.contains("panicking/mod.rs:"), "{said}");
    assert!(!said.contains(MARKED), "what the panic said is in the log: {said}");
}
