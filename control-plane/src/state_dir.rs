//! The control plane's folder: what lies where, and how it is made.
//!
//! ```text
//! config.toml      settings (config.rs)
//! ca.pem ca.key    the plane's own certificate authority
//! signing.key      Ed25519, PKCS#8: signs manifests; only `model import` and `agent import` need it, so it can be kept elsewhere
//! signing.pub      its public half, 32 bytes in base64: what the server and every node know it by
//! admin.token      the credential of the admin API
//! caller.key       what callers beyond this machine present; made by the operator, where `api` is not on loopback
//! store/           sled
//! snapshot.json    the last export of the store
//! audit.log        a line for every change (audit/mod.rs); only ever grows
//! artefacts/       model files, each named by its BLAKE3 in hex
//! models/          NAME.json: the signed manifest of each imported model
//! agents/          VERSION_TARGET.json: the signed manifest of each imported program of the agent
//! store.moved      where the store's data went, after `migrate`
//! registry.json    the registry's signed metadata; root.key, snapshot.key and timestamp.key sign it, with signing.key
//! running.json     addresses of the running server; gone when it stops
//! ```
//! The folder has mode 0700; keys and the credential have 0600 and are refused otherwise.

use crate::{ca::Ca, config::Config, peer::Bundle, secret_file};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use nearfield_shared::artefact::Digest;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Bytes of randomness in the admin credential.
const ADMIN_TOKEN_BYTES: usize = 32;

/// Bytes of an Ed25519 public key.
const ED25519_PUBLIC_BYTES: usize = 32;

/// A control plane's folder.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

/// Where the running server can be reached. Written by `serve`, so that port 0 can be configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Process id.
    pub pid: u32,
    /// QUIC, for agents and enrolment (UDP).
    pub agents: SocketAddr,
    /// HTTP, for callers: `/v1/route`, `/v1/healthz`.
    pub api: SocketAddr,
    /// Whether that is HTTPS.
    #[serde(default)]
    pub api_tls: bool,
    /// HTTP with the credential, for admins; loopback.
    pub admin: SocketAddr,
}

impl Running {
    /// Base URL of the callers' API.
    pub fn api_url(&self) -> String {
        let scheme = if self.api_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.api)
    }
}

/// Why a state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Nothing there.
    #[error("{dir} is not a control plane's state folder; run `control-plane --state {dir} init` first", dir = .0.display())]
    NotInitialised(PathBuf),
    /// Made already.
    #[error("{dir} is a control plane's state folder already; its keys are never replaced. To start over, stop the server and delete the folder", dir = .0.display())]
    AlreadyInitialised(PathBuf),
    /// A secret cannot be used.
    #[error(transparent)]
    Secret(#[from] secret_file::SecretFileError),
    /// The signing key is kept elsewhere.
    #[error("{path} is not here; name the file in which you keep the signing key with --signing-key", path = .0.display())]
    KeyElsewhere(PathBuf),
    /// A key is not the one that nodes know.
    #[error("{path} is another key than {known}, by which this control plane's nodes know it; take the one that `init` made", path = path.display(), known = known.display())]
    OtherKey {
        /// The key's file.
        path: PathBuf,
        /// The file of the public half that is known.
        known: PathBuf,
    },
    /// A key is damaged.
    #[error("{path} is damaged: {detail}; restore it from a backup", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The disk says no.
    #[error("{path}: {error}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the disk says.
        error: io::Error,
    },
    /// A key could not be made.
    #[error("a key could not be made: {0}")]
    KeyGeneration(String),
}

/// Reads a private key.
fn ed25519(path: &Path) -> Result<Ed25519KeyPair, StateDirError> {
    Ed25519KeyPair::from_pkcs8(&secret_file::read(path)?)
        .map_err(|e| StateDirError::Damaged { path: path.to_owned(), detail: e.to_string() })
}

impl StateDir {
    /// Makes the folder with new keys, a new credential and `config`.
    pub fn init(root: &Path, config: &Config) -> Result<Self, StateDirError> {
        Self::make(root, config, None)
    }

    /// The same with the keys of another control plane, for one that shares its store.
    pub fn join(root: &Path, config: &Config, keys: &Bundle) -> Result<Self, StateDirError> {
        Self::make(root, config, Some(keys))
    }

    fn make(root: &Path, config: &Config, joins: Option<&Bundle>) -> Result<Self, StateDirError> {
        let dir = Self { root: root.to_owned() };
        // The credential is written last, so a folder without it is one whose making was cut off.
        if dir.admin_token_path().exists() {
            return Err(StateDirError::AlreadyInitialised(root.to_owned()));
        }
        secret_file::private_dir(root)?;
        for folder in [dir.artefacts(), dir.models()] {
            secret_file::private_dir(&folder)?;
        }
        // What an interrupted `init` has left was never used by anyone.
        let unused =
            [dir.signing_key_path(), dir.signing_pub_path(), dir.ca_key_path(), dir.ca_pem_path(), dir.config_path()];
        // A caller key is the operator's own, unless the bundle brings one.
        let brought = joins.is_some_and(|keys| keys.caller_key.is_some()).then(|| dir.caller_key());
        let of_registry = dir.registry_keys().map(|(_, path)| path).into_iter().chain([dir.registry()]);
        let unused = unused.into_iter().chain(brought).chain(of_registry);
        for path in unused {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(StateDirError::Io { path, error }),
                _ => {}
            }
        }
        let failed = |e: &dyn std::fmt::Display| StateDirError::KeyGeneration(e.to_string());
        match joins {
            None => dir.make_keys()?,
            Some(keys) => {
                if let Some(key) = keys.signing_key_bytes().map_err(|e| failed(&e))? {
                    secret_file::write_new(&dir.signing_key_path(), &key)?;
                }
                if let Some(key) = &keys.caller_key {
                    secret_file::write_new(&dir.caller_key(), key.as_str().as_bytes())?;
                }
                dir.write(&dir.signing_pub_path(), keys.signing_pub.as_bytes())?;
                secret_file::write_new(&dir.ca_key_path(), keys.ca_key.as_str().as_bytes())?;
                dir.write(&dir.ca_pem_path(), keys.ca_pem.as_bytes())?;
                for (name, path) in dir.registry_keys() {
                    if let Some(key) = keys.registry_key(name).map_err(|e| failed(&e))? {
                        secret_file::write_new(&path, &key)?;
                    }
                }
                if let Some(registry) = &keys.registry {
                    dir.write(&dir.registry(), registry.as_bytes())?;
                }
            }
        }
        dir.write(&dir.config_path(), config.to_toml().as_bytes())?;
        let mut token = Zeroizing::new([0_u8; ADMIN_TOKEN_BYTES]);
        aws_lc_rs::rand::fill(token.as_mut_slice()).map_err(|e| failed(&e))?;
        let token = Zeroizing::new(URL_SAFE_NO_PAD.encode(token.as_slice()));
        secret_file::write_new(&dir.admin_token_path(), token.as_bytes())?;
        Ok(dir)
    }

    fn make_keys(&self) -> Result<(), StateDirError> {
        let failed = |e: &dyn std::fmt::Display| StateDirError::KeyGeneration(e.to_string());
        let signing = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|e| failed(&e))?;
        secret_file::write_new(&self.signing_key_path(), signing.as_ref())?;
        let public = Ed25519KeyPair::from_pkcs8(signing.as_ref()).map_err(|e| failed(&e))?;
        self.write(&self.signing_pub_path(), STANDARD.encode(public.public_key().as_ref()).as_bytes())?;
        let (ca_pem, ca_key) = Ca::generate().map_err(|e| failed(&e))?;
        secret_file::write_new(&self.ca_key_path(), ca_key.as_bytes())?;
        self.write(&self.ca_pem_path(), ca_pem.as_bytes())
    }

    /// A folder that `init` has made.
    pub fn open(root: &Path) -> Result<Self, StateDirError> {
        let dir = Self { root: root.to_owned() };
        if dir.admin_token_path().exists() { Ok(dir) } else { Err(StateDirError::NotInitialised(root.to_owned())) }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Settings.
    pub fn config_path(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// The CA's certificate.
    pub fn ca_pem_path(&self) -> PathBuf {
        self.root.join("ca.pem")
    }

    fn ca_key_path(&self) -> PathBuf {
        self.root.join("ca.key")
    }

    pub(crate) fn signing_key_path(&self) -> PathBuf {
        self.root.join("signing.key")
    }

    fn signing_pub_path(&self) -> PathBuf {
        self.root.join("signing.pub")
    }

    fn admin_token_path(&self) -> PathBuf {
        self.root.join("admin.token")
    }

    /// The key that callers beyond this machine present.
    pub fn caller_key(&self) -> PathBuf {
        self.root.join("caller.key")
    }

    /// The store's folder.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Says where the store's data went, where it was moved away.
    pub fn moved(&self) -> PathBuf {
        self.root.join("store.moved")
    }

    /// The last export of the store.
    pub fn snapshot(&self) -> PathBuf {
        self.root.join("snapshot.json")
    }

    /// A line for every change.
    pub fn audit(&self) -> PathBuf {
        self.root.join("audit.log")
    }

    /// The folder of model files.
    pub fn artefacts(&self) -> PathBuf {
        self.root.join("artefacts")
    }

    /// The file of one artefact.
    pub fn artefact(&self, digest: &Digest) -> PathBuf {
        self.artefacts().join(digest.to_hex())
    }

    /// The folder of signed manifests, one `NAME.json` for each imported model.
    pub fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    /// The folder of signed manifests of the agent's programs.
    pub fn agents(&self) -> PathBuf {
        self.root.join("agents")
    }

    /// The registry's signed metadata.
    pub fn registry(&self) -> PathBuf {
        self.root.join("registry.json")
    }

    /// Held by whoever changes that.
    pub(crate) fn registry_lock(&self) -> PathBuf {
        self.root.join("registry.lock")
    }

    /// The keys of the registry's metadata, with the names of their files.
    pub(crate) fn registry_keys(&self) -> [(&'static str, PathBuf); 3] {
        [("root.key", self.root_key()), ("snapshot.key", self.snapshot_key()), ("timestamp.key", self.timestamp_key())]
    }

    /// The key that signs the registry's root metadata, where it is not kept elsewhere.
    pub fn root_key(&self) -> PathBuf {
        self.root.join("root.key")
    }

    /// The key that signs the registry's snapshots.
    pub(crate) fn snapshot_key(&self) -> PathBuf {
        self.root.join("snapshot.key")
    }

    /// The key that signs the registry's timestamps.
    pub(crate) fn timestamp_key(&self) -> PathBuf {
        self.root.join("timestamp.key")
    }

    fn running_path(&self) -> PathBuf {
        self.root.join("running.json")
    }

    /// The key that signs manifests.
    pub fn signing_key(&self) -> Result<Ed25519KeyPair, StateDirError> {
        let path = self.signing_key_path();
        if !path.exists() {
            return Err(StateDirError::KeyElsewhere(path));
        }
        ed25519(&path)
    }

    /// The same from a file that is kept elsewhere; it must be the one whose public half is known here.
    pub fn signing_key_from(&self, path: &Path) -> Result<Ed25519KeyPair, StateDirError> {
        let key = ed25519(path)?;
        if key.public_key().as_ref() == self.signing_public_key()? {
            Ok(key)
        } else {
            Err(StateDirError::OtherKey { path: path.to_owned(), known: self.signing_pub_path() })
        }
    }

    /// The public half of the key that signs manifests, 32 bytes.
    pub fn signing_public_key(&self) -> Result<Vec<u8>, StateDirError> {
        let path = self.signing_pub_path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // Folders that an older version made have it in the key alone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(self.signing_key()?.public_key().as_ref().to_vec());
            }
            Err(error) => return Err(StateDirError::Io { path, error }),
        };
        match STANDARD.decode(text.trim()) {
            Ok(key) if key.len() == ED25519_PUBLIC_BYTES => Ok(key),
            _ => Err(StateDirError::Damaged { path, detail: "it is not 32 bytes in base64".into() }),
        }
    }

    /// Certificate and key of the authority, PEM.
    pub(crate) fn ca_files(&self) -> Result<(String, Zeroizing<String>), StateDirError> {
        let (pem_path, key_path) = (self.ca_pem_path(), self.ca_key_path());
        let key = secret_file::read(&key_path)?;
        let key =
            std::str::from_utf8(&key).map_err(|e| StateDirError::Damaged { path: key_path, detail: e.to_string() })?;
        let pem = fs::read_to_string(&pem_path).map_err(|error| StateDirError::Io { path: pem_path, error })?;
        Ok((pem, Zeroizing::new(key.to_owned())))
    }

    /// The certificate authority.
    pub fn ca(&self) -> Result<Ca, StateDirError> {
        let (pem, key) = self.ca_files()?;
        Ca::load(&pem, &key).map_err(|e| StateDirError::Damaged { path: self.ca_pem_path(), detail: e.to_string() })
    }

    /// The credential of the admin API.
    pub fn admin_token(&self) -> Result<Zeroizing<String>, StateDirError> {
        let path = self.admin_token_path();
        let bytes = secret_file::read(&path)?;
        let text = std::str::from_utf8(&bytes).map_err(|e| StateDirError::Damaged { path, detail: e.to_string() })?;
        Ok(Zeroizing::new(text.trim().to_owned()))
    }

    /// Says where the server runs.
    pub fn set_running(&self, running: &Running) -> Result<(), StateDirError> {
        let path = self.running_path();
        let text = serde_json::to_string(running)
            .map_err(|e| StateDirError::Damaged { path: path.clone(), detail: e.to_string() })?;
        self.write(&path, text.as_bytes())
    }

    /// Says that the server has stopped.
    pub fn clear_running(&self) {
        // A file that stays only makes the next command say that the server does not answer.
        let _ = fs::remove_file(self.running_path());
    }

    /// Where the server runs, if it does; a server that was killed leaves its file behind.
    pub fn running(&self) -> Option<Running> {
        serde_json::from_slice(&fs::read(self.running_path()).ok()?).ok()
    }

    /// Writes a file whole or not at all.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StateDirError> {
        let io = |error| StateDirError::Io { path: path.to_owned(), error };
        let mut file = tempfile::NamedTempFile::new_in(&self.root).map_err(io)?;
        io::Write::write_all(&mut file, bytes).and_then(|()| file.as_file().sync_all()).map_err(io)?;
        file.persist(path).map_err(|e| io(e.error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_once_and_opens_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("plane");
        assert!(matches!(StateDir::open(&root), Err(StateDirError::NotInitialised(_))));
        let made = StateDir::init(&root, &Config::default()).unwrap();
        let key = made.signing_public_key().unwrap();
        assert_eq!(key.len(), 32);
        assert!(matches!(StateDir::init(&root, &Config::default()), Err(StateDirError::AlreadyInitialised(_))));
        let opened = StateDir::open(&root).unwrap();
        assert_eq!(opened.signing_public_key().unwrap(), key);
        assert_eq!(opened.ca().unwrap().fingerprint(), made.ca().unwrap().fingerprint());
        assert!(opened.admin_token().unwrap().len() > 40);
    }

    #[test]
    fn the_signing_key_can_be_kept_elsewhere_and_no_other_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (state, other) = (dir.path().join("plane"), dir.path().join("other"));
        let (state, other) =
            (StateDir::init(&state, &Config::default()).unwrap(), StateDir::init(&other, &Config::default()).unwrap());
        let (public, kept) = (state.signing_public_key().unwrap(), dir.path().join("kept.key"));
        assert_eq!(state.signing_key().unwrap().public_key().as_ref(), public);
        fs::rename(state.signing_key_path(), &kept).unwrap();
        assert_eq!(state.signing_public_key().unwrap(), public, "the server needs no more");
        assert!(state.signing_key().unwrap_err().to_string().contains("--signing-key"));
        assert_eq!(state.signing_key_from(&kept).unwrap().public_key().as_ref(), public);
        let said = state.signing_key_from(&other.signing_key_path()).unwrap_err().to_string();
        assert!(said.contains("another key"), "{said}");
        fs::rename(&kept, state.signing_key_path()).unwrap();
        fs::remove_file(state.signing_pub_path()).unwrap();
        assert_eq!(state.signing_public_key().unwrap(), public, "a folder of an older version");
        fs::write(state.signing_pub_path(), "AAAA").unwrap();
        assert!(state.signing_public_key().unwrap_err().to_string().contains("signing.pub is damaged"));
    }

    #[test]
    fn an_init_that_was_cut_off_can_be_run_again() {
        let dir = tempfile::tempdir().unwrap();
        StateDir::init(dir.path(), &Config::default()).unwrap();
        fs::remove_file(dir.path().join("admin.token")).unwrap();
        assert!(StateDir::init(dir.path(), &Config::default()).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn secrets_have_mode_0600_and_are_refused_otherwise() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::init(dir.path(), &Config::default()).unwrap();
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
        for name in ["ca.key", "signing.key", "admin.token"] {
            let path = dir.path().join(name);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        assert!(state.signing_key().unwrap_err().to_string().contains("chmod 600"));
        assert!(state.admin_token().unwrap_err().to_string().contains("chmod 600"));
        assert!(state.ca().err().unwrap().to_string().contains("chmod 600"));
    }
}
