//! What stands in `deploy/` for other people's programs: units for systemd, manifests for Kubernetes, rules for Prometheus, panels
//! for Grafana. Each is read by the program it is for, or by that program's own schema.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "../../../tests/environments/mod.rs"]
mod environments;

use environments::{printed, python, script};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Pinned, so that a test that passes today passes tomorrow.
const KUBERNETES: &str = "kubernetes-validate==1.37.0";
const PROMQL: &str = "promql-parser==0.12.0";

/// The oldest release of Kubernetes that is still looked after.
const RELEASE: &str = "1.34";

/// The exposure that systemd may find in a unit, of 100: what it calls "OK" ends at 50.
const EXPOSURE_MAX: &str = "30";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn tmp() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

#[test]
fn systemd_understands_the_units_and_finds_them_confined() {
    if !Command::new("systemd-analyze").arg("--version").output().is_ok_and(|o| o.status.success()) {
        println!("SKIPPED: there is no `systemd-analyze` on this machine (Debian: apt install systemd)");
        return;
    }
    let here = tempfile::tempdir().unwrap();
    for unit in ["nearfield-control-plane.service", "nearfield-edge-agent.service"] {
        let text = fs::read_to_string(folder("systemd").join(unit)).unwrap();
        // Programs that are installed are looked for; here a shell stands in for ours.
        let text =
            text.replace("/usr/local/bin/control-plane", "/bin/sh").replace("/usr/local/bin/edge-agent", "/bin/sh");
        let path = here.path().join(unit);
        fs::write(&path, text).unwrap();
        let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();
        let told = String::from_utf8_lossy(&verified.stderr).into_owned();
        // What it says of other units of the machine is not ours.
        let ours: Vec<&str> = told.lines().filter(|line| line.contains("nearfield")).collect();
        assert!(ours.is_empty(), "{ours:#?}");
        let judged = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", &format!("--threshold={EXPOSURE_MAX}")])
            .arg(&path)
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&judged.stdout).into_owned();
        println!("{}", report.lines().last().unwrap_or_default());
        assert!(judged.status.success(), "{report}");
    }
}

#[test]
fn manifests_fit_their_schemas_and_expressions_can_be_parsed() {
    let manifests = ["control-plane.yaml", "edge-agent.yaml"].map(|name| folder("kubernetes").join(name));
    let mut command = Command::new(python(tmp(), KUBERNETES));
    command.arg(script("deployment/manifests.py")).arg(RELEASE).arg(folder("prometheus/nearfield.rules.yml"));
    let found = printed(command.args(manifests), "validate the manifests");
    let kinds: Vec<&str> = found["kinds"].as_array().unwrap().iter().map(|kind| kind.as_str().unwrap()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "StatefulSet").count(), 2, "{kinds:?}");
    let containers = found["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 4);
    for container in containers {
        assert_eq!(container["allowPrivilegeEscalation"], false, "{container}");
        assert_eq!(container["readOnlyRootFilesystem"], true, "{container}");
        assert_eq!(container["capabilities"]["drop"][0], "ALL", "{container}");
        assert!(container["limits"]["memory"].is_string(), "{container}");
    }

    let board: Value = serde_json::from_slice(&fs::read(folder("grafana/nearfield.json")).unwrap()).unwrap();
    let panels = board["panels"].as_array().unwrap();
    assert!(panels.len() > 10);
    let mut expressions: Vec<String> = Vec::new();
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()) {
        // Grafana puts a pattern of the chosen regions there.
        expressions.push(target["expr"].as_str().unwrap().replace("$region", ".+"));
    }
    expressions.extend(found["expressions"].as_array().unwrap().iter().map(|e| e.as_str().unwrap().to_owned()));
    let mut command = Command::new(python(tmp(), PROMQL));
    let parsed =
        printed(command.arg(script("deployment/queries.py")).args(&expressions), "parse what Prometheus is asked");
    assert_eq!(parsed, expressions.len());
}
