//! On a real cluster of three. One test, because a cluster takes seconds to start.

mod secured;

use super::{
    cluster::Cluster,
    journal::{self, HEAD, Head},
    wire::{Compare, Step},
    *,
};
use crate::{
    audit::{self, Act, Actor, Audit, AuditFile, Stored},
    config::Config,
    state_dir::StateDir,
    store::{
        Contents, Store, StoreError, Write, conformance,
        migrate::{self, MigrateError},
        record,
        sled_store::SledStore,
    },
};
use nearfield_shared::link::Seed;
use std::time::{Duration, Instant};

/// A store with the leadership that it needs, which goes with it.
struct Led {
    store: EtcdStore,
    leadership: Option<Leadership>,
}

impl Store for Led {
    fn get(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.store.get(key)
    }
    fn scan(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError> {
        self.store.scan(prefix)
    }
    fn between(&self, from: &str, end: Option<&str>) -> Result<Vec<(String, String)>, StoreError> {
        self.store.between(from, end)
    }
    fn write(&mut self, batch: &[Write]) -> Result<(), StoreError> {
        self.store.write(batch)
    }
    fn batches(&self) -> u64 {
        self.store.batches()
    }
    fn batch_max(&self) -> usize {
        self.store.batch_max()
    }
}

impl Drop for Led {
    fn drop(&mut self) {
        if let Some(leadership) = self.leadership.take() {
            leadership.resign();
        }
    }
}

fn settings(url: &str) -> EtcdSettings {
    EtcdSettings::new(url, &EtcdConfig { lease_s: 2, ..EtcdConfig::default() }).unwrap()
}

fn now<A>(ask: impl Future<Output = A>) -> A {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(ask)
}

fn me(name: &str) -> Leader {
    Leader { name: name.into(), agents: "-".into(), pid: 1, since_unix_s: 0 }
}

fn take(settings: &EtcdSettings, name: &str) -> Option<Leadership> {
    now(async { campaign(&Client::new(settings).unwrap(), settings, &me(name)).await }).unwrap()
}

/// Waits for the leadership as a control plane does, and opens.
fn open(url: &str) -> Led {
    let settings = settings(url);
    loop {
        match now(async { campaign(&Client::new(&settings).unwrap(), &settings, &me("test")).await }) {
            Ok(Some(leadership)) => {
                let store = EtcdStore::open(&settings, leadership.fence()).unwrap();
                return Led { store, leadership: Some(leadership) };
            }
            Ok(None) => {}
            Err(error) => assert!(error.may_pass(), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn put(key: &str, value: &str) -> Write {
    Write::Put { key: key.into(), value: value.into() }
}

#[test]
#[ignore = "run by the test below, in a process that it kills"]
fn writes_until_it_is_killed() {
    let Ok(url) = std::env::var(conformance::STORE) else { return };
    conformance::write_until_killed(open(&url));
}

#[test]
fn the_store_on_a_real_cluster() {
    let Some(mut cluster) = Cluster::start() else { return };
    let timed = |what: &str, began: Instant| println!("{what}: {:.1} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    conformance::check(|| open(&cluster.url("conforms")));
    timed("conforms", began);
    let began = Instant::now();
    only_the_leader_writes(&cluster.url("leads"));
    timed("only the leader writes", began);
    let began = Instant::now();
    a_large_change_that_was_cut_off_is_applied_by_the_next(&cluster.url("journal"));
    what_was_changed_behind_its_back_is_found(&cluster.url("damage"));
    timed("journal and damage", began);
    let began = Instant::now();
    a_store_moves_there_and_back(&cluster.url("moves"));
    timed("moves", began);
    let began = Instant::now();
    killed_writers_lose_nothing(&mut cluster);
    timed("killed writers", began);
}

fn only_the_leader_writes(url: &str) {
    let settings = settings(url);
    let mut first = open(url);
    first.write(&[put("a", "1")]).unwrap();
    assert!(take(&settings, "second").is_none(), "somebody leads");
    let leads = now(async { who_leads(&Client::new(&settings).unwrap(), &settings).await }).unwrap();
    assert_eq!(leads.unwrap().name, "test");
    // Kept for longer than the lease, while it is renewed.
    std::thread::sleep(Duration::from_millis(2_500));
    first.write(&[put("a", "2")]).unwrap();

    // As if the first had been stopped for longer than its lease.
    let held = now(async { Client::new(&settings).unwrap().get(&settings.key("leader")).await }).unwrap().unwrap();
    now(async { Client::new(&settings).unwrap().revoke(held.lease.0).await }).unwrap();
    let second = take(&settings, "second").expect("nobody leads");
    // Before the other has written anything, too: then nothing else differs.
    assert!(matches!(first.write(&[put("a", "stale")]), Err(StoreError::NotLeading)));
    let mut store = EtcdStore::open(&settings, second.fence()).unwrap();
    store.write(&[put("b", "1")]).unwrap();
    let many: Vec<Write> = (0..500).map(|n| put(&format!("many/{n}"), "1")).collect();
    for refused in [vec![put("a", "stale")], many] {
        assert!(matches!(first.write(&refused), Err(StoreError::NotLeading)));
    }
    assert!(!first.leadership.as_ref().unwrap().fence().may_hold(), "it knows by now");
    let found = contents(&settings).unwrap();
    assert_eq!(found.entries, [("a", "2"), ("b", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    // And it does not take the second's leadership away when it goes.
    drop(first);
    store.write(&[put("b", "2")]).unwrap();
    second.resign();
    let third = take(&settings, "third").expect("given back at once");
    third.resign();
}

fn a_large_change_that_was_cut_off_is_applied_by_the_next(url: &str) {
    let settings = settings(url);
    let mut store = open(url);
    store.write(&[put("goes", "1"), put("stays", "1")]).unwrap();
    let mut changes = journal::last_of_each(&[Write::Delete { key: "goes".into() }]);
    changes.extend((0..300).map(|n| (format!("many/{n:03}"), Some("x".repeat(9_000)))));
    // As the store does it, and then the process ends.
    let (pieces, head) = journal::write(2, &changes);
    assert!(pieces.len() > 2);
    let write = |steps: Vec<Step>| now(async { Client::new(&settings).unwrap().txn(&[], &steps, &[]).await }).unwrap();
    for (n, piece) in pieces.into_iter().enumerate() {
        write(vec![Step::Put(settings.key(&Head::piece(2, n)), piece)]);
    }
    drop(store);
    let before = open(url);
    assert_eq!(before.scan("").unwrap().len(), 2, "without its head it is no change");
    drop(before);
    let count = record::encode("count", "2 301");
    write(vec![Step::Put(settings.key(HEAD), head.bytes()), Step::Put(settings.key("count"), count)]);

    let seen = contents(&settings).unwrap();
    assert_eq!((seen.entries.len(), seen.batches), (301, 2), "whoever only looks sees it whole");
    let mut store = open(url);
    assert_eq!(Contents::of(&store).unwrap(), seen);
    assert_eq!(store.get("goes").unwrap(), None);
    let left = now(async { Client::new(&settings).unwrap().get(&settings.key(HEAD)).await }).unwrap();
    assert!(left.is_none(), "the journal is done");
    store.write(&[put("stays", "2")]).unwrap();
    // An attempt whose answer was lost and that arrives once more does nothing.
    let stale = Compare::Is(settings.key("count"), record::encode("count", "2 301"));
    let late = Step::Put(settings.key("data/stays"), record::encode("stays", "late"));
    let done = now(async { Client::new(&settings).unwrap().txn(&[stale], &[late], &[]).await }).unwrap();
    assert!(!done.succeeded);
    assert_eq!(store.get("stays").unwrap().as_deref(), Some("2"));
}

fn what_was_changed_behind_its_back_is_found(url: &str) {
    let settings = settings(url);
    open(url).write(&[put("a", "1"), put("b", "2")]).unwrap();
    let change = |step: Step| now(async { Client::new(&settings).unwrap().txn(&[], &[step], &[]).await }).unwrap();
    change(Step::Put(settings.key("data/a"), record::encode("b", "1")));
    let found = contents(&settings);
    assert!(matches!(&found, Err(StoreError::Damaged { key, .. }) if key == "a"), "{found:?}");
    change(Step::Delete(settings.key("data/a")));
    let leadership = take(&settings, "test").unwrap();
    let found = EtcdStore::open(&settings, leadership.fence()).unwrap_err().to_string();
    assert!(found.contains("1 keys are there, 2 were written"), "{found}");
    leadership.resign();
}

fn a_store_moves_there_and_back(url: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (settings, dir) = (settings(url), StateDir::init(&folder.path().join("first"), &Config::default()).unwrap());
    let mut store = SledStore::open(&dir.store()).unwrap();
    let opened = AuditFile::open(&dir.audit(), Stored::default(), false, 1).unwrap();
    let audit = Audit::new(opened);
    for n in 0..300 {
        let act = Act {
            what: "token.create",
            object: format!("token/{n}"),
            detail: String::new(),
            before: None,
            after: None,
        };
        let (line, mut writes) = audit.add(&Actor::Plane, act, n);
        writes.push(put(&format!("token/{n:03}"), &"t".repeat(5_000)));
        store.write(&writes).unwrap();
        audit.write(line).unwrap();
    }
    let before = Contents::of(&store).unwrap();
    drop(store);
    let moved = migrate::to_etcd(&dir, &settings, url, 5).unwrap();
    assert_eq!((moved.values, moved.audit_lines, moved.audit_problem), (301, 300, None));
    assert_eq!(Contents::of(&SledStore::open(&dir.store()).unwrap()).unwrap(), before, "the source is as it was");
    let said = migrate::to_etcd(&dir, &settings, url, 6).unwrap_err().to_string();
    assert!(said.contains("was moved to") && said.contains(url), "{said}");
    let other = StateDir::init(&folder.path().join("other"), &Config::default()).unwrap();
    let said = migrate::to_etcd(&other, &settings, url, 6);
    assert!(matches!(said, Err(MigrateError::NotEmpty(_))), "{said:?}");

    // A control plane that joins has the whole audit from there.
    let leads = open(url);
    assert!(matches!(migrate::to_etcd(&other, &settings, url, 6), Err(MigrateError::Led(_))));
    let entries = audit::entries_after(&leads, 0).unwrap();
    let stored = Stored::find(&entries).unwrap();
    assert_eq!(stored.holds(&other.audit(), false).unwrap(), (300, None));
    let opened = AuditFile::open(&other.audit(), stored, false, 7).unwrap();
    assert!(opened.problem.is_none());
    drop(opened);
    assert_eq!(std::fs::read(other.audit()).unwrap(), std::fs::read(dir.audit()).unwrap());
    let few = audit::entries_after(&leads, 290).unwrap();
    assert_eq!(few.len(), entries.len() - 290, "one that has most lines reads the rest");
    drop(leads);

    let said = migrate::to_sled(&dir, &settings, url, 8);
    assert!(matches!(said, Err(MigrateError::StoreIsThere(_))), "{said:?}");
    std::fs::rename(dir.store(), dir.root().join("store.old")).unwrap();
    let moved = migrate::to_sled(&dir, &settings, url, 8).unwrap();
    assert_eq!((moved.values, moved.audit_problem), (301, None));
    let back = Contents::of(&SledStore::open(&dir.store()).unwrap()).unwrap();
    let without_lines = |entries: &[(String, String)]| -> Vec<(String, String)> {
        entries.iter().filter(|(key, _)| !audit::is_line(key)).cloned().collect()
    };
    assert_eq!(without_lines(&back.entries), without_lines(&before.entries));
    assert!(!dir.moved().exists());
    let said = contents(&settings).unwrap_err().to_string();
    assert!(said.contains("was moved to"), "{said}");
}

/// Kills writers at many moments, and a member of etcd while one writes.
fn killed_writers_lose_nothing(cluster: &mut Cluster) {
    let (url, mut seed) = (cluster.url("killed"), Seed(9));
    for round in 0..4 {
        let test = "store::etcd::tests::writes_until_it_is_killed";
        let acknowledged = conformance::kill_a_writer(test, &url, &mut seed, || {
            if round % 2 == 1 {
                cluster.kill_member(round % 3);
                // Long enough for a vote, where it led the others.
                std::thread::sleep(Duration::from_millis(1_500));
            }
        });
        conformance::check_after_kill(&open(&url), acknowledged);
        if round % 2 == 1 {
            cluster.start_member(round % 3);
        }
    }
}
