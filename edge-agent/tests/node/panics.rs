//! A panic of the running daemon tells where it happened, and nothing of what it says: that may quote a caller.

#[path = "../../../shared/tests/panicking/mod.rs"]
mod panicking;

use edge_agent::{config::Config, run};

// With the log of `edge-agent run`.
#[test]
fn a_panic_is_logged_with_its_place_and_thread_and_without_its_words() {
    panicking::check("panics::a_panic_is_logged_with_its_place_and_thread_and_without_its_words", || {
        run::start_log(&Config::default())
    });
}
