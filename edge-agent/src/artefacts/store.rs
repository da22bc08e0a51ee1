//! The folder of model files.

use crate::durable;
use nearfield_shared::{
    artefact::{Content, Digest},
    link::{ArtefactReceiver, Refusal},
};
use std::{
    collections::BTreeSet,
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Free space that a download leaves on the disk, in bytes: room for the vault, the log and the last-known-good state.
const DISK_RESERVE_BYTES: u64 = 64 << 20;

/// Why a model file cannot be stored or used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full.
    #[error("the disk under {path} has {free} bytes free, and {wanted} are needed; free some, or move the folder to a larger disk", path = .path.display())]
    DiskFull {
        /// The folder.
        path: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes needed, the reserve included.
        wanted: u64,
    },
    /// The bytes are not those of the manifest.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A file of the store was changed after it was stored.
    #[error("{path} does not have the digest in its name any more and was removed; it is fetched again when it is next wanted", path = .0.display())]
    Rotten(PathBuf),
    /// The disk said no.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The folder of model files.
#[derive(Debug, Clone)]
pub struct ArtefactStore {
    folder: PathBuf,
}

/// A file that is arriving. What is on disk is always what the receiver has.
#[derive(Debug)]
pub struct Incoming {
    receiver: ArtefactReceiver,
    file: File,
    part: PathBuf,
    whole: PathBuf,
}

impl ArtefactStore {
    /// The store in this folder, which must exist.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the whole file of this digest stands, or would.
    pub fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{digest}.gguf"))
    }

    /// Whether the whole file is here. Its content is checked by [`ArtefactStore::verified`].
    pub fn holds(&self, manifest: &impl Content) -> bool {
        fs::metadata(self.path(manifest.digest())).is_ok_and(|about| about.is_file() && about.len() == manifest.bytes())
    }

    /// The whole file, after hashing all of it once more: a disk may have changed it since it was stored.
    ///
    /// Blocks for about a second per gigabyte.
    pub fn verified(&self, digest: Digest) -> Result<PathBuf, StoreError> {
        let path = self.path(digest);
        let io = |source| StoreError::Io { path: path.clone(), source };
        let mut file = File::open(&path).map_err(io)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(io)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            };
        }
        if hasher.finalize().as_bytes() == &digest.0 {
            return Ok(path);
        }
        fs::remove_file(&path).map_err(io)?;
        Err(StoreError::Rotten(path))
    }

    /// What the disk said of a file of this digest beyond the store.
    pub fn failed(&self, digest: Digest, source: io::Error) -> StoreError {
        if source.kind() == io::ErrorKind::StorageFull {
            let wanted = fs::metadata(self.path(digest)).map_or(0, |about| about.len());
            let free = free_bytes(&self.folder).unwrap_or(0);
            return StoreError::DiskFull { path: self.folder.clone(), free, wanted };
        }
        StoreError::Io { path: self.path(digest), source }
    }

    /// Begins to receive a file, or goes on where an earlier attempt ended.
    pub fn begin(&self, manifest: &impl Content) -> Result<Incoming, StoreError> {
        let part = self.folder.join(format!("{}.part", manifest.digest()));
        let io = |source| StoreError::Io { path: part.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&part)
            .map_err(io)?;
        let (receiver, _verified) = ArtefactReceiver::restore(manifest, &mut file).map_err(io)?;
        // What lies behind the bytes that the receiver holds is wrong.
        file.set_len(receiver.next_offset()).map_err(io)?;
        file.seek(SeekFrom::End(0)).map_err(io)?;
        let wanted = (manifest.bytes() - receiver.next_offset()).saturating_add(DISK_RESERVE_BYTES);
        let free = free_bytes(&self.folder).map_err(io)?;
        if free < wanted {
            return Err(StoreError::DiskFull { path: self.folder.clone(), free, wanted });
        }
        Ok(Incoming { receiver, file, part, whole: self.path(manifest.digest()) })
    }

    /// Removes files that are not in `keep`, except the `spare` newest, and parts of files that are not in `keep`.
    /// Returns how many were removed.
    pub fn collect(&self, keep: &BTreeSet<Digest>, spare: usize) -> io::Result<usize> {
        let mut unused: Vec<(SystemTime, PathBuf)> = Vec::new();
        let mut removed = 0;
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let digest = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            let Some(digest): Option<Digest> = digest else { continue };
            match path.extension().and_then(|e| e.to_str()) {
                _ if keep.contains(&digest) => {}
                Some("gguf") => unused.push((fs::metadata(&path)?.modified()?, path)),
                Some("part") => {
                    fs::remove_file(&path)?;
                    removed += 1;
                }
                _ => {}
            }
        }
        unused.sort_by(|a, b| b.cmp(a));
        for (_, path) in unused.into_iter().skip(spare) {
            fs::remove_file(&path)?;
            removed += 1;
        }
        Ok(removed)
    }
}

impl Incoming {
    /// The next byte wanted.
    pub fn offset(&self) -> u64 {
        self.receiver.next_offset()
    }

    /// Size of the whole file in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.receiver.total_bytes()
    }

    /// Whether all bytes are here and every chunk was verified.
    pub fn is_complete(&self) -> bool {
        self.receiver.is_complete()
    }

    /// Takes the bytes that follow [`Incoming::offset`], piece by piece, so that nothing good is lost when a wrong chunk follows.
    ///
    /// After an error about a wrong chunk, go on from [`Incoming::offset`], which is that chunk's beginning.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        for piece in bytes.chunks(64 << 10) {
            // Bytes of an unfinished chunk go to the disk too, so that a killed process has them when it comes back.
            self.file.write_all(piece).map_err(|source| self.io(source))?;
            if let Err(refusal) = self.receiver.receive(piece) {
                self.file.set_len(self.receiver.next_offset()).map_err(|source| self.io(source))?;
                self.file.seek(SeekFrom::End(0)).map_err(|source| self.io(source))?;
                return Err(refusal.into());
            }
        }
        Ok(())
    }

    /// Checks the digest of the whole file, syncs it and gives it its name.
    ///
    /// A file whose chunks hold but whose digest does not is removed: its manifest contradicts itself.
    pub fn finish(self) -> Result<PathBuf, StoreError> {
        if let Err(refusal) = self.receiver.finish() {
            if matches!(refusal, Refusal::WrongFile { .. }) {
                fs::remove_file(&self.part).map_err(|source| self.io(source))?;
            }
            return Err(refusal.into());
        }
        self.file.sync_all().map_err(|source| self.io(source))?;
        fs::rename(&self.part, &self.whole).map_err(|source| self.io(source))?;
        durable::sync_folder(&self.whole).map_err(|source| self.io(source))?;
        Ok(self.whole)
    }

    fn io(&self, source: io::Error) -> StoreError {
        if source.kind() == io::ErrorKind::StorageFull {
            let wanted = self.total_bytes() - self.offset();
            let path = self.part.parent().unwrap_or(&self.part).to_owned();
            let free = free_bytes(&path).unwrap_or(0);
            return StoreError::DiskFull { path, free, wanted };
        }
        StoreError::Io { path: self.part.clone(), source }
    }
}

/// Bytes that this user can still write to the disk under `path`.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    // SAFETY: an all-zero statvfs is a valid value of the plain C struct, and the call only writes into it.
    let about = unsafe {
        let mut about: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(path.as_ptr(), &mut about) != 0 {
            return Err(io::Error::last_os_error());
        }
        about
    };
    Ok(about.f_bavail * about.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_shared::artefact::{CHUNK_BYTES, Manifest, Stage};

    fn manifest_of(file: &[u8]) -> Manifest {
        Manifest::of_file("m", Stage::Vad, "a", file)
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut output = vec![0; bytes];
        blake3::Hasher::new().update(&bytes.to_le_bytes()).finalize_xof().fill(&mut output);
        output
    }

    #[test]
    fn a_part_goes_on_at_the_very_byte_even_inside_a_chunk() {
        let dir = tempfile::tempdir().expect("dir");
        let store = ArtefactStore::at(dir.path());
        let file = noise(2_500_000);
        let manifest = manifest_of(&file);
        let mut incoming = store.begin(&manifest).expect("begin");
        incoming.write(&file[..1_300_001]).expect("good");
        drop(incoming); // What a SIGKILL leaves: no chance to write anything more.
        let mut incoming = store.begin(&manifest).expect("again");
        assert_eq!(incoming.offset(), 1_300_001);
        assert!(!store.holds(&manifest));
        incoming.write(&file[1_300_001..]).expect("good");
        let path = incoming.finish().expect("whole");
        assert_eq!(fs::read(&path).expect("read"), file);
        assert!(store.holds(&manifest));
        assert_eq!(store.verified(manifest.digest).expect("verified"), path);
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 1, "the part is gone");
    }

    #[test]
    fn a_wrong_byte_costs_its_chunk_and_nothing_else() {
        let dir = tempfile::tempdir().expect("dir");
        let store = ArtefactStore::at(dir.path());
        let file = noise(3_000_000);
        let manifest = manifest_of(&file);
        let mut wrong = file.clone();
        wrong[1_500_000] ^= 1;
        let mut incoming = store.begin(&manifest).expect("begin");
        let refused = incoming.write(&wrong).expect_err("refused");
        assert!(matches!(refused, StoreError::Refused(Refusal::WrongChunk { chunk: 1, .. })), "{refused}");
        assert_eq!(incoming.offset(), CHUNK_BYTES);
        let part = dir.path().join(format!("{}.part", manifest.digest));
        assert_eq!(fs::metadata(part).expect("part").len(), CHUNK_BYTES, "nothing wrong stays on the disk");
        incoming.write(&file[CHUNK_BYTES as usize..]).expect("good this time");
        incoming.finish().expect("whole");
    }

    #[test]
    fn a_file_that_rotted_on_the_disk_is_removed_and_told() {
        let dir = tempfile::tempdir().expect("dir");
        let store = ArtefactStore::at(dir.path());
        let file = noise(1000);
        let manifest = manifest_of(&file);
        let mut incoming = store.begin(&manifest).expect("begin");
        incoming.write(&file).expect("good");
        let path = incoming.finish().expect("whole");
        let mut rotten = file.clone();
        rotten[7] ^= 1;
        fs::write(&path, rotten).expect("rot");
        assert!(matches!(store.verified(manifest.digest), Err(StoreError::Rotten(_))));
        assert!(!store.holds(&manifest));
    }

    #[test]
    fn a_file_larger_than_the_disk_is_refused_before_a_byte_is_fetched() {
        let dir = tempfile::tempdir().expect("dir");
        let manifest = Manifest { bytes: u64::MAX / 2, ..manifest_of(b"x") };
        let refused = ArtefactStore::at(dir.path()).begin(&manifest).expect_err("refused");
        assert!(matches!(refused, StoreError::DiskFull { .. }), "{refused}");
    }

    #[test]
    fn collecting_spares_what_is_in_use_and_the_newest() {
        let dir = tempfile::tempdir().expect("dir");
        let store = ArtefactStore::at(dir.path());
        let digests: Vec<Digest> = (0_u8..5).map(|n| Digest::of(&[n])).collect();
        for (age, digest) in digests.iter().enumerate() {
            let path = store.path(*digest);
            fs::write(&path, b"x").expect("file");
            let when = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 - age as u64);
            File::options().write(true).open(&path).expect("open").set_modified(when).expect("time");
        }
        fs::write(dir.path().join(format!("{}.part", Digest::of(b"gone"))), b"x").expect("file");
        fs::write(dir.path().join(format!("{}.part", digests[0])), b"x").expect("file");
        fs::write(dir.path().join("notes.txt"), b"x").expect("file");
        let keep = BTreeSet::from([digests[0], digests[4]]);
        assert_eq!(store.collect(&keep, 1).expect("collect"), 3);
        for (n, stays) in [(0, true), (1, true), (2, false), (3, false), (4, true)] {
            assert_eq!(store.path(digests[n]).exists(), stays, "{n}");
        }
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 5);
    }
}
