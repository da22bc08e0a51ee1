//! The file of the audit: reading, verifying and appending.

use super::{Act, Actor, Entry, Head, Stored, entry, line_key, put_head};
use crate::store::{Entries, Write};
use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
};

/// Longest line that is read; ours have about 2 KiB at most.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Lines that are looked at after a restore, at most; the newest.
const SINCE_MAX: usize = 100_000;

/// The open file.
#[derive(Debug)]
pub struct AuditFile {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    bytes: u64,
    /// Whether an append of ours has failed and left a part of a line behind them, which the next one cuts off.
    torn: bool,
}

/// What opening found.
#[derive(Debug)]
pub struct Opened {
    /// The file.
    pub file: AuditFile,
    /// Where the chain goes on.
    pub head: Head,
    /// Lines that the store need not keep.
    pub deletable: Vec<u64>,
    /// What the store has to be told.
    pub writes: Vec<Write>,
    /// What is wrong with the file, if something is.
    pub problem: Option<String>,
    /// Lines after the end that the store knows, where the store is older and the file right.
    pub since: Vec<Entry>,
}

/// Calls back with each line and its end in bytes; a last one without a line end has `whole` false.
fn read(path: &Path, mut each: impl FnMut(&str, u64, bool)) -> io::Result<()> {
    let mut reader = match File::open(path) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let (mut line, mut end) = (Vec::new(), 0);
    loop {
        line.clear();
        end += reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? as u64;
        if line.is_empty() {
            return Ok(());
        }
        let whole = line.pop_if(|byte| *byte == b'\n').is_some();
        each(&String::from_utf8_lossy(&line), end, whole);
    }
}

/// Holds a file against where it should end: how many of its lines hold, and what is wrong with the next, if something is.
pub fn verify(path: &Path, expect: &Head) -> io::Result<(u64, Option<String>)> {
    let (mut head, mut problem) = (Head::default(), None);
    read(path, |line, _, whole| {
        if problem.is_some() {
            return;
        }
        problem = match head.follow(line) {
            _ if head.lines == expect.lines => {
                Some(format!("line {} was not written by this control plane", head.lines + 1))
            }
            Ok(_) if !whole => Some(format!("line {} was changed: its end is missing", head.lines + 1)),
            Ok(next) => {
                head = next;
                None
            }
            Err(wrong) => Some(wrong),
        };
    })?;
    if problem.is_none() && head.lines < expect.lines {
        problem = Some(format!(
            "line {} is missing: the file ends after line {}, and {} were written",
            head.lines + 1,
            head.lines,
            expect.lines
        ));
    }
    if problem.is_none() && head.hash != expect.hash {
        problem = Some(format!("line {} or one before it was changed, and the hashes after it with it", head.lines));
    }
    Ok((head.lines, problem))
}

/// How many whole lines a file has, whatever they are.
pub fn lines(path: &Path) -> io::Result<u64> {
    let mut n = 0;
    read(path, |_, _, whole| n += u64::from(whole))?;
    Ok(n)
}

/// Which lines are asked for; all where nothing is said.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// What was done, for example `node.renew`.
    pub what: Option<String>,
    /// To what, for example `node/fra-1`.
    pub object: Option<String>,
}

impl Wanted {
    /// Whether a line is; one that cannot be read always is.
    fn is(&self, line: &str) -> bool {
        if self.what.is_none() && self.object.is_none() {
            return true;
        }
        let same = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        let entry = line.split_once(' ').and_then(|(_, json)| serde_json::from_str::<Entry>(json).ok());
        entry.is_none_or(|entry| same(&self.what, &entry.what) && same(&self.object, &entry.object))
    }
}

impl Stored {
    /// Holds a file, and the lines that only the store has, against where the store says that they end; says how many lines hold, and what is
    /// wrong with the next, if something is. `later` permits lines after that end, as a server that runs goes on adding them.
    pub fn holds(&self, path: &Path, later: bool) -> io::Result<(u64, Option<String>)> {
        let (mut head, mut wrong, mut there) = (Head::default(), None, self.head.lines == 0);
        let mut follow = |line: &str, head: &mut Head| {
            if wrong.is_some() || (head.lines >= self.head.lines && !later) {
                wrong.get_or_insert_with(|| format!("line {} is not the store's", head.lines + 1));
                return;
            }
            match head.follow(line) {
                Ok(next) => *head = next,
                Err(problem) => wrong = Some(problem),
            }
            there |= *head == self.head;
        };
        read(path, |line, _, whole| {
            if whole {
                follow(line, &mut head);
            }
        })?;
        for line in self.lines.range(head.lines + 1..).map(|(_, line)| line) {
            follow(line, &mut head);
        }
        if wrong.is_none() && !there {
            wrong = Some(format!(
                "it has {} lines, and the store knows of {} that end otherwise",
                head.lines, self.head.lines
            ));
        }
        Ok((head.lines, wrong))
    }

    /// Every line that the store knows of, from the file and from itself, as a store has them that keeps all; and what is wrong with the first that
    /// does not follow, if one does not.
    pub fn whole(&self, path: &Path) -> io::Result<(Entries, Option<String>)> {
        let wrong = self.holds(path, false)?.1;
        let (mut all, mut n) = (self.lines.clone(), 0);
        read(path, |line, _, whole| {
            n += 1;
            if whole && n <= self.head.lines {
                all.insert(n, line.to_owned());
            }
        })?;
        Ok((all.into_iter().map(|(n, line)| (line_key(n), line)).collect(), wrong))
    }

    /// Copies the lines of a file that the store knows, so that nothing that came after the store's own copy is in it.
    pub fn copy_lines(&self, path: &Path, mut into: impl io::Write) -> io::Result<()> {
        let (mut n, mut failed) = (0, None);
        read(path, |line, _, whole| {
            n += 1;
            if whole && n <= self.head.lines && failed.is_none() {
                failed = writeln!(into, "{line}").err();
            }
        })?;
        failed.map_or(Ok(()), Err)
    }
}

/// The last of the lines of a file that are asked for, oldest first; one that cannot be read says so.
pub fn last(path: &Path, most: usize, wanted: &Wanted) -> io::Result<Vec<Result<Entry, String>>> {
    let (mut kept, mut n) = (VecDeque::new(), 0_u64);
    read(path, |line, _, _| {
        n += 1;
        if !wanted.is(line) {
            return;
        }
        if kept.len() == most {
            kept.pop_front();
        }
        kept.push_back((n, line.to_owned()));
    })?;
    let entry = |(n, line): (u64, String)| {
        let json = line.split_once(' ').map_or("", |(_, json)| json);
        serde_json::from_str(json)
            .map_err(|_| format!("line {n} cannot be read; `control-plane audit verify` says more"))
    };
    Ok(kept.into_iter().map(entry).collect())
}

impl AuditFile {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file next to what the store has, and writes the lines that it lacks. `restored` says that the store is an export, older than
    /// the file: then the file is right.
    pub fn open(path: &Path, stored: Stored, restored: bool, now: i64) -> io::Result<Opened> {
        let Stored { head: expect, lines } = stored;
        let (mut found, mut bytes, mut end, mut broken, mut hash_there) = (Head::default(), 0, 0, false, None);
        read(path, |line, at, whole| {
            end = at;
            // A line that was cut off is one that nobody was told of; the store has it whole.
            if whole && !broken {
                match found.follow(line) {
                    Ok(next) => (found, bytes) = (next, at),
                    Err(_) => broken = true,
                }
            }
            if found.lines == expect.lines {
                hash_there.get_or_insert_with(|| found.hash.clone());
            }
        })?;
        if expect.lines == 0 {
            hash_there = Some(expect.hash.clone());
        }
        let file = private(path)?;
        let missing: Vec<&String> = lines.range(found.lines + 1..).map(|(_, line)| line).collect();
        let torn = end > bytes && !broken;
        let mut opened = Opened {
            file: Self { path: path.to_owned(), file, bytes, torn },
            head: expect.clone(),
            deletable: lines.keys().copied().collect(),
            writes: Vec::new(),
            problem: None,
            since: Vec::new(),
        };
        if !broken && found.lines < expect.lines {
            let reached = missing.iter().try_fold(found.clone(), |head, line| head.follow(line).ok());
            if reached.as_ref() == Some(&expect) {
                opened.file.append(missing.into_iter().map(String::as_str))?;
                return Ok(opened);
            }
        }
        if !broken && found.lines >= expect.lines && hash_there.as_ref() == Some(&expect.hash) {
            if found.lines == expect.lines && !torn {
                return Ok(opened);
            }
            if restored {
                let later = usize::try_from(found.lines - expect.lines).unwrap_or(usize::MAX).min(SINCE_MAX);
                opened.since = last(path, later, &Wanted::default())?.into_iter().flatten().collect();
                let act = Act {
                    what: "store.restored",
                    object: "store".into(),
                    detail: format!("changes {} to {} are not in the store any more", expect.lines + 1, found.lines),
                    before: None,
                    after: None,
                };
                let (line, head) = found.next(&entry(found.lines + 1, &Actor::Plane, act, now));
                opened.file.append([line.as_str()])?;
                opened.writes = vec![put_head(&head)];
                opened.head = head;
                return Ok(opened);
            }
        }
        // What is there stays there, as evidence; a torn end is closed, so that the next line is one.
        (opened.file.bytes, opened.file.torn) = (end, false);
        opened.problem = verify(path, &expect)?.1;
        if end > 0 && !ends_whole(path)? {
            opened.file.append([""])?;
        }
        Ok(opened)
    }

    /// Appends lines and syncs the disk. After a failure the file is as it was, or is made so before the next append.
    pub(super) fn append<'a>(&mut self, lines: impl IntoIterator<Item = &'a str>) -> io::Result<()> {
        let mut text = String::new();
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        if self.torn {
            self.file.set_len(self.bytes)?;
        }
        self.torn = true;
        self.file.write_all(text.as_bytes())?;
        self.file.sync_all()?;
        self.torn = false;
        // What somebody else has added stays: it is not ours to hide.
        self.bytes = self.file.metadata()?.len();
        Ok(())
    }
}

fn ends_whole(path: &Path) -> io::Result<bool> {
    let mut whole = true;
    read(path, |_, _, line_is_whole| whole = line_is_whole)?;
    Ok(whole)
}

/// Opens the file for appending, with mode 0600; its name is on the disk from then on.
fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let file = options.open(path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}
