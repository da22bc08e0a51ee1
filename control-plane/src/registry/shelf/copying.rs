//! Copies of models between the state folder and shelves, and whether a shelf holds what it should.

use super::{PART_BYTES, Shelf, ShelfError, Shelved, io_error, sha256_hex};
use crate::{
    registry::{self, Store},
    state_dir::StateDir,
};
use nearfield_shared::artefact::{CHUNK_BYTES, Digest, Manifest};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

/// One side of a copy.
#[derive(Debug, Clone)]
pub enum Place {
    /// The state folder.
    Here,
    /// A shelf.
    Shelf(Shelf),
}

/// A file to copy from; one that was made for that is removed with this.
struct Source {
    path: PathBuf,
    _made: Option<tempfile::NamedTempFile>,
}

/// The state folder as a place for models.
#[derive(Debug, Clone, Copy)]
pub struct Copier<'a> {
    /// The folder.
    pub dir: &'a StateDir,
    /// The public half of the key that signs manifests, 32 bytes.
    pub public_key: &'a [u8],
}

impl Copier<'_> {
    fn store(&self) -> Store {
        Store::from(self.dir)
    }

    /// Models of the state folder. Reads files.
    fn here(&self) -> Result<Vec<Shelved>, ShelfError> {
        let store = self.store();
        let imported = registry::list(&store, self.public_key).map_err(io_error(&store.manifests))?;
        let shelved = |model: registry::Imported| {
            let sha256 = store.sha256(model.manifest.digest).map_err(io_error(&model.path))?;
            Ok(Shelved { manifest: model.manifest, signed: model.signed, sha256 })
        };
        imported.into_iter().map(shelved).collect()
    }

    /// Copies every model, or those of these digests, from one place to the other; returns which. A model is there whole or not at all.
    pub async fn copy(
        &self,
        from: &Place,
        to: &Place,
        only: Option<&std::collections::BTreeSet<String>>,
    ) -> Result<Vec<Manifest>, ShelfError> {
        let mut models = match from {
            Place::Here => self.here()?,
            Place::Shelf(shelf) => shelf.models(self.public_key).await?,
        };
        models.retain(|model| only.is_none_or(|only| only.contains(&model.manifest.digest.to_hex())));
        let mut copied = Vec::new();
        for model in models {
            let Some(source) = self.source(from, to, &model).await? else { continue };
            match to {
                Place::Here => self.keep(&model, source)?,
                Place::Shelf(shelf) => shelf.put(&model, &source.path).await?,
            }
            copied.push(model.manifest);
        }
        Ok(copied)
    }

    /// A whole file of the model; `None` where the other place is known to have it and this one does not.
    async fn source(&self, from: &Place, to: &Place, model: &Shelved) -> Result<Option<Source>, ShelfError> {
        let path = self.store().artefact(model.manifest.digest);
        match (from, to) {
            (Place::Here, Place::Shelf(shelf)) if !path.is_file() => {
                shelf.holds(&model.manifest).await?;
                Ok(None)
            }
            (Place::Here, _) => Ok(Some(Source { path, _made: None })),
            (Place::Shelf(shelf), _) => {
                let made = self.download(shelf, &model.manifest).await?;
                Ok(Some(Source { path: made.path().to_owned(), _made: Some(made) }))
            }
        }
    }

    /// A model's file from a shelf, held against its manifest, under a name that goes away.
    async fn download(&self, shelf: &Shelf, manifest: &Manifest) -> Result<tempfile::NamedTempFile, ShelfError> {
        let folder = self.dir.artefacts();
        let mut made = tempfile::NamedTempFile::new_in(&folder).map_err(io_error(&folder))?;
        let step = PART_BYTES as u64 / CHUNK_BYTES * CHUNK_BYTES;
        let mut offset = 0;
        while offset < manifest.bytes {
            let end = (offset + step).min(manifest.bytes);
            let bytes = shelf.read(manifest, offset..end).await?;
            made.write_all(&bytes).map_err(io_error(made.path()))?;
            offset = end;
        }
        made.as_file().sync_all().map_err(io_error(made.path()))?;
        Ok(made)
    }

    /// Puts a model into the state folder, its manifest last.
    fn keep(&self, model: &Shelved, source: Source) -> Result<(), ShelfError> {
        let store = self.store();
        let path = store.artefact(model.manifest.digest);
        if let Some(made) = source._made {
            made.persist(&path).map_err(|e| io_error(&path)(e.error))?;
        }
        let found = sha256_hex(&path).map_err(io_error(&path))?;
        if found != model.sha256 {
            return Err(ShelfError::WrongBytes {
                shelf: path.display().to_string(),
                what: model.manifest.name.clone(),
            });
        }
        let name = &model.manifest.name;
        let kept = store.came_back(name, model.manifest.digest).and_then(|()| store.put_manifest(name, &model.signed));
        kept.map_err(io_error(&store.manifests))
    }

    /// Removes the state folder's files of models that a shelf holds; their manifests stay.
    pub async fn move_to(&self, shelf: &Shelf, models: &[Manifest]) -> Result<(), ShelfError> {
        for manifest in models {
            shelf.holds(manifest).await?;
            let store = self.store();
            let path = store.artefact(manifest.digest);
            if path.is_file() {
                store.set_elsewhere(manifest.digest).map_err(io_error(&path))?;
            }
        }
        Ok(())
    }

    /// Reads every model of the state folder's manifests from a shelf; what is wrong, a line for each model.
    pub async fn check(&self, shelf: &Shelf) -> Result<(usize, Vec<String>), ShelfError> {
        let models = self.here()?;
        let mut problems = Vec::new();
        for model in &models {
            if let Err(error) = self.read_whole(shelf, &model.manifest).await {
                problems.push(format!("{}: {error}", model.manifest.name));
            }
        }
        Ok((models.len(), problems))
    }

    async fn read_whole(&self, shelf: &Shelf, manifest: &Manifest) -> Result<(), ShelfError> {
        shelf.holds(manifest).await?;
        let step = PART_BYTES as u64;
        for number in 0..manifest.bytes.div_ceil(step) {
            shelf.read(manifest, number * step..((number + 1) * step).min(manifest.bytes)).await?;
        }
        Ok(())
    }
}

/// Where a shelf's cache stands.
pub fn cache_folder(dir: &StateDir) -> PathBuf {
    dir.root().join("cache")
}

/// Whether a digest's name is one of a file that stands elsewhere.
pub(crate) fn elsewhere_name(name: &str) -> Option<Digest> {
    name.strip_suffix(".elsewhere").and_then(|hex| hex.parse::<Digest>().ok().filter(|digest| digest.to_hex() == hex))
}

/// The mark of a file that stands elsewhere, beside its place.
pub(crate) fn elsewhere_path(artefact: &Path) -> PathBuf {
    artefact.with_extension("elsewhere")
}
