//! Making a backup.

use super::{
    AUDIT, BackupError, CONTENTS, Coming, Contents, FILES_MAX, KEPT, Known, Manifests, SNAPSHOT, Summary, VERSION,
    copy, hash, io_error, manifest_files, write_new,
};
use crate::{
    registry::shelf::copying::elsewhere_path,
    state_dir::StateDir,
    store::{self, snapshot},
};
use nearfield_shared::artefact::SignedManifest;
use std::{collections::BTreeMap, fs, path::Path};

/// Where the store's state comes from.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A server runs and has exported it a moment ago.
    Exported,
    /// What is in the store, and when it was read, seconds since 1970.
    Read(&'a store::Contents, i64),
}

/// Makes a backup of a state folder in a folder that is not there yet.
///
/// # Errors
/// Where something is missing or damaged: half a backup would be found out when it is needed.
pub fn take(dir: &StateDir, source: Source<'_>, wanted: &Path) -> Result<Summary, BackupError> {
    let coming = Coming::new(wanted)?;
    let to = |path: &str| coming.path().join(path);
    let mut files = BTreeMap::new();
    let exported = to(SNAPSHOT);
    match source {
        // One export replaces the other whole, so whichever is there now is of one moment.
        Source::Exported => drop(copy(&dir.snapshot(), &exported)?),
        Source::Read(contents, now) => snapshot::export_contents(contents.clone(), &exported, now)?,
    }
    files.insert(SNAPSHOT.to_owned(), hash(&exported).map_err(io_error(&exported))?);
    let (unix_s, entries) = snapshot::entries(&exported)?;
    let known = Known::of(unix_s, &entries)?;
    // The file may have grown since; what the store does not know of belongs to the next backup.
    let audit = to(AUDIT);
    write_new(&audit, |out| known.audit.copy_lines(&dir.audit(), out)).map_err(io_error(&audit))?;
    files.insert(AUDIT.to_owned(), hash(&audit).map_err(io_error(&audit))?);

    for name in KEPT {
        let from = dir.root().join(name);
        if fs::exists(&from).map_err(io_error(&from))? {
            files.insert(name.to_owned(), copy(&from, &to(name))?);
        }
    }
    let mut manifests = Manifests::default();
    for (below, path) in manifest_files(dir)? {
        files.insert(path.clone(), copy(&dir.root().join(&path), &to(&path))?);
        if path.ends_with(".json") {
            let bytes = fs::read(to(&path)).map_err(io_error(&dir.root().join(&path)))?;
            manifests.of(below).extend(serde_json::from_slice::<SignedManifest>(&bytes).ok());
        }
    }
    let (artefacts, _) = known.artefacts(&manifests, &dir.signing_public_key()?);
    for digest in artefacts {
        let path = format!("artefacts/{}", digest.to_hex());
        let (from, mark) = (dir.artefact(&digest), elsewhere_path(&dir.artefact(&digest)));
        // What stands on a shelf stays there; the mark says so.
        let (from, path) =
            if from.is_file() || !mark.is_file() { (from, path) } else { (mark, format!("{path}.elsewhere")) };
        files.insert(path.clone(), copy(&from, &to(&path))?);
    }
    if files.len() > FILES_MAX {
        let problem = format!(
            "{} files are to be kept, at most {FILES_MAX} can be; remove models that no region names",
            files.len()
        );
        return Err(BackupError::DoesNotHold { path: dir.root().to_owned(), problems: vec![problem] });
    }
    let contents = Contents { version: VERSION, program: env!("CARGO_PKG_VERSION").into(), unix_s, files };
    let path = to(CONTENTS);
    write_new(&path, |out| Ok(serde_json::to_writer_pretty(out, &contents)?)).map_err(io_error(&path))?;
    // Held against itself as it would be before a restore, so that what cannot be restored is never called a backup.
    let summary = super::check(coming.path())?;
    coming.finish()?;
    Ok(summary)
}
