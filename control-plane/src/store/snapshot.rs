//! Exports: the whole store as one JSON file that people can read and a new store can be made from.

use super::{Contents, Store, StoreError, Write};
use crate::audit;
use nearfield_shared::artefact::Digest;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io::Write as _, path::Path};

/// Largest export that is read back. Ten times the state of 10,000 nodes.
const BYTES_MAX: u64 = 256 << 20;

#[derive(Serialize, Deserialize)]
struct Export {
    /// Format of this file.
    version: u32,
    /// When it was made, seconds since 1970.
    unix_s: i64,
    /// Batches that the store had seen.
    batches: u64,
    /// BLAKE3 of `entries` as JSON without blanks.
    digest: Digest,
    /// Key to value.
    entries: BTreeMap<String, String>,
}

fn digest(entries: &BTreeMap<String, String>) -> Digest {
    Digest::of(&serde_json::to_vec(entries).expect("a map of strings is JSON"))
}

/// Writes an export, whole or not at all. Lines of the audit that `audit.log` must have by now stay out.
pub fn export(store: &impl Store, path: &Path, unix_s: i64) -> Result<(), StoreError> {
    let mut contents = Contents::of(store)?;
    audit::leave_out_old_lines(&mut contents.entries);
    export_contents(contents, path, unix_s)
}

/// The same of what was read from a store: all of it.
pub fn export_contents(contents: Contents, path: &Path, unix_s: i64) -> Result<(), StoreError> {
    let Contents { entries, batches } = contents;
    let entries: BTreeMap<_, _> = entries.into_iter().collect();
    let export = Export { version: 1, unix_s, batches, digest: digest(&entries), entries };
    write(&export, path).map_err(|e| StoreError::Engine(format!("{}: {e}", path.display())))
}

fn write(export: &Export, path: &Path) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    let mut buffered = std::io::BufWriter::new(file.as_file_mut());
    serde_json::to_writer(&mut buffered, export)?;
    buffered.flush()?;
    drop(buffered);
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    // The name is on the disk only once the folder is.
    fs::File::open(dir)?.sync_all()
}

/// Puts an export into an empty store; returns when it was made.
pub fn restore(path: &Path, into: &mut impl Store) -> Result<i64, StoreError> {
    let export = read(path)?;
    let writes: Vec<Write> = export.entries.into_iter().map(|(key, value)| Write::Put { key, value }).collect();
    into.write(&writes)?;
    Ok(export.unix_s)
}

/// What an export holds, sorted by key, and when it was made.
pub fn entries(path: &Path) -> Result<(i64, Vec<(String, String)>), StoreError> {
    read(path).map(|export| (export.unix_s, export.entries.into_iter().collect()))
}

/// Batches that the store had seen when this export was made.
pub fn batches(path: &Path) -> Result<u64, StoreError> {
    read(path).map(|export| export.batches)
}

fn read(path: &Path) -> Result<Export, StoreError> {
    let failed = |e: &dyn std::fmt::Display| StoreError::Engine(format!("{}: {e}", path.display()));
    let bytes = fs::metadata(path).map_err(|e| failed(&e))?.len();
    if bytes > BYTES_MAX {
        return Err(failed(&format!("{bytes} bytes are more than an export has")));
    }
    let export: Export = serde_json::from_slice(&fs::read(path).map_err(|e| failed(&e))?).map_err(|e| failed(&e))?;
    if export.version != 1 {
        return Err(failed(&format!("version {} of the export is not known", export.version)));
    }
    if digest(&export.entries) != export.digest {
        return Err(failed(&"the export's digest does not hold"));
    }
    Ok(export)
}
