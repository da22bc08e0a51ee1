//! A shelf: where model files stand beyond the state folder's disk, an S3-compatible store or another folder.
//!
//! It holds `artefacts/DIGEST`, `artefacts/DIGEST.sha256` and, written last, `models/NAME.json`: so a model whose manifest is there is whole. The server goes
//! by the manifests in its own state folder; a shelf's are for [`copying`] them to another. What is read is held against the manifest's digests before
//! anything is done with it, so a shelf is trusted with nothing but its being there.

pub mod cache;
pub mod copying;
mod settings;

pub use cache::ArtefactCache;
pub use settings::S3;

use nearfield_shared::artefact::{CHUNK_BYTES, Digest, Manifest, SignedManifest};
use object_store::{
    BackoffConfig, ClientOptions, Error as StoreError, ObjectStore, ObjectStoreExt as _, PutPayload, RetryConfig,
    WriteMultipart, aws::AmazonS3Builder, local::LocalFileSystem, path::Path as ObjectPath, prefix::PrefixStore,
};
use reqwest::Url;
use std::{
    fs::{self, File},
    io::{self, Read as _},
    ops::Range,
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio_util::bytes::Bytes;

/// Bytes of one part of an upload. S3 wants 5 MiB at least and 10,000 parts at most: enough for 80 GB.
const PART_BYTES: usize = 8 << 20;

/// Parts under way at once.
const PARTS_MAX: usize = 4;

/// Longest time in which a server that fails is asked again.
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of a manifest: that of a file of 80 GB.
const MANIFEST_BYTES_MAX: u64 = 8 << 20;

/// Why a shelf does not serve. Nothing that agents hold or that is in the cache depends on it.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// The settings cannot be used.
    #[error("{0}")]
    Settings(String),
    /// It cannot be reached, or failed.
    #[error(
        "{shelf} cannot be used now: {reason}; see that the address is right and the server runs. What is in the cache is served meanwhile"
    )]
    Away {
        /// The shelf.
        shelf: String,
        /// What happened.
        reason: String,
    },
    /// It says no.
    #[error(
        "{shelf} does not accept the credentials: {reason}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or `credentials` under [s3] in config.toml, to a key \
         that may read and write there"
    )]
    Denied {
        /// The shelf.
        shelf: String,
        /// What it says.
        reason: String,
    },
    /// Something is not there.
    #[error("{shelf} has no {what}; import the model again, or copy it there with `control-plane registry copy`")]
    Missing {
        /// The shelf.
        shelf: String,
        /// The object.
        what: String,
    },
    /// Something has another size.
    #[error(
        "{what} on {shelf} has {found} bytes instead of {wanted}; it was cut off or replaced. Remove it there and import the model again"
    )]
    WrongSize {
        /// The shelf.
        shelf: String,
        /// The object.
        what: String,
        /// Its bytes.
        found: u64,
        /// What the manifest says.
        wanted: u64,
    },
    /// Something has other bytes.
    #[error(
        "{what} on {shelf} is not the file that its manifest describes; remove it there and import the model again"
    )]
    WrongBytes {
        /// The shelf.
        shelf: String,
        /// The object.
        what: String,
    },
    /// A manifest that this control plane has not signed.
    #[error(
        "models/{name}.json on {shelf} is not a manifest that this control plane has signed: {reason}; remove it there"
    )]
    NotOurs {
        /// The shelf.
        shelf: String,
        /// The model.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The disk of this machine says no.
    #[error("{path}: {error}", path = .path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// What the disk says.
        error: io::Error,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ShelfError {
    let path = path.to_owned();
    move |error| ShelfError::Io { path, error }
}

/// A model as a shelf keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shelved {
    /// What it is.
    pub manifest: Manifest,
    /// The same, signed.
    pub signed: SignedManifest,
    /// SHA-256 of its file, hex.
    pub sha256: String,
}

/// A place for model files.
#[derive(Debug, Clone)]
pub struct Shelf {
    store: Arc<dyn ObjectStore>,
    name: String,
}

/// Whether this can be the name of a shelf.
pub fn is_place(place: &str) -> bool {
    Path::new(place).is_absolute()
        || Url::parse(place)
            .is_ok_and(|url| url.scheme() == "s3" && url.host_str().is_some_and(|bucket| !bucket.is_empty()))
}

/// What is wrong with one that cannot.
pub fn not_a_place(place: &str) -> String {
    format!("artefacts = \"{place}\" is neither s3://BUCKET/PREFIX nor the absolute path of a folder")
}

fn artefact(digest: Digest) -> ObjectPath {
    ObjectPath::from(format!("artefacts/{}", digest.to_hex()))
}

fn sha256_of(digest: Digest) -> ObjectPath {
    ObjectPath::from(format!("artefacts/{}.sha256", digest.to_hex()))
}

fn manifest(name: &str) -> ObjectPath {
    ObjectPath::from(format!("models/{name}.json"))
}

impl Shelf {
    /// At `s3://BUCKET/PREFIX`, or in a folder with an absolute path. Nothing is asked of it yet.
    pub fn open(place: &str, s3: &S3) -> Result<Self, ShelfError> {
        let settings = |why: String| ShelfError::Settings(why);
        let name = place.to_owned();
        if Path::new(place).is_absolute() {
            fs::create_dir_all(place).map_err(io_error(Path::new(place)))?;
            let store = LocalFileSystem::new_with_prefix(place).map_err(|e| settings(e.to_string()))?;
            return Ok(Self { store: Arc::new(store.with_fsync(true)), name });
        }
        let wrong = || settings(not_a_place(place));
        let url = Url::parse(place).map_err(|_| wrong())?;
        let (Some(bucket), "s3") = (url.host_str(), url.scheme()) else { return Err(wrong()) };
        let mut builder = AmazonS3Builder::new().with_bucket_name(bucket).with_region(s3.region());
        if let Some(endpoint) = s3.endpoint()? {
            builder = builder
                .with_allow_http(endpoint.scheme() == "http")
                .with_endpoint(endpoint.as_str().trim_end_matches('/'));
        }
        let credentials = s3.credentials()?;
        builder = builder
            .with_access_key_id(credentials.access_key_id.as_str())
            .with_secret_access_key(credentials.secret_access_key.as_str());
        if let Some(token) = &credentials.session_token {
            builder = builder.with_token(token.as_str());
        }
        let retry = RetryConfig { backoff: BackoffConfig::default(), max_retries: 3, retry_timeout: RETRY_TIMEOUT };
        let client = ClientOptions::new().with_connect_timeout(Duration::from_secs(5));
        let client = client.with_allow_http(s3.endpoint()?.is_some_and(|endpoint| endpoint.scheme() == "http"));
        let store =
            builder.with_retry(retry).with_client_options(client).build().map_err(|e| settings(e.to_string()))?;
        let prefix = ObjectPath::from_url_path(url.path()).map_err(|e| settings(e.to_string()))?;
        Ok(Self { store: Arc::new(PrefixStore::new(store, prefix)), name })
    }

    /// As it was named.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn failed(&self, what: &ObjectPath, error: StoreError) -> ShelfError {
        let (shelf, reason) = (self.name.clone(), words(&error));
        match error {
            StoreError::NotFound { .. } if reason.contains("NoSuchBucket") => ShelfError::Away { shelf, reason },
            StoreError::NotFound { .. } => ShelfError::Missing { shelf, what: what.to_string() },
            StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
                ShelfError::Denied { shelf, reason }
            }
            _ => ShelfError::Away { shelf, reason },
        }
    }

    async fn get(&self, path: &ObjectPath, bytes_max: u64) -> Result<Bytes, ShelfError> {
        let found = self.store.head(path).await.map_err(|e| self.failed(path, e))?.size;
        if found > bytes_max {
            let (shelf, what) = (self.name.clone(), path.to_string());
            return Err(ShelfError::WrongSize { shelf, what, found, wanted: bytes_max });
        }
        let got = self.store.get(path).await.map_err(|e| self.failed(path, e))?;
        got.bytes().await.map_err(|e| self.failed(path, e))
    }

    async fn put_small(&self, path: &ObjectPath, bytes: Vec<u8>) -> Result<(), ShelfError> {
        self.store.put(path, PutPayload::from(bytes)).await.map(drop).map_err(|e| self.failed(path, e))
    }

    /// Whether a model's file is there, with its size.
    pub async fn holds(&self, manifest: &Manifest) -> Result<(), ShelfError> {
        let path = artefact(manifest.digest);
        let found = self.store.head(&path).await.map_err(|e| self.failed(&path, e))?.size;
        if found == manifest.bytes {
            return Ok(());
        }
        let (shelf, what) = (self.name.clone(), path.to_string());
        Err(ShelfError::WrongSize { shelf, what, found, wanted: manifest.bytes })
    }

    /// Bytes of a model's file, held against its manifest. The range begins at a chunk and ends at one or with the file.
    pub async fn read(&self, manifest: &Manifest, range: Range<u64>) -> Result<Bytes, ShelfError> {
        let path = artefact(manifest.digest);
        let (first, wanted) = ((range.start / CHUNK_BYTES) as usize, range.end - range.start);
        let wrong = |found| {
            let (shelf, what) = (self.name.clone(), path.to_string());
            ShelfError::WrongSize { shelf, what, found, wanted: manifest.bytes }
        };
        let bytes = match self.store.get_range(&path, range.clone()).await {
            Ok(bytes) => bytes,
            // A range beyond the end is an error of its own kind in each store.
            Err(error) => {
                self.holds(manifest).await?;
                return Err(self.failed(&path, error));
            }
        };
        if bytes.len() as u64 != wanted {
            return Err(wrong(range.start + bytes.len() as u64));
        }
        if chunks_hold(manifest, first, &bytes) {
            return Ok(bytes);
        }
        self.holds(manifest).await?;
        Err(ShelfError::WrongBytes { shelf: self.name.clone(), what: path.to_string() })
    }

    /// Puts a model here: its file, unless it is here already, and its manifest last.
    pub async fn put(&self, model: &Shelved, file: &Path) -> Result<(), ShelfError> {
        match self.holds(&model.manifest).await {
            Ok(()) => {}
            Err(ShelfError::Missing { .. } | ShelfError::WrongSize { .. }) => {
                self.upload(&model.manifest, file).await?
            }
            Err(error) => return Err(error),
        }
        self.put_small(&sha256_of(model.manifest.digest), model.sha256.clone().into_bytes()).await?;
        let json = serde_json::to_vec_pretty(&model.signed).map_err(|e| ShelfError::Settings(e.to_string()))?;
        self.put_small(&manifest(&model.manifest.name), json).await
    }

    async fn upload(&self, of: &Manifest, file: &Path) -> Result<(), ShelfError> {
        let path = artefact(of.digest);
        let mut from = tokio::fs::File::open(file).await.map_err(io_error(file))?.into_std().await;
        let upload = self.store.put_multipart(&path).await.map_err(|e| self.failed(&path, e))?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let sent = async {
            loop {
                let read = tokio::task::spawn_blocking(move || {
                    let mut part = Vec::with_capacity(PART_BYTES);
                    io::Read::by_ref(&mut from).take(PART_BYTES as u64).read_to_end(&mut part).map(|_| (from, part))
                });
                let read = read.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
                let (again, part) = read.map_err(io_error(file))?;
                from = again;
                if part.is_empty() {
                    return Ok(());
                }
                upload.wait_for_capacity(PARTS_MAX).await.map_err(|e| self.failed(&path, e))?;
                upload.put(part.into());
            }
        };
        if let Err(error) = sent.await {
            // Parts that stay are no object; whoever runs the store has them removed in time.
            upload.abort().await.ok();
            return Err(error);
        }
        upload.finish().await.map_err(|e| self.failed(&path, e))?;
        self.holds(of).await
    }

    /// Every model whose manifest is here, signed with this key (32 bytes).
    pub async fn models(&self, public_key: &[u8]) -> Result<Vec<Shelved>, ShelfError> {
        let folder = ObjectPath::from("models");
        let listed = self.store.list_with_delimiter(Some(&folder)).await.map_err(|e| self.failed(&folder, e))?;
        let mut models = Vec::new();
        for object in listed.objects {
            let Some(name) = object.location.filename().and_then(|name| name.strip_suffix(".json")) else { continue };
            let bytes = self.get(&object.location, MANIFEST_BYTES_MAX).await?;
            let not_ours = |reason: String| ShelfError::NotOurs { shelf: self.name.clone(), name: name.into(), reason };
            let signed: SignedManifest = serde_json::from_slice(&bytes).map_err(|e| not_ours(e.to_string()))?;
            let manifest = signed.verify(public_key).map_err(|e| not_ours(e.to_string()))?;
            if manifest.name != name {
                return Err(not_ours(format!("it is that of {}", manifest.name)));
            }
            let sha256 = self.get(&sha256_of(manifest.digest), 64).await?;
            let sha256 = String::from_utf8_lossy(&sha256).into_owned();
            models.push(Shelved { manifest, signed, sha256 });
        }
        Ok(models)
    }
}

/// Whether these bytes are the chunks of a file from this one on.
fn chunks_hold(manifest: &Manifest, first: usize, bytes: &[u8]) -> bool {
    let found = bytes.chunks(CHUNK_BYTES as usize).map(Digest::of);
    let wanted = manifest.chunks.iter().skip(first).copied();
    found.zip(wanted.map(Some).chain(std::iter::repeat(None))).all(|(found, wanted)| wanted == Some(found))
}

/// An error and what is behind it, once each.
fn words(error: &StoreError) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let more = cause.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        source = cause.source();
    }
    words
}

/// SHA-256 of a file, hex. Blocks.
pub(crate) fn sha256_hex(path: &Path) -> io::Result<String> {
    use aws_lc_rs::digest::{Context, SHA256};
    let (mut file, mut context, mut buffer) = (File::open(path)?, Context::new(&SHA256), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()),
            n => context.update(&buffer[..n]),
        }
    }
}
