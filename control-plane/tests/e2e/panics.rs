//! A panic of the running server tells where it happened, and nothing of what it says: that may quote a caller.

#[path = "../../../shared/tests/panicking/mod.rs"]
mod panicking;

use control_plane::cli;

/// Starts the log as `control-plane serve` does, and panics.
#[test]
#[ignore = "it is the process that the other test starts"]
fn a_process_that_panics() {
    cli::log_to_stderr();
    panicking::panic_with_marked_words();
}

#[test]
fn a_panic_is_logged_with_its_place_and_thread_and_without_its_words() {
    panicking::check("panics::a_process_that_panics");
}
