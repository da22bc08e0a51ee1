//! What every store must do. `open` opens the same store again each time, after the one before was dropped.
#![allow(clippy::unwrap_used, reason = "a suite of assertions, for the tests of implementations here and elsewhere")]

use super::{KEY_BYTES_MAX, Store, StoreError, VALUE_BYTES_MAX, Write};
use nearfield_shared::link::Seed;
use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

fn put(key: &str, value: &str) -> Write {
    Write::Put { key: key.into(), value: value.into() }
}

fn delete(key: &str) -> Write {
    Write::Delete { key: key.into() }
}

/// Runs the suite on an empty store.
pub fn check<S: Store>(open: impl Fn() -> S) {
    let mut store = open();
    assert_eq!(store.get("node/a").unwrap(), None);
    assert!(store.scan("").unwrap().is_empty());

    store.write(&[put("node/b", "2"), put("node/a", "1"), put("nodes", "x"), put("token/a", "t")]).unwrap();
    assert_eq!(store.get("node/a").unwrap().as_deref(), Some("1"));
    let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    assert_eq!(store.scan("node/").unwrap(), pairs(&[("node/a", "1"), ("node/b", "2")]), "sorted, prefix exact");
    assert_eq!(store.scan("node").unwrap(), pairs(&[("node/a", "1"), ("node/b", "2"), ("nodes", "x")]));
    assert_eq!(store.between("node/b", Some("token/")).unwrap(), pairs(&[("node/b", "2"), ("nodes", "x")]));
    assert_eq!(store.between("nodes", None).unwrap(), pairs(&[("nodes", "x"), ("token/a", "t")]));

    store
        .write(&[put("node/a", "3"), delete("node/b"), delete("node/none"), put("node/c", "4"), delete("node/c")])
        .unwrap();
    assert_eq!(store.scan("node/").unwrap(), pairs(&[("node/a", "3")]), "in the order of the batch");

    drop(store);
    let mut store = open();
    assert_eq!(store.scan("node/").unwrap(), pairs(&[("node/a", "3")]), "it remembers");
    assert_eq!(store.get("token/a").unwrap().as_deref(), Some("t"));
    let before = store.batches();
    store.write(&[put("token/a", "t")]).unwrap();
    assert!(store.batches() > before && before > 0, "batches are counted, over restarts too");

    let large = "x".repeat(VALUE_BYTES_MAX);
    store.write(&[put("large", &large)]).unwrap();
    assert_eq!(store.get("large").unwrap().map(|v| v.len()), Some(VALUE_BYTES_MAX));
    for refused in [put("over", &format!("{large}x")), put(&"k".repeat(KEY_BYTES_MAX + 1), "")] {
        let result = store.write(&[put("beside", "1"), refused]);
        assert!(matches!(result, Err(StoreError::TooLarge { .. })), "{result:?}");
        assert_eq!(store.get("beside").unwrap(), None, "a batch is made whole or not at all");
    }
    store.write(&[]).unwrap();
    store.write(&[delete("large"), put("ümläut", "ß")]).unwrap();
    drop(store);
    let mut store = open();
    assert_eq!(store.get("large").unwrap(), None);
    assert_eq!(store.get("ümläut").unwrap().as_deref(), Some("ß"));

    // Larger than what any engine takes at once, in number and in bytes.
    let before = store.batches();
    let many: Vec<Write> = (0..700)
        .map(|n| put(&format!("many/{n:04}"), &n.to_string()))
        .chain((0..3).map(|n| put(&format!("bytes/{n}"), &large)))
        .chain([delete("ümläut"), delete("many/0007")])
        .collect();
    store.write(&many).unwrap();
    assert_eq!(store.batches(), before + 1, "it is one batch all the same");
    drop(store);
    let mut store = open();
    assert_eq!((store.scan("many/").unwrap().len(), store.scan("bytes/").unwrap().len()), (699, 3));
    assert_eq!((store.get("ümläut").unwrap(), store.get("many/0699").unwrap().as_deref()), (None, Some("699")));
    let gone: Vec<Write> = store.scan("").unwrap().iter().map(|(key, _)| delete(key)).collect();
    store.write(&gone).unwrap();
    assert!(store.scan("").unwrap().is_empty());
}

/// Every so many batches one is written that is larger than a transaction of etcd.
const LARGE_EVERY: u64 = 9;

/// Keys of such a batch.
const LARGE_KEYS: usize = 300;

/// Batches after which a key is written again.
const KEYS: u64 = 40;

/// What batch `n` changes: two keys that must agree, one that is removed, and at times many more.
fn batch(n: u64) -> Vec<Write> {
    let mut writes = vec![put("newest", &n.to_string())];
    for side in ["left", "right"] {
        writes.push(put(&format!("{side}/{:03}", n % KEYS), &n.to_string()));
        writes.push(delete(&format!("{side}/{:03}", (n + KEYS / 2) % KEYS)));
    }
    if n.is_multiple_of(LARGE_EVERY) {
        writes.extend((0..LARGE_KEYS).map(|key| put(&format!("large/{key:04}"), &n.to_string())));
    }
    writes
}

/// In a process of its own, which is killed: writes batch after batch, and says each number once it is acknowledged.
pub fn write_until_killed(mut store: impl Store) {
    let newest = store.get("newest").unwrap().map_or(0, |n| n.parse().unwrap());
    // What a test harness prints before may end in the middle of a line.
    println!();
    for n in newest + 1.. {
        store.write(&batch(n)).unwrap();
        println!("acknowledged {n}");
        std::io::stdout().flush().unwrap();
    }
}

/// What is there must be what the batches up to some number make, and that number must be what was acknowledged, or the one batch after it.
pub fn check_after_kill(store: &impl Store, acknowledged: u64) {
    let newest: u64 = store.get("newest").unwrap().map_or(0, |n| n.parse().unwrap());
    assert!((acknowledged..=acknowledged + 1).contains(&newest), "{acknowledged} was acknowledged, {newest} is there");
    let mut expect = std::collections::BTreeMap::new();
    for write in (1..=newest).flat_map(batch) {
        match write {
            Write::Put { key, value } => drop(expect.insert(key, value)),
            Write::Delete { key } => drop(expect.remove(&key)),
        }
    }
    assert_eq!(store.scan("").unwrap(), Vec::from_iter(expect), "no batch is there by halves");
    assert_eq!(store.batches(), newest, "every batch is counted");
}

/// Starts the test of this binary that writes until it is killed, on this store, and kills it at some moment; what it said last. `meanwhile` happens while it
/// writes.
pub fn kill_a_writer(test: &str, store: &str, seed: &mut Seed, meanwhile: impl FnOnce()) -> u64 {
    let mut child: Child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(STORE, store)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (said, heard) = mpsc::channel();
    let stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if let Some(n) = line.strip_prefix("acknowledged ").and_then(|n| n.parse::<u64>().ok()) {
                said.send(n).ok();
            }
        }
    });
    // It has begun; then at any moment.
    let first = heard.recv().expect("the writer acknowledges something");
    meanwhile();
    std::thread::sleep(Duration::from_micros(seed.next_u64() % 150_000));
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    heard.try_iter().last().unwrap_or(first)
}

/// The variable that names the store to the process that is killed.
pub const STORE: &str = "NEARFIELD_TEST_STORE";
