//! Where imported models stand: files named by their BLAKE3, and a signed manifest for each model.
//!
//! A file is written under a temporary name, synced, and renamed; then its manifest is, in the same way. So a model whose manifest
//! is there is whole, and an import that was cut leaves nothing that counts.

use super::{
    Imported,
    shelf::{copying::elsewhere_path, sha256_hex},
};
use crate::state_dir::StateDir;
use nearfield_shared::artefact::{CHUNK_BYTES, Digest, SignedManifest};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// A file as it was written, before its manifest exists.
pub(super) struct Written {
    file: tempfile::NamedTempFile,
    /// Its size.
    pub bytes: u64,
    /// Its digest.
    pub digest: Digest,
    /// The digests of its chunks.
    pub chunks: Vec<Digest>,
}

/// Writes a file that has no name yet; dropped, it is gone.
pub(super) fn write(folder: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<Written> {
    fs::create_dir_all(folder)?;
    let file = tempfile::NamedTempFile::new_in(folder)?;
    let mut sums = Sums {
        out: BufWriter::with_capacity(1 << 20, file.as_file()),
        whole: blake3::Hasher::new(),
        chunk: blake3::Hasher::new(),
        chunks: Vec::new(),
        in_chunk: 0,
        bytes: 0,
    };
    fill(&mut sums)?;
    if sums.in_chunk > 0 {
        sums.end_chunk();
    }
    sums.out.flush()?;
    let (bytes, digest) = (sums.bytes, Digest(*sums.whole.finalize().as_bytes()));
    let chunks = std::mem::take(&mut sums.chunks);
    drop(sums);
    file.as_file().sync_all()?;
    Ok(Written { file, bytes, digest, chunks })
}

impl Written {
    /// Where it stands for now.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Gives it its name in the folder.
    pub fn publish(self, path: &Path) -> io::Result<()> {
        self.file.persist(path).map_err(|e| e.error)?;
        sync_folder(path)
    }
}

/// The two folders of imported models; see [`StateDir`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Model files, each named by its digest in hex.
    pub artefacts: PathBuf,
    /// `NAME.json`: the signed manifest of the model that was last imported under this name; `NAME.recipe` beside it: by which
    /// catalogue entry and converters.
    pub manifests: PathBuf,
}

impl From<&StateDir> for Store {
    fn from(dir: &StateDir) -> Self {
        Self { artefacts: dir.artefacts(), manifests: dir.models() }
    }
}

impl Store {
    /// Where a model file of this digest stands.
    pub fn artefact(&self, digest: Digest) -> PathBuf {
        self.artefacts.join(digest.to_hex())
    }

    /// SHA-256 of a model's file, hex: computed, or as it was noted when the file went elsewhere.
    pub fn sha256(&self, digest: Digest) -> io::Result<String> {
        let path = self.artefact(digest);
        if path.is_file() { sha256_hex(&path) } else { fs::read_to_string(elsewhere_path(&path)) }
    }

    /// Forgets what is known of an earlier model of this name, and that its file stands elsewhere.
    pub(super) fn came_back(&self, name: &str, digest: Digest) -> io::Result<()> {
        for path in [self.recipe_path(name), elsewhere_path(&self.artefact(digest))] {
            match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes a model's file, which stands on a shelf, and leaves a mark in its place.
    pub(super) fn set_elsewhere(&self, digest: Digest) -> io::Result<()> {
        let path = self.artefact(digest);
        let mut mark = tempfile::NamedTempFile::new_in(&self.artefacts)?;
        mark.write_all(sha256_hex(&path)?.as_bytes())?;
        mark.as_file().sync_all()?;
        mark.persist(elsewhere_path(&path)).map_err(|e| e.error)?;
        sync_folder(&path)?;
        fs::remove_file(&path)
    }

    /// Stores the signed manifest of a model. By which recipe one that came from a shelf was made is not known.
    pub(super) fn put_manifest(&self, name: &str, signed: &SignedManifest) -> io::Result<()> {
        self.put(&self.manifests.join(format!("{name}.json")), &serde_json::to_vec_pretty(signed)?)
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.manifests)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.manifests)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        sync_folder(path)
    }

    /// Stores a signed manifest, replacing an earlier one of the same name, and then its recipe: one without the other only
    /// means that the model is imported again.
    pub(super) fn write_manifest(&self, name: &str, signed: &SignedManifest, recipe: &str) -> io::Result<()> {
        match fs::remove_file(self.recipe_path(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        self.put_manifest(name, signed)?;
        self.put(&self.recipe_path(name), recipe.as_bytes())
    }

    fn recipe_path(&self, name: &str) -> PathBuf {
        self.manifests.join(format!("{name}.recipe"))
    }

    /// By which recipe a model was imported, where that is known.
    pub(super) fn recipe(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.recipe_path(name)).ok()
    }

    /// Every imported model whose manifest carries a good signature and whose file is there, by name. Others are left out,
    /// with a warning.
    pub fn imported(&self, public_key: &[u8]) -> io::Result<Vec<Imported>> {
        let mut found = Vec::new();
        let entries = match fs::read_dir(&self.manifests) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let read = fs::read(&path).map_err(|e| e.to_string()).and_then(|b| {
                let signed: SignedManifest = serde_json::from_slice(&b).map_err(|e| e.to_string())?;
                let manifest = signed.verify(public_key).map_err(|e| e.to_string())?;
                Ok((manifest, signed))
            });
            match read {
                Ok((manifest, signed)) => {
                    let path = self.artefact(manifest.digest);
                    if path.is_file() || elsewhere_path(&path).is_file() {
                        found.push(Imported { manifest, signed, path });
                    } else {
                        tracing::warn!(model = manifest.name, "the model's file is gone; import it again");
                    }
                }
                Err(why) => {
                    tracing::warn!(path = %path.display(), why, "a manifest is left out; import the model again")
                }
            }
        }
        found.sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
        Ok(found)
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// Computes the digests while the bytes pass through.
struct Sums<W> {
    out: W,
    whole: blake3::Hasher,
    chunk: blake3::Hasher,
    chunks: Vec<Digest>,
    in_chunk: u64,
    bytes: u64,
}

impl<W> Sums<W> {
    fn end_chunk(&mut self) {
        self.chunks.push(Digest(*self.chunk.finalize().as_bytes()));
        self.chunk.reset();
        self.in_chunk = 0;
    }
}

impl<W: Write> Write for Sums<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        self.whole.update(&buf[..n]);
        self.bytes += n as u64;
        let mut rest = &buf[..n];
        while !rest.is_empty() {
            let take = rest.len().min((CHUNK_BYTES - self.in_chunk) as usize);
            self.chunk.update(&rest[..take]);
            self.in_chunk += take as u64;
            rest = &rest[take..];
            if self.in_chunk == CHUNK_BYTES {
                self.end_chunk();
            }
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_file_and_its_chunks() {
        let folder = tempfile::tempdir().expect("tempdir");
        for len in [0usize, 1, CHUNK_BYTES as usize - 1, CHUNK_BYTES as usize, 2 * CHUNK_BYTES as usize + 7] {
            let data: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
            let written =
                write(folder.path(), |out| data.chunks(70_001).try_for_each(|c| out.write_all(c))).expect("write");
            assert_eq!(written.bytes, len as u64);
            assert_eq!(written.digest, Digest::of(&data));
            assert_eq!(written.chunks, data.chunks(CHUNK_BYTES as usize).map(Digest::of).collect::<Vec<_>>());
            let path = folder.path().join(written.digest.to_hex());
            written.publish(&path).expect("publish");
            assert_eq!(fs::read(path).expect("read"), data);
        }
    }

    #[test]
    fn a_write_that_fails_leaves_nothing() {
        let folder = tempfile::tempdir().expect("tempdir");
        let failed = write(folder.path(), |out| {
            out.write_all(b"half")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 0);
    }
}
