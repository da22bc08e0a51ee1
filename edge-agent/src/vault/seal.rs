//! Sealing: each record has a data key of its own, wrapped by the vault's key.
//!
//! AES-256-GCM throughout (aws-lc-rs, random 96-bit nonces; a data key seals one record and a vault key far fewer than
//! the 2^32 messages for which random nonces are safe). Erasing is crypto-shredding: the database is a log, and a
//! removed value may linger in its file, so on every erase the vault gets a new key, the wrapped keys of the records that stay are
//! wrapped anew, and the old vault key is overwritten. What lingers can then be opened by nobody.

use crate::{
    durable,
    secrets::{self, SecretError},
};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    rand,
};
use std::{
    fs::OpenOptions,
    io::{self, Seek, Write},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;

/// Bytes that sealing adds: the nonce before and the tag after.
#[cfg(test)]
const OVERHEAD_BYTES: usize = NONCE_LEN + 16;

/// A 256-bit key. Wiped when dropped.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; KEY_BYTES]>);

/// Why something could not be sealed or opened. Says nothing about the content, on purpose.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    /// The bytes were changed, or belong to another key or record.
    #[error("the record does not open with this vault's key: it was changed, or the key was replaced")]
    DoesNotOpen,
    /// The cryptographic library refused.
    #[error("the cryptographic library refused to make a key or to seal")]
    Refused,
}

impl Key {
    /// A fresh random key.
    pub fn generate() -> Result<Self, SealError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(bytes.as_mut_slice()).map_err(|_| SealError::Refused)?;
        Ok(Self(bytes))
    }

    fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    /// Seals `content` and binds it to `context`; the result is nonce, ciphertext, tag.
    pub fn seal(&self, context: &[u8], content: &[u8]) -> Result<Vec<u8>, SealError> {
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, self.0.as_slice()).map_err(|_| SealError::Refused)?;
        let mut sealed = Zeroizing::new(content.to_vec());
        let nonce =
            cipher.seal_in_place_append_tag(Aad::from(context), &mut *sealed).map_err(|_| SealError::Refused)?;
        Ok([nonce.as_ref().as_slice(), &sealed].concat())
    }

    /// Opens what [`Key::seal`] made with the same context.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN).ok_or(SealError::DoesNotOpen)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::DoesNotOpen)?;
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, self.0.as_slice()).map_err(|_| SealError::Refused)?;
        let mut content = Zeroizing::new(sealed.to_vec());
        let length = cipher
            .open_in_place(nonce, Aad::from(context), content.as_mut_slice())
            .map_err(|_| SealError::DoesNotOpen)?
            .len();
        content.truncate(length);
        Ok(content)
    }

    /// Wraps another key for storage beside the record it seals.
    pub fn wrap(&self, context: &[u8], key: &Key) -> Result<Vec<u8>, SealError> {
        self.seal(context, key.0.as_slice())
    }

    /// Unwraps what [`Key::wrap`] made.
    pub fn unwrap_key(&self, context: &[u8], wrapped: &[u8]) -> Result<Key, SealError> {
        Key::from_slice(&self.open(context, wrapped)?).ok_or(SealError::DoesNotOpen)
    }
}

/// The vault's key on disk: 32 bytes, or 64 while a rotation is under way (the new key, then the old).
pub struct KeyFile {
    path: PathBuf,
}

/// What the key file holds.
pub struct Keys {
    /// The key that new records are wrapped with.
    pub current: Key,
    /// The key before it, where a rotation did not finish.
    pub previous: Option<Key>,
}

/// Why the key file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It is missing where it must not be, or others can read it.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// It holds something else.
    #[error(
        "{0} is not a vault key (32 or 64 bytes are expected); restore it, or move it away to start an empty vault"
    )]
    Malformed(PathBuf),
    /// A key could not be made.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The old key could not be overwritten.
    #[error("the old vault key in {path} could not be overwritten: {source}", path = .path.display())]
    Shred {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl KeyFile {
    /// The key file at `path`.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Reads the key, or makes one where there is none yet.
    pub fn read_or_create(&self) -> Result<Keys, KeyFileError> {
        match secrets::read(&self.path) {
            Ok(bytes) => {
                let malformed = || KeyFileError::Malformed(self.path.clone());
                let (current, previous) = bytes.split_at_checked(KEY_BYTES).ok_or_else(malformed)?;
                let previous = match previous.len() {
                    0 => None,
                    _ => Some(Key::from_slice(previous).ok_or_else(malformed)?),
                };
                Ok(Keys { current: Key::from_slice(current).ok_or_else(malformed)?, previous })
            }
            Err(e) if e.is_missing() => {
                let current = Key::generate()?;
                secrets::write(&self.path, current.0.as_slice())?;
                Ok(Keys { current, previous: None })
            }
            Err(e) => Err(e.into()),
        }
    }

    /// First half of a rotation: both keys on disk, so that a crash in the middle loses nothing.
    pub fn begin_rotation(&self, new: &Key, old: &Key) -> Result<(), KeyFileError> {
        let both = Zeroizing::new([new.0.as_slice(), old.0.as_slice()].concat());
        self.replace(&both)
    }

    /// Second half: only the new key remains; the old one's bytes are overwritten where they stood.
    pub fn finish_rotation(&self, new: &Key) -> Result<(), KeyFileError> {
        self.replace(new.0.as_slice())
    }

    fn replace(&self, bytes: &[u8]) -> Result<(), KeyFileError> {
        let shred = |source| KeyFileError::Shred { path: self.path.clone(), source };
        let prepared = durable::prepare(&self.path, bytes, 0o600).map_err(shred)?;
        // The old file is opened before it loses its name, and overwritten only after the new one has it: at no moment
        // is there no whole key file.
        let mut old = OpenOptions::new().write(true).open(&self.path).map_err(shred)?;
        let length = old.metadata().map_err(shred)?.len() as usize;
        prepared.commit().map_err(shred)?;
        old.rewind().map_err(shred)?;
        old.write_all(&vec![0; length]).map_err(shred)?;
        old.sync_all().map_err(shred)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_open_with_the_same_key_and_context_only() {
        let (key, other) = (Key::generate().expect("key"), Key::generate().expect("key"));
        let sealed = key.seal(b"call 1", b"what was said").expect("seal");
        assert_eq!(sealed.len(), b"what was said".len() + OVERHEAD_BYTES);
        assert!(!sealed.windows(4).any(|w| w == b"said"));
        assert_eq!(key.open(b"call 1", &sealed).expect("open").as_slice(), b"what was said");
        let mut changed = sealed.clone();
        changed[NONCE_LEN + 2] ^= 1;
        for (key, context, bytes) in [
            (&other, b"call 1".as_slice(), &sealed[..]),
            (&key, b"call 2", &sealed),
            (&key, b"call 1", &changed),
            (&key, b"call 1", &sealed[..5]),
            (&key, b"call 1", &[]),
        ] {
            assert_eq!(key.open(context, bytes).err(), Some(SealError::DoesNotOpen));
        }
    }

    #[test]
    fn a_rotation_cut_in_the_middle_leaves_both_keys_and_a_finished_one_only_the_new() {
        let dir = tempfile::tempdir().expect("dir");
        let file = KeyFile::at(&dir.path().join("vault.key"));
        let old = file.read_or_create().expect("made").current;
        let new = Key::generate().expect("key");
        file.begin_rotation(&new, &old).expect("begin");
        let both = file.read_or_create().expect("read");
        assert_eq!(both.current.0, new.0);
        assert_eq!(both.previous.expect("still there").0, old.0);
        file.finish_rotation(&new).expect("finish");
        let after = file.read_or_create().expect("read");
        assert!(after.previous.is_none() && after.current.0 == new.0);
    }

    #[test]
    fn a_key_file_of_the_wrong_length_is_refused_and_not_replaced() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("vault.key");
        secrets::write(&path, &[7; 31]).expect("write");
        assert!(matches!(KeyFile::at(&path).read_or_create(), Err(KeyFileError::Malformed(_))));
        assert_eq!(std::fs::read(&path).expect("read"), [7; 31]);
    }
}
