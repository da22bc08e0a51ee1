//! A panic of the running server tells where it happened, and nothing of what it says: that may quote a caller.

#[path = "../../../shared/tests/panicking/mod.rs"]
mod panicking;

use control_plane::cli;

// With the log of `control-plane serve`.
#[test]
fn a_panic_is_logged_with_its_place_and_thread_and_without_its_words() {
    panicking::check("panics::a_panic_is_logged_with_its_place_and_thread_and_without_its_words", cli::log_to_stderr);
}
