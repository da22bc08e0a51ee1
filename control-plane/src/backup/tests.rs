use super::*;
use crate::store::Store as _;
use crate::{
    config::Config,
    store::{Write, sled_store::SledStore},
};

const NOW: i64 = 1_800_000_000;

/// A state folder that was never served, with one model.
fn made(root: &Path) -> StateDir {
    let dir = StateDir::init(root, &Config::default()).unwrap();
    let manifest =
        nearfield_shared::artefact::Manifest::of_file("m", nearfield_shared::artefact::Stage::Vad, "test", b"weights");
    fs::write(dir.artefact(&manifest.digest), b"weights").unwrap();
    let signed = SignedManifest::sign(&manifest, &dir.signing_key().unwrap()).unwrap();
    fs::write(dir.models().join("m.json"), serde_json::to_vec(&signed).unwrap()).unwrap();
    fs::write(dir.models().join(".tmpXYZ"), "half of an import").unwrap();
    dir
}

fn backed_up(folder: &Path) -> PathBuf {
    let dir = made(&folder.join("state"));
    let mut store = SledStore::open(&dir.store()).unwrap();
    store.write(&[Write::Put { key: "later/kind".into(), value: "of a later version".into() }]).unwrap();
    let backup = folder.join("backup");
    let summary = take(&dir, Source::Read(&crate::store::Contents::of(&store).unwrap(), NOW), &backup).unwrap();
    assert_eq!((summary.models, summary.artefact_bytes, summary.unix_s, summary.signing_key), (1, 7, NOW, true));
    backup
}

#[test]
fn a_backup_holds_and_is_private_and_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let backup = backed_up(folder.path());
    assert_eq!(check(&backup).unwrap().models, 1);
    let restored = restore(&backup, &folder.path().join("new"), NOW + 60).unwrap();
    let old = StateDir::open(&folder.path().join("state")).unwrap();
    assert_eq!(restored.dir.ca().unwrap().fingerprint(), old.ca().unwrap().fingerprint());
    assert_eq!(*restored.dir.admin_token().unwrap(), *old.admin_token().unwrap());
    let store = SledStore::open(&restored.dir.store()).unwrap();
    assert_eq!(store.get("later/kind").unwrap().as_deref(), Some("of a later version"), "nothing is left out");
    assert!(!restored.dir.models().join(".tmpXYZ").exists());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for path in [&backup, restored.dir.root()] {
            assert_eq!((mode(path), mode(&path.join("ca.key"))), (0o700, 0o600));
        }
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 3, "no unfinished folder stays: {left:?}");
}

#[test]
fn nothing_is_ever_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let backup = backed_up(folder.path());
    let state = folder.path().join("state");
    for said in [
        restore(&backup, &state, NOW).unwrap_err(),
        take(&StateDir::open(&state).unwrap(), Source::Exported, &backup).unwrap_err(),
    ] {
        assert!(matches!(&said, BackupError::NotEmpty(_)) && said.to_string().contains("not there yet"), "{said}");
    }
    fs::create_dir(folder.path().join("empty")).unwrap();
    assert!(restore(&backup, &folder.path().join("empty"), NOW).is_ok(), "an empty folder is as good as none");
}

#[test]
fn whatever_was_changed_or_is_missing_is_named_and_nothing_is_restored() {
    let folder = tempfile::tempdir().unwrap();
    let backup = backed_up(folder.path());
    let contents: Contents = serde_json::from_slice(&fs::read(backup.join(CONTENTS)).unwrap()).unwrap();
    assert_eq!(contents.files.len(), 10, "{:?}", contents.files.keys());
    let target = folder.path().join("target");
    let said = || {
        let said = restore(&backup, &target, NOW).unwrap_err().to_string();
        assert!(!target.exists());
        said
    };
    for path in contents.files.keys() {
        let file = backup.join(path);
        let good = fs::read(&file).unwrap();
        let bad = good.iter().copied().chain([b' ']).collect::<Vec<_>>();
        fs::write(&file, bad).unwrap();
        assert!(said().contains(&format!("{path} was changed")), "{}", said());
        fs::remove_file(&file).unwrap();
        assert!(said().contains(path), "{}", said());
        write_new(&file, |out| io::Write::write_all(out, &good)).unwrap();
    }
    assert!(check(&backup).is_ok());
    let write = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut value = serde_json::to_value(&contents).unwrap();
        change(&mut value);
        fs::write(backup.join(CONTENTS), value.to_string()).unwrap();
    };
    write(&|value| value["version"] = 2.into());
    assert!(said().contains("format 2"), "{}", said());
    for path in ["../evil", "/etc/passwd", "models/../../evil.json", "models/.hidden.json", "artefacts/abc", "store/db"]
    {
        write(&|value| value["files"][path] = value["files"]["ca.pem"].clone());
        assert!(said().contains("not the name of a file"), "{path}: {}", said());
    }
    write(&|value| value["files"].as_object_mut().unwrap().retain(|path, _| !path.starts_with("artefacts")));
    assert!(said().contains("is missing; import"), "{}", said());
    fs::write(backup.join(CONTENTS), "{").unwrap();
    assert!(said().contains("take another backup"), "{}", said());
    fs::remove_file(backup.join(CONTENTS)).unwrap();
    assert!(said().contains("is not a backup"), "{}", said());
}

#[test]
fn what_could_not_be_restored_is_not_backed_up() {
    let folder = tempfile::tempdir().unwrap();
    let dir = made(&folder.path().join("state"));
    let other = made(&folder.path().join("other"));
    let store = SledStore::open(&dir.store()).unwrap();
    let artefact = fs::read_dir(dir.artefacts()).unwrap().next().unwrap().unwrap().path();
    fs::write(&artefact, b"Weights").unwrap();
    fs::copy(other.root().join("ca.key"), dir.root().join("ca.key")).unwrap();
    let backup = folder.path().join("backup");
    let said =
        take(&dir, Source::Read(&crate::store::Contents::of(&store).unwrap(), NOW), &backup).unwrap_err().to_string();
    assert!(
        said.contains("is damaged; import") && said.contains("ca.key is not the key of ca.pem"),
        "all at once: {said}"
    );
    assert!(!backup.exists());
}
