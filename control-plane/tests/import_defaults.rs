//! Every model of the catalogue becomes a signed artefact that carries golden results, from the packages it is published in.
//! Needs pip and the network once; after that the user's cache.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use control_plane::registry::{Cache, Catalogue, Fetcher, Options, Quantise, Store, import, list};
use nearfield_shared::{
    artefact::{CHUNK_BYTES, Digest},
    gguf::Gguf,
    golden::{GOLDEN_KEY, GoldenCase},
};

#[test]
fn every_model_of_the_catalogue_imports_and_then_imports_again_offline() {
    let folder = tempfile::tempdir().expect("tempdir");
    let catalogue = Catalogue::builtin().expect("catalogue");
    let store = Store { artefacts: folder.path().join("artefacts"), manifests: folder.path().join("models") };
    let key = Ed25519KeyPair::generate().expect("key");
    let mut fetcher = Fetcher::new(Cache::of_user().expect("cache"));
    let mut all = Vec::new();
    for entry in catalogue.entries() {
        let name = entry.name.as_str();
        fetcher.offline = false;
        let options = Options { catalogue: &catalogue, store: &store, key: &key, fetcher: &fetcher, quantise: None };
        let imported = import(name, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        let m = &imported.manifest;
        println!(
            "{name}: {} {:.1} MiB {} golden cases, {}",
            m.quantisation,
            m.bytes as f64 / 1048576.0,
            m.golden_cases,
            m.digest
        );

        let bytes = std::fs::read(&imported.path).expect("read");
        assert_eq!(Digest::of(&bytes), m.digest, "{name}");
        assert_eq!(bytes.chunks(CHUNK_BYTES as usize).map(Digest::of).collect::<Vec<_>>(), m.chunks, "{name}");
        let gguf = Gguf::parse(bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(gguf.architecture().expect("architecture"), entry.architecture, "{name}");
        let cases: Vec<GoldenCase> = serde_json::from_str(gguf.str(GOLDEN_KEY).expect("golden")).expect("cases");
        assert!(!cases.is_empty() && cases.len() == m.golden_cases as usize, "{name} has no golden results");

        fetcher.offline = true;
        let options = Options { catalogue: &catalogue, store: &store, key: &key, fetcher: &fetcher, quantise: None };
        let again = import(name, &options).unwrap_or_else(|e| panic!("{name}, offline: {e}"));
        assert_eq!(again, imported, "the same sources give the same file");
        all.push(imported);
    }
    assert_eq!(list(&store, key.public_key().as_ref()).expect("list"), all);
}

#[test]
fn the_recogniser_can_be_imported_as_its_float_reference() {
    let folder = tempfile::tempdir().expect("tempdir");
    let catalogue = Catalogue::builtin().expect("catalogue");
    let store = Store { artefacts: folder.path().join("artefacts"), manifests: folder.path().join("models") };
    let key = Ed25519KeyPair::generate().expect("key");
    let fetcher = Fetcher::new(Cache::of_user().expect("cache"));
    let quantise = Some(Quantise::F32);
    let options = Options { catalogue: &catalogue, store: &store, key: &key, fetcher: &fetcher, quantise };
    let imported = import("moonshine-tiny", &options).expect("import");
    assert_eq!(imported.manifest.quantisation, "F32");
    let gguf = Gguf::open(&imported.path).expect("gguf");
    let cases: Vec<GoldenCase> = serde_json::from_str(gguf.str(GOLDEN_KEY).expect("golden")).expect("cases");
    assert!(cases.iter().all(|c| matches!(c, GoldenCase::Asr { edits_max: 0, .. })), "floats are held to no edits");
}
