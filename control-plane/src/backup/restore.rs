//! Putting a backup in place, where there is nothing yet.

use super::{AUDIT, BackupError, CONFIG, Coming, SNAPSHOT, Summary, check, copy, hash, io_error};
use crate::{
    audit::{Act, Actor, Audit, AuditFile, Stored},
    config::without_store,
    fleet::Fleet,
    state_dir::StateDir,
    store::{Store as _, StoreError, sled_store::SledStore, snapshot},
};
use std::{fs, path::Path};

/// What was put in place.
#[derive(Debug)]
pub struct Restored {
    /// The folder.
    pub dir: StateDir,
    /// What it holds.
    pub summary: Summary,
    /// Whether its store was one that several control planes share, which the new folder does not use.
    pub shared: bool,
}

/// Makes a state folder from a backup that holds. Generations go on well above those of the backup, and certificates that were signed since are good.
pub fn restore(backup: &Path, wanted: &Path, now: i64) -> Result<Restored, BackupError> {
    let coming = Coming::new(wanted)?;
    let summary = check(backup)?;
    for path in super::check::files(backup)? {
        let (from, to) = (backup.join(&path), coming.path().join(&path));
        let kept = copy(&from, &to)?;
        // Once more from the disk: this is what the server will start from.
        if hash(&to).map_err(io_error(&to))? != kept {
            let problem = format!("{path} is not what was written; check that the disk works");
            return Err(BackupError::DoesNotHold { path: to, problems: vec![problem] });
        }
    }
    // Of several control planes that share a store: what is restored stands in the folder, and not in their store.
    let config = coming.path().join(CONFIG);
    let mut shared = false;
    if let Ok(text) = fs::read_to_string(&config) {
        let own = without_store(&text);
        shared = own.trim_end() != text.trim_end();
        if shared {
            fs::write(&config, own).map_err(io_error(&config))?;
            fs::File::open(&config).and_then(|file| file.sync_all()).map_err(io_error(&config))?;
        }
    }
    fill_store(&StateDir::open(coming.path())?, now)?;
    let dir = StateDir::open(&coming.finish()?)?;
    Ok(Restored { dir, summary, shared })
}

fn fill_store(dir: &StateDir, now: i64) -> Result<(), BackupError> {
    let mut store = SledStore::open(&dir.store())?;
    let copied_unix_s = snapshot::restore(&dir.root().join(SNAPSHOT), &mut store)?;
    let entries = store.scan("")?;
    let stored =
        Stored::find(&entries).map_err(|e| StoreError::Damaged { key: "audit/head".into(), detail: e.to_string() })?;
    let path = dir.root().join(AUDIT);
    let opened = AuditFile::open(&path, stored, false, now).map_err(io_error(&path))?;
    let mut writes = opened.writes.clone();
    writes.extend(Fleet::load(&entries, now)?.restored(copied_unix_s, now, &[]));
    let audit = Audit::new(opened);
    let (line, of_line) = audit.add(
        &Actor::Plane,
        Act {
            what: "store.restored",
            object: "store".into(),
            detail: format!("from a backup of {}", crate::api::views::time(copied_unix_s)),
            before: None,
            after: None,
        },
        now,
    );
    writes.extend(of_line);
    store.write(&writes)?;
    audit.write(line).map_err(io_error(&path))?;
    // The new store counts its batches from one; an export of the old one would say that it has lost some.
    Ok(snapshot::export(&store, &dir.snapshot(), now)?)
}
