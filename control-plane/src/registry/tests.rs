use super::*;
use aws_lc_rs::signature::KeyPair as _;
use nearfield_shared::{
    artefact::{Digest, Stage},
    gguf::BlockType,
};
use std::sync::Arc;

/// A catalogue folder with one small llama model, its source file, and a store.
struct World {
    folder: tempfile::TempDir,
    key: Ed25519KeyPair,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("tempdir");
        let mut writer = GgufWriter::new("llama");
        writer.meta("llama.block_count", 1u32);
        writer.tensor_f32("norm", &[32], BlockType::F32, &[1.0; 32]).expect("tensor");
        writer.tensor_f32("w", &[64, 32], BlockType::Q8_0, &[0.5; 2048]).expect("tensor");
        let world = Self { folder, key: Ed25519KeyPair::generate().expect("key") };
        fs::create_dir_all(world.path("catalogue/golden")).expect("folder");
        fs::write(world.path("catalogue/tiny.gguf"), writer.to_bytes()).expect("write");
        world.entry(&writer.to_bytes(), "");
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn entry(&self, source: &[u8], sha256: &str) {
        let found = pin::Sha256::of(source).to_string();
        let sha256 = if sha256.is_empty() { &found } else { sha256 };
        let text = format!(
            "name = \"tiny\"\nversion = \"1\"\nstage = \"llm\"\narchitecture = \"llama\"\ninterface = 1\nlicence = \"MIT\"\n\
             languages = []\nsample_rate_hz = 0\nquantise = \"keep\"\n[[sources]]\nrole = \"model\"\nkind = \"file\"\n\
             path = \"tiny.gguf\"\nbytes = {}\nsha256 = \"{sha256}\"\n",
            source.len()
        );
        fs::write(self.path("catalogue/tiny.toml"), text).expect("write");
    }

    fn golden(&self, json: &str) {
        fs::write(self.path("catalogue/golden/tiny.json"), json).expect("write");
    }

    fn store(&self) -> Store {
        Store { artefacts: self.path("artefacts"), manifests: self.path("models") }
    }

    fn import(&self, quantise: Option<Quantise>) -> Result<Imported, ImportError> {
        let catalogue = Catalogue::with_folder(&self.path("catalogue"))?;
        let fetcher = Fetcher { offline: true, ..Fetcher::new(Cache::at(self.path("cache"))?) };
        import(
            "tiny",
            &Options { catalogue: &catalogue, store: &self.store(), key: &self.key, fetcher: &fetcher, quantise },
        )
    }

    fn files(&self) -> usize {
        ["artefacts", "models"].iter().filter_map(|d| fs::read_dir(self.path(d)).ok()).map(Iterator::count).sum()
    }

    fn refused(&self, quantise: Option<Quantise>, expect: &str) {
        let error = self.import(quantise).expect_err("must be refused").to_string();
        assert!(error.contains(expect), "{error}");
        assert_eq!(self.files(), 0, "something was stored although: {error}");
    }
}

const GOLDEN: &str = r#"[{"stage":"llm","prompt_tokens":[1],"greedy":[2],"exact_first":1,"tie_logit":0.1}]"#;

#[test]
fn an_import_gives_a_signed_artefact_that_carries_its_golden_results() {
    let world = World::new();
    world.golden(GOLDEN);
    let imported = world.import(None).expect("import");
    let m = &imported.manifest;
    assert_eq!((m.name.as_str(), m.stage, m.quantisation.as_str(), m.golden_cases), ("tiny", Stage::Llm, "Q8_0", 1));
    let bytes = fs::read(&imported.path).expect("read");
    assert_eq!(m.digest, Digest::of(&bytes));
    assert_eq!(m.bytes, bytes.len() as u64);
    assert!(imported.path.ends_with(m.digest.to_hex()));
    let gguf = Gguf::parse(bytes).expect("gguf");
    let cases: Vec<GoldenCase> = serde_json::from_str(gguf.str(GOLDEN_KEY).expect("golden")).expect("json");
    assert!(matches!(&cases[..], [GoldenCase::Llm { greedy, .. }] if greedy == &[2]));
    assert_eq!(gguf.tensor("w").expect("w").block, BlockType::Q8_0);
    let public = world.key.public_key();
    assert_eq!(list(&world.store(), public.as_ref()).expect("list"), std::slice::from_ref(&imported));
    // Again: the same bytes, the same digest, still one model.
    assert_eq!(world.import(None).expect("import").manifest.digest, imported.manifest.digest);
    assert_eq!(world.files(), 3, "a file, its manifest, its recipe");
    // A manifest of another plane is not listed, nor one whose file is gone.
    let other = Ed25519KeyPair::generate().expect("key");
    assert_eq!(list(&world.store(), other.public_key().as_ref()).expect("list"), []);
    fs::remove_file(imported.path).expect("remove");
    assert_eq!(list(&world.store(), public.as_ref()).expect("list"), []);
}

#[test]
fn a_wrong_hash_names_both_and_stores_nothing() {
    let world = World::new();
    let source = fs::read(world.path("catalogue/tiny.gguf")).expect("read");
    let wrong = pin::Sha256::of(b"something else").to_string();
    world.entry(&source, &wrong);
    world.refused(None, &wrong);
    world.refused(None, &pin::Sha256::of(&source).to_string());
}

#[test]
fn what_cannot_be_converted_stores_nothing() {
    let world = World::new();
    world.refused(Some(Quantise::Q4_0), "use `keep`");
    world.golden(&GOLDEN.replace("llm", "vad"));
    world.refused(None, "golden file of tiny");
    world.golden(r#"[{"stage":"embed","text":"x","embedding":[1.0],"cosine_min":0.9}]"#);
    world.refused(None, "a case for stage embed, but the model serves llm");
    world.golden(GOLDEN);
    let damaged = b"GGUF, but not really".to_vec();
    fs::write(world.path("catalogue/tiny.gguf"), &damaged).expect("write");
    world.entry(&damaged, "");
    world.refused(None, "cannot convert tiny");
    fs::remove_file(world.path("catalogue/tiny.gguf")).expect("remove");
    world.refused(None, "tiny.gguf");
}

#[test]
fn a_cached_conversion_is_used_until_its_entry_changes() {
    let world = World::new();
    let fetcher = Fetcher { offline: true, ..Fetcher::new(Cache::at(world.path("cache")).expect("cache")) };
    let ensure = || {
        let catalogue = Catalogue::with_folder(&world.path("catalogue")).expect("catalogue");
        ensure_with("tiny", &catalogue, None, &fetcher).expect("ensure")
    };
    let first = ensure();
    let written = fs::metadata(&first).and_then(|m| m.modified()).expect("modified");
    assert_eq!(ensure(), first);
    assert_eq!(fs::metadata(&first).and_then(|m| m.modified()).expect("modified"), written);
    world.golden(GOLDEN);
    assert_ne!(ensure(), first);
    assert!(first.exists(), "another build may still want it");
}

#[test]
fn the_command_line_imports_lists_and_prints_json() {
    let folder = tempfile::tempdir().expect("tempdir");
    let world = World::new();
    let state = crate::state_dir::StateDir::init(&folder.path().join("plane"), &Default::default()).expect("init");
    let list = |available, json| {
        let args = cli::ListArgs { available, catalogue: Some(world.path("catalogue")), json };
        let mut out = Vec::new();
        cli::run_list(&args, &state, &mut out).expect("list");
        String::from_utf8(out).expect("UTF-8")
    };
    assert!(list(false, false).contains("No model is imported yet"));
    assert!(list(true, false).contains("moonshine-tiny"));
    let sources =
        cli::SourceArgs { catalogue: Some(world.path("catalogue")), cache: Some(world.path("cache")), offline: true };
    let args = cli::ImportArgs { names: vec!["tiny".into()], quantise: None, signing_key: None, sources, json: true };
    let mut out = Vec::new();
    cli::run_import(&args, &state, &mut out).expect("import");
    let printed: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
    assert_eq!(printed[0]["name"], "tiny");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&list(false, true)).expect("JSON"), printed);
    assert!(list(false, false).contains("Q8_0"));
    let unknown = cli::ImportArgs { names: vec!["tiny".into(), "nosuch".into()], ..args };
    assert!(cli::run_import(&unknown, &state, &mut Vec::new()).expect_err("unknown").to_string().contains("nosuch"));
}

#[test]
fn a_model_is_stale_when_it_is_missing_or_its_recipe_changed() {
    let folder = tempfile::tempdir().expect("tempdir");
    let world = World::new();
    let state = StateDir::init(&folder.path().join("plane"), &Default::default()).expect("init");
    assert_eq!(stale(&state, ["hibari"]).expect("missing"), ["hibari"]);
    assert!(stale(&state, ["tiny"]).expect_err("unknown").to_string().contains("no model `tiny`"));
    let catalogue = Catalogue::with_folder(&world.path("catalogue")).expect("catalogue");
    let fetcher = Fetcher { offline: true, ..Fetcher::new(Cache::at(world.path("cache")).expect("cache")) };
    let (store, key) = (Store::from(&state), state.signing_key().expect("key"));
    let options = Options { catalogue: &catalogue, store: &store, key: &key, fetcher: &fetcher, quantise: None };
    import("tiny", &options).expect("import");
    assert_eq!(stale(&state, ["tiny"]).expect("imported from a folder"), [""; 0]);
    // The same under a name that the built-in catalogue has, but by another recipe.
    let text = fs::read_to_string(world.path("catalogue/tiny.toml")).expect("read");
    fs::write(world.path("catalogue/hibari.toml"), text.replace("\"tiny\"", "\"hibari\"")).expect("write");
    let catalogue = Catalogue::with_folder(&world.path("catalogue")).expect("catalogue");
    import("hibari", &Options { catalogue: &catalogue, ..options }).expect("import");
    assert_eq!(stale(&state, ["hibari"]).expect("another recipe"), ["hibari"]);
    let builtin = Catalogue::builtin().expect("catalogue");
    fs::write(store.manifests.join("hibari.recipe"), recipe(builtin.get("hibari").expect("entry"))).expect("write");
    assert_eq!(stale(&state, ["hibari"]).expect("current"), [""; 0]);
}

#[test]
fn progress_bars_take_any_order_of_events() {
    let bars: Arc<dyn fetch::Progress> = Arc::new(cli::Bars::new());
    bars.event(Event::Downloaded { what: "never began" });
    bars.event(Event::Downloading { what: "a", done_bytes: 5, total_bytes: None });
    bars.event(Event::Downloading { what: "a", done_bytes: 9, total_bytes: Some(3) });
    bars.event(Event::Downloaded { what: "a" });
}
