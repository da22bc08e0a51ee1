//! Reads pinned files out of wheels (zip) and source archives (tar.gz). Nothing is unpacked to disk.
//!
//! A zip bomb gets nowhere: of each file at most one byte more than its pin says is read, and of a whole tar at most
//! [`TAR_BYTES_MAX`] after decompression.

use super::{Archive, FetchError, Pin, Place, read_pinned};
use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

/// Most bytes a source archive may unfold into. The largest in the catalogue has 60 MB.
const TAR_BYTES_MAX: u64 = 2 << 30;
/// Most files a source archive may hold; the largest known has 3,000.
const TAR_FILES_MAX: usize = 200_000;

/// The pinned files of an archive, in the order of the pins.
pub(super) fn read(path: &Path, archive: &Archive, pins: &[&Pin]) -> Result<Vec<Vec<u8>>, FetchError> {
    let file = File::open(path).map_err(|e| FetchError::disk(path, e))?;
    let wanted: Vec<(&str, &Pin)> = pins
        .iter()
        .filter_map(|p| match &p.place {
            Place::Pypi(_, file) => Some((file.as_str(), *p)),
            _ => None,
        })
        .collect();
    if archive.archive.ends_with(".whl") { zip(file, archive, &wanted) } else { tar_gz(file, archive, &wanted) }
}

fn damaged(archive: &Archive, why: impl ToString) -> FetchError {
    FetchError::DamagedArchive { archive: archive.archive.clone(), why: why.to_string() }
}

fn missing(archive: &Archive, file: &str) -> FetchError {
    FetchError::NotInArchive { archive: archive.archive.clone(), file: file.to_owned() }
}

fn zip(file: File, archive: &Archive, wanted: &[(&str, &Pin)]) -> Result<Vec<Vec<u8>>, FetchError> {
    let mut zip = zip::ZipArchive::new(BufReader::new(file)).map_err(|e| damaged(archive, e))?;
    wanted
        .iter()
        .map(|(name, pin)| {
            let member = zip.by_name(name).map_err(|e| match e {
                zip::result::ZipError::FileNotFound => missing(archive, name),
                e => damaged(archive, e),
            })?;
            read_pinned(member, pin).map_err(|e| e.unwrap_or_else(|e| damaged(archive, e)))
        })
        .collect()
}

fn tar_gz(file: File, archive: &Archive, wanted: &[(&str, &Pin)]) -> Result<Vec<Vec<u8>>, FetchError> {
    let mut found: Vec<Option<Vec<u8>>> = vec![None; wanted.len()];
    let bounded = Bounded { inner: flate2::read::GzDecoder::new(BufReader::new(file)), left: TAR_BYTES_MAX };
    let mut tar = tar::Archive::new(bounded);
    for (count, entry) in tar.entries().map_err(|e| damaged(archive, e))?.enumerate() {
        if count >= TAR_FILES_MAX {
            return Err(damaged(archive, format!("it holds more than {TAR_FILES_MAX} files")));
        }
        let entry = entry.map_err(|e| damaged(archive, e))?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path_bytes().into_owned();
        let Some(i) = wanted.iter().position(|(name, _)| name.as_bytes() == path.as_slice()) else { continue };
        let (_, pin) = wanted[i];
        let bytes = read_pinned(entry, pin).map_err(|e| e.unwrap_or_else(|e| damaged(archive, e)))?;
        found[i] = Some(bytes);
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    found.into_iter().zip(wanted).map(|(f, (name, _))| f.ok_or_else(|| missing(archive, name))).collect()
}

/// Fails once more than `left` bytes were read.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.left = self
            .left
            .checked_sub(n as u64)
            .ok_or_else(|| io::Error::other(format!("it unfolds into more than {TAR_BYTES_MAX} bytes")))?;
        Ok(n)
    }
}
