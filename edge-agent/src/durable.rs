//! Files that survive a power cut: written beside their place, synced, renamed into it, and the folder synced too.
//!
//! A reader sees the old content or the new, never a mixture, whatever moment the process dies at.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// A new content for a file, already safe on disk under a temporary name; [`Prepared::commit`] puts it in place.
///
/// Dropping it without a commit removes the temporary file.
#[derive(Debug)]
pub struct Prepared {
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl Prepared {
    /// Puts the new content in place of the old, atomically.
    pub fn commit(mut self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.target)?;
        self.committed = true;
        sync_folder(&self.target)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.committed {
            // It is only a leftover: failing to remove it costs a few bytes until the next write reuses the name.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes and syncs `bytes` beside `target` with the given mode, without touching `target` yet.
pub fn prepare(target: &Path, bytes: &[u8], mode: u32) -> io::Result<Prepared> {
    let mut name = target.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let temporary = target.with_file_name(name);
    let prepared = Prepared { temporary, target: target.to_owned(), committed: false };
    // A leftover of an earlier crash may have another mode: remove it, so that ours is the one that counts.
    match fs::remove_file(&prepared.temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&prepared.temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(prepared)
}

/// Replaces the content of `target` atomically and durably.
pub fn write(target: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    prepare(target, bytes, mode)?.commit()
}

/// Syncs the folder that holds `path`, so that a rename or removal in it survives a power cut.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_content_stands_until_the_commit_and_a_dropped_write_leaves_nothing() {
        let dir = tempfile::tempdir().expect("dir");
        let target = dir.path().join("state");
        write(&target, b"old", 0o600).expect("write");
        drop(prepare(&target, b"lost", 0o600).expect("prepare"));
        assert_eq!(fs::read(&target).expect("read"), b"old");
        let prepared = prepare(&target, b"new", 0o600).expect("prepare");
        assert_eq!(fs::read(&target).expect("read"), b"old");
        prepared.commit().expect("commit");
        assert_eq!(fs::read(&target).expect("read"), b"new");
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 1, "no temporary file is left");
    }
}
