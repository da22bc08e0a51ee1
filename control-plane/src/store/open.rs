//! Opening the store, whatever state it is in.

use super::{Store as _, StoreError, sled_store::SledStore, snapshot};
use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// What opening found.
#[derive(Debug)]
pub enum Opened {
    /// The store was whole, or new.
    Whole(SledStore),
    /// The store was damaged: it was set aside, and the export restored.
    Restored {
        /// The new store.
        store: SledStore,
        /// What was wrong with the old.
        damage: String,
        /// Where the old lies now.
        set_aside: PathBuf,
        /// When the export was made; `None` where there was none and the store is empty.
        exported_unix_s: Option<i64>,
    },
}

/// Opens the store in `dir`. The caller holds the lock of the state folder, so that nobody else has it open.
pub fn open(dir: &Path, export: &Path, now_unix_s: i64) -> Result<Opened, StoreError> {
    let damage = match attempt(dir) {
        // An export that cannot be read says nothing against a store that can.
        Ok(store) => match snapshot::batches(export) {
            Ok(exported) if exported > store.batches() => {
                format!("it has seen {} changes, its own export {exported}", store.batches())
            }
            _ => return Ok(Opened::Whole(store)),
        },
        // Written by a later version: nothing is broken, and nothing may be thrown away.
        Err(newer @ StoreError::Newer { .. }) => return Err(newer),
        Err(error) => error.to_string(),
    };
    let set_aside = free_name(dir, now_unix_s);
    fs::rename(dir, &set_aside)
        .map_err(|e| StoreError::Engine(format!("{damage}; and it cannot be set aside: {e}")))?;
    let mut store = attempt(dir)?;
    let exported_unix_s = match fs::exists(export) {
        Ok(false) => None,
        _ => Some(snapshot::restore(export, &mut store)?),
    };
    Ok(Opened::Restored { store, damage, set_aside, exported_unix_s })
}

/// Opens without letting sled's panics through, and mends nothing.
pub fn attempt(dir: &Path) -> Result<SledStore, StoreError> {
    catch_unwind(AssertUnwindSafe(|| SledStore::open(dir)))
        .unwrap_or_else(|panic| Err(StoreError::Engine(format!("sled panicked: {}", message(&*panic)))))
}

/// What a panic said.
pub(super) fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it did not say why")
}

fn free_name(dir: &Path, now_unix_s: i64) -> PathBuf {
    let name = dir.file_name().map_or_else(|| "store".into(), |name| name.to_string_lossy());
    (0..)
        .map(|n| {
            dir.with_file_name(format!(
                "{name}.broken-{now_unix_s}{}",
                if n == 0 { String::new() } else { format!("-{n}") }
            ))
        })
        .find(|path| fs::symlink_metadata(path).is_err())
        .unwrap_or_else(|| dir.with_file_name("store.broken"))
}

/// Takes the lock of a state folder for as long as the file is held.
pub fn lock(root: &Path) -> io::Result<fs::File> {
    let file = fs::File::create(root.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("a control plane runs on {} already; stop it first", root.display()),
        )),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Write;

    fn filled(root: &Path) -> (PathBuf, PathBuf) {
        let (dir, export) = (root.join("store"), root.join("snapshot.json"));
        let mut store = SledStore::open(&dir).unwrap();
        let writes: Vec<_> =
            (0..200).map(|i| Write::Put { key: format!("node/{i:03}"), value: "v".repeat(i * 10) }).collect();
        store.write(&writes).unwrap();
        snapshot::export(&store, &export, 77).unwrap();
        (dir, export)
    }

    #[test]
    fn a_whole_store_opens_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let (dir, export) = filled(root.path());
        let Opened::Whole(store) = open(&dir, &export, 1).unwrap() else { panic!("whole") };
        assert_eq!(store.scan("").unwrap().len(), 200);
    }

    /// Whatever part of the file is overwritten, opening does not panic, and either notices and restores the export, or has all values.
    #[test]
    fn a_damaged_store_is_set_aside_and_the_export_restored() {
        let mut restored = 0;
        for at in [0_usize, 16, 100, 4_000, 20_000, 60_000] {
            let root = tempfile::tempdir().unwrap();
            let (dir, export) = filled(root.path());
            let mut bytes = fs::read(dir.join("db")).unwrap();
            let end = (at + 8_000).min(bytes.len());
            bytes[at..end].fill(0xa5);
            fs::write(dir.join("db"), &bytes).unwrap();
            fs::remove_dir_all(dir.join("snap.0000")).ok();
            for entry in fs::read_dir(&dir).unwrap().flatten() {
                if entry.file_name().to_string_lossy().starts_with("snap") {
                    fs::remove_file(entry.path()).unwrap();
                }
            }
            match open(&dir, &export, 5).unwrap() {
                Opened::Whole(store) => assert_eq!(store.scan("").unwrap().len(), 200, "damage at {at}"),
                Opened::Restored { store, damage, set_aside, exported_unix_s } => {
                    assert_eq!(store.scan("").unwrap().len(), 200);
                    assert_eq!(store.get("node/123").unwrap().unwrap().len(), 1230);
                    assert_eq!(exported_unix_s, Some(77));
                    assert!(set_aside.join("db").exists() && !damage.is_empty());
                    restored += 1;
                }
            }
        }
        assert!(restored > 0, "none of the damages was one");
    }

    #[test]
    fn without_an_export_an_empty_store_says_so() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("store");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("conf"), "not sled's").unwrap();
        match open(&dir, &root.path().join("snapshot.json"), 5).unwrap() {
            Opened::Restored { store, exported_unix_s, .. } => {
                assert_eq!((store.scan("").unwrap().len(), exported_unix_s), (0, None));
            }
            Opened::Whole(_) => panic!("sled took a wrong conf file"),
        }
    }

    #[test]
    fn a_damaged_export_is_not_restored() {
        let root = tempfile::tempdir().unwrap();
        let (dir, export) = filled(root.path());
        let text = fs::read_to_string(&export).unwrap().replace("vvvv", "wwww");
        fs::write(&export, text).unwrap();
        fs::write(dir.join("conf"), "not sled's").unwrap();
        let error = open(&dir, &export, 5).unwrap_err().to_string();
        assert!(error.contains("digest"), "{error}");
    }

    #[test]
    fn two_servers_do_not_share_a_folder() {
        let root = tempfile::tempdir().unwrap();
        let held = lock(root.path()).unwrap();
        assert!(lock(root.path()).unwrap_err().to_string().contains("stop it first"));
        drop(held);
        assert!(lock(root.path()).is_ok());
    }
}
