use super::*;
use nearfield_shared::artefact::Stage;

const REGION: &str = r#"id = "eu-central"
jurisdiction = "eu"
assistants = ["desk"]

[location]
latitude = 50.11
longitude = 8

[policy]
serves_countries = ["DE", "FR"]
store_transcripts = true
retention_days = 30
metrics_group_min = 20

[models]
vad = "vad-1"
asr = "asr-1"
llm = "llm-1"
tts = "tts-1"
embed = "embed-1"
"#;

const ASSISTANT: &str = r#"name = "desk"
voice = "heart"
instructions = "Be brief."

[[questions]]
ask = ["When?"]
answer = "Now."
"#;

fn known() -> Known {
    let models = Stage::ALL.into_iter().map(|stage| {
        let manifest = SignedManifest { body: stage.to_string(), signature: String::new() };
        (format!("{stage}-1"), KnownModel { stage, manifest })
    });
    let version: VersionName = "0.2.0".parse().unwrap();
    let release = Release { version: version.clone(), programs: BTreeMap::new() };
    Known { models: models.collect(), releases: [(version, release)].into() }
}

#[test]
fn a_region_may_name_a_release_of_the_agent_that_is_imported() {
    let with = |agent: &str| parse_texts(&format!("{REGION}{agent}"), ASSISTANT);
    let good = with("[agent]\nversion = \"0.2.0\"\n").unwrap();
    let defined = good.regions.values().next().unwrap();
    assert_eq!(defined.agent.as_ref().map(|release| release.version.as_str()), Some("0.2.0"));
    let without = parse_texts(REGION, ASSISTANT).unwrap();
    assert!(!without.regions.values().next().unwrap().runs_the_same_as(defined));
    for (agent, says) in [
        ("[agent]\nversion = \"0.3.0\"\n", "agent import FILE --version 0.3.0"),
        ("[agent]\nversion = \"0 3\"\n", "is not a version"),
        ("[agent]\n", "`agent.version` is missing"),
        ("[agent]\nversion = \"0.2.0\"\ncolour = 1\n", "colour"),
    ] {
        let mistakes = with(agent).unwrap_err();
        assert!(mistakes.len() == 1 && mistakes[0].contains(says), "{mistakes:?}");
    }
}

fn file(path: &str, text: &str) -> SourceFile {
    let stem = path.rsplit('/').next().unwrap().trim_end_matches(".toml").to_owned();
    SourceFile { path: path.into(), stem, assistant: path.contains("assistants"), text: text.into() }
}

fn parse_texts(region: &str, assistant: &str) -> Result<Definition, Vec<String>> {
    let files = [file("regions/eu-central.toml", region), file("regions/assistants/desk.toml", assistant)];
    parse(&files, &known()).map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

/// Changes one line of the region and expects one mistake that names the line and says this.
#[track_caller]
fn check_region(from: &str, to: &str, line: usize, says: &str) {
    assert!(REGION.contains(from), "{from}");
    let mistakes = parse_texts(&REGION.replacen(from, to, 1), ASSISTANT).expect_err(to);
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    assert!(mistakes[0].starts_with(&format!("regions/eu-central.toml:{line}: ")), "{}", mistakes[0]);
    assert!(mistakes[0].contains(says), "{}", mistakes[0]);
}

#[test]
fn good_files_become_a_definition() {
    let definition = parse_texts(REGION, ASSISTANT).unwrap();
    let defined = &definition.regions[&"eu-central".parse().unwrap()];
    assert_eq!(defined.models.len(), 5);
    assert_eq!(defined.models[&Stage::Asr].body, "asr");
    assert_eq!(defined.assistants[0].questions[0].answer, "Now.");
}

#[test]
fn three_mistakes_in_one_file_are_three_lines() {
    let region = REGION
        .replace("latitude = 50.11", "latitude = 150.0")
        .replace("\"DE\"", "\"Germany\"")
        .replace("retention_days = 30", "retention_day = 30");
    let mistakes = parse_texts(&region, ASSISTANT).unwrap_err();
    let expect = [
        "regions/eu-central.toml:6: `location.latitude` must be a number from -90 to 90",
        "regions/eu-central.toml:9: `policy.retention_days` is missing (a whole number from 0 to 3653)",
        "regions/eu-central.toml:10: \"Germany\" is not a country: use two capital letters of ISO 3166-1, or \"*\"",
        "regions/eu-central.toml:12: `policy.retention_day` is not known; did you mean `retention_days`?",
    ];
    assert_eq!(mistakes, expect);
}

#[test]
fn mistakes_of_all_files_come_together() {
    let files = [
        file("r/a.toml", "id = 1\nthis is not toml\n"),
        file("r/b.toml", ""),
        file("r/assistants/x.toml", "name = \"y\"\nvoice = \"\"\n"),
    ];
    let mistakes = parse(&files, &known()).unwrap_err();
    for path in ["r/a.toml", "r/b.toml", "r/assistants/x.toml"] {
        assert!(mistakes.iter().filter(|m| m.file == path).count() >= 2, "{path}: {mistakes:#?}");
    }
}

#[test]
fn each_mistake_of_a_region_is_named() {
    check_region("id = \"eu-central\"", "id = \"eu-west\"", 1, "make them the same");
    check_region("id = \"eu-central\"", "id = \"EU\"", 1, "is not a region name");
    check_region("jurisdiction = \"eu\"", "jurisdiction = \"E U\"", 2, "1 to 20 of a-z");
    check_region("[\"desk\"]", "[\"desk\", \"desk\"]", 3, "twice");
    check_region("[\"desk\"]", "[\"dusk\"]", 3, "did you mean \"desk\"?");
    check_region("[\"desk\"]", "[]", 3, "must not be empty");
    check_region("longitude = 8", "longitude = \"8\"", 7, "not string");
    check_region("store_transcripts = true", "store_transcripts = 1", 11, "true or false");
    check_region("retention_days = 30", "retention_days = 0", 12, "keep none");
    check_region("metrics_group_min = 20", "metrics_group_min = 1", 13, "from 5");
    check_region(
        "metrics_group_min = 20",
        "metrics_group_min = 20\nnotices = [\"fax\"]",
        14,
        "there are \"ai\" and \"recording\"",
    );
    check_region("vad = \"vad-1\"", "vat = \"vad-1\"\nvad = \"vad-1\"", 16, "is not a stage");
    check_region("asr = \"asr-1\"", "asr = \"asr-2\"", 17, "control-plane model import asr-2");
    check_region("asr = \"asr-1\"", "asr = \"llm-1\"", 17, "serves `llm`, not `asr`");
    check_region("tts = \"tts-1\"\n", "", 15, "`models.tts` is missing");
}

#[test]
fn each_mistake_of_a_rollout_is_named() {
    const ROLLOUT: &str = "[rollout]\nbake_s = 600\n[[rollout.waves]]\nlabel = \"canary\"\n[[rollout.waves]]\npercent = 25\napproval = true\n\
                           [[rollout.waves]]\npercent = 100\n[rollout.gates]\np95_ratio_max = 2\nturns_min = 20\n[rollout.budget]\npercent = 50\n\
                           within_s = 3600\n[rollout.maintenance]\ndays = [\"sun\"]\nfrom = \"22:00\"\nuntil = \"06:00\"\n\
                           [rollout.trial]\nshare_percent = 5\ntime_s_max = 300\n";
    let good = parse_texts(&format!("{REGION}{ROLLOUT}"), ASSISTANT).unwrap();
    let read = good.regions.values().next().unwrap().region.rollout.clone().unwrap();
    assert_eq!((read.waves.len(), read.waves[0].percent, read.gates.lost_percent_max), (3, 100.0, 25.0));
    let trial = read.trial.expect("a trial");
    assert_eq!((trial.share_percent, trial.turns_min, trial.time_s_max), (5.0, 20, 300));
    let above = REGION.lines().count();
    let check = |from: &str, to: &str, line: usize, says: &str| {
        let mistakes = parse_texts(&format!("{REGION}{}", ROLLOUT.replacen(from, to, 1)), ASSISTANT).expect_err(to);
        assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
        let place = format!(":{}: ", above + line);
        assert!(mistakes[0].contains(&place) && mistakes[0].contains(says), "{}", mistakes[0]);
    };
    check("bake_s = 600\n", "", 1, "`rollout.bake_s` is missing");
    check("600", "-1", 2, "from 0 to 604800");
    check("\"canary\"", "\"A b\"", 4, "is not a label");
    check("percent = 25", "percent = 0", 6, "from 0.01 to 100");
    check("percent = 25", "percent = 100", 8, "must be above 100");
    check("percent = 100", "percent = 99", 8, "the last wave must take every node");
    check("approval", "aproval", 7, "did you mean `approval`?");
    check("p95_ratio_max = 2", "p95_ratio_max = 0.5", 11, "from 1 to 100");
    check("within_s = 3600\n", "", 13, "`rollout.budget.within_s` is missing");
    check("\"sun\"", "\"sunday\"", 17, "use mon, tue, wed");
    check("\"06:00\"", "\"6\"", 19, "HH:MM");
    check("\"06:00\"", "\"22:00\"", 16, "the same time");
    check("share_percent = 5", "share_percent = 51", 21, "from 1 to 50");
    check("time_s_max = 300", "time_s_max = 0", 22, "from 1 to 86400");
    check("time_s_max", "time_smax", 22, "did you mean `time_s_max`?");
    let none = parse_texts(&format!("{REGION}[rollout]\nbake_s = 1\n"), ASSISTANT).unwrap_err();
    assert!(none[0].contains("[[rollout.waves]] at least once"), "{none:?}");
}

#[test]
fn a_region_outside_the_union_cannot_list_countries_of_it() {
    let region = REGION.replace("jurisdiction = \"eu\"", "jurisdiction = \"us\"");
    let mistakes = parse_texts(&region, ASSISTANT).unwrap_err();
    assert_eq!(mistakes.len(), 2, "{mistakes:#?}");
    assert!(
        mistakes[0].contains("DE stay within jurisdiction \"eu\"") && mistakes[0].contains(":10:"),
        "{}",
        mistakes[0]
    );
}

#[test]
fn questions_need_a_model_that_matches_them() {
    let region = REGION.replace("embed = \"embed-1\"\n", "");
    assert!(parse_texts(&region, ASSISTANT).unwrap_err()[0].contains("needs `embed`"));
    assert!(parse_texts(&region, &ASSISTANT[..ASSISTANT.find("[[").unwrap()]).is_ok());
}

#[test]
fn each_mistake_of_an_assistant_is_named() {
    let check = |from: &str, to: &str, line: usize, says: &str| {
        let mistakes = parse_texts(REGION, &ASSISTANT.replacen(from, to, 1)).expect_err(to);
        assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
        let place = format!("regions/assistants/desk.toml:{line}: ");
        assert!(mistakes[0].starts_with(&place) && mistakes[0].contains(says), "{}", mistakes[0]);
    };
    check("name = \"desk\"", "name = \"bar\"", 1, "make them the same");
    check("voice = \"heart\"", "voice = \" \"", 2, "is empty");
    check("voice = \"heart\"", "voice = \"heart\"\nmatch_threshold = 1.5", 3, "from 0 to 1");
    check("ask = [\"When?\"]", "ask = [\"\"]", 6, "is empty");
    check("answer = \"Now.\"", "anser = \"x\"\nanswer = \"Now.\"", 7, "did you mean `answer`?");
    check("[[questions]]", "[questions]", 5, "a list of tables");
    let silence = |says: &str| format!("[silence]\n{says}\n[[questions]]");
    check("[[questions]]", &silence("after_s = 1"), 6, "from 3 to 120");
    check("[[questions]]", &silence("ask = \"Hello?\""), 5, "`silence.after_s` is missing");
    check("[[questions]]", &silence("after_s = 8\ntimes = 11"), 7, "from 0 to 10");
}

const TOOLS: &str = r#"name = "desk"
voice = "heart"
instructions = "Be brief."
hosts = ["crm.example.com"]

[[questions]]
ask = ["When?"]
answer = "Now."

[[forbidden]]
ask = ["Which shares?"]
say = "I may not say."
threshold = 0.5

[[tools]]
name = "order_status"
description = "Where an order is."
method = "GET"
url = "https://crm.example.com/orders/{number}"
timeout_ms = 3000
headers = { Authorization = "Bearer ${crm_token}" }
[tools.parameters]
type = "object"
required = ["number"]
properties = { number = { type = "string" } }
"#;

#[test]
fn each_mistake_of_a_tool_is_named() {
    let good = parse_texts(REGION, TOOLS).expect("right");
    let tool = &good.regions[&"eu-central".parse().unwrap()].assistants[0].tools[0];
    assert_eq!((tool.timeout_ms, tool.parameters["required"][0].as_str()), (3_000, Some("number")));
    let check = |from: &str, to: &str, line: usize, says: &str| {
        assert!(TOOLS.contains(from), "{from}");
        let mistakes = parse_texts(REGION, &TOOLS.replacen(from, to, 1)).expect_err(to);
        assert_eq!(mistakes.len(), 1, "{to}: {mistakes:#?}");
        let place = format!("regions/assistants/desk.toml:{line}: ");
        assert!(mistakes[0].starts_with(&place) && mistakes[0].contains(says), "{to}: {}", mistakes[0]);
    };
    check("hosts = [\"crm.example.com\"]", "hosts = [\"other.example\"]", 19, "hosts = [\"crm.example.com\"]");
    check("hosts = [\"crm.example.com\"]", "hosts = [\"crm.example.com\", \"https://x\"]", 4, "without https://");
    check("https://crm", "http://crm", 19, "use https");
    check("{number}\"", "{number}?api_key=abc\"", 19, "looks like a secret");
    check("Bearer ${crm_token}", "Bearer abc", 21, "secrets/NAME");
    check("Bearer ${crm_token}", "Bearer ${../x}", 21, "a secret is ${NAME}");
    check("Authorization =", "Host =", 21, "set by the node");
    check("timeout_ms = 3000", "timeout_ms = 60000", 20, "from 100 to 20000");
    check("\"GET\"", "\"FETCH\"", 18, "GET, POST");
    check("\"order_status\"", "\"order status\"", 16, "letters, digits");
    check("required = [\"number\"]", "required = []", 19, "may leave it out");
    check("properties = {", "propertys = {", 22, "not in `parameters.properties`");
    check("threshold = 0.5", "threshold = 5", 13, "from 0 to 1");
    check("Which shares?", "when", 11, "stands in line 7 already");
    let with = |rest: &str| format!("[hand_over]\n{rest}\n\n[[forbidden]]");
    let hook = |url: &str| with(&format!("webhook = {{ url = \"{url}\", secret = \"desk_hook\" }}"));
    assert!(parse_texts(REGION, &TOOLS.replacen("[[forbidden]]", &hook("https://crm.example.com/calls"), 1)).is_ok());
    check("[[forbidden]]", &hook("https://else.example/calls"), 11, "hosts = [\"else.example\"]");
    check("[[forbidden]]", &hook("https://crm.example.com/{call}"), 11, "takes no {argument}");
    check("[[forbidden]]", &with("misunderstandings = 11"), 11, "from 0 to 10");
    check("[[forbidden]]", &with("told_every_s = 1"), 11, "from 5 to 120");
    check("[[forbidden]]", &with("waiting = \" \""), 11, "is empty");
    check("[[forbidden]]", &with("sentiment = 0.5"), 11, "from -1 to 0");
    for number in ["030 123456", "+0123456789", "+49301", "+49 30 123456", "sip:desk@example.com"] {
        check("[[forbidden]]", &with(&format!("transfer = \"{number}\"")), 11, "+493012345678");
    }
    let right = with("transfer = \"+493012345678\"\nsentiment = -0.5");
    assert!(parse_texts(REGION, &TOOLS.replacen("[[forbidden]]", &right, 1)).is_ok());
    check("Be brief.", "Say sk-abcdefghijklmnopqrstuvwxyz.", 3, "a key or a token");
}

#[test]
fn an_assistant_is_checked_alone_with_advice_where_nothing_is_wrong() {
    let (report, assistant) = check_assistant(&file("assistants/desk.toml", TOOLS));
    assert_eq!(report.mistakes, []);
    assert_eq!(assistant.expect("right").hosts, ["crm.example.com"]);
    let advice: Vec<String> = report.advice.iter().map(ToString::to_string).collect();
    assert!(
        advice.iter().any(|line| line.starts_with("assistants/desk.toml: nobody can ask for a person")),
        "{advice:?}"
    );
    assert!(advice.iter().any(|line| line.contains(":7: one way of asking is few")), "{advice:?}");
    let long = TOOLS.replace("Now.", &"Now. ".repeat(100));
    let (report, _) = check_assistant(&file("assistants/desk.toml", &long));
    assert!(report.advice.iter().any(|advice| advice.message.contains("more than 25 seconds")), "{report:?}");
    let (report, assistant) = check_assistant(&file("assistants/desk.toml", &TOOLS.replace("voice", "vioce")));
    assert_eq!((report.mistakes.len(), report.advice.len(), assistant), (2, 0, None));
}

#[test]
fn the_shipped_regions_have_no_mistakes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../regions");
    let files = read_folder(&folder).unwrap();
    let names = ["silero-vad", "smart-turn-v3.2", "moonshine-tiny", "smollm2-135m-instruct", "hibari", "minilm-l6-v2"];
    let stages = [Stage::Vad, Stage::Turn, Stage::Asr, Stage::Llm, Stage::Tts, Stage::Embed];
    let models = names
        .into_iter()
        .zip(stages)
        .map(|(name, stage)| {
            let manifest = SignedManifest { body: name.into(), signature: String::new() };
            (name.to_owned(), KnownModel { stage, manifest })
        })
        .collect();
    let definition = parse(&files, &Known { models, ..Known::default() }).unwrap();
    assert!(definition.regions.len() >= 2);
}

#[test]
fn a_folder_without_regions_is_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(read_folder(dir.path()).unwrap_err().to_string().contains("right folder"));
    assert!(read_folder(&dir.path().join("none")).is_err());
}
