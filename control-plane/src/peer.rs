//! What a further control plane needs of the first: the authority that nodes believe, and the key of models, in one file.
//!
//! Each control plane signs and speaks with the same authority, so a node believes whichever of them leads; all keys of its links are derived from that one
//! ([`crate::control::tls`]). Its admin credential is not shared: each folder has its own. The file is as precious as the keys in it: whoever
//! reads it is this control plane.

use crate::{
    ca::Ca,
    secret_file::{self, SecretFileError},
    state_dir::{StateDir, StateDirError},
};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use nearfield_shared::caller_key::CallerKey;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io, path::Path};
use zeroize::Zeroizing;

/// Version of the file. 1 is the first.
const VERSION: u32 = 1;

/// Largest file that is read: keys, a certificate, addresses, and the registry's metadata, which lists models.
const BYTES_MAX: u64 = 4 << 20;

/// Why there is no bundle, or none is taken.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// No bundle, or a damaged one.
    #[error("{path} is not what `control-plane peer export` makes: {detail}; export it again")]
    Unusable {
        /// The file.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// Made by a later version.
    #[error("the file has format {found}, this control plane reads {VERSION}; join with the version that exported it")]
    Newer {
        /// Its format.
        found: u32,
    },
    /// The secret cannot be read or written.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// The state folder cannot be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
}

/// A secret text, which does not print.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, into: S) -> Result<S::Ok, S::Error> {
        into.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(|text| Self(Zeroizing::new(text)))
    }
}

/// The keys of a control plane, for another one.
#[derive(Serialize, Deserialize)]
pub struct Bundle {
    version: u32,
    pub(crate) ca_pem: String,
    pub(crate) ca_key: Secret,
    /// 32 bytes in base64.
    pub(crate) signing_pub: String,
    /// PKCS#8 in base64; `None` where it is kept elsewhere.
    #[serde(default)]
    pub(crate) signing_key: Option<Secret>,
    /// What callers present.
    #[serde(default)]
    pub(crate) caller_key: Option<Secret>,
    /// The registry's metadata, `registry.json`: nodes trust what follows from its root, whoever leads. `None` from a control plane that has none yet.
    #[serde(default)]
    pub(crate) registry: Option<String>,
    /// The keys that sign it, by the names of their files, PKCS#8 in base64; without those that are kept elsewhere.
    #[serde(default)]
    pub(crate) registry_keys: BTreeMap<String, Secret>,
    /// The store that is shared.
    #[serde(default)]
    pub store: Option<String>,
    /// Addresses that nodes are told.
    #[serde(default)]
    pub planes: Vec<String>,
}

impl Bundle {
    /// What is in a state folder.
    ///
    /// # Errors
    /// Where a key is missing, damaged, or can be read by others.
    pub fn of(dir: &StateDir, store: Option<String>, planes: Vec<String>) -> Result<Self, PeerError> {
        // Checked before anybody relies on it.
        let signing_pub = STANDARD.encode(dir.signing_public_key()?);
        dir.ca()?;
        let (ca_pem, ca_key) = dir.ca_files()?;
        let optional = |path: &Path| match secret_file::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(SecretFileError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PeerError::from(error)),
        };
        let text = |bytes: Zeroizing<Vec<u8>>| Secret(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()));
        let signing_key = optional(&dir.signing_key_path())?.map(|key| Secret(Zeroizing::new(STANDARD.encode(&*key))));
        let caller_key = optional(&dir.caller_key())?.map(text);
        let registry = optional(&dir.registry())?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let mut registry_keys = BTreeMap::new();
        for (name, path) in dir.registry_keys() {
            if let Some(key) = optional(&path)? {
                registry_keys.insert(name.to_owned(), Secret(Zeroizing::new(STANDARD.encode(&*key))));
            }
        }
        Ok(Self {
            version: VERSION,
            ca_pem,
            ca_key: Secret(ca_key),
            signing_pub,
            signing_key,
            caller_key,
            registry,
            registry_keys,
            store,
            planes,
        })
    }

    /// Writes it to a new file with mode 0600.
    ///
    /// # Errors
    /// Where the file is there already, or the disk says no.
    pub fn write(&self, path: &Path) -> Result<(), PeerError> {
        let text = Zeroizing::new(
            serde_json::to_vec_pretty(self).expect("a bundle has string keys only, which JSON can hold"),
        );
        Ok(secret_file::write_new(path, &text)?)
    }

    /// Reads it back, and checks that its keys fit one another.
    ///
    /// # Errors
    /// Where it can be read by others, or is damaged.
    pub fn read(path: &Path) -> Result<Self, PeerError> {
        let shown = path.display().to_string();
        let wrong =
            |detail: &dyn std::fmt::Display| PeerError::Unusable { path: shown.clone(), detail: detail.to_string() };
        if fs::metadata(path).is_ok_and(|about| about.len() > BYTES_MAX) {
            return Err(wrong(&"it is too large"));
        }
        let bytes = secret_file::read(path)?;
        let bundle: Self = serde_json::from_slice(&bytes).map_err(|e| wrong(&e))?;
        if bundle.version > VERSION {
            return Err(PeerError::Newer { found: bundle.version });
        }
        let ca = Ca::load(&bundle.ca_pem, bundle.ca_key.as_str()).map_err(|e| wrong(&e))?;
        if !ca.key_fits() {
            return Err(wrong(&"the authority's key is not that of its certificate"));
        }
        let public = STANDARD.decode(&bundle.signing_pub).map_err(|e| wrong(&e))?;
        if let Some(key) = bundle.signing_key_bytes().map_err(|e| wrong(&e))? {
            let key = Ed25519KeyPair::from_pkcs8(&key).map_err(|e| wrong(&e))?;
            if key.public_key().as_ref() != public {
                return Err(wrong(&"the key of models is not that of its public half"));
            }
        }
        for name in bundle.registry_keys.keys() {
            bundle.registry_key(name).map_err(|e| wrong(&e))?;
        }
        if let Some(key) = &bundle.caller_key {
            CallerKey::new(key.as_str().as_bytes()).map_err(|e| wrong(&e))?;
        }
        Ok(bundle)
    }

    /// A key of the registry's metadata, where it is here.
    pub(crate) fn registry_key(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, base64::DecodeError> {
        self.registry_keys.get(name).map(|key| STANDARD.decode(key.as_str()).map(Zeroizing::new)).transpose()
    }

    /// The key that signs models, where it is here.
    pub(crate) fn signing_key_bytes(&self) -> Result<Option<Zeroizing<Vec<u8>>>, base64::DecodeError> {
        self.signing_key.as_ref().map(|key| STANDARD.decode(key.as_str()).map(Zeroizing::new)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_control_plane_that_joins_has_the_keys_of_the_first_and_a_credential_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateDir::init(&folder.path().join("first"), &Config::default()).unwrap();
        let path = folder.path().join("bundle");
        Bundle::of(&first, Some("etcd://127.0.0.1".into()), vec!["a:1".into()]).unwrap().write(&path).unwrap();
        let bundle = Bundle::read(&path).unwrap();
        assert_eq!(
            (bundle.store.as_deref(), bundle.planes.as_slice()),
            (Some("etcd://127.0.0.1"), &["a:1".to_owned()][..])
        );
        let second = StateDir::join(&folder.path().join("second"), &Config::default(), &bundle).unwrap();
        assert_eq!(second.ca().unwrap().fingerprint(), first.ca().unwrap().fingerprint());
        assert!(second.ca().unwrap().key_fits());
        assert_eq!(second.signing_public_key().unwrap(), first.signing_public_key().unwrap());
        second.signing_key_from(&first.signing_key_path()).unwrap();
        assert_ne!(*second.admin_token().unwrap(), *first.admin_token().unwrap());
        let again = StateDir::join(&folder.path().join("second"), &Config::default(), &bundle);
        assert!(matches!(again, Err(StateDirError::AlreadyInitialised(_))), "{again:?}");
        assert!(Bundle::of(&first, None, vec![]).unwrap().write(&path).is_err(), "nothing is replaced");
    }

    #[test]
    fn a_bundle_that_was_changed_or_is_open_to_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (first, other) = (folder.path().join("first"), folder.path().join("other"));
        let first = StateDir::init(&first, &Config::default()).unwrap();
        let other = StateDir::init(&other, &Config::default()).unwrap();
        let mixed = |name: &str, change: &dyn Fn(&mut Bundle, Bundle)| {
            let mut bundle = Bundle::of(&first, None, vec![]).unwrap();
            change(&mut bundle, Bundle::of(&other, None, vec![]).unwrap());
            let path = folder.path().join(name);
            bundle.write(&path).unwrap();
            Bundle::read(&path).err().unwrap().to_string()
        };
        assert!(mixed("ca", &|bundle, other| bundle.ca_key = other.ca_key).contains("authority's key"));
        assert!(mixed("pub", &|bundle, other| bundle.signing_pub = other.signing_pub).contains("key of models"));
        assert!(mixed("new", &|bundle, _| bundle.version = 2).contains("format 2"));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let path = folder.path().join("open");
            Bundle::of(&first, None, vec![]).unwrap().write(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            assert!(Bundle::read(&path).err().unwrap().to_string().contains("chmod 600"));
        }
    }
}
