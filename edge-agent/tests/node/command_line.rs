//! The program as its operator sees it: what it prints, and how it ends.

use crate::rig::Rig;
use edge_agent::status::StatusReport;
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Output, Stdio},
};

fn edge_agent(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edge-agent"));
    command.args(args).arg("--dir").arg(dir).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("it ended by itself"), text(&output.stdout), text(&output.stderr))
}

fn run(dir: &Path, args: &[&str]) -> (i32, String, String) {
    said(&edge_agent(dir, args).output().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_mistakes_in_the_settings_are_three_errors_and_exit_64() {
    let rig = Rig::new().await;
    std::fs::write(rig.dir.config(), "plane = \"nowhere\"\ncalls_max = 0\ncolour = \"red\"\n").unwrap();
    let (code, _, err) = run(rig.dir.root(), &["run"]);
    assert_eq!(code, 64, "{err}");
    for line in ["3 errors", "line 1", "line 2", "line 3"] {
        assert!(err.contains(line), "{line} in {err}");
    }
    let (code, _, err) = run(rig.dir.root(), &["run", "--listen", "localhost"]);
    assert!(code == 64 && err.contains("IP:PORT"), "{code} {err}");
}

#[test]
fn a_node_that_was_never_enrolled_is_told_how() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("node");
    let (code, _, err) = run(&dir, &["run", "--device", "cpu"]);
    assert!(code == 1 && err.contains("edge-agent enroll") && err.contains("token create"), "{code} {err}");
    let (code, _, err) = run(&dir, &["status"]);
    assert!(code == 1 && err.contains("no edge-agent is running"), "{code} {err}");
    let (code, out, _) = run(&dir, &["vault", "list"]);
    assert!(code == 0 && out.contains("the vault is empty"), "{code} {out}");
    let (code, _, err) = run(&dir, &["enroll", "--plane", "127.0.0.1:1", "--token", "nonsense"]);
    assert!(code == 64 && err.contains("token create"), "{code} {err}");
    let (code, out, _) = run(&dir, &["doctor", "--json", "--device", "cpu"]);
    let lines: Vec<Value> = serde_json::from_str(&out).unwrap();
    let verdict = |check: &str| {
        let line = lines.iter().find(|line| line["check"] == check).unwrap_or_else(|| panic!("{check} in {out}"));
        line["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!((code, verdict("certificate").as_str()), (1, "fail"));
    assert_eq!((verdict("clock").as_str(), verdict("port").as_str()), ("ok", "ok"));
    assert_eq!(verdict("device"), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_others_can_read_keeps_the_node_from_starting() {
    use std::os::unix::fs::PermissionsExt as _;
    let rig = Rig::new().await;
    std::fs::write(rig.dir.config(), format!("plane = \"{}\"\n", rig.plane.address())).unwrap();
    std::fs::set_permissions(rig.dir.node_key(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, err) = run(rig.dir.root(), &["run", "--device", "cpu"]);
    assert!(code == 1 && err.contains("chmod 0600"), "{code} {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_runs_says_how_it_is_and_stops_well() {
    let rig = Rig::new().await;
    std::fs::write(rig.dir.config(), format!("plane = \"{}\"\n", rig.plane.address())).unwrap();
    let mut child = edge_agent(rig.dir.root(), &["run", "--device", "cpu"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    assert!(ready.starts_with("fra-1 in eu-central listens on http://127.0.0.1:"), "{ready}");

    let (code, out, err) = run(rig.dir.root(), &["status", "--json"]);
    assert_eq!(code, 0, "{err}");
    let status: StatusReport = serde_json::from_str(&out).unwrap();
    assert_eq!((status.node.as_str(), status.serving, status.pid), ("fra-1", 0, child.id()));
    let (code, out, _) = run(rig.dir.root(), &["status"]);
    assert!(code == 0 && out.contains("nothing yet"), "{out}");
    let (code, _, err) = run(rig.dir.root(), &["run", "--device", "cpu"]);
    assert!(code == 1 && err.contains("another edge-agent is running"), "{code} {err}");
    let (_, out, _) = run(rig.dir.root(), &["doctor", "--json"]);
    assert!(out.contains(&format!("running, process {}", child.id())), "{out}");

    // SAFETY: the child is ours and was not waited for, so the number is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    let ended = child.wait().unwrap();
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(ended.success() && err.contains("every call ended well"), "{ended} {err}");
}
