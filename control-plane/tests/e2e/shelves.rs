//! Model files beyond the state folder's disk: in another folder, and in an S3-compatible store of other people's. Every fault of theirs is told with its
//! remedy, and what is in the cache is served on.

use super::{
    agent::Agent,
    environments,
    plane::{TestPlane, add_model},
};
use control_plane::{
    config::Config,
    registry::shelf::{
        ArtefactCache, S3, Shelf, ShelfError, Shelved,
        cache::PIECE_BYTES,
        copying::{Copier, Place},
    },
    state_dir::StateDir,
};
use nearfield_shared::{
    artefact::{Manifest, SignedManifest, Stage},
    link::{ArtefactReceiver, Seed},
    wire::{ArtefactReply, ArtefactRequest},
};
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

const MOTO: &str = "moto[server]==5.2.5";

/// A store that is told by its place and settings, and gone when dropped.
struct Store {
    place: String,
    s3: S3,
    folder: tempfile::TempDir,
    server: Option<Child>,
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            server.kill().ok();
            server.wait().ok();
        }
    }
}

impl Store {
    fn folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("shelf").display().to_string();
        Self { place, s3: S3::default(), folder, server: None }
    }

    /// `None`, and a word about it, where this machine has no Python.
    fn s3() -> Option<Self> {
        let there = Command::new("python3").args(["-m", "pip", "--version"]).output().is_ok_and(|o| o.status.success());
        if !there {
            println!(
                "SKIPPED: there is no `python3` with pip on this machine (Debian: apt install python3-pip python3-venv)"
            );
            return None;
        }
        let python = environments::python(Path::new(env!("CARGO_TARGET_TMPDIR")), MOTO);
        let mut server = Command::new(python);
        let server = server.arg(environments::script("s3/server.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = server.stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: serde_json::Value = serde_json::from_str(&line).expect("the server says where it is");
        let folder = tempfile::tempdir().unwrap();
        let text = |field: &str| told[field].as_str().unwrap().to_owned();
        let s3 = S3 {
            endpoint: Some(text("endpoint")),
            credentials: Some(credentials(folder.path(), &text("id"), &text("secret"))),
            ..S3::default()
        };
        Some(Self { place: "s3://models/near/field".into(), s3, folder, server: Some(server) })
    }

    fn shelf(&self) -> Shelf {
        Shelf::open(&self.place, &self.s3).unwrap()
    }

    fn config(&self) -> Config {
        Config { heartbeat_s: 30.0, artefacts: Some(self.place.clone()), s3: self.s3.clone(), ..Config::on_loopback() }
    }
}

fn credentials(folder: &Path, id: &str, secret: &str) -> PathBuf {
    let path = folder.join(format!("{id}.toml"));
    let text = format!("access_key_id = \"{id}\"\nsecret_access_key = \"{secret}\"\n");
    control_plane::secret_file::write_new(&path, text.as_bytes()).unwrap();
    path
}

fn large(bytes: usize) -> Vec<u8> {
    let mut seed = Seed(11);
    (0..bytes.div_ceil(8)).flat_map(|_| seed.next_u64().to_le_bytes()).take(bytes).collect()
}

fn copier<'a>(dir: &'a StateDir, key: &'a [u8]) -> Copier<'a> {
    Copier { dir, public_key: key }
}

/// What an agent gets from this byte on.
async fn fetched(agent: &Agent, manifest: &Manifest, offset: u64) -> Result<Vec<u8>, ArtefactReply> {
    let (reply, mut rest) = agent.ask(ArtefactRequest { digest: manifest.digest, offset }).await;
    match reply {
        ArtefactReply::Here { bytes } => {
            let file = rest.read_to_end(usize::MAX).await.unwrap();
            assert_eq!(file.len() as u64, bytes);
            Ok(file)
        }
        other => Err(other),
    }
}

/// A model goes to the shelf, agents get it from there and from the cache, and each fault is told by its name.
async fn whole(mut store: Store) {
    let mut plane = TestPlane::with(store.config()).await;
    let file = large(2 * PIECE_BYTES as usize + 1_234_567);
    let manifest = add_model(&plane.dir, "big", Stage::Asr, &file);
    let other = add_model(&plane.dir, "other", Stage::Tts, &large(3_000_000));
    let key = plane.dir.signing_public_key().unwrap();
    let (here, shelf) = (Place::Here, store.shelf());
    let copied = copier(&plane.dir, &key).copy(&here, &Place::Shelf(shelf.clone()), None).await.unwrap();
    assert_eq!(copied.len(), 6);
    let again = copier(&plane.dir, &key).copy(&here, &Place::Shelf(shelf.clone()), None).await.unwrap();
    assert_eq!(again, copied, "what is there is not sent again");
    copier(&plane.dir, &key).move_to(&shelf, &copied).await.unwrap();
    assert!(!plane.dir.artefact(&manifest.digest).exists());
    assert_eq!(copier(&plane.dir, &key).check(&shelf).await.unwrap(), (6, vec![]));

    plane.admin.note_models().await.unwrap();
    plane.apply(&plane.files()).await;
    let agent = Agent::new(&plane, "eu", "a").await;
    let (mut receiver, mut disk) = (ArtefactReceiver::new(&manifest), Vec::new());
    let request =
        |receiver: &ArtefactReceiver| ArtefactRequest { digest: manifest.digest, offset: receiver.next_offset() };
    agent.fetch(request(&receiver), &mut receiver, &mut disk, PIECE_BYTES + 5).await.unwrap();
    agent.fetch(request(&receiver), &mut receiver, &mut disk, u64::MAX).await.unwrap();
    assert!(disk == file && receiver.finish().is_ok());
    let size = manifest.bytes;
    let beyond = fetched(&agent, &manifest, size + 1).await.unwrap_err();
    assert_eq!((fetched(&agent, &manifest, size).await, beyond), (Ok(vec![]), ArtefactReply::BadOffset { size }));

    // A piece of the cache that the disk has spoilt is fetched again, after a restart as before it.
    plane.stop().await;
    let piece = plane.dir.root().join("cache").join(format!("{}.1", manifest.digest.to_hex()));
    let mut spoilt = fs::read(&piece).unwrap();
    spoilt[77] ^= 1;
    fs::write(&piece, spoilt).unwrap();
    plane.start_again().await;
    let agent = Agent::connect(&plane, &agent.identity, 1).await;
    assert!(fetched(&agent, &manifest, 0).await.unwrap() == file);

    // What was cut off, spoilt or removed on the shelf is told so, and the link lives on.
    let admits = |error: ShelfError, words: &[&str]| {
        let said = error.to_string();
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    };
    spoil(&store, &other, b"cut off").await;
    admits(
        shelf.read(&other, 0..other.bytes).await.unwrap_err(),
        &["7 bytes instead of 3000000", "import the model again"],
    );
    assert_eq!(fetched(&agent, &other, 0).await, Err(ArtefactReply::NotHere));
    spoil(&store, &other, &vec![7; 3_000_000]).await;
    admits(shelf.read(&other, 0..other.bytes).await.unwrap_err(), &["is not the file that its manifest describes"]);
    assert_eq!(fetched(&agent, &other, 0).await, Err(ArtefactReply::NotHere));
    let (checked, problems) = copier(&plane.dir, &key).check(&shelf).await.unwrap();
    assert_eq!((checked, problems.len()), (6, 1), "{problems:?}");
    let nothing = Manifest::of_file("nothing", Stage::Asr, "test", b"never imported");
    admits(shelf.read(&nothing, 0..nothing.bytes).await.unwrap_err(), &["has no artefacts/", "registry copy"]);

    if let Some(mut server) = store.server.take() {
        let stranger = credentials(store.folder.path(), "stranger", "guess");
        let s3 = S3 { credentials: Some(stranger), ..store.s3.clone() };
        let error = Shelf::open(&store.place, &s3).unwrap().holds(&manifest).await.unwrap_err();
        admits(error, &["does not accept the credentials", "AWS_ACCESS_KEY_ID"]);
        let nowhere = Shelf::open("s3://another/near", &store.s3).unwrap();
        assert!(nowhere.models(&key).await.is_err(), "there is no such bucket");
        server.kill().unwrap();
        server.wait().unwrap();
        admits(shelf.holds(&manifest).await.unwrap_err(), &["cannot be used now", "see that the address is right"]);
        assert_eq!(fetched(&agent, &other, 0).await, Err(ArtefactReply::NotHere));
    }
    assert!(fetched(&agent, &manifest, 5).await.unwrap() == file[5..], "what is in the cache is served on");
    plane.stop().await;
}

/// Puts other bytes where a model's file is.
async fn spoil(store: &Store, of: &Manifest, bytes: &[u8]) {
    let wrong = store.folder.path().join("wrong");
    fs::write(&wrong, bytes).unwrap();
    // A manifest that lies about its file is the way to have anything at all put there.
    let lies = Manifest { bytes: bytes.len() as u64, ..of.clone() };
    let signed = SignedManifest { body: String::new(), signature: String::new() };
    let model = Shelved { manifest: Manifest { name: "lies".into(), ..lies }, signed, sha256: "0".repeat(64) };
    store.shelf().put(&model, &wrong).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_stand_in_another_folder() {
    whole(Store::folder()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_stand_in_an_s3_compatible_store() {
    if let Some(store) = Store::s3() {
        whole(store).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_is_put_last_so_half_a_model_is_none() {
    let store = Store::folder();
    let plane = tempfile::tempdir().unwrap();
    let dir = StateDir::init(&plane.path().join("state"), &Config::default()).unwrap();
    let key = dir.signing_public_key().unwrap();
    let manifest = add_model(&dir, "big", Stage::Asr, &large(9_000_000));
    // The file is cut off beneath the copy, as by a disk that fails.
    fs::write(dir.artefact(&manifest.digest), b"short").unwrap();
    let to = Place::Shelf(store.shelf());
    let error = copier(&dir, &key).copy(&Place::Here, &to, None).await.unwrap_err();
    assert!(matches!(error, ShelfError::WrongSize { .. }), "{error}");
    assert_eq!(store.shelf().models(&key).await.unwrap(), []);
    assert!(dir.artefact(&manifest.digest).exists(), "nothing of it is removed here");
    fs::write(dir.artefact(&manifest.digest), large(9_000_000)).unwrap();
    copier(&dir, &key).copy(&Place::Here, &to, None).await.expect("another try mends it");

    // To another state folder with the same keys, by way of a second shelf.
    let second = Store::folder();
    let between = copier(&dir, &key).copy(&to, &Place::Shelf(second.shelf()), None).await.unwrap();
    assert_eq!(between.len(), 1);
    fs::remove_file(dir.artefact(&manifest.digest)).unwrap();
    fs::remove_file(dir.models().join("big.json")).unwrap();
    copier(&dir, &key).copy(&Place::Shelf(second.shelf()), &Place::Here, None).await.unwrap();
    assert!(fs::read(dir.artefact(&manifest.digest)).unwrap() == large(9_000_000));
    let stranger = Store::folder();
    let of_stranger = StateDir::init(&plane.path().join("stranger"), &Config::default()).unwrap();
    add_model(&of_stranger, "theirs", Stage::Asr, b"theirs");
    let their_key = of_stranger.signing_public_key().unwrap();
    let theirs = Place::Shelf(stranger.shelf());
    copier(&of_stranger, &their_key).copy(&Place::Here, &theirs, None).await.unwrap();
    let error = copier(&dir, &key).copy(&theirs, &Place::Here, None).await.unwrap_err();
    assert!(error.to_string().contains("theirs.json") && error.to_string().contains("signed"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_cache_keeps_within_its_bound_and_fetches_a_piece_once_for_all() {
    let store = Store::folder();
    let plane = tempfile::tempdir().unwrap();
    let dir = StateDir::init(&plane.path().join("state"), &Config::default()).unwrap();
    let key = dir.signing_public_key().unwrap();
    let file = large(4 * PIECE_BYTES as usize);
    let manifest = add_model(&dir, "big", Stage::Asr, &file);
    copier(&dir, &key).copy(&Place::Here, &Place::Shelf(store.shelf()), None).await.unwrap();
    let folder = plane.path().join("cache");
    let cache = std::sync::Arc::new(ArtefactCache::open(store.shelf(), &folder, 2 * PIECE_BYTES).unwrap());
    let names = || {
        let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names.iter().map(|name| name.to_string_lossy().split_once('.').unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    let asks: Vec<_> = (0..16)
        .map(|_| {
            let (cache, manifest) = (cache.clone(), manifest.clone());
            tokio::spawn(async move { cache.piece(&manifest, 0).await.map(drop) })
        })
        .collect();
    for asked in asks {
        asked.await.unwrap().unwrap();
    }
    assert_eq!((names(), cache.bytes()), (vec!["0".to_owned()], PIECE_BYTES));
    cache.piece(&manifest, PIECE_BYTES).await.unwrap();
    // Held open while it goes.
    let mut oldest = cache.piece(&manifest, 5).await.unwrap();
    cache.piece(&manifest, 2 * PIECE_BYTES).await.unwrap();
    assert_eq!(names(), ["0", "2"], "the one that was asked for longest ago went");
    cache.piece(&manifest, 3 * PIECE_BYTES).await.unwrap();
    assert_eq!((names(), cache.bytes()), (vec!["2".to_owned(), "3".to_owned()], 2 * PIECE_BYTES));
    let mut read = Vec::new();
    oldest.read_to_end(&mut read).unwrap();
    assert!(read == file[..PIECE_BYTES as usize], "it can still be read");
    // What an earlier process has left counts, a leftover of its does not, and a smaller bound holds at once.
    fs::write(folder.join(".tmpAbC"), b"half").unwrap();
    drop(cache);
    let cache = ArtefactCache::open(store.shelf(), &folder, PIECE_BYTES).unwrap();
    assert_eq!((names().len(), cache.bytes()), (1, PIECE_BYTES));
}

#[test]
fn settings_that_would_leak_or_cannot_work_are_refused_with_the_remedy() {
    let said = |place: &str, s3: S3| Shelf::open(place, &s3).unwrap_err().to_string();
    let folder = tempfile::tempdir().unwrap();
    let good = credentials(folder.path(), "id", "secret");
    let at = |endpoint: &str| S3 { endpoint: Some(endpoint.into()), credentials: Some(good.clone()), ..S3::default() };
    for endpoint in ["http://s3.example.net", "http://10.0.0.1:9000", "ftp://127.0.0.1", "s3.example.net"] {
        assert!(said("s3://bucket", at(endpoint)).contains("https"), "{endpoint}");
        assert!(!at(endpoint).check().is_empty());
    }
    for endpoint in ["https://s3.example.net", "http://127.0.0.1:9000", "http://[::1]:9000", "http://localhost:9000"] {
        assert!(Shelf::open("s3://bucket/prefix", &at(endpoint)).is_ok(), "{endpoint}");
    }
    for place in ["relative/folder", "https://bucket", "s3://"] {
        assert!(said(place, at("https://s3.example.net")).contains("s3://BUCKET/PREFIX"), "{place}");
    }
    let missing = S3 { credentials: Some("/nowhere/s3.toml".into()), ..S3::default() };
    assert!(said("s3://bucket", missing).contains("/nowhere/s3.toml"));
    let damaged = folder.path().join("damaged.toml");
    control_plane::secret_file::write_new(&damaged, b"secret_access_key = my-secret").unwrap();
    let damaged = said("s3://bucket", S3 { credentials: Some(damaged), ..S3::default() });
    assert!(damaged.contains("access_key_id = ") && !damaged.contains("my-secret"), "{damaged}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&good, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(said("s3://bucket", at("https://s3.example.net")).contains("chmod 600"));
    }
}

#[test]
fn models_are_moved_checked_and_backed_up_from_the_command_line() {
    let mut served = super::command_line::Served::new();
    let (store, dir) = (Store::folder(), served.dir());
    let refused = served.run(&["registry", "check"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("control-plane verify"), "{refused:?}");
    let said = served.good(&["registry", "copy", "--to", &store.place, "--move"]);
    assert!(said.contains("asr-1") && said.contains("set artefacts ="), "{said}");
    assert!(
        fs::read_dir(dir.artefacts()).unwrap().all(|e| e.unwrap().path().extension().is_some_and(|e| e == "elsewhere"))
    );
    let settings = fs::read_to_string(dir.config_path()).unwrap();
    let place = format!("artefacts = {:?}\n", store.place);
    fs::write(dir.config_path(), settings.replace("# artefacts = \"s3://models/nearfield\"\n", &place)).unwrap();
    assert!(served.good(&["registry", "check"]).contains("6 models are whole"));
    assert_eq!(served.json(&["model", "list", "--json"]).as_array().unwrap().len(), 6);
    served.kill_and_serve();
    served.good(&["verify"]);
    served.good(&["backup", "first"]);
    served.good(&["verify", "first"]);
    served.good(&["--state", "restored", "restore", "first"]);
    assert_eq!(
        served.json(&["--state", "restored", "registry", "show", "--json"])["targets"].as_array().unwrap().len(),
        6
    );
    served.good(&["--state", "restored", "registry", "copy", "--from", &store.place, "--to", "here"]);
    let back = StateDir::open(&dir.root().with_file_name("restored")).unwrap();
    assert_eq!(fs::read_dir(back.artefacts()).unwrap().count(), 6, "and no marks are left");

    fs::remove_dir_all(Path::new(&store.place).join("artefacts")).unwrap();
    let broken = served.run(&["registry", "check"]);
    assert!(!broken.status.success());
    let said = String::from_utf8_lossy(&broken.stdout);
    assert!(said.lines().count() == 6 && said.contains("import the model again"), "{broken:?}");
}
