//! Whether a backup, or the folder of a control plane, holds: every file, every signature, and what they say of one another.

use super::{
    BackupError, CONTENTS, CONTENTS_BYTES_MAX, Contents, FILES_MAX, Known, Manifests, PROBLEMS_MAX, SNAPSHOT, Summary,
    VERSION, hash, io_error, is_ours, manifest_files,
};
use crate::{
    registry::{shelf::copying::elsewhere_path, tuf},
    state_dir::StateDir,
    store::snapshot,
};
use nearfield_shared::artefact::{Digest, SignedManifest};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What is wrong, one line each.
struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, problem: impl Into<String>) {
        match self.0.len() {
            0..PROBLEMS_MAX => self.0.push(problem.into()),
            PROBLEMS_MAX => self.0.push("and more".into()),
            _ => {}
        }
    }

    fn none_in(self, path: &Path) -> Result<(), BackupError> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(BackupError::DoesNotHold { path: path.to_owned(), problems: self.0 })
    }
}

/// Checks a backup.
pub fn check(folder: &Path) -> Result<Summary, BackupError> {
    let contents = contents(folder)?;
    let mut problems = Problems(Vec::new());
    for (path, kept) in &contents.files {
        if !is_ours(path) {
            problems
                .add(format!("{path:?} is not the name of a file that a backup has; it was not made by this program"));
            continue;
        }
        match hash(&folder.join(path)) {
            Ok(found) if found == *kept => {}
            Ok(_) => problems.add(format!("{path} was changed; take another backup")),
            Err(error) => problems.add(format!("{path} cannot be read: {error}")),
        }
    }
    // What follows reads these files, so they must be what they were.
    problems.none_in(folder)?;
    let (unix_s, entries) = snapshot::entries(&folder.join(SNAPSHOT))?;
    let listed = |digest: &Digest| match contents.files.get(&format!("artefacts/{}", digest.to_hex())) {
        Some(kept) if kept.digest == *digest => Ok(kept.bytes),
        Some(_) => Err("is damaged".to_owned()),
        None if contents.files.contains_key(&format!("artefacts/{}.elsewhere", digest.to_hex())) => Ok(0),
        None => Err("is missing".to_owned()),
    };
    check_contents(&StateDir::open(folder)?, &Known::of(unix_s, &entries)?, false, listed)
}

/// Checks the folder of a control plane next to what its store says. `running` where a server may change it meanwhile.
pub fn check_state(
    dir: &StateDir,
    unix_s: i64,
    entries: &[(String, String)],
    running: bool,
) -> Result<Summary, BackupError> {
    let stands = |digest: &Digest| match hash(&dir.artefact(digest)) {
        Ok(found) if found.digest == *digest => Ok(found.bytes),
        Ok(_) => Err("is damaged".to_owned()),
        Err(_) if elsewhere_path(&dir.artefact(digest)).is_file() => Ok(0),
        Err(error) => Err(error.to_string()),
    };
    check_contents(dir, &Known::of(unix_s, entries)?, running, stands)
}

/// Paths of the files of a backup.
pub(super) fn files(folder: &Path) -> Result<Vec<String>, BackupError> {
    Ok(contents(folder)?.files.into_keys().collect())
}

fn contents(folder: &Path) -> Result<Contents, BackupError> {
    let path = folder.join(CONTENTS);
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BackupError::NotABackup(folder.to_owned()));
        }
        Err(error) => return Err(BackupError::Io { path, error }),
        Ok(about) if about.len() > CONTENTS_BYTES_MAX => return Err(BackupError::NotABackup(folder.to_owned())),
        Ok(_) => {}
    }
    let bytes = fs::read(&path).map_err(io_error(&path))?;
    let wrong = |problem: String| BackupError::DoesNotHold { path: folder.to_owned(), problems: vec![problem] };
    // The format first: a later one may look otherwise.
    let value: serde_json::Value = serde_json::from_slice(&bytes)
        .map_err(|e| wrong(format!("{CONTENTS} cannot be read: {e}; take another backup")))?;
    let found = value["version"].as_u64().and_then(|found| u32::try_from(found).ok()).unwrap_or_default();
    if found > VERSION {
        return Err(BackupError::Newer { found });
    }
    let contents: Contents = serde_json::from_value(value)
        .map_err(|e| wrong(format!("{CONTENTS} cannot be read: {e}; take another backup")))?;
    if contents.files.len() > FILES_MAX {
        return Err(wrong(format!("{CONTENTS} lists more than {FILES_MAX} files")));
    }
    Ok(contents)
}

/// Holds keys, audit, manifests and model files against one another. `artefact` says how large a model's file is, or what is wrong with it.
fn check_contents(
    dir: &StateDir,
    known: &Known,
    running: bool,
    artefact: impl Fn(&Digest) -> Result<u64, String>,
) -> Result<Summary, BackupError> {
    let mut problems = Problems(Vec::new());
    match dir.ca() {
        Ok(ca) if ca.key_fits() => {}
        Ok(_) => problems.add(
            "ca.key is not the key of ca.pem; no node would believe this control plane. Take the pair that `init` made",
        ),
        Err(error) => problems.add(error.to_string()),
    }
    if let Err(error) = dir.admin_token() {
        problems.add(error.to_string());
    }
    let public_key = dir.signing_public_key()?;
    let signing_key = dir.root().join("signing.key");
    let signing_key_is_here = fs::exists(&signing_key).map_err(io_error(&signing_key))?;
    if signing_key_is_here && let Err(error) = dir.signing_key_from(&signing_key) {
        problems.add(error.to_string());
    }
    // Copied one after the other while a server may have signed anew, so only what stands in the one file is held against itself.
    match tuf::Metadata::load(dir).and_then(|metadata| metadata.map_or(Ok(()), |metadata| metadata.check())) {
        Ok(()) => {}
        Err(error) => problems.add(error.to_string()),
    }
    let (audit_lines, audit_problem) = known.audit.holds(&dir.audit(), running).map_err(io_error(&dir.audit()))?;
    let mut manifests = Manifests::default();
    for (below, name) in manifest_files(dir)?.into_iter().filter(|(_, path)| path.ends_with(".json")) {
        let path: PathBuf = dir.root().join(&name);
        match serde_json::from_slice::<SignedManifest>(&fs::read(&path).map_err(io_error(&path))?) {
            Ok(manifest) => manifests.of(below).push(manifest),
            Err(error) => problems.add(format!("{name} cannot be read: {error}; import what it belongs to again")),
        }
    }
    let (artefacts, wrong) = known.artefacts(&manifests, &public_key);
    wrong.iter().for_each(|error| problems.add(error.to_string()));
    let mut artefact_bytes = 0;
    for digest in artefacts {
        match artefact(&digest) {
            Ok(bytes) => artefact_bytes += bytes,
            Err(problem) => problems
                .add(format!("artefacts/{digest} {problem}; import the model or the agent that it belongs to again")),
        }
    }
    problems.none_in(dir.root())?;
    Ok(Summary {
        unix_s: known.unix_s,
        regions: known.fleet.regions().count(),
        nodes: known.fleet.nodes().count(),
        models: manifests.models.len(),
        artefact_bytes,
        audit_lines,
        audit_problem,
        signing_key: signing_key_is_here,
    })
}
