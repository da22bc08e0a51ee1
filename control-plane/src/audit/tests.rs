use super::*;
use crate::fleet::accounts::AccountName;
use std::{fs, path::Path};

const NOW: i64 = 1_800_000_000;

/// The store's side: applied batches.
type Kept = BTreeMap<String, String>;

fn commit(kept: &mut Kept, writes: Vec<Write>) {
    for write in writes {
        match write {
            Write::Put { key, value } => kept.insert(key, value),
            Write::Delete { key } => kept.remove(&key),
        };
    }
}

fn open(path: &Path, kept: &mut Kept, restored: bool) -> (Audit, Option<String>) {
    let entries: Vec<_> = kept.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let opened = AuditFile::open(path, Stored::find(&entries).unwrap(), restored, NOW).unwrap();
    let (writes, problem) = (opened.writes.clone(), opened.problem.clone());
    commit(kept, writes);
    (Audit::new(opened), problem)
}

fn act(what: &'static str) -> Act {
    Act { what, object: "node/a".into(), detail: "why \"so\"\nnext".into(), before: None, after: Some("00".into()) }
}

fn eve() -> Actor {
    Actor::Account(Caller { name: "eve".parse::<AccountName>().unwrap(), role: Role::Operator })
}

fn add(audit: &Audit, kept: &mut Kept) {
    let (n, writes) = audit.add(&eve(), act("node.revoke"), NOW);
    commit(kept, writes);
    audit.write(n).unwrap();
}

/// A file of some lines, and what the store has of them.
fn written(path: &Path, lines: usize) -> (Audit, Kept) {
    let mut kept = Kept::new();
    let (audit, problem) = open(path, &mut kept, false);
    assert_eq!(problem, None);
    (0..lines).for_each(|_| add(&audit, &mut kept));
    (audit, kept)
}

#[test]
fn what_was_done_is_there_and_the_store_keeps_only_where_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let (audit, mut kept) = written(&path, 5);
    assert_eq!(audit.verify().unwrap(), (5, None));
    let entries = audit.last(2, &Wanted::default()).unwrap();
    let entry = entries[1].as_ref().unwrap();
    assert_eq!((entries.len(), entry.n, entry.who.as_str(), entry.role), (2, 5, "eve", Some(Role::Operator)));
    assert_eq!(kept.len(), 2, "the last hash, and the last line until the next change: {kept:?}");
    drop(audit);
    let (audit, problem) = open(&path, &mut kept, false);
    assert_eq!(problem, None);
    add(&audit, &mut kept);
    assert_eq!(audit.verify().unwrap(), (6, None));
}

#[test]
fn any_changed_byte_and_any_removed_moved_or_cut_line_is_found_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let (audit, _) = written(&path, 4);
    let good = fs::read(&path).unwrap();
    let line_of = |at: usize| 1 + good[..at].iter().filter(|byte| **byte == b'\n').count();
    let problem = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        audit.verify().unwrap().1
    };
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let said = problem(&bad).unwrap_or_else(|| panic!("byte {at} was changed"));
        assert!(said.contains(&format!("line {}", line_of(at))), "byte {at}: {said}");
    }
    for at in 0..good.len() {
        let said = problem(&good[..at]).unwrap_or_else(|| panic!("cut at byte {at}"));
        assert!(said.contains(&format!("line {} ", line_of(at))), "cut at {at}: {said}");
    }
    let lines: Vec<&[u8]> = good.split_inclusive(|byte| *byte == b'\n').collect();
    for i in 0..4 {
        let rest: Vec<u8> = lines.iter().enumerate().filter(|(j, _)| *j != i).flat_map(|(_, l)| l.to_vec()).collect();
        let said = problem(&rest).unwrap();
        assert!(said.contains(&format!("line {} ", i + 1)), "without line {}: {said}", i + 1);
        let twice: Vec<u8> = lines[..=i].iter().chain(&lines[i..]).flat_map(|l| l.to_vec()).collect();
        assert!(problem(&twice).unwrap().contains(&format!("line {} ", i + 2)));
        for j in i + 1..4 {
            let mut moved = lines.clone();
            moved.swap(i, j);
            let said = problem(&moved.concat()).unwrap();
            assert!(said.contains(&format!("line {} says that it is number {}", i + 1, j + 1)), "{said}");
        }
    }
    // Somebody who makes all hashes anew is caught by the last one.
    let mut head = Head::default();
    let mut forged = String::new();
    for n in 1..=4 {
        let (line, next) = head.next(&entry(n, &Actor::Plane, act("region.apply"), NOW));
        forged += &format!("{line}\n");
        head = next;
    }
    assert!(problem(forged.as_bytes()).unwrap().contains("line 4 or one before it"));
    let (fifth, _) = audit.chain.lock().unwrap().head.next(&entry(5, &eve(), act("region.apply"), NOW));
    let longer = [&good[..], fifth.as_bytes(), b"\n"].concat();
    assert!(problem(&longer).unwrap().contains("line 5 was not written"));
    assert_eq!(problem(&good), None);
}

#[test]
fn lines_that_a_crash_kept_from_the_file_are_there_after_the_next_start() {
    for (written_before, lost) in [(0, 1), (0, 3), (2, 1), (2, 3)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let (audit, mut kept) = written(&path, written_before);
        let whole = fs::read(&path).unwrap();
        for _ in 0..lost {
            commit(&mut kept, audit.add(&eve(), act("token.create"), NOW).1);
        }
        drop(audit);
        let lines: Vec<String> =
            kept.iter().filter(|(key, _)| key.starts_with(LINE_PREFIX)).map(|(_, v)| v.clone()).collect();
        let last = lines.last().unwrap();
        for torn in [0, 1, 30, last.len()] {
            // The process died in the middle of a line.
            let first = lines.iter().find(|line| !whole.windows(line.len()).any(|w| w == line.as_bytes())).unwrap();
            fs::write(&path, [&whole[..], &first.as_bytes()[..torn.min(first.len())]].concat()).unwrap();
            let mut kept = kept.clone();
            let (audit, problem) = open(&path, &mut kept, false);
            assert_eq!(problem, None, "{written_before} {lost} {torn}");
            add(&audit, &mut kept);
            assert_eq!(audit.verify().unwrap(), ((written_before + lost + 1) as u64, None));
        }
    }
}

#[test]
fn a_batch_that_failed_leaves_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let (audit, mut kept) = written(&path, 1);
    let _failed = audit.add(&eve(), act("node.revoke"), NOW);
    let (_, writes) = audit.add(&eve(), act("region.apply"), NOW);
    commit(&mut kept, writes);
    drop(audit);
    let (audit, problem) = open(&path, &mut kept, false);
    assert_eq!((problem, audit.verify().unwrap()), (None, (3, None)));
}

#[test]
fn a_file_that_contradicts_the_store_is_not_mended_and_goes_on_being_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let (audit, kept) = written(&path, 3);
    drop(audit);
    let good = fs::read(&path).unwrap();
    let mut changed = good.clone();
    changed[100] ^= 1;
    let longer = [&good[..], b"forged"].concat();
    for (bad, named) in
        [(&changed[..], "line 1"), (&good[..good.len() / 3], "line"), (&longer[..], "line 4"), (b"", "line 1")]
    {
        fs::write(&path, bad).unwrap();
        let mut kept = kept.clone();
        let (audit, problem) = open(&path, &mut kept, false);
        assert!(problem.as_ref().is_some_and(|problem| problem.contains(named)), "{problem:?}");
        add(&audit, &mut kept);
        let after = fs::read(&path).unwrap();
        assert!(after.starts_with(bad), "what is there is evidence");
        assert!(audit.verify().unwrap().1.unwrap().contains(named));
        drop(audit);
        assert!(open(&path, &mut kept, false).1.is_some());
    }
}

#[test]
fn a_store_that_was_restored_from_an_older_export_goes_on_behind_the_file_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let (audit, older) = written(&path, 2);
    let mut newer = older.clone();
    (0..3).for_each(|_| add(&audit, &mut newer));
    drop(audit);
    for exported in [older, Kept::new()] {
        let good = fs::read(&path).unwrap();
        let mut kept = exported;
        let (audit, problem) = open(&path, &mut kept, true);
        assert_eq!((problem, audit.verify().unwrap().1), (None, None));
        let last = audit.last(1, &Wanted::default()).unwrap().pop().unwrap().unwrap();
        assert_eq!((last.what.as_str(), last.who.as_str(), last.n), ("store.restored", "control-plane", 6));
        add(&audit, &mut kept);
        drop(audit);
        assert_eq!(open(&path, &mut kept, false).1, None);
        fs::write(&path, good).unwrap();
    }
}
