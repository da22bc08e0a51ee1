//! Puts the catalogue into the binary, and a digest of everything that shapes a converted model.
//!
//! The catalogue is whatever stands in `catalogue/` when the control plane is built, so that adding a model is adding a file.
//! The digest makes caches of converted models notice a changed converter without anybody counting versions.

use std::{
    collections::hash_map::DefaultHasher,
    env, fs,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
};

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it")).join("catalogue.rs");

    let mut list = String::from("&[\n");
    for path in files(&root.join("catalogue"), "toml") {
        let stem = path.file_stem().and_then(|s| s.to_str()).expect("catalogue files have UTF-8 names").to_owned();
        let golden = format!("catalogue/golden/{stem}.json");
        let golden =
            if root.join(&golden).exists() { format!("Some({})", include(&golden)) } else { "None".to_owned() };
        list.push_str(&format!("    ({stem:?}, {}, {golden}),\n", include(&format!("catalogue/{stem}.toml"))));
    }
    list.push(']');
    fs::write(out, list).expect("OUT_DIR can be written");

    let mut hasher = DefaultHasher::new();
    for folder in ["src/registry/convert", "../shared/src/gguf"] {
        for path in files(&root.join(folder), "rs") {
            fs::read(&path).expect("a listed file can be read").hash(&mut hasher);
        }
    }
    println!("cargo::rustc-env=NEARFIELD_CONVERTERS={:016x}", hasher.finish());
    for folder in ["catalogue", "catalogue/golden", "src/registry/convert", "../shared/src/gguf"] {
        println!("cargo::rerun-if-changed={folder}");
    }
}

/// Rust that holds a file of this package. The package's place is looked up when it is compiled, so that a target folder may be moved.
fn include(file: &str) -> String {
    format!("include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {:?}))", format!("/{file}"))
}

/// Files directly inside a folder, sorted, so that every machine builds the same.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    files
}
