//! A model's file, and where it came from: the engine lets go of the bytes once the weights stand on the device, and reads them
//! again only when the model has died. Kept, they would take as much memory as the weights themselves.

use super::EngineError;
use nearfield_shared::artefact::Digest;
use nearfield_shared::gguf::Gguf;
use std::path::PathBuf;

/// A model's file as it is handed to [`EngineHandle::load`](super::EngineHandle::load).
#[derive(Debug, Clone)]
pub struct ModelFile {
    pub(super) gguf: Gguf,
    pub(super) origin: Origin,
}

/// Where a model can be read again.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// A file, which must still be the same then.
    Disk { path: PathBuf, digest: Digest },
    /// It stays in memory.
    Memory(Gguf),
}

impl ModelFile {
    /// Reads a file. Blocks on the disk.
    ///
    /// # Errors
    /// [`EngineError::Model`] where it cannot be read or is no GGUF file.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, EngineError> {
        let path = path.into();
        let gguf = Gguf::open(&path).map_err(|error| EngineError::Model(error.to_string()))?;
        let digest = Digest::of(gguf.bytes());
        Ok(Self { gguf, origin: Origin::Disk { path, digest } })
    }

    /// The file's content.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }
}

/// A file that was made in memory. The engine keeps it there, since it can be had nowhere else.
impl From<Gguf> for ModelFile {
    fn from(gguf: Gguf) -> Self {
        Self { gguf: gguf.clone(), origin: Origin::Memory(gguf) }
    }
}

impl Origin {
    /// The same file once more.
    ///
    /// # Errors
    /// [`EngineError::Model`] where it cannot be read any more, or is another one by now.
    pub fn read(&self) -> Result<Gguf, EngineError> {
        match self {
            Self::Memory(gguf) => Ok(gguf.clone()),
            Self::Disk { path, digest } => {
                let gguf = Gguf::open(path).map_err(|error| EngineError::Model(error.to_string()))?;
                if Digest::of(gguf.bytes()) != *digest {
                    return Err(EngineError::Model(format!(
                        "{} is not the file that the model was loaded from; put it back, or activate the model again",
                        path.display()
                    )));
                }
                Ok(gguf)
            }
        }
    }
}
