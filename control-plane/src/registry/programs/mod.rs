//! Releases of the agent: programs that nodes fetch like models and run instead of the one that is installed.
//!
//! A program's file stands among the artefacts, named by its BLAKE3; its signed manifest is `agents/VERSION_TARGET.json`. The file is there and synced before
//! its manifest is, so a program whose manifest is there is whole.

pub mod cli;
mod elf;

pub use elf::ElfError;

use super::store;
use crate::{secret_file, state_dir::StateDir};
use aws_lc_rs::signature::Ed25519KeyPair;
use nearfield_shared::{
    artefact::{ManifestError, SignedManifest},
    release::{PROGRAM_BYTES_MAX, ProgramManifest, Release, TARGETS_MAX},
    wire::{TargetName, VersionName},
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Imported programs at most: some hundred releases.
pub const PROGRAMS_MAX: usize = 1_000;

/// A program that was imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedProgram {
    /// What it is.
    pub manifest: ProgramManifest,
    /// The same, signed.
    pub signed: SignedManifest,
}

/// Why a program could not be imported. Nothing of it was stored that counts.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// No program for a node.
    #[error("{path}: {error}", path = path.display())]
    NoProgram {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: ElfError,
    },
    /// A size that no agent has.
    #[error("{path} has {bytes} bytes, an agent has 1 to {PROGRAM_BYTES_MAX}; name the file that `cargo build --release` made, without debug symbols", path = path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        bytes: u64,
    },
    /// A version that cannot be a file's name.
    #[error("a release's version begins with a letter or a digit, `{0}` does not")]
    Version(VersionName),
    /// As many as there can be.
    #[error("{found} {what} are imported, at most {most} can be; remove manifests of those that no region names from {folder}", folder = folder.display())]
    TooMany {
        /// How many.
        found: usize,
        /// Of what.
        what: &'static str,
        /// The bound.
        most: usize,
        /// Where they are.
        folder: PathBuf,
    },
    /// The manifest could not be signed.
    #[error("cannot sign the manifest: {0}")]
    Sign(#[from] ManifestError),
    /// The disk says no.
    #[error("{path}: {error}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        error: io::Error,
    },
}

fn disk(path: &Path) -> impl Fn(io::Error) -> ProgramError + '_ {
    move |error| ProgramError::Io { path: path.to_owned(), error }
}

/// Imports a program as a part of the release `version`: reads what it was built for, signs and stores it. A program of the same version and target is
/// replaced.
///
/// # Errors
/// A file that is no program for a node, or for another target than is stated; a disk that says no.
pub fn import(
    dir: &StateDir,
    key: &Ed25519KeyPair,
    path: &Path,
    version: &VersionName,
    stated: Option<&TargetName>,
) -> Result<ImportedProgram, ProgramError> {
    if !version.as_str().starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(ProgramError::Version(version.clone()));
    }
    let mut file = File::open(path).map_err(disk(path))?;
    let bytes = file.metadata().map_err(disk(path))?.len();
    if !(1..=PROGRAM_BYTES_MAX).contains(&bytes) {
        return Err(ProgramError::Size { path: path.to_owned(), bytes });
    }
    let target =
        elf::target(&mut file, stated).map_err(|error| ProgramError::NoProgram { path: path.to_owned(), error })?;
    let there = imported(dir, &public(key)).map_err(disk(&dir.agents()))?;
    let others = there.iter().filter(|other| (&other.manifest.version, &other.manifest.target) != (version, &target));
    let of_release = others.clone().filter(|other| other.manifest.version == *version).count();
    for (found, what, most) in
        [(others.count(), "programs", PROGRAMS_MAX), (of_release, "programs of this release", TARGETS_MAX)]
    {
        if found >= most {
            return Err(ProgramError::TooMany { found, what, most, folder: dir.agents() });
        }
    }
    let folder = dir.artefacts();
    let written = store::write(&folder, |out| {
        io::Seek::rewind(&mut file)?;
        io::copy(&mut file, out).map(drop)
    });
    let written = written.map_err(disk(&folder))?;
    let (digest, chunks) = (written.digest, written.chunks.clone());
    let manifest = ProgramManifest { version: version.clone(), target, bytes: written.bytes, digest, chunks };
    let signed = manifest.sign(key)?;
    written.publish(&dir.artefact(&digest)).map_err(disk(&folder))?;
    write_manifest(dir, &manifest, &signed).map_err(disk(&dir.agents()))?;
    Ok(ImportedProgram { manifest, signed })
}

fn public(key: &Ed25519KeyPair) -> Vec<u8> {
    use aws_lc_rs::signature::KeyPair as _;
    key.public_key().as_ref().to_vec()
}

fn write_manifest(dir: &StateDir, manifest: &ProgramManifest, signed: &SignedManifest) -> io::Result<()> {
    let folder = dir.agents();
    secret_file::private_dir(&folder).map_err(io::Error::other)?;
    let mut file = tempfile::NamedTempFile::new_in(&folder)?;
    file.write_all(&serde_json::to_vec_pretty(signed)?)?;
    file.as_file().sync_all()?;
    // No version holds a `_`, so no two programs share a name.
    file.persist(folder.join(format!("{}_{}.json", manifest.version, manifest.target))).map_err(|e| e.error)?;
    File::open(&folder)?.sync_all()
}

/// Every imported program whose manifest carries a good signature and whose file is there, by version and target. Others are left out, with
/// a warning.
///
/// # Errors
/// A folder that cannot be read.
pub fn imported(dir: &StateDir, public_key: &[u8]) -> io::Result<Vec<ImportedProgram>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(dir.agents()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let read = fs::read(&path).map_err(|e| e.to_string()).and_then(|bytes| {
            let signed: SignedManifest = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
            let manifest = ProgramManifest::verify(&signed, public_key).map_err(|e| e.to_string())?;
            Ok(ImportedProgram { manifest, signed })
        });
        match read {
            Ok(program) if dir.artefact(&program.manifest.digest).is_file() => found.push(program),
            Ok(_) => tracing::warn!(path = %path.display(), "the program's file is gone; import it again"),
            Err(why) => tracing::warn!(path = %path.display(), why, "a manifest is left out; import the agent again"),
        }
    }
    let key = |program: &ImportedProgram| (program.manifest.version.clone(), program.manifest.target.clone());
    found.sort_by_key(key);
    found.dedup_by_key(|program| key(program));
    Ok(found)
}

/// The releases that these programs make.
pub fn releases(programs: &[ImportedProgram]) -> BTreeMap<VersionName, Release> {
    let mut releases = BTreeMap::new();
    for ImportedProgram { manifest, signed } in programs {
        let empty = || Release { version: manifest.version.clone(), programs: BTreeMap::new() };
        let release = releases.entry(manifest.version.clone()).or_insert_with(empty);
        release.programs.insert(manifest.target.clone(), signed.clone());
    }
    releases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_program_is_stored_whole_and_listed_and_one_that_is_none_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let dir = StateDir::init(&folder.path().join("state"), &Config::on_loopback()).unwrap();
        let (key, public_key) = (dir.signing_key().unwrap(), dir.signing_public_key().unwrap());
        let file = folder.path().join("edge-agent");
        let version: VersionName = "1.2.3".parse().unwrap();
        let mut program = elf::tests::program(62, Some("/lib64/ld-linux-x86-64.so.2"));
        program.extend(vec![7; 3_000_000]);
        fs::write(&file, &program).unwrap();
        let one = import(&dir, &key, &file, &version, None).unwrap();
        assert_eq!(one.manifest, ProgramManifest::of_file(version.clone(), one.manifest.target.clone(), &program));
        assert_eq!(fs::read(dir.artefact(&one.manifest.digest)).unwrap(), program);
        fs::write(&file, elf::tests::program(183, Some("/lib/ld-linux-aarch64.so.1"))).unwrap();
        let two = import(&dir, &key, &file, &version, None).unwrap();
        assert_eq!(imported(&dir, &public_key).unwrap(), [two.clone(), one.clone()]);
        let made = releases(&imported(&dir, &public_key).unwrap());
        assert_eq!(made[&version].programs.len(), 2);

        let files = || fs::read_dir(dir.artefacts()).unwrap().count();
        let before = files();
        fs::write(&file, b"#!/bin/sh\n").unwrap();
        let x86 = one.manifest.target.clone();
        assert!(matches!(import(&dir, &key, &file, &version, Some(&x86)), Err(ProgramError::NoProgram { .. })));
        fs::write(&file, b"").unwrap();
        assert!(matches!(import(&dir, &key, &file, &version, None), Err(ProgramError::Size { bytes: 0, .. })));
        let hidden = import(&dir, &key, &file, &"..".parse().unwrap(), None);
        assert!(matches!(hidden, Err(ProgramError::Version(_))), "{hidden:?}");
        assert_eq!(files(), before);

        fs::remove_file(dir.artefact(&one.manifest.digest)).unwrap();
        assert_eq!(imported(&dir, &public_key).unwrap(), [two]);
        assert_eq!(imported(&dir, &[0; 32]).unwrap(), []);
    }
}
