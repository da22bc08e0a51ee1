//! Pieces of model files that stand on a shelf, kept on this machine's disk while there is room.
//!
//! A piece is fetched once, however many agents ask for it, held against the manifest, and only then kept; what an earlier process has left is held
//! against it before it is used again. BACKPRESSURE: [`FETCHES_MAX`] pieces are fetched at once, and the disk holds `bytes_max`; the piece that was asked for
//! longest ago goes first. The downside: nothing is fetched ahead, so the first agent of all waits for each piece in turn.

use super::{Shelf, ShelfError, chunks_hold, io_error};
use nearfield_shared::artefact::{CHUNK_BYTES, Digest, Manifest};
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Semaphore;

/// Chunks of a piece: 8 MiB make a request's round trip small beside its bytes, and eight at once 64 MiB of memory.
const PIECE_CHUNKS: u64 = 8;

/// Bytes of a piece.
pub const PIECE_BYTES: u64 = PIECE_CHUNKS * CHUNK_BYTES;

/// Pieces that are fetched at once.
const FETCHES_MAX: usize = 8;

/// A file and the number of its piece.
type Key = (Digest, u64);

#[derive(Debug, Clone, Copy)]
struct Piece {
    bytes: u64,
    /// When it was asked for last, by [`Kept::asked`].
    asked: u64,
    /// Whether this process has held it against the manifest.
    verified: bool,
}

#[derive(Debug, Default)]
struct Kept {
    pieces: HashMap<Key, Piece>,
    bytes: u64,
    asked: u64,
}

/// The cache.
#[derive(Debug)]
pub struct ArtefactCache {
    shelf: Shelf,
    folder: PathBuf,
    bytes_max: u64,
    kept: Mutex<Kept>,
    /// Pieces that are fetched now.
    fetching: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
    fetches: Semaphore,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The piece that a file of the cache is, by its name.
fn key_of(name: &str) -> Option<Key> {
    let (digest, number) = name.split_once('.')?;
    Some((digest.parse().ok()?, number.parse().ok()?))
}

impl ArtefactCache {
    /// In this folder, which is made where it is not there. What an earlier process has left counts on; what is not a piece is removed.
    pub fn open(shelf: Shelf, folder: &Path, bytes_max: u64) -> Result<Self, ShelfError> {
        crate::secret_file::private_dir(folder).map_err(|e| ShelfError::Settings(e.to_string()))?;
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).map_err(io_error(folder))? {
            let entry = entry.map_err(io_error(folder))?;
            let about = entry.metadata().map_err(io_error(folder))?;
            match entry.file_name().to_str().and_then(key_of) {
                Some(key) => found.push((about.modified().ok(), key, about.len())),
                None => fs::remove_file(entry.path()).map_err(io_error(&entry.path()))?,
            }
        }
        found.sort();
        let mut kept = Kept::default();
        for (_, key, bytes) in found {
            kept.asked += 1;
            kept.bytes += bytes;
            kept.pieces.insert(key, Piece { bytes, asked: kept.asked, verified: false });
        }
        let cache = Self {
            shelf,
            folder: folder.to_owned(),
            bytes_max,
            kept: Mutex::new(kept),
            fetching: Mutex::default(),
            fetches: Semaphore::new(FETCHES_MAX),
        };
        cache.make_room();
        Ok(cache)
    }

    fn path(&self, (digest, number): Key) -> PathBuf {
        self.folder.join(format!("{}.{number}", digest.to_hex()))
    }

    /// The file of the piece that this byte lies in, from the shelf where it is not here. A piece that has to go meanwhile can still be read.
    pub async fn piece(&self, manifest: &Manifest, offset: u64) -> Result<File, ShelfError> {
        let key = (manifest.digest, offset / PIECE_BYTES);
        if let Some(file) = self.kept(manifest, key).await? {
            return Ok(file);
        }
        let turn = Arc::clone(locked(&self.fetching).entry(key).or_default());
        let file = {
            let _turn = turn.lock().await;
            match self.kept(manifest, key).await? {
                Some(file) => Ok(file),
                None => self.fetch(manifest, key).await,
            }
        };
        drop(turn);
        // Whoever waits for it holds it, too.
        locked(&self.fetching).retain(|_, turn| Arc::strong_count(turn) > 1);
        file
    }

    /// The piece, if it is here and whole.
    async fn kept(&self, manifest: &Manifest, key: Key) -> Result<Option<File>, ShelfError> {
        let Some(piece) = self.asked_for(key) else { return Ok(None) };
        let path = self.path(key);
        if piece.verified {
            return match File::open(&path) {
                Ok(file) => Ok(Some(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.forget(key);
                    Ok(None)
                }
                Err(error) => Err(io_error(&path)(error)),
            };
        }
        let (manifest, read_from) = (manifest.clone(), path.clone());
        let whole = tokio::task::spawn_blocking(move || {
            let bytes = fs::read(&read_from).ok()?;
            let range = piece_range(&manifest, key.1);
            let holds = bytes.len() as u64 == range.end - range.start
                && chunks_hold(&manifest, (key.1 * PIECE_CHUNKS) as usize, &bytes);
            holds.then(|| File::open(&read_from).ok()).flatten()
        });
        match whole.await.ok().flatten() {
            Some(file) => {
                if let Some(piece) = locked(&self.kept).pieces.get_mut(&key) {
                    piece.verified = true;
                }
                Ok(Some(file))
            }
            None => {
                tracing::warn!(path = %path.display(), "a piece of the cache is damaged and fetched again");
                self.forget(key);
                fs::remove_file(&path).ok();
                Ok(None)
            }
        }
    }

    fn asked_for(&self, key: Key) -> Option<Piece> {
        let mut kept = locked(&self.kept);
        kept.asked += 1;
        let asked = kept.asked;
        let piece = kept.pieces.get_mut(&key)?;
        piece.asked = asked;
        Some(*piece)
    }

    fn forget(&self, key: Key) {
        let mut kept = locked(&self.kept);
        if let Some(piece) = kept.pieces.remove(&key) {
            kept.bytes -= piece.bytes;
        }
    }

    async fn fetch(&self, manifest: &Manifest, key: Key) -> Result<File, ShelfError> {
        // Closed never.
        let _permit = self.fetches.acquire().await;
        let bytes = self.shelf.read(manifest, piece_range(manifest, key.1)).await?;
        let (folder, path, length) = (self.folder.clone(), self.path(key), bytes.len() as u64);
        let written = tokio::task::spawn_blocking(move || {
            let mut file = tempfile::NamedTempFile::new_in(&folder)?;
            file.write_all(&bytes)?;
            file.persist(&path).map_err(|e| e.error)?;
            File::open(&path)
        });
        let written = written.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        let file = written.map_err(io_error(&self.folder))?;
        {
            let mut kept = locked(&self.kept);
            kept.asked += 1;
            kept.bytes += length;
            let piece = Piece { bytes: length, asked: kept.asked, verified: true };
            if let Some(before) = kept.pieces.insert(key, piece) {
                kept.bytes -= before.bytes;
            }
        }
        self.make_room();
        Ok(file)
    }

    fn make_room(&self) {
        let mut kept = locked(&self.kept);
        while kept.bytes > self.bytes_max && kept.pieces.len() > 1 {
            let Some((&key, _)) = kept.pieces.iter().min_by_key(|(_, piece)| piece.asked) else { return };
            if let Some(piece) = kept.pieces.remove(&key) {
                kept.bytes -= piece.bytes;
            }
            // One that cannot be removed is found again at the next start.
            fs::remove_file(self.path(key)).ok();
        }
    }

    /// Bytes on the disk.
    pub fn bytes(&self) -> u64 {
        locked(&self.kept).bytes
    }
}

fn piece_range(manifest: &Manifest, number: u64) -> std::ops::Range<u64> {
    number * PIECE_BYTES..((number + 1) * PIECE_BYTES).min(manifest.bytes)
}
