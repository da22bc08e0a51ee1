//! Changes of keys: new root metadata, signed by the old root key and by the new one, so that nodes follow from the one to the other.

use super::{
    TufError,
    file::{self, Metadata},
    keeper::{Brought, Keeper},
    keys, roles,
};
use std::path::PathBuf;

/// Which keys are changed.
#[derive(Debug, Clone, Default)]
pub struct Rotation {
    /// The file of the new root key, made where there is none; `None` for one in the place of the old.
    pub new_root_key: Option<PathBuf>,
    /// Whether the daemon's two keys are changed, too.
    pub online: bool,
    /// Whether the root key stays.
    pub keep_root: bool,
}

impl Keeper<'_> {
    /// Signs new root metadata with another root key, and other keys of the daemon's where that is wanted.
    pub fn rotate_root(&self, rotation: &Rotation) -> Result<Brought, TufError> {
        let _lock = file::lock(self.dir)?;
        let mut metadata = Metadata::load(self.dir)?.ok_or(TufError::NotMade)?;
        let root = metadata.root()?.signed;
        let mut named = roles::named(&root)?;
        let path = self.root_key_path();
        let old = match keys::named(&path, &named.root)? {
            Some(key) => key,
            None if keys::exists(&path)? => return Err(TufError::OtherRootKey(path)),
            None => return Err(TufError::RootKeyElsewhere(path)),
        };
        let mut in_place = Vec::new();
        let new = match &rotation.new_root_key {
            _ if rotation.keep_root => None,
            Some(elsewhere) => Some(keys::read_or_make(elsewhere)?),
            None => {
                in_place.push(path.clone());
                Some(keys::make_beside(&path)?)
            }
        };
        if let Some(new) = &new {
            named.root = roles::public(new);
        }
        if rotation.online {
            for (key, of) in
                [(self.dir.snapshot_key(), &mut named.snapshot), (self.dir.timestamp_key(), &mut named.timestamp)]
            {
                *of = roles::public(&keys::make_beside(&key)?);
                in_place.push(key);
            }
        }
        let version = root.version.get() + 1;
        let signers = [Some(&old), new.as_ref()];
        let signers: Vec<_> = signers.into_iter().flatten().collect();
        let text = roles::root(version, self.now + self.lifetimes.root_s(), &named, &signers)?;
        self.add_root(&mut metadata, version, text);
        let root = metadata.root()?.signed;
        // What follows finds the new keys beside their places, and puts them there once the metadata names them.
        if rotation.online {
            metadata.store(self.dir)?;
        }
        self.renew_online(&mut metadata, &root, rotation.online)?;
        metadata.store(self.dir)?;
        for key in in_place {
            keys::settle(&key)?;
        }
        Ok(Brought { metadata, changed: true, to_do: Vec::new() })
    }
}
