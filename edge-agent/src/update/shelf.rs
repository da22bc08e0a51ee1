//! The folder of programs: `versions/DIGEST/edge-agent`, mode 0700.

use super::{BookFile, Why};
use crate::{durable, secrets, state_dir::StateDir};
use nearfield_shared::artefact::Digest;
use std::{
    collections::BTreeSet,
    fs::{self, File, Permissions},
    io::{self, Read},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// The folder of one node's programs.
#[derive(Debug, Clone)]
pub struct Shelf {
    folder: PathBuf,
}

impl Shelf {
    /// That of a node.
    pub fn of(dir: &StateDir) -> Self {
        Self { folder: dir.programs() }
    }

    /// The record of what runs.
    pub fn book(&self) -> BookFile {
        BookFile::at(self.folder.join("book.json"))
    }

    /// Whether another program than the installed one was ever asked for.
    pub fn is_used(&self) -> bool {
        self.folder.exists()
    }

    fn versions(&self) -> PathBuf {
        self.folder.join("versions")
    }

    /// Where a program stands, or would.
    pub fn path(&self, digest: Digest) -> PathBuf {
        self.versions().join(digest.to_hex()).join("edge-agent")
    }

    /// Gives a verified file its place. The file is linked where the disk can, so that it takes no room twice.
    ///
    /// # Errors
    /// What the disk says; then it has no place.
    pub fn install(&self, digest: Digest, file: &Path) -> io::Result<()> {
        let place = self.path(digest);
        for folder in [self.folder.clone(), self.versions(), self.versions().join(digest.to_hex())] {
            secrets::private_folder(&folder).map_err(io::Error::other)?;
        }
        let coming = place.with_extension("new");
        for leftover in [&coming, &place] {
            match fs::remove_file(leftover) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        if fs::hard_link(file, &coming).is_err() {
            fs::copy(file, &coming)?;
        }
        fs::set_permissions(&coming, Permissions::from_mode(0o700))?;
        File::open(&coming)?.sync_all()?;
        fs::rename(&coming, &place)?;
        for changed in [place.clone(), self.versions().join(digest.to_hex()), self.versions()] {
            durable::sync_folder(&changed)?;
        }
        Ok(())
    }

    /// A program's file, after hashing all of it once more.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub fn verified(&self, digest: Digest) -> Result<PathBuf, Why> {
        let path = self.path(digest);
        let cannot = |e: io::Error| Why::CannotStart { words: e.to_string() };
        let mut file = File::open(&path).map_err(cannot)?;
        let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut buffer).map_err(cannot)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            };
        }
        if hasher.finalize().as_bytes() == &digest.0 { Ok(path) } else { Err(Why::Damaged) }
    }

    /// Removes programs that are not needed any more.
    ///
    /// # Errors
    /// What the disk says; what could not be removed stays for the next time.
    pub fn collect(&self, needed: &BTreeSet<Digest>) -> io::Result<()> {
        let entries = match fs::read_dir(self.versions()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let digest = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
            if digest.is_some_and(|digest| !needed.contains(&digest)) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_its_place_is_hashed_again_and_goes_when_it_is_not_needed() {
        let temporary = tempfile::tempdir().expect("dir");
        let dir = StateDir::open(&temporary.path().join("node")).expect("open");
        let shelf = Shelf::of(&dir);
        assert!(!shelf.is_used());
        let file = dir.artefacts().join("file");
        let digests = [b"one", b"two"].map(|bytes| {
            fs::write(&file, bytes).expect("file");
            shelf.install(Digest::of(bytes), &file).expect("install");
            // What stands under the other name goes on standing.
            fs::remove_file(&file).expect("remove");
            Digest::of(bytes)
        });
        let path = shelf.verified(digests[0]).expect("whole");
        assert_eq!(fs::metadata(&path).expect("about").permissions().mode() & 0o777, 0o700);
        fs::write(&path, b"0ne").expect("rot");
        assert_eq!(shelf.verified(digests[0]), Err(Why::Damaged));
        shelf.collect(&[digests[1]].into()).expect("collect");
        assert!(matches!(shelf.verified(digests[0]), Err(Why::CannotStart { .. })));
        shelf.verified(digests[1]).expect("kept");
    }
}
