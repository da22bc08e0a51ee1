//! The simulated fleet against a real control plane, small: every node connects, takes each state, fetches a model, and comes back after a
//! restart and after a crash.

use serde_json::Value;
use std::process::Command;

#[test]
fn simulated_nodes_connect_take_states_and_come_back() {
    let output = Command::new(env!("CARGO_BIN_EXE_nearfield-bench"))
        .args(["fleet", "--agents", "24", "--processes", "2", "--regions", "3", "--pushes", "2", "--fetches", "1"])
        .args(["--rest", "1", "--json"])
        .output()
        .expect("nearfield-bench runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["agents"], 24);
    assert!(report["gbit_s"].as_f64().expect("a model was fetched") > 0.0);
    assert!(report["push_p50_ms"].as_f64().expect("states were pushed") > 0.0);
    let restarts = report["restarts"].as_array().expect("restarts");
    assert_eq!(restarts.iter().map(|r| r["crash"].as_bool()).collect::<Vec<_>>(), [Some(false), Some(true)]);
    assert!(restarts.iter().all(|r| r["all_seconds"].is_f64()), "{restarts:?}");
}
