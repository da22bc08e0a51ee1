//! Releases of the agent: imported and signed, named by a region, pushed by name, fetched like models, and refused with a code.

use super::{agent::Agent, audit::entries, command_line::Served, plane::TestPlane};
use control_plane::definition::SourceFile;
use nearfield_shared::{
    artefact::{Digest, SignedManifest},
    desired::Generation,
    link::ArtefactReceiver,
    release::ProgramManifest,
    wire::{
        AgentToPlane, ArtefactRequest, PlaneToAgent,
        message::{ManifestsWanted, Nack, Problem, ProblemKind},
    },
};
use std::{fs, path::Path};

/// What an ELF program for x86_64 or aarch64 with glibc begins with, and some bytes after it.
fn program(machine: u8, linker: &str) -> Vec<u8> {
    let mut file = vec![0; 120];
    file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    (file[16], file[18], file[24], file[32], file[54], file[56]) = (3, machine, 1, 64, 56, 1);
    (file[64], file[72], file[96]) = (3, 120, linker.len() as u8 + 1);
    file.extend(linker.as_bytes());
    file.push(0);
    file.extend((0..2_500_000_u32).flat_map(|n| (n as u8 ^ machine).to_le_bytes()));
    file
}

fn import(plane: &TestPlane, folder: &Path, version: &str, file: &[u8]) -> ProgramManifest {
    let path = folder.join("edge-agent");
    fs::write(&path, file).unwrap();
    let key = plane.dir.signing_key().unwrap();
    let version = version.parse().unwrap();
    control_plane::registry::programs::import(&plane.dir, &key, &path, &version, None).unwrap().manifest
}

fn files(plane: &TestPlane, version: &str) -> Vec<SourceFile> {
    let mut files = plane.files();
    for file in files.iter_mut().filter(|file| file.stem == "eu") {
        file.text.push_str(&format!("[agent]\nversion = \"{version}\"\n"));
    }
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_goes_from_its_import_to_the_nodes_of_a_region_and_a_node_may_refuse_it() {
    let mut plane = TestPlane::new().await;
    let folder = tempfile::tempdir().unwrap();
    let unknown = plane.admin.apply(files(&plane, "0.2.0")).await.unwrap();
    assert!(serde_json::to_string(&unknown).unwrap().contains("agent import FILE --version 0.2.0"), "{unknown:?}");

    let mut agent = Agent::new(&plane, "eu", "a").await;
    let (_, first) = agent.desired().await;
    assert_eq!(first.agent, None, "what is installed");
    let x86 = import(&plane, folder.path(), "0.2.0", &program(62, "/lib64/ld-linux-x86-64.so.2"));
    let arm = import(&plane, folder.path(), "0.2.0", &program(183, "/lib/ld-linux-aarch64.so.1"));
    let plan = plane.apply(&files(&plane, "0.2.0")).await;
    let eu = plan.regions.iter().find(|region| region.region.as_str() == "eu").unwrap();
    let told: Vec<_> = eu.differences.iter().map(|difference| difference.what.as_str()).collect();
    assert_eq!((told, eu.generation), (vec!["agent"], Generation(2)));
    let audit = entries(&plane).await;
    let imports: Vec<_> = audit.iter().filter(|entry| entry.what == "agent.import").collect();
    assert_eq!(imports.len(), 2);
    assert_eq!(imports[1].object, "agent/0.2.0/x86_64-unknown-linux-gnu");
    assert!(imports[1].detail.contains(&x86.digest.to_hex()), "{}", imports[1].detail);
    let applied = audit.iter().rposition(|entry| entry.what == "region.apply").unwrap();
    let imported = audit.iter().rposition(|entry| entry.what == "agent.import").unwrap();
    assert!(imported < applied, "no state names what the audit does not");

    let state = loop {
        if let PlaneToAgent::State(state) = agent.hear().await.unwrap() {
            break state;
        }
    };
    let release = state.agent.clone().unwrap();
    assert_eq!((release.version.as_str(), release.programs.len()), ("0.2.0", 2));
    let digest = release.programs[&arm.target];
    agent.say(AgentToPlane::ManifestsWanted(ManifestsWanted { digests: [digest].into() })).await;
    let signed: SignedManifest = loop {
        if let PlaneToAgent::Manifest(manifest) = agent.hear().await.unwrap() {
            break (*manifest).clone();
        }
    };
    let key = plane.dir.signing_public_key().unwrap();
    assert_eq!(ProgramManifest::verify(&signed, &key), Ok(arm.clone()));
    assert!(signed.verify(&key).is_err(), "it is no model");
    let (mut receiver, mut disk) = (ArtefactReceiver::new(&arm), Vec::new());
    let request = ArtefactRequest { digest: arm.digest, offset: 0 };
    agent.fetch(request, &mut receiver, &mut disk, u64::MAX).await.unwrap();
    assert_eq!((receiver.finish(), Digest::of(&disk)), (Ok(arm.digest), arm.digest));

    let detail = Problem::new(ProblemKind::AgentUpdateFailed);
    let nack = Nack { generation: Generation(2), nonce: state.nonce, detail, serving: Generation(1) };
    agent.say(AgentToPlane::Nack(nack)).await;
    let node = plane.wait_for("a", |node| node.refusal.is_some()).await;
    assert!(node.refusal.unwrap().contains("did not come up healthy, and the one before runs on"));

    // A release whose file is gone is none, and the audit says so.
    fs::remove_file(plane.dir.artefact(&x86.digest)).unwrap();
    fs::remove_file(plane.dir.artefact(&arm.digest)).unwrap();
    plane.start_again().await;
    assert_eq!(entries(&plane).await.iter().filter(|entry| entry.what == "agent.remove").count(), 2);
    let gone = plane.admin.apply(files(&plane, "0.2.0")).await.unwrap();
    assert!(serde_json::to_string(&gone).unwrap().contains("is not imported"), "{gone:?}");
}

#[test]
fn the_command_imports_lists_and_keeps_releases_in_backups() {
    let served = Served::new();
    let run = |args: &[&str]| {
        let output = served.command(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let folder = tempfile::tempdir().unwrap();
    let (file, backup) = (folder.path().join("edge-agent"), folder.path().join("backup"));
    let path = file.to_str().unwrap();
    fs::write(&file, "#!/bin/sh\n").unwrap();
    let (code, _, err) = run(&["agent", "import", path, "--version", "0.2.0"]);
    assert!(code == Some(1) && err.contains("not an executable file for Linux"), "{code:?} {err}");
    fs::write(&file, program(62, "/lib64/ld-linux-x86-64.so.2")).unwrap();
    let (code, _, err) = run(&["agent", "import", path, "--version", "0.2.0", "--target", "aarch64-unknown-linux-gnu"]);
    assert!(code == Some(1) && err.contains("built for x86_64-unknown-linux-gnu"), "{code:?} {err}");
    let (code, out, err) = run(&["agent", "import", path, "--version", "0.2.0"]);
    assert!(code == Some(0) && out.contains("version = \"0.2.0\""), "{code:?} {out} {err}");
    let (_, out, _) = run(&["agent", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(listed[0]["target"], "x86_64-unknown-linux-gnu");
    let (_, out, _) = run(&["audit", "list", "--what", "agent.import"]);
    assert!(out.contains("agent/0.2.0/x86_64-unknown-linux-gnu"), "{out}");
    let (code, _, err) = run(&["backup", backup.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{err}");
    assert!(backup.join("agents/0.2.0_x86_64-unknown-linux-gnu.json").is_file());
    assert!(backup.join("artefacts").join(listed[0]["digest"].as_str().unwrap()).is_file());
    fs::write(backup.join("artefacts").join(listed[0]["digest"].as_str().unwrap()), b"changed").unwrap();
    let (code, _, err) = run(&["verify", backup.to_str().unwrap()]);
    assert!(code == Some(1) && err.contains("was changed"), "{code:?} {err}");
}
