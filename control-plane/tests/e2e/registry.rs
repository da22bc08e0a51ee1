//! The registry's metadata reaches nodes before any state that needs it, is signed anew in time, and its keys may lie elsewhere.

use super::{
    agent::{Agent, enrolled},
    command_line::Served,
    manual_clock::ManualClock,
    plane::{TestPlane, add_model},
};
use control_plane::config::Config;
use nearfield_shared::{
    artefact::Stage,
    wire::{PlaneToAgent, message::Registry},
};
use serde_json::Value;
use std::{fs, sync::Arc};

const NOW: i64 = 1_800_000_000;

async fn plane() -> (TestPlane, Arc<ManualClock>) {
    let clock = ManualClock::at(NOW);
    let plane = TestPlane::at(clock.clone(), Config { heartbeat_s: 30.0, ..Config::on_loopback() }).await;
    plane.apply(&plane.files()).await;
    (plane, clock)
}

/// The next metadata that is told; no state may come before it.
async fn told(agent: &mut Agent) -> Registry {
    loop {
        match agent.hear().await.unwrap() {
            PlaneToAgent::Registry(registry) => return (*registry).clone(),
            PlaneToAgent::State(_) => panic!("a state came first"),
            _ => {}
        }
    }
}

fn signed(text: &str) -> Value {
    serde_json::from_str::<Value>(text).unwrap()["signed"].clone()
}

fn ends(text: &str) -> String {
    signed(text)["expires"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn metadata_comes_before_the_state_and_lists_what_is_imported_while_the_server_runs() {
    let (mut plane, _clock) = plane().await;
    let identity = enrolled(&plane, "eu", "a").await;
    let mut agent = Agent::connect(&plane, &identity, 0).await;
    let first = told(&mut agent).await;
    assert_eq!(identity.enrolled.registry_root.as_ref(), first.roots.get(&1), "pinned at the enrolment");
    let targets = signed(first.targets.as_ref().unwrap());
    assert_eq!(targets["targets"].as_object().unwrap().len(), 4);
    let (nonce, state) = agent.desired().await;
    agent.ack(nonce, state.generation).await;
    for manifest in state.models.values() {
        let listed =
            &targets["targets"][manifest.verify(&plane.dir.signing_public_key().unwrap()).unwrap().digest.to_hex()];
        assert_eq!(listed["custom"]["manifests"][0], manifest.digest().to_hex());
    }

    let new = add_model(&plane.dir, "asr-1", Stage::Asr, b"a newer one");
    plane.apply(&plane.files()).await;
    let second = told(&mut agent).await;
    let targets = signed(second.targets.as_ref().expect("they changed"));
    assert_eq!(targets["targets"].as_object().unwrap().len(), 5, "the old one may be gone back to");
    assert!(targets["targets"][new.digest.to_hex()]["length"] == 11);
    assert_eq!(agent.desired().await.1.generation.0, 2);

    plane.start_again().await;
    let again = told(&mut Agent::connect(&plane, &identity, 2).await).await;
    assert_eq!(again, second, "nothing was due");
}

#[tokio::test]
async fn the_plane_signs_anew_in_time_and_a_node_is_told_no_more_than_what_changed() {
    let (plane, clock) = plane().await;
    let mut agent = Agent::new(&plane, "eu", "a").await;
    let first = told(&mut agent).await;
    agent.desired().await;
    clock.pass_days(1);
    plane.admin.note_models().await.unwrap();
    let second = told(&mut agent).await;
    assert!(ends(&second.timestamp) > ends(&first.timestamp));
    assert!(signed(&second.timestamp)["version"].as_u64() > signed(&first.timestamp)["version"].as_u64());
    assert_eq!((second.roots.len(), second.targets, second.snapshot == first.snapshot), (0, None, true));
    clock.pass_days(100);
    plane.admin.note_models().await.unwrap();
    let third = told(&mut agent).await;
    assert!(ends(&third.targets.unwrap()) > ends(&first.targets.unwrap()), "targets, since their key is here");
}

#[tokio::test]
async fn without_its_signing_key_an_older_folder_has_no_metadata_and_its_nodes_go_on() {
    let (mut plane, _clock) = plane().await;
    plane.stop().await;
    for file in ["registry.json", "root.key", "snapshot.key", "timestamp.key"] {
        fs::remove_file(plane.dir.root().join(file)).unwrap();
    }
    let (here, kept) = (plane.dir.root().join("signing.key"), plane.dir.root().join("kept.key"));
    fs::rename(&here, &kept).unwrap();
    plane.start_again().await;
    let identity = enrolled(&plane, "eu", "a").await;
    assert_eq!(identity.enrolled.registry_root, None);
    let mut agent = Agent::connect(&plane, &identity, 0).await;
    loop {
        match agent.hear().await.unwrap() {
            PlaneToAgent::Registry(registry) => panic!("{registry:?}"),
            PlaneToAgent::State(_) => break,
            _ => {}
        }
    }
    // The key comes back: whatever happens next makes the metadata.
    fs::rename(&kept, &here).unwrap();
    plane.admin.note_models().await.unwrap();
    assert_eq!(told(&mut agent).await.roots.len(), 1);
}

#[test]
fn keys_are_changed_and_models_withdrawn_from_the_command_line_and_a_restored_folder_goes_on_above() {
    let served = Served::new();
    let version = |shown: &Value, role: usize| shown["roles"][role]["version"].as_u64().unwrap();
    let shown = served.json(&["registry", "show", "--json"]);
    assert_eq!((shown["targets"].as_array().unwrap().len(), version(&shown, 0)), (6, 1));
    served.good(&["backup", "first"]);

    let gone = served.good(&["registry", "withdraw", "tts-1"]);
    assert!(gone.contains("is not listed any more"), "{gone}");
    let rotated = served.json(&["registry", "rotate-root", "--new-root-key", "safe.key", "--online", "--json"]);
    assert_eq!((rotated["targets"].as_array().unwrap().len(), version(&rotated, 0)), (5, 2));
    assert_ne!(rotated["roles"][0]["key"], shown["roles"][0]["key"]);
    let refused = served.run(&["registry", "rotate-root"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--root-key"), "{refused:?}");
    served.good(&["registry", "rotate-root", "--root-key", "safe.key", "--new-root-key", "safer.key"]);
    served.good(&["verify"]);

    served.good(&["--state", "restored", "restore", "first"]);
    let restored = served.json(&["--state", "restored", "registry", "show", "--json"]);
    assert_eq!(restored["targets"].as_array().unwrap().len(), 6);
    for role in 1..4 {
        assert!(version(&restored, role) > version(&rotated, role), "above what nodes have seen");
    }
    served.good(&["--state", "restored", "verify"]);
}

#[test]
fn a_root_key_is_kept_elsewhere_from_the_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let (state, key) = (folder.path().join("plane"), folder.path().join("safe.key"));
    let program = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_control-plane"));
        let output = command.arg("--state").arg(&state).args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = program(&["init", "--root-key", key.to_str().unwrap()]);
    assert!(said.contains("safe.key"), "{said}");
    assert!(key.exists() && !state.join("root.key").exists() && state.join("registry.json").exists());
    program(&["registry", "sign"]);
    program(&["verify"]);
}
