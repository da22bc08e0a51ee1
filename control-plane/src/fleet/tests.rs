use super::*;
use crate::{
    ca::{NodeCertificate, NodeIdentity},
    definition::{DefinedRegion, Definition},
    fleet::{change::Action, tokens::hash},
    store::Write,
};
use nearfield_shared::{
    artefact::{SignedManifest, Stage},
    policy::Policy,
    region::{Jurisdiction, Location, Region},
    report::{AnonymisedReport, CallTally},
    wire::{DeviceName, enrol::EnrolRefusal, message::*},
};

const NOW: i64 = 1_800_000_000;

fn eu() -> RegionId {
    "eu".parse().unwrap()
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn defined(id: &str) -> DefinedRegion {
    let policy = Policy {
        serves_countries: vec!["*".into()],
        store_transcripts: false,
        retention_days: 0,
        metrics_group_min: 5,
        notices: vec![],
    };
    let region = Region {
        id: id.parse().unwrap(),
        jurisdiction: Jurisdiction("eu".into()),
        location: Location { latitude: 1.0, longitude: 2.0 },
        policy,
        models: [(Stage::Vad, "v".to_owned())].into(),
        assistants: vec![],
        rollout: None,
        agent: None,
    };
    let manifest = SignedManifest { body: "{}".into(), signature: "s1".into() };
    DefinedRegion { region, models: [(Stage::Vad, manifest)].into(), assistants: vec![], agent: None }
}

fn definition(ids: &[&str]) -> Definition {
    Definition { regions: ids.iter().map(|id| (id.parse().unwrap(), defined(id))).collect() }
}

fn fleet() -> Fleet {
    let mut fleet = Fleet::load(&[], NOW - 10_000).unwrap();
    fleet.apply(definition(&["eu"]), NOW);
    fleet
}

fn here(node: &str, serving: u64) -> HereIAm {
    HereIAm {
        node: name(node),
        region: eu(),
        agent_version: "1".parse().unwrap(),
        serving: Generation(serving),
        refused: None,
        device: DeviceSummary { kind: DeviceKind::Cpu, name: DeviceName::from_driver("x"), memory_bytes: 1 },
        public_url: Some("http://a".parse().unwrap()),
        neighbours: None,
    }
}

fn status(serving: u64, accepting: bool) -> Status {
    Status {
        serving: Generation(serving),
        activating: None,
        trial: None,
        accepting,
        models: vec![],
        calls_in_progress: 0,
        calls_max: 4,
        load: 0.0,
        resident_bytes: 0,
        uptime_s: 1,
        program: None,
    }
}

fn up(fleet: &Fleet, now: i64) -> Vec<bool> {
    fleet.routes(now).iter().flat_map(|route| route.nodes.iter().map(|node| node.up)).collect()
}

fn desired(fleet: &Fleet) -> Option<DesiredState> {
    fleet.desired(&eu(), &fleet.routes(NOW))
}

/// Plays writes into a map, as the store would.
fn stored(writes: impl IntoIterator<Item = Write>) -> Vec<(String, String)> {
    let mut map = BTreeMap::new();
    for write in writes {
        match write {
            Write::Put { key, value } => map.insert(key, value),
            Write::Delete { key } => map.remove(&key),
        };
    }
    map.into_iter().collect()
}

#[test]
fn an_unchanged_apply_makes_no_generation_and_no_write() {
    let mut fleet = Fleet::default();
    let (plan, writes) = fleet.apply(definition(&["eu", "us"]), NOW);
    assert_eq!((plan.changes(), writes.len()), (true, 2));
    assert_eq!(plan.regions[0].action, Action::Add);
    let (plan, writes) = fleet.apply(definition(&["eu", "us"]), NOW + 5);
    assert_eq!((plan.changes(), writes.len()), (false, 0));
    assert_eq!(desired(&fleet).unwrap().generation, Generation(1));
}

#[test]
fn only_the_changed_region_gets_a_generation_and_the_plan_says_what_changes() {
    let mut fleet = Fleet::default();
    fleet.apply(definition(&["eu", "us"]), NOW);
    let mut changed = definition(&["eu", "us"]);
    let region = changed.regions.get_mut(&eu()).unwrap();
    region.region.policy.retention_days = 3;
    region.models.get_mut(&Stage::Vad).unwrap().signature = "s2".into();
    let plan = fleet.plan(&changed, NOW);
    assert_eq!(plan.regions.iter().map(|r| r.action).collect::<Vec<_>>(), [Action::Change, Action::Keep]);
    let what: Vec<_> = plan.regions[0].differences.iter().map(|d| d.what.as_str()).collect();
    assert_eq!(what, ["models.vad", "policy.retention_days"]);
    assert_eq!(desired(&fleet).unwrap().generation, Generation(1), "a plan changes nothing");
    fleet.apply(changed, NOW);
    assert_eq!(desired(&fleet).unwrap().generation, Generation(2));
    assert_eq!(fleet.desired(&"us".parse().unwrap(), &[]).unwrap().generation, Generation(1));
}

#[test]
fn the_plan_names_the_question_that_changes() {
    use nearfield_shared::assistant::{Assistant, KnownQuestion};
    let assistant = |answer: &str, match_threshold| Assistant {
        name: "desk".into(),
        instructions: "i".into(),
        match_threshold,
        questions: ["one", answer].map(|a| KnownQuestion { ask: vec!["q".into()], answer: a.into() }).into(),
        ..Assistant::default()
    };
    let with = |assistant| {
        let mut definition = definition(&["eu"]);
        definition.regions.get_mut(&eu()).unwrap().assistants = vec![assistant];
        definition
    };
    let mut fleet = Fleet::default();
    fleet.apply(with(assistant("two", 0.62)), NOW);
    let plan = fleet.plan(&with(assistant("three", 0.7)), NOW);
    let shown: Vec<_> = plan.regions[0]
        .differences
        .iter()
        .map(|d| format!("{}: {} -> {}", d.what, d.from.as_deref().unwrap(), d.to.as_deref().unwrap()))
        .collect();
    assert_eq!(
        shown,
        ["assistant desk.match_threshold: 0.62 -> 0.7", "assistant desk.questions[2].answer: \"two\" -> \"three\""]
    );
}

#[test]
fn a_region_that_comes_back_goes_on_counting() {
    let mut fleet = Fleet::default();
    fleet.apply(definition(&["eu", "us"]), NOW);
    fleet.apply(definition(&["us"]), NOW);
    assert!(desired(&fleet).is_none());
    fleet.apply(definition(&["eu", "us"]), NOW);
    assert_eq!(desired(&fleet).unwrap().generation, Generation(3));
}

#[test]
fn a_region_with_nodes_is_not_taken_out() {
    let mut fleet = fleet();
    fleet.enrolled(name("a"), eu(), "01".into(), NOW, NOW);
    let (plan, writes) = fleet.apply(definition(&["us"]), NOW);
    assert!(plan.refused[0].contains("node revoke") && writes.is_empty(), "{plan:?}");
    assert!(fleet.region(&eu()).is_some() && fleet.region(&"us".parse().unwrap()).is_none(), "all or nothing");
    fleet.revoke(&name("a"), None, NOW);
    assert!(fleet.apply(definition(&["us"]), NOW).0.refused.is_empty());
}

#[test]
fn tokens_work_once_and_in_time_and_say_what_is_wrong() {
    let mut fleet = fleet();
    assert!(fleet.add_token(hash("x"), "mars".parse().unwrap(), None, 60, NOW).unwrap_err().contains("known: eu"));
    fleet.add_token(hash("secret"), eu(), None, 60, NOW).unwrap();
    let code = |fleet: &Fleet, secret: &str, now| fleet.redeem(secret, None, 1, now).unwrap_err().code;
    assert_eq!(code(&fleet, "wrong", NOW), EnrolRefusal::WrongToken);
    assert_eq!(code(&fleet, "secret", NOW + 60), EnrolRefusal::ExpiredToken);
    let used = fleet.redeem("secret", None, 1, NOW + 59).unwrap();
    assert_eq!((used.node.as_str(), used.region.as_str()), ("eu-00000001", "eu"));
    fleet.token_used(&used);
    assert_eq!(code(&fleet, "secret", NOW), EnrolRefusal::UsedToken);
}

#[test]
fn a_name_is_taken_unless_the_admin_chose_it() {
    let mut fleet = fleet();
    fleet.enrolled(name("a"), eu(), "01".into(), NOW, NOW);
    fleet.add_token(hash("free"), eu(), None, 60, NOW).unwrap();
    let refused = fleet.redeem("free", Some(&name("a")), 1, NOW).unwrap_err();
    assert_eq!(refused.code, EnrolRefusal::NameTaken);
    assert!(refused.reason.contains("--node a"), "{refused}");
    assert_eq!(fleet.redeem("free", Some(&name("b")), 1, NOW).unwrap().node, name("b"));
    fleet.add_token(hash("named"), eu(), Some(name("a")), 60, NOW).unwrap();
    assert_eq!(fleet.redeem("named", Some(&name("b")), 1, NOW).unwrap().node, name("a"));
    assert!(fleet.admit(&identity("a", "01")).is_ok());
    fleet.enrolled(name("a"), eu(), "02".into(), NOW, NOW);
    assert!(fleet.admit(&identity("a", "01")).unwrap_err().reason.contains("no longer valid"));
    assert!(fleet.admit(&identity("a", "02")).is_ok());
    assert!(fleet.admit(&identity("z", "02")).unwrap_err().reason.contains("token create"));
}

fn identity(node: &str, serial: &str) -> NodeIdentity {
    NodeIdentity { node: name(node), region: eu(), serial: serial.into(), valid_unix_s: (0, 0) }
}

#[test]
fn the_revocation_list_holds_every_certificate_of_a_node_survives_and_stays_within_its_bound() {
    use super::certificates::REVOKED_MAX;
    let next = |serial: &str| NodeCertificate { pem: String::new(), serial: serial.into(), expires_unix_s: NOW + 20 };
    let serials = |fleet: &Fleet| -> Vec<String> {
        fleet.revocations().map(|(_, list)| list.into_iter().map(|entry| entry.serial).collect()).unwrap_or_default()
    };
    let mut fleet = fleet();
    assert!(fleet.revocations().is_none());
    let mut writes = fleet.enrolled(name("a"), eu(), "01".into(), NOW + 10, NOW);
    writes.extend(fleet.renewed(&name("a"), &next("02"), NOW));
    assert!(fleet.admit(&identity("a", "01")).is_ok() && fleet.admit(&identity("a", "02")).is_ok());
    writes.extend(fleet.revoke(&name("a"), Some("stolen".into()), NOW).unwrap());
    assert!(fleet.revoke(&name("a"), None, NOW).is_none(), "once is enough");
    assert_eq!(serials(&fleet), ["01", "02"]);
    let mut fleet = Fleet::load(&stored(writes), NOW).unwrap();
    assert_eq!((serials(&fleet).len(), fleet.revocations().unwrap().0), (2, 1));
    assert!(fleet.admit(&identity("a", "02")).is_err());
    let long_after = NOW + 500 * 86_400;
    for number in 0..REVOKED_MAX + 2 {
        fleet.enrolled(name("b"), eu(), format!("{number:08x}"), long_after, long_after);
    }
    let left = serials(&fleet);
    assert_eq!((left.len(), left.contains(&"01".to_owned())), (REVOKED_MAX, false));
}

#[test]
fn a_certificate_is_told_of_in_a_word() {
    let mut fleet = fleet();
    fleet.enrolled(name("a"), eu(), "01".into(), NOW + 100, NOW);
    let word = |fleet: &Fleet, now| fleet.node(&name("a")).unwrap().certificate_state(now);
    assert_eq!([0, 69, 70, 99, 100].map(|s| word(&fleet, NOW + s)), ["good", "good", "overdue", "overdue", "ended"]);
    let next = NodeCertificate { pem: String::new(), serial: "02".into(), expires_unix_s: NOW + 150 };
    fleet.renewed(&name("a"), &next, NOW + 50);
    assert_eq!(word(&fleet, NOW + 80), "renewing");
    assert_eq!(fleet.used(&name("a"), "01"), vec![], "the current one changes nothing");
    assert_eq!(fleet.used(&name("a"), "02").len(), 1);
    assert_eq!(word(&fleet, NOW + 100), "good");
    fleet.revoke(&name("a"), None, NOW + 101);
    assert_eq!(word(&fleet, NOW + 101), "revoked");
}

#[test]
fn a_node_is_up_while_it_is_connected_serving_and_accepting() {
    let mut fleet = fleet();
    let (a, one) = (name("a"), ConnectionId(1));
    fleet.enrolled(a.clone(), eu(), "01".into(), NOW, NOW);
    assert_eq!(up(&fleet, NOW), Vec::<bool>::new(), "no address is known yet");
    fleet.greeted(one, &here("a", 0), NOW);
    assert_eq!(up(&fleet, NOW), [false], "it serves nothing");
    assert!(fleet.status(&a, one, status(1, true), NOW).0);
    assert_eq!(up(&fleet, NOW), [true]);
    assert_eq!(fleet.status(&a, one, status(1, true), NOW), (false, vec![]), "the same again is no news and no write");
    fleet.status(&a, one, status(1, false), NOW);
    assert_eq!(up(&fleet, NOW), [false], "it takes no new calls");
    fleet.status(&a, one, status(1, true), NOW);
    fleet.gone(&a, one, NOW);
    assert_eq!(up(&fleet, NOW), [false]);
}

#[test]
fn the_end_of_an_older_connection_does_not_hide_the_newer() {
    let mut fleet = fleet();
    let a = name("a");
    fleet.enrolled(a.clone(), eu(), "01".into(), NOW, NOW);
    fleet.greeted(ConnectionId(1), &here("a", 1), NOW);
    fleet.greeted(ConnectionId(2), &here("a", 1), NOW);
    assert!(fleet.gone(&a, ConnectionId(1), NOW).is_empty());
    assert_eq!(up(&fleet, NOW), [true]);
    assert!(!fleet.status(&a, ConnectionId(1), status(1, false), NOW).0, "nor does its late status");
}

#[test]
fn after_a_restart_nodes_that_were_up_are_routed_to_while_they_return() {
    let mut fleet = Fleet::default();
    let mut writes = fleet.apply(definition(&["eu"]), NOW).1;
    for node in ["a", "b"] {
        writes.extend(fleet.enrolled(name(node), eu(), "01".into(), NOW, NOW));
        writes.extend(fleet.greeted(ConnectionId(1), &here(node, 1), NOW));
    }
    writes.extend(fleet.gone(&name("b"), ConnectionId(1), NOW));
    writes.extend(fleet.add_token(hash("t"), eu(), None, 60, NOW).unwrap());
    let fleet = Fleet::load(&stored(writes), NOW + 100).unwrap();
    assert_eq!(up(&fleet, NOW + 101), [true, false]);
    assert_eq!(up(&fleet, NOW + 100 + RETURN_GRACE_S), [false, false]);
    assert_eq!(desired(&fleet).unwrap().generation, Generation(1));
    assert!(fleet.redeem("t", None, 0, NOW).is_ok());
}

#[test]
fn a_plane_whose_store_is_older_than_its_fleet_numbers_above_it() {
    let mut fleet = fleet();
    fleet.agent_ahead(&eu(), Generation(9)).unwrap();
    assert_eq!(desired(&fleet).unwrap().generation, Generation(10));
    assert_eq!(fleet.agent_ahead(&eu(), Generation(9)), Some(vec![]), "once is enough");
    assert_eq!(fleet.agent_ahead(&eu(), Generation(u64::MAX)), None, "no agent drives the number to its end");
    let before = desired(&fleet).unwrap().generation.0;
    fleet.skip_generations();
    assert_eq!(desired(&fleet).unwrap().generation.0, before + RESTORED_SKIP);
}

#[test]
fn a_refusal_is_remembered_until_something_newer_serves() {
    let mut fleet = fleet();
    let a = name("a");
    fleet.enrolled(a.clone(), eu(), "01".into(), NOW, NOW);
    let nack =
        |kind| Nack { generation: Generation(2), nonce: Nonce(1), detail: Problem::new(kind), serving: Generation(1) };
    assert!(fleet.nacked(&a, &nack(ProblemKind::Superseded), NOW).is_empty(), "that is no failure");
    fleet.nacked(&a, &nack(ProblemKind::LoadFailed), NOW);
    assert_eq!(fleet.node(&a).unwrap().refusal.as_ref().unwrap().generation, Generation(2));
    fleet.acked(&a, Generation(1), NOW);
    assert!(fleet.node(&a).unwrap().refusal.is_some());
    fleet.acked(&a, Generation(3), NOW);
    assert!(fleet.node(&a).unwrap().refusal.is_none());
}

#[test]
fn reports_add_up_by_region_and_day_and_each_counts_once() {
    let mut fleet = fleet();
    let policy = defined("eu").region.policy;
    let report = |id, calls| {
        let mut tally = CallTally { calls, ..CallTally::default() };
        tally.count_first_audio(120);
        Report { id, figures: AnonymisedReport::suppress(&tally, Some(&policy)).unwrap() }
    };
    let mut writes = fleet.report(&name("a"), &eu(), &report(1, 5), NOW);
    writes.extend(fleet.report(&name("a"), &eu(), &report(2, 7), NOW));
    assert!(fleet.report(&name("a"), &eu(), &report(1, 5), NOW).is_empty());
    let tomorrow = NOW + 24 * 3600;
    assert!(fleet.report(&name("a"), &eu(), &report(2, 7), tomorrow).is_empty(), "nor after midnight");
    writes.extend(fleet.report(&name("a"), &eu(), &report(3, 6), tomorrow));
    let fleet = Fleet::load(&stored(writes), NOW).unwrap();
    let rows: Vec<_> =
        fleet.figures().map(|row| (row.day.as_str(), row.calls, row.reports, row.first_audio[2])).collect();
    assert_eq!(rows, [("2027-01-15", 12, 2, 2), ("2027-01-16", 6, 1, 1)]);
}

#[test]
fn a_record_that_cannot_be_read_is_named() {
    let error = Fleet::load(&[("node/a".into(), "{}".into())], NOW).unwrap_err().to_string();
    assert!(error.contains("node/a"), "{error}");
    assert!(Fleet::load(&[("later/x".into(), "of a later version".into())], NOW).is_ok());
}

#[test]
fn only_tokens_that_wait_count_and_those_that_are_over_are_bounded_too() {
    use super::tokens::{REMEMBERED_MAX, TOKENS_MAX};
    let mut fleet = fleet();
    let mut put = |secret: String, ends: i64, used_by: Option<NodeName>| {
        let hash = hash(&secret);
        let (region, node) = (eu(), None);
        let token =
            TokenRecord { hash: hash.clone(), region, node, created_unix_s: NOW, expires_unix_s: NOW + ends, used_by };
        fleet.tokens.insert(hash, token);
    };
    (0..=REMEMBERED_MAX as i64).for_each(|n| put(n.to_string(), 60 + n, Some(name("a"))));
    (1..TOKENS_MAX).for_each(|n| put(format!("waits {n}"), 60, None));
    let code = |fleet: &Fleet, secret: &str| fleet.redeem(secret, None, 1, NOW).unwrap_err().code;
    assert_eq!(code(&fleet, "0"), EnrolRefusal::UsedToken);
    fleet.add_token(hash("the last"), eu(), None, 60, NOW).unwrap();
    assert_eq!(code(&fleet, "0"), EnrolRefusal::WrongToken, "the one that ended first is forgotten");
    assert_eq!(code(&fleet, "1"), EnrolRefusal::UsedToken);
    assert!(fleet.add_token(hash("one more"), eu(), None, 60, NOW).unwrap_err().contains("waiting already"));
    fleet.add_token(hash("later"), eu(), None, 60, NOW + 60).unwrap();
}

#[test]
fn ten_thousand_nodes_can_be_enrolled_in_a_month() {
    use super::tokens::REMEMBERED_MAX;
    let mut fleet = fleet();
    let enrolments = 10_500;
    for n in 0..enrolments {
        let now = NOW + n * 30 * 24 * 3600 / enrolments;
        let secret = format!("secret {n}");
        fleet.add_token(hash(&secret), eu(), None, 7 * 24 * 3600, now).unwrap();
        let used = fleet.redeem(&secret, None, n as u32, now).unwrap();
        fleet.token_used(&used);
        fleet.enrolled(used.node, used.region, n.to_string(), now, now);
    }
    assert_eq!(fleet.nodes().count() as i64, enrolments);
    assert!(fleet.tokens.len() <= REMEMBERED_MAX + 1, "what was used is forgotten in time: {}", fleet.tokens.len());
}

#[test]
fn neighbours_are_of_the_region_serve_the_model_and_are_few() {
    use nearfield_shared::{
        artefact::Digest,
        wire::{message::LiveModel, neighbour::NEIGHBOURS_MAX},
    };
    let mut fleet = fleet();
    fleet.apply(definition(&["eu", "us"]), NOW);
    let digest = Digest::of(b"model");
    let mut add = |n: u16, region: &str, serves: bool, gives: bool| {
        let node = name(&format!("n{n}"));
        let id = ConnectionId(n.into());
        fleet.enrolled(node.clone(), region.parse().unwrap(), n.to_string(), NOW, NOW);
        let neighbours = gives.then(|| ([10, 0, 0, 1], n).into());
        let region = region.parse().unwrap();
        fleet.greeted(id, &HereIAm { neighbours, region, ..here(node.as_str(), 1) }, NOW);
        let models = if serves { vec![LiveModel { stage: Stage::Asr, digest }] } else { vec![] };
        fleet.status(&node, id, Status { models, ..status(1, true) }, NOW);
    };
    add(1, "eu", true, true);
    add(2, "us", true, true);
    add(3, "eu", false, true);
    add(4, "eu", true, false);
    add(5, "eu", true, true);
    let ports = |fleet: &Fleet, of: &str| -> Vec<u16> {
        fleet.neighbours(&name(of), &digest).iter().map(|address| address.port()).collect()
    };
    assert_eq!(
        ports(&fleet, "n1"),
        [5],
        "neither itself, nor another region, nor whoever has no such model or gives none"
    );
    assert_eq!(ports(&fleet, "n3"), [5, 1], "whoever follows comes first");
    assert_eq!(ports(&fleet, "nobody"), [0; 0]);
    fleet.gone(&name("n5"), ConnectionId(5), NOW);
    assert_eq!(ports(&fleet, "n3"), [1]);
    let program = Digest::of(b"program");
    fleet.status(&name("n3"), ConnectionId(3), Status { program: Some(program), ..status(1, true) }, NOW);
    let givers = fleet.neighbours(&name("n1"), &program);
    assert_eq!(givers.iter().map(|address| address.port()).collect::<Vec<_>>(), [3], "its own program, too");
    let mut add = |n: u16| {
        let node = name(&format!("n{n}"));
        fleet.enrolled(node.clone(), eu(), n.to_string(), NOW, NOW);
        let here = HereIAm { neighbours: Some(([10, 0, 0, 1], n).into()), ..here(node.as_str(), 1) };
        fleet.greeted(ConnectionId(n.into()), &here, NOW);
        let models = vec![LiveModel { stage: Stage::Asr, digest }];
        fleet.status(&node, ConnectionId(n.into()), Status { models, ..status(1, true) }, NOW);
    };
    (10..30).for_each(&mut add);
    assert_eq!(ports(&fleet, "n3").len(), NEIGHBOURS_MAX);
}

mod rollout;
