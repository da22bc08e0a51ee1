//! The record of programs on disk. One process writes it at a time: the one that holds the folder's run lock.

use super::Book;
use crate::durable;
use std::{io, path::PathBuf};

/// Largest record that is read; one takes some KiB.
const BYTES_MAX: u64 = 256 << 10;

/// The file.
#[derive(Debug, Clone)]
pub struct BookFile {
    path: PathBuf,
}

impl BookFile {
    /// The file at `path`.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// What it says; a new record where it is not there. One that is damaged is set aside, and the installed program runs.
    pub fn load(&self) -> Book {
        match self.read() {
            Ok(book) => book,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Book::default(),
            Err(error) => {
                let path = self.path.display();
                eprintln!(
                    "edge-agent: {path} cannot be used ({error}); it was set aside, and the installed program runs"
                );
                // Should that fail, too, it is found damaged again at the next start.
                let _ = std::fs::rename(&self.path, self.path.with_extension("damaged"));
                Book::default()
            }
        }
    }

    /// What it says, for whoever only shows it.
    ///
    /// # Errors
    /// A file that is not there, is damaged, or is of a later version.
    pub fn read(&self) -> io::Result<Book> {
        if std::fs::metadata(&self.path)?.len() > BYTES_MAX {
            return Err(io::Error::other("it is too large"));
        }
        let book: Book = serde_json::from_slice(&std::fs::read(&self.path)?).map_err(io::Error::other)?;
        if book.is_readable() { Ok(book) } else { Err(io::Error::other("a later version wrote it")) }
    }

    /// Makes the record last.
    ///
    /// # Errors
    /// What the disk says; the old record stands then.
    pub fn save(&self, book: &Book) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            crate::secrets::private_folder(folder).map_err(io::Error::other)?;
        }
        durable::write(&self.path, &serde_json::to_vec_pretty(book).map_err(io::Error::other)?, 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::{Program, Terms};
    use nearfield_shared::{artefact::Digest, desired::Generation};

    #[test]
    fn a_damaged_record_means_the_installed_program_and_is_set_aside() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("agent/book.json");
        let file = BookFile::at(path.clone());
        assert_eq!(file.load(), Book::default());
        let mut book = Book::default();
        let program = Program::Release { digest: Digest([1; 32]), version: "2".parse().expect("version") };
        book.ask(program, Generation(3), Terms { healthy_s: 1, grace_s: 1 });
        file.save(&book).expect("save");
        assert_eq!(file.load(), book);
        std::fs::write(&path, "{\"version\": 1").expect("damage");
        assert_eq!(file.load(), Book::default());
        assert!(!path.exists() && path.with_extension("damaged").exists());
    }
}
