//! The program itself: what it prints, and its exit codes.

use super::plane::add_model;
use control_plane::state_dir::StateDir;
use nearfield_shared::artefact::Stage;
use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
};
use tempfile::TempDir;

pub struct Served {
    folder: TempDir,
    server: Child,
}

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_control-plane"));
    if !args.contains(&"--state") {
        command.arg("--state").arg(folder.join("state"));
    }
    command.args(args).env_remove("RUST_LOG").env_remove("NEARFIELD_ADMIN_TOKEN").env_remove("NEARFIELD_PLANE_ADMIN");
    command
}

fn init(folder: &Path) -> Output {
    let any = "127.0.0.1:0";
    command(folder, &["init", "--agents", any, "--api", any, "--admin", any]).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

impl Served {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        assert!(init(folder.path()).status.success());
        let dir = StateDir::open(&folder.path().join("state")).unwrap();
        for stage in Stage::ALL {
            add_model(&dir, &format!("{stage}-1"), stage, stage.as_str().as_bytes());
        }
        write_regions(folder.path());
        let server = command(folder.path(), &["serve"]).stderr(Stdio::piped()).spawn().unwrap();
        while dir.running().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Self { folder, server }
    }

    /// The program with these arguments, not run yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = command(self.folder.path(), args);
        command.current_dir(self.folder.path());
        command
    }

    /// Where its admin API is.
    pub fn admin_address(&self) -> String {
        self.dir().running().unwrap().admin.to_string()
    }

    /// Its state folder.
    pub fn dir(&self) -> StateDir {
        StateDir::open(&self.folder.path().join("state")).unwrap()
    }

    /// Kills the server without a word.
    pub fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    fn serve_again(&mut self) {
        let dir = self.dir();
        let before = dir.running();
        self.server = command(self.folder.path(), &["serve"]).stderr(Stdio::piped()).spawn().unwrap();
        while dir.running() == before {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Kills the server without a word, and starts it again.
    pub fn kill_and_serve(&mut self) {
        self.kill();
        self.serve_again();
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {} {}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.good(args)).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

fn write_regions(folder: &Path) {
    let regions = folder.join("regions");
    fs::create_dir_all(regions.join("assistants")).unwrap();
    fs::write(
        regions.join("eu.toml"),
        r#"id = "eu"
jurisdiction = "eu"
assistants = ["desk"]
[location]
latitude = 50.1
longitude = 8.7
[policy]
serves_countries = ["DE"]
store_transcripts = true
retention_days = 30
metrics_group_min = 20
[models]
vad = "vad-1"
asr = "asr-1"
llm = "llm-1"
tts = "tts-1"
"#,
    )
    .unwrap();
    fs::write(regions.join("assistants/desk.toml"), "name = \"desk\"\nvoice = \"v\"\ninstructions = \"i\"\n").unwrap();
}

#[test]
fn a_definition_with_three_mistakes_reports_three() {
    let served = Served::new();
    let path = served.folder.path().join("regions/eu.toml");
    let good = fs::read_to_string(&path).unwrap();
    let bad = good.replace("50.1", "500").replace("\"DE\"", "\"Germany\"").replace("asr-1", "asr-9");
    fs::write(&path, bad).unwrap();
    for verb in ["plan", "apply"] {
        let output = served.run(&[verb]);
        assert_eq!(output.status.code(), Some(64));
        let said = text(&output.stdout);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 4, "{said}");
        assert!(lines[0].starts_with("regions/eu.toml:5: `location.latitude`"), "{said}");
        assert!(lines[1].starts_with("regions/eu.toml:8: \"Germany\""), "{said}");
        assert!(lines[2].starts_with("regions/eu.toml:14: model \"asr-9\""), "{said}");
        assert_eq!(lines[3], "3 mistakes; nothing was changed.");
    }
    assert!(served.good(&["status"]).contains("No regions yet"));
}

#[test]
fn plan_shows_apply_does_and_a_second_apply_does_nothing() {
    let served = Served::new();
    let plan = served.good(&["plan"]);
    assert!(plan.contains("+ region eu will be added (generation 1, 0 nodes)"), "{plan}");
    assert!(plan.contains("+ models.asr: \"asr-1 1 F32 "), "{plan}");
    assert!(served.good(&["status"]).contains("No regions yet"), "a plan changes nothing");
    assert!(served.good(&["apply"]).ends_with("Applied.\n"));
    assert_eq!(served.good(&["apply"]), "  region eu stays (generation 1, 0 nodes)\nNothing to change.\n");

    let path = served.folder.path().join("regions/eu.toml");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("retention_days = 30", "retention_days = 7")).unwrap();
    let plan = served.json(&["plan", "--json"]);
    let difference = &plan["plan"]["regions"][0]["differences"][0];
    assert_eq!(difference.to_string(), r#"{"from":"30","to":"7","what":"policy.retention_days"}"#);
    assert!(served.good(&["apply"]).contains("~ policy.retention_days: 30 -> 7"));
    assert_eq!(served.json(&["status", "--json"])["regions"][0]["generation"], 2);
}

#[test]
fn tokens_nodes_models_and_figures_are_there_for_people_and_programs() {
    let served = Served::new();
    let refused = served.run(&["token", "create", "--region", "eu"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("control-plane apply"), "{}", text(&refused.stderr));
    served.good(&["apply", "regions"]);
    let token = served.good(&["token", "create", "--region", "eu", "--ttl", "30m"]);
    assert!(token.starts_with("nfe1.") && token.lines().count() == 1, "the token alone, for pipes");
    let token = served.json(&["token", "create", "--region", "eu", "--node", "fra-1", "--json"]);
    assert_eq!(token["node"], "fra-1");
    assert!(served.good(&["node", "list"]).contains("control-plane token create"));
    assert_eq!(served.json(&["node", "list", "--json"]), serde_json::json!([]));
    assert_eq!(served.json(&["metrics", "--json"]), serde_json::json!([]));
    assert_eq!(served.json(&["model", "list", "--json"]).as_array().unwrap().len(), 6);
    let missing = served.run(&["node", "show", "nobody"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("node list"));
}

#[test]
fn commands_without_a_server_or_a_folder_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path(), &["status"]).output().unwrap();
    assert!(text(&output.stderr).contains("init"), "{}", text(&output.stderr));
    assert!(init(folder.path()).status.success());
    assert!(text(&init(folder.path()).stderr).contains("never replaced"));
    let output = command(folder.path(), &["status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("serve"), "{}", text(&output.stderr));

    fs::write(folder.path().join("state/config.toml"), "admin = \"0.0.0.0:1\"\nheartbeat_s = -1.0\n").unwrap();
    let output = command(folder.path(), &["serve"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(text(&output.stderr).lines().count(), 2, "both mistakes: {}", text(&output.stderr));
}

#[test]
fn nothing_that_was_told_is_lost_when_the_server_is_killed() {
    let mut served = Served::new();
    served.good(&["apply"]);
    let path = served.folder.path().join("regions/eu.toml");
    for days in [7, 8, 9] {
        let text = fs::read_to_string(&path).unwrap();
        let line = text.lines().find(|line| line.starts_with("retention_days")).unwrap().to_owned();
        fs::write(&path, text.replace(&line, &format!("retention_days = {days}"))).unwrap();
        served.good(&["apply"]);
    }
    served.kill();
    let output = served.run(&["status"]);
    assert!(text(&output.stderr).contains("does not answer"), "{}", text(&output.stderr));
    served.serve_again();
    assert_eq!(served.json(&["status", "--json"])["regions"][0]["generation"], 4);
    assert!(served.good(&["plan"]).ends_with("Nothing to change.\n"));
}

#[cfg(unix)]
#[test]
fn sigterm_drains_and_a_second_server_is_refused() {
    use std::io::Read as _;
    let mut served = Served::new();
    let second = served.run(&["serve"]);
    assert!(text(&second.stderr).contains("stop it first"), "{}", text(&second.stderr));
    // SAFETY: `kill` has no memory effects; the process is our own child and not yet waited for.
    assert_eq!(unsafe { libc::kill(served.server.id() as i32, libc::SIGTERM) }, 0);
    assert!(served.server.wait().unwrap().success());
    let mut log = String::new();
    served.server.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("draining"), "{log}");
    assert!(StateDir::open(&served.folder.path().join("state")).unwrap().running().is_none());
}

#[cfg(unix)]
#[test]
fn beyond_loopback_init_wants_a_certificate_and_tells_of_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let open = ["init", "--agents", "127.0.0.1:0", "--api", "0.0.0.0:0"];
    let refused = command(folder.path(), &open).output().unwrap();
    let said = text(&refused.stderr);
    assert!(refused.status.code() == Some(64) && said.contains("--tls-certificate"), "{said}");
    assert!(!folder.path().join("state").exists(), "nothing was made");
    let tls = ["--tls-certificate", "tls.crt", "--tls-key", "tls.key"];
    let made = command(folder.path(), &[&open[..], &tls[..]].concat()).output().unwrap();
    let said = text(&made.stdout);
    assert!(made.status.success() && said.contains("caller.key is missing"), "{said} {}", text(&made.stderr));
    let served = command(folder.path(), &["serve"]).current_dir(folder.path()).output().unwrap();
    let said = text(&served.stderr);
    assert!(served.status.code() == Some(1) && said.contains("tls.crt"), "{said}");
}

#[test]
fn the_server_runs_without_the_key_that_signs_models() {
    let mut served = Served::new();
    let kept = served.folder.path().join("kept.key");
    fs::rename(served.dir().root().join("signing.key"), &kept).unwrap();
    served.kill_and_serve();
    assert!(served.good(&["apply"]).ends_with("Applied.\n"));
    assert_eq!(served.json(&["model", "list", "--json"]).as_array().unwrap().len(), 6);
    let refused = served.run(&["model", "import", "no-such-model"]);
    assert!(text(&refused.stderr).contains("--signing-key"), "{}", text(&refused.stderr));
    let refused = served.run(&["model", "import", "no-such-model", "--signing-key", kept.to_str().unwrap()]);
    assert!(text(&refused.stderr).contains("no-such-model"), "the key was taken: {}", text(&refused.stderr));
}

#[test]
fn a_credential_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    assert!(init(folder.path()).status.success());
    let key = folder.path().join("state/ca.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let output = command(folder.path(), &["serve"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("chmod 600"), "{}", text(&output.stderr));
}

#[test]
fn manual_pages_and_completions_know_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let run = |args: &[&str]| command(folder.path(), args).output().unwrap();
    let refused = run(&["man", pages.to_str().unwrap()]);
    assert!(!refused.status.success() && text(&refused.stderr).contains("man1"), "{}", text(&refused.stderr));
    fs::create_dir(&pages).unwrap();
    assert!(run(&["man", pages.to_str().unwrap()]).status.success());
    let page = fs::read_to_string(pages.join("control-plane-node-revoke.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("reason"), "{page}");
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]);
        assert!(script.status.success() && text(&script.stdout).contains("revoke"), "{shell}");
    }
    assert!(!folder.path().join("state").exists(), "neither wants a state folder");
}

/// The command in the manifest that makes the state folder, with these folders in place of the container's.
#[test]
fn the_container_is_made_ready_by_a_command_that_there_is() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/control-plane.yaml");
    let manifest = fs::read_to_string(manifest).unwrap().replace("\\\n", " ");
    let line = manifest.lines().find_map(|line| line.split_once("|| control-plane ")).unwrap().1;
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("plane");
    let args: Vec<String> =
        line.split_whitespace().map(|word| word.replace("/state/plane", state.to_str().unwrap())).collect();
    let made = command(folder.path(), &args.iter().map(String::as_str).collect::<Vec<_>>()).output().unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    assert!(state.join("config.toml").exists());
}

/// A node that embeds by the words of a text, and thinks one thing.
async fn node(axum::Json(body): axum::Json<Value>) -> axum::Json<Value> {
    let vector = |text: &str| -> Vec<f32> {
        let mut vector = [0.0f32; 26];
        text.to_lowercase().bytes().filter(u8::is_ascii_lowercase).for_each(|b| vector[usize::from(b - b'a')] += 1.0);
        let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
        vector.iter().map(|v| v / length).collect()
    };
    let answer = match body.get("input") {
        Some(input) => {
            let vectors = input.as_array().unwrap().iter().map(|text| vector(text.as_str().unwrap()));
            serde_json::json!({ "data": vectors.map(|v| serde_json::json!({ "embedding": v })).collect::<Vec<_>>() })
        }
        None => {
            assert_eq!(body["messages"][0]["content"], "Be brief.");
            serde_json::json!({ "choices": [{ "message": { "content": " I think so. " } }] })
        }
    };
    axum::Json(answer)
}

#[tokio::test]
async fn an_assistant_is_checked_and_questions_are_tried_on_a_node() {
    let folder = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(axum::routing::post(node));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let path = folder.path().join("desk.toml");
    let file = path.to_str().unwrap().to_owned();
    let run = async |args: &[&str]| {
        let mut command = command(folder.path(), &[&["assistant", "check", &file], args].concat());
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    };
    fs::write(&path, "name = \"desk\"\nvoice = \"heart\"\ncolour = 1\n").unwrap();
    let wrong = run(&[]).await;
    assert_eq!(wrong.status.code(), Some(64));
    let told = text(&wrong.stdout);
    assert!(
        told.contains("desk.toml:3: `colour` is not known") && told.contains("`instructions` is missing"),
        "{told}"
    );
    fs::write(
        &path,
        "name = \"desk\"\nvoice = \"heart\"\ninstructions = \"Be brief.\"\nmatch_threshold = 0.9\n\
         [[questions]]\nask = [\"When are you open?\"]\nanswer = \"At nine.\"\n",
    )
    .unwrap();
    let asked = run(&["--node", &url, "--ask", "when are you open", "--ask", "zzz", "--json"]).await;
    assert!(asked.status.success(), "{}", text(&asked.stderr));
    let shown: Value = serde_json::from_slice(&asked.stdout).unwrap();
    assert!(shown["advice"][0]["message"].as_str().unwrap().contains("nobody can ask for a person"), "{shown}");
    let [known, thought] = shown["questions"].as_array().unwrap().as_slice() else { panic!("{shown}") };
    assert_eq!((&known["answered_by"], &known["answer"]), (&"known_question".into(), &"At nine.".into()));
    assert!(known["nearest"] == "When are you open?" && known["cosine"].as_f64().unwrap() > 0.99, "{known}");
    assert_eq!((&thought["answered_by"], &thought["answer"]), (&"model".into(), &"I think so.".into()));
    let shown = text(&run(&["--node", &url, "--ask", "when are you open"]).await.stdout);
    assert!(shown.contains("nearest: \"When are you open?\" at 1.00, 0.90 counts"), "{shown}");
    let beyond = run(&["--node", "http://10.0.0.1", "--ask", "x"]).await;
    assert!(text(&beyond.stderr).contains("https only"), "{}", text(&beyond.stderr));
    let alone = run(&["--ask", "x"]).await;
    assert_eq!(alone.status.code(), Some(2), "a question needs a node");
}
