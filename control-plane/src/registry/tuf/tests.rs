use super::{roles::Listed, rotation::Rotation, view::View, *};
use crate::{config::Config, state_dir::StateDir};
use nearfield_shared::artefact::{Manifest, SignedManifest, Stage};
use std::{collections::BTreeSet, fs, path::Path};
use tough::{ExpirationEnforcement, FilesystemTransport, Repository, RepositoryLoader, TargetName};

const NOW: i64 = 1_800_000_000;
const HOUR_S: i64 = 3600;

struct Plane {
    _folder: tempfile::TempDir,
    dir: StateDir,
    models: Vec<(Manifest, SignedManifest)>,
}

fn plane() -> Plane {
    let folder = tempfile::tempdir().unwrap();
    let dir = StateDir::init(&folder.path().join("state"), &Config::default()).unwrap();
    let mut plane = Plane { _folder: folder, dir, models: Vec::new() };
    plane.add("first", b"one");
    plane
}

impl Plane {
    fn add(&mut self, name: &str, bytes: &[u8]) -> String {
        let manifest = Manifest::of_file(name, Stage::Asr, "test", bytes);
        fs::write(self.dir.artefact(&manifest.digest), bytes).unwrap();
        let signed = SignedManifest::sign(&manifest, &self.dir.signing_key().unwrap()).unwrap();
        let digest = manifest.digest.to_hex();
        self.models.push((manifest, signed));
        digest
    }

    fn keeper(&self, now: i64) -> Keeper<'_> {
        Keeper::new(&self.dir, Lifetimes::default(), now)
    }

    fn at(&self, now: i64) -> Brought {
        self.keeper(now).bring_up_to_date(&self.models, &BTreeSet::new()).unwrap()
    }
}

fn versions(metadata: &Metadata) -> [u64; 4] {
    let view = View::of(metadata).unwrap();
    [0, 1, 2, 3].map(|role| view.roles[role].version)
}

/// What another client of TUF makes of it, which begins with this root.
async fn loaded(metadata: &Metadata, root: &str, folder: &Path) -> Result<Repository, tough::error::Error> {
    for (version, root) in &metadata.roots {
        fs::write(folder.join(format!("{version}.root.json")), root).unwrap();
    }
    fs::write(folder.join("targets.json"), &metadata.targets).unwrap();
    fs::write(folder.join("snapshot.json"), &metadata.snapshot).unwrap();
    fs::write(folder.join("timestamp.json"), &metadata.timestamp).unwrap();
    let base = reqwest::Url::from_directory_path(folder).unwrap();
    RepositoryLoader::new(&root, base.clone(), base)
        .transport(FilesystemTransport)
        .expiration_enforcement(ExpirationEnforcement::Unsafe)
        .load()
        .await
}

#[tokio::test]
async fn any_client_of_tuf_finds_the_models_with_their_lengths_and_digests() {
    let (mut plane, folder) = (plane(), tempfile::tempdir().unwrap());
    plane.add("second", b"number two");
    let brought = plane.at(NOW);
    assert!(brought.changed && brought.to_do.is_empty(), "{:?}", brought.to_do);
    brought.metadata.check().unwrap();
    let repository = loaded(&brought.metadata, &brought.metadata.roots[&1], folder.path()).await.unwrap();
    assert_eq!(repository.targets().signed.targets.len(), 2);
    let (manifest, signed) = &plane.models[1];
    let target = &repository.targets().signed.targets[&TargetName::new(manifest.digest.to_hex()).unwrap()];
    let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"number two");
    assert_eq!((target.length, target.hashes.sha256.to_vec()), (10, sha256.as_ref().to_vec()));
    let listed = Listed(repository.targets().signed.targets.clone());
    assert!(listed.holds(manifest, signed.digest()) && !listed.holds(manifest, plane.models[0].1.digest()));
    assert_eq!(repository.root().signed.expires.as_second(), NOW + 365 * 24 * HOUR_S);
    let again = plane.at(NOW);
    assert_eq!((again.changed, &again.metadata), (false, &brought.metadata), "nothing is due");
}

#[test]
fn everything_is_signed_anew_at_half_of_its_time_and_numbers_never_go_back() {
    let plane = plane();
    let first = versions(&plane.at(NOW).metadata);
    let one_later = NOW as u64 + 1;
    assert_eq!(first, [1, one_later, one_later, one_later], "made, and then filled");
    let at = |hours: i64| versions(&plane.at(NOW + hours * HOUR_S).metadata);
    assert_eq!(at(12), first);
    assert_eq!(at(13), [1, one_later, one_later, (NOW + 13 * HOUR_S) as u64], "the timestamp alone");
    let of_snapshot = at(4 * 24);
    assert_eq!(of_snapshot[1], one_later);
    assert_eq!(of_snapshot[2..], [(NOW + 96 * HOUR_S) as u64; 2], "a new snapshot has a new timestamp");
    assert!(at(46 * 24)[1] > first[1], "targets, since their key is here");
    assert_eq!(at(183 * 24)[0], 2, "the root, too");
    // A clock that was wrong and is set back: what ends far too late is signed again, above what nodes have seen.
    let far = at(1000 * 24);
    let back = at(184 * 24);
    assert!(back.iter().zip(far).skip(1).all(|(back, far)| *back == far + 1), "{back:?} {far:?}");
    let view = View::of(&plane.at(NOW + 184 * 24 * HOUR_S).metadata).unwrap();
    assert!(view.roles.iter().all(|role| role.expires_unix_s <= NOW + (184 + 365) * 24 * HOUR_S), "{view:?}");
}

#[test]
fn a_signing_key_that_lies_elsewhere_is_asked_for_with_the_command() {
    let mut plane = plane();
    let (kept, here) = (plane._folder.path().join("kept.key"), plane.dir.root().join("signing.key"));
    fs::rename(&here, &kept).unwrap();
    let said = plane.keeper(NOW).bring_up_to_date(&plane.models, &BTreeSet::new()).unwrap_err().to_string();
    assert!(said.contains("registry sign --signing-key"), "{said}");
    let with_key = |now| Keeper { signing_key: Some(kept.clone()), ..plane.keeper(now) };
    let made = with_key(NOW).bring_up_to_date(&plane.models, &BTreeSet::new()).unwrap();
    assert_eq!(View::of(&made.metadata).unwrap().targets.len(), 1);
    fs::rename(&kept, &here).unwrap();
    plane.add("second", b"two");
    fs::rename(&here, &kept).unwrap();
    let waits = plane.at(NOW + HOUR_S);
    assert!(!waits.changed && waits.to_do[0].contains("second is imported and not listed"), "{:?}", waits.to_do);
    let urgent = plane.at(NOW + 70 * 24 * HOUR_S);
    assert!(urgent.to_do.iter().any(|what| what.contains("ends soon")), "{:?}", urgent.to_do);
    assert_eq!(versions(&urgent.metadata)[..2], versions(&made.metadata)[..2], "the daemon signs what is its own");
    let keeper = Keeper { signing_key: Some(kept.clone()), ..plane.keeper(NOW + 70 * 24 * HOUR_S) };
    let signed = keeper.sign_again(&plane.models).unwrap();
    assert_eq!((View::of(&signed.metadata).unwrap().targets.len(), signed.to_do.len()), (2, 0));
    assert!(plane.keeper(NOW).withdraw("first").unwrap_err().to_string().contains("--signing-key"));
}

#[test]
fn what_was_taken_out_stays_out_until_it_is_imported_again() {
    let mut plane = plane();
    let digest = plane.add("second", b"two");
    plane.at(NOW);
    let names = |metadata: &Metadata| {
        View::of(metadata).unwrap().targets.into_iter().map(|target| target.model).collect::<Vec<_>>()
    };
    let (brought, gone) = plane.keeper(NOW + 1).withdraw(&digest[..8]).unwrap();
    assert_eq!((names(&brought.metadata), gone), (vec!["first".to_owned()], [digest.clone()].into()));
    assert_eq!(names(&plane.at(NOW + 2).metadata), ["first"], "though its file is still there");
    assert!(plane.keeper(NOW).withdraw("second").unwrap_err().to_string().contains("registry show"));
    let again = plane.keeper(NOW + 3).bring_up_to_date(&plane.models, &[digest].into()).unwrap();
    assert_eq!(names(&again.metadata), ["first", "second"]);
}

#[tokio::test]
async fn clients_follow_from_any_root_key_to_the_newest() {
    let (plane, folder) = (plane(), tempfile::tempdir().unwrap());
    let first_root = plane.at(NOW).metadata.roots[&1].clone();
    let in_place = plane.keeper(NOW + 1).rotate_root(&Rotation::default()).unwrap();
    assert_eq!(versions(&in_place.metadata)[0], 2);
    let elsewhere = plane._folder.path().join("safe.key");
    let moved = Rotation { new_root_key: Some(elsewhere.clone()), ..Rotation::default() };
    plane.keeper(NOW + 2).rotate_root(&moved).unwrap();
    let wrong = plane.keeper(NOW + 3).rotate_root(&Rotation::default()).unwrap_err().to_string();
    assert!(wrong.contains("--root-key"), "{wrong}");
    fs::remove_file(plane.dir.root_key()).unwrap();
    let missing = plane.keeper(NOW + 3).rotate_root(&Rotation::default()).unwrap_err().to_string();
    assert!(missing.contains("--root-key"), "{missing}");
    let keeper = Keeper { root_key: Some(elsewhere.clone()), ..plane.keeper(NOW + 4) };
    let before = versions(&plane.at(NOW + 4).metadata);
    let online = keeper.rotate_root(&Rotation { online: true, keep_root: true, ..Rotation::default() }).unwrap();
    online.metadata.check().unwrap();
    let after = versions(&online.metadata);
    assert_eq!((after[0], after[1]), (4, before[1]));
    assert!(after[2] > before[2] && after[3] > before[3]);
    let repository = loaded(&online.metadata, &first_root, folder.path()).await.unwrap();
    assert_eq!(repository.root().signed.version.get(), 4);
    assert!(!plane.at(NOW + 5).changed, "the daemon goes on with its new keys");
    let keys: BTreeSet<_> = fs::read_dir(plane.dir.root()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(!keys.iter().any(|name| name.to_string_lossy().ends_with(".new")), "{keys:?}");
}

#[test]
fn a_change_of_keys_that_is_cut_off_anywhere_is_whole_or_was_none() {
    let plane = plane();
    let before = plane.at(NOW).metadata;
    let (root_key, new) = (plane.dir.root_key(), plane.dir.root().join("root.key.new"));
    let old_key = fs::read(&root_key).unwrap();
    // Cut off before the metadata names it.
    fs::write(&new, b"").unwrap();
    let rotated = plane.keeper(NOW + 1).rotate_root(&Rotation::default()).unwrap().metadata;
    let new_key = fs::read(&root_key).unwrap();
    // Cut off after that: the old key still stands in its place.
    fs::rename(&root_key, &new).unwrap();
    crate::secret_file::write_new(&root_key, &old_key).unwrap();
    plane.keeper(NOW + 2).rotate_root(&Rotation::default()).expect("signed with the key beside");
    assert_ne!(fs::read(&root_key).unwrap(), new_key);
    assert_eq!((before.roots.len(), rotated.roots.len()), (1, 2));
    Metadata::load(&plane.dir).unwrap().unwrap().check().unwrap();
}

#[test]
fn damage_and_strange_keys_are_named_with_the_remedy_and_nothing_is_made_anew_over_them() {
    let plane = plane();
    plane.at(NOW);
    let error = || plane.keeper(NOW + 1).bring_up_to_date(&plane.models, &BTreeSet::new()).unwrap_err().to_string();
    let whole = fs::read(plane.dir.registry()).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x02;
        fs::write(plane.dir.registry(), &damaged).unwrap();
        let said = error();
        assert!(said.contains("registry.json is damaged") && said.contains("backup"), "{said}");
        assert_eq!(fs::read(plane.dir.registry()).unwrap(), damaged);
    }
    fs::write(plane.dir.registry(), &whole).unwrap();
    let later = NOW + 30 * 24 * HOUR_S;
    let timestamp_key = plane.dir.timestamp_key();
    fs::remove_file(&timestamp_key).unwrap();
    keys::make(&timestamp_key).unwrap();
    let said = plane.keeper(later).bring_up_to_date(&[], &BTreeSet::new()).unwrap_err().to_string();
    assert!(said.contains("timestamp.key") && said.contains("--online"), "{said}");
    assert_eq!(fs::read(plane.dir.registry()).unwrap(), whole);
    plane.keeper(later).rotate_root(&Rotation { online: true, keep_root: true, ..Rotation::default() }).unwrap();
    plane.keeper(later).bring_up_to_date(&[], &BTreeSet::new()).expect("mended");
    fs::remove_file(plane.dir.registry()).unwrap();
    let anew = plane.at(later + 1);
    assert!(
        anew.changed && versions(&anew.metadata)[1] > NOW as u64,
        "made anew from the keys, above what nodes have seen"
    );
}

#[cfg(unix)]
#[test]
fn keys_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let plane = plane();
    plane.at(NOW);
    for key in [plane.dir.root_key(), plane.dir.snapshot_key(), plane.dir.timestamp_key()] {
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600, "{}", key.display());
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    }
    let said = plane.keeper(NOW + 14 * HOUR_S).bring_up_to_date(&[], &BTreeSet::new()).unwrap_err().to_string();
    assert!(said.contains("chmod 600"), "{said}");
}

/// Several control planes share the keys, each signs in its own folder, and whoever begins to lead signs above the one before.
#[tokio::test]
async fn another_control_plane_with_the_same_keys_takes_over_above_what_nodes_have_seen() {
    let (mut first, folder) = (plane(), tempfile::tempdir().unwrap());
    let made = first.at(NOW).metadata;
    let bundle = crate::peer::Bundle::of(&first.dir, None, vec![]).unwrap();
    let second = StateDir::join(&folder.path().join("second"), &Config::default(), &bundle).unwrap();
    first.add("second", b"two");
    let newer = first.at(NOW + 5 * HOUR_S).metadata;
    let keeper = |dir, now| Keeper::new(dir, Lifetimes::default(), now);
    let taken = keeper(&second, NOW + 5 * HOUR_S + 2).take_over(&[]).unwrap().metadata;
    assert_eq!(taken.roots, made.roots, "the same root, so nodes follow");
    taken.check().unwrap();
    let above = |later: &Metadata, earlier: &Metadata| {
        versions(later).into_iter().zip(versions(earlier)).skip(1).all(|(later, earlier)| later > earlier)
    };
    assert!(above(&taken, &newer));
    let back = keeper(&first.dir, NOW + 5 * HOUR_S + 9).take_over(&first.models).unwrap().metadata;
    assert!(above(&back, &taken));
    loaded(&back, &made.roots[&1], folder.path()).await.unwrap();
    // Without the key that signs models, what the daemon signs is above all the same.
    fs::remove_file(second.root().join("signing.key")).unwrap();
    let alone = keeper(&second, NOW + 5 * HOUR_S + 20).take_over(&[]).unwrap().metadata;
    assert_eq!(alone.targets, taken.targets);
    assert!(versions(&alone)[2..].iter().zip(&versions(&back)[2..]).all(|(later, earlier)| later > earlier));
}
