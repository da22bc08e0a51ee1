//! A change goes out in waves over real links: a good one to its end, a bad one back, and a plane that is killed goes on where it was.

use super::{
    agent::{Agent, Live},
    command_line::Served,
    manual_clock::ManualClock,
    plane::TestPlane,
};
use control_plane::{
    admin_client::AdminError,
    api::{
        rollout_view::RolloutView,
        views::{LabelsWanted, NodeView},
    },
    config::Config,
    definition::SourceFile,
    fleet::change::Action,
    rollout::Order,
};
use nearfield_shared::{
    clock::Clock as _,
    desired::Generation,
    policy::Policy,
    region::RegionId,
    report::{AnonymisedReport, CallTally},
    wire::{AgentToPlane, message::Report},
};
use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

const NODES: [&str; 4] = ["a", "b", "c", "d"];

const WAVES: &str = "[rollout]\nbake_s = 600\n[[rollout.waves]]\nlabel = \"canary\"\n[[rollout.waves]]\npercent = 50\n\
                     [[rollout.waves]]\npercent = 100\n";

fn eu() -> RegionId {
    "eu".parse().unwrap()
}

/// Files with these instructions, and this at the end of the region's.
fn files(plane: &TestPlane, instructions: &str, rollout: &str) -> Vec<SourceFile> {
    let mut files = plane.files_with(instructions);
    for file in files.iter_mut().filter(|file| file.stem == "eu") {
        file.text.push_str(rollout);
    }
    files
}

/// Calls of one generation: so many turns, so many of which fail.
fn report(generation: u64, turns: u64, failed: u64) -> AgentToPlane {
    let policy = Policy {
        serves_countries: vec![],
        store_transcripts: false,
        retention_days: 0,
        metrics_group_min: 5,
        notices: vec![],
    };
    let mut tally = CallTally {
        generation: Some(Generation(generation)),
        calls: turns,
        turns_by_model: turns - failed,
        turns_failed: failed,
        ..CallTally::default()
    };
    (0..turns - failed).for_each(|_| tally.count_first_audio(180));
    let figures = AnonymisedReport::suppress(&tally, Some(&policy)).unwrap();
    static IDS: AtomicU64 = AtomicU64::new(1);
    AgentToPlane::Report(Report { id: IDS.fetch_add(1, Ordering::Relaxed), figures })
}

/// Turns on nodes without the change.
fn others(view: &RolloutView) -> u64 {
    view.reference.as_ref().map_or(0, |reference| reference.turns)
}

struct Scene {
    plane: TestPlane,
    clock: Arc<ManualClock>,
    nodes: Vec<Live>,
}

impl Scene {
    /// Four nodes that serve generation 1, the first of which is a canary.
    async fn new() -> Self {
        let clock = ManualClock::at(1_800_000_000);
        let plane = TestPlane::at(clock.clone(), Config { heartbeat_s: 30.0, ..Config::on_loopback() }).await;
        plane.apply(&plane.files()).await;
        let mut nodes = Vec::new();
        for name in NODES {
            let node = Agent::new(&plane, "eu", name).await.live();
            node.serves(1).await;
            nodes.push(node);
            plane.wait_for(name, |node| node.serving == Generation(1)).await;
        }
        let canary = LabelsWanted { add: vec!["canary".parse().unwrap()], remove: vec![] };
        plane.admin.label("a", &canary).await.unwrap();
        Self { plane, clock, nodes }
    }

    async fn rollout(&self, what: impl Fn(&RolloutView) -> bool) -> RolloutView {
        loop {
            let view = self.plane.admin.rollout(&eu()).await.unwrap();
            if what(&view) {
                return view;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// The wave with this number is watched.
    async fn bakes(&self, wave: usize) -> RolloutView {
        self.rollout(|view| view.state == "baking" && view.waves[wave - 1].state == "baking").await
    }

    async fn serving(&self) -> Vec<u64> {
        let mut nodes: Vec<NodeView> = self.plane.admin.nodes().await.unwrap();
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        nodes.iter().map(|node| node.serving.0).collect()
    }
}

#[tokio::test]
async fn a_good_change_goes_through_three_waves() {
    let scene = Scene::new().await;
    let plane = &scene.plane;
    let plan = plane.apply(&files(plane, "i1", WAVES)).await;
    let eu_plan = plan.regions.iter().find(|region| region.region == eu()).unwrap();
    assert_eq!(eu_plan.waves.iter().map(|wave| wave.nodes).collect::<Vec<_>>(), [1, 1, 2]);

    let view = scene.bakes(1).await;
    assert_eq!((scene.serving().await, view.moved), (vec![2, 1, 1, 1], 1));
    assert!(view.stands.contains("wave 1 of 3 is watched for another 10 min"), "{}", view.stands);
    for (i, node) in scene.nodes.iter().enumerate() {
        let every = node.duty().await.report_every_ms.unwrap();
        assert!(every <= 5_000, "both sides report often");
        node.say(report(if i == 0 { 2 } else { 1 }, 60, 0));
    }
    let view = scene.rollout(|view| view.new.turns == 60 && others(view) == 180).await;
    assert_eq!(view.reference_is.unwrap(), "on the other nodes");
    scene.clock.pass_s(600);
    scene.bakes(2).await;
    assert_eq!(scene.serving().await.iter().filter(|generation| **generation == 2).count(), 2);
    scene.clock.pass_s(600);
    scene.bakes(3).await;
    scene.clock.pass_s(600);
    let view = scene.rollout(|view| view.state == "done").await;
    assert_eq!((scene.serving().await, view.serving), (vec![2; 4], 4));
    assert!(!plane.apply(&files(plane, "i1", WAVES)).await.changes());
    let refused = plane.admin.order_rollout(&eu(), Order::Abort).await.unwrap_err().to_string();
    assert!(refused.contains("is over"), "{refused}");
    let told = plane.admin.events(0).await.unwrap();
    let passed = told.iter().filter(|event| event.what == "rollout.passed").count();
    assert_eq!((passed, told.iter().filter(|event| event.text == "serves generation 2").count()), (3, 4));
    assert!(plane.admin.events(told.last().unwrap().n).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_bad_change_stops_in_its_first_wave_and_everybody_goes_back() {
    let scene = Scene::new().await;
    let plane = &scene.plane;
    plane.apply(&files(plane, "i1", WAVES)).await;
    scene.bakes(1).await;
    scene.clock.pass_s(30);
    for node in &scene.nodes[1..] {
        node.say(report(1, 60, 0));
    }
    scene.rollout(|view| others(view) == 180).await;
    let reported = scene.clock.unix_s();
    scene.nodes[0].say(report(2, 60, 12));
    let view = scene.rollout(|view| view.state == "undone").await;
    assert!(view.stands.contains("20.0 % of 60 turns failed"), "{}", view.stands);
    let undone = view.log.iter().find(|entry| entry.what == "rollout.undone").unwrap();
    // No scripted time passes between the report and the decision: what is left of ten seconds is the window of five.
    assert!(undone.unix_s - reported + 5 < 10, "{undone:?}");
    for node in &scene.nodes {
        node.serves(3).await;
        assert_eq!(node.instructions().await, "i0", "what served before, under a new number");
    }
    assert_eq!(view.waves.iter().map(|wave| wave.nodes).collect::<Vec<_>>(), [1, 0, 0], "no other node ever had it");
    let audit = plane.admin.audit(20).await.unwrap().entries;
    let line = audit.iter().find(|entry| entry.what == "rollout.undone").unwrap();
    assert!(line.who == "control-plane" && line.detail.contains("20.0 %") && line.before != line.after, "{line:?}");
    let credential = plane.dir.admin_token().unwrap();
    let page = reqwest::Client::new().get(format!("http://{}/dashboard/rollouts", plane.running.admin));
    let page = page.basic_auth("owner", Some(credential.as_str())).send().await.unwrap().text().await.unwrap();
    for shown in ["eu: generation 1 to 2", "undone: 20.0 % of 60 turns failed", "on the other nodes", "not begun"] {
        assert!(page.contains(shown), "{shown} is missing in {page}");
    }
    let figures = reqwest::Client::new().get(format!("http://{}/v1/admin/prometheus", plane.running.admin));
    let figures = figures.bearer_auth(credential.as_str()).send().await.unwrap().text().await.unwrap();
    for line in ["nearfield_plane_rollouts{state=\"baking\"} 0", "nearfield_plane_rollouts{state=\"undone\"} 1"] {
        assert!(figures.lines().any(|told| told == line), "{line} is missing in\n{figures}");
    }
    let plan = plane.apply(&files(plane, "i0", WAVES)).await;
    let action = plan.regions.iter().find(|region| region.region == eu()).unwrap().action;
    assert_eq!(action, Action::Keep, "the old files are what serves");
}

#[tokio::test]
async fn orders_are_obeyed_and_audited_and_cordoned_nodes_are_passed_over() {
    let scene = Scene::new().await;
    let plane = &scene.plane;
    let missing = plane.admin.rollout(&eu()).await.unwrap_err();
    assert!(matches!(missing, AdminError::Refused { ref code, .. } if code == "no_such_rollout"), "{missing}");
    plane.admin.cordon("d", true).await.unwrap();
    loop {
        if !scene.nodes[3].duty().await.accepting {
            break;
        }
    }
    let asks = WAVES.replace("percent = 50", "percent = 50\napproval = true");
    plane.apply(&files(plane, "i1", &asks)).await;
    scene.bakes(1).await;
    plane.admin.order_rollout(&eu(), Order::Pause).await.unwrap();
    scene.clock.pass_s(10_000);
    let view = plane.admin.order_rollout(&eu(), Order::Resume).await.unwrap();
    assert!(
        view.stands.contains("wave 1 of 3 is watched"),
        "a pause is no time in which it was watched: {}",
        view.stands
    );
    scene.clock.pass_s(600);
    let view = scene.rollout(|view| view.state == "waiting").await;
    assert!(view.stands.contains("control-plane rollout approve eu"), "{}", view.stands);
    plane.admin.order_rollout(&eu(), Order::Approve).await.unwrap();
    scene.bakes(2).await;
    scene.clock.pass_s(600);
    scene.bakes(3).await;
    assert_eq!(scene.serving().await, [2, 2, 2, 1]);
    scene.clock.pass_s(600);
    scene.nodes[3].serves(2).await;
    plane.admin.uncordon("d").await.unwrap();
    let audit = plane.admin.audit(50).await.unwrap().entries;
    let done = |what: &str| audit.iter().filter(|entry| entry.what == what && entry.who == "owner").count();
    let orders = ["node.label", "node.drain", "rollout.pause", "rollout.resume", "rollout.approve", "node.uncordon"];
    assert_eq!(orders.map(done), [1; 6]);
}

#[tokio::test]
async fn a_plane_that_is_killed_in_a_wave_goes_on_where_it_was() {
    let mut served = tokio::task::spawn_blocking(Served::new).await.unwrap();
    let plane = TestPlane::beside(served.dir());
    plane.apply(&plane.files()).await;
    let mut identities = Vec::new();
    let mut nodes = Vec::new();
    for name in NODES {
        let agent = Agent::new(&plane, "eu", name).await;
        identities.push(agent.identity.clone());
        nodes.push(agent.live());
        nodes.last().unwrap().serves(1).await;
        plane.wait_for(name, |node| node.serving == Generation(1)).await;
    }
    plane
        .apply(&files(
            &plane,
            "i1",
            "[rollout]\nbake_s = 3600\n[[rollout.waves]]\npercent = 25\n[[rollout.waves]]\npercent = 100\n",
        ))
        .await;
    let before = loop {
        let view = plane.admin.rollout(&eu()).await.unwrap();
        if view.state == "baking" {
            break view;
        }
    };
    let first = before.waves[0].names[0].to_string();
    let at = NODES.iter().position(|name| *name == first).unwrap();
    nodes[at].say(report(2, 40, 0));
    // What is acknowledged is on the disk.
    nodes[at].taken(1).await;

    let mut served = tokio::task::spawn_blocking(move || {
        served.kill_and_serve();
        served
    })
    .await
    .unwrap();
    let plane = TestPlane::beside(served.dir());
    let after = plane.admin.rollout(&eu()).await.unwrap();
    let told = |view: &RolloutView| (view.state.clone(), view.waves[0].names.clone(), view.log.clone());
    assert_eq!((told(&after), after.new.turns), (told(&before), 40));
    for (i, identity) in identities.iter().enumerate() {
        let serving = if i == at { 2 } else { 1 };
        nodes[i] = Agent::connect(&plane, identity, serving).await.live();
    }
    // The bad news comes to the second plane.
    nodes[at].say(report(2, 50, 25));
    for node in &nodes {
        node.serves(3).await;
        assert_eq!(node.instructions().await, "i0");
    }
    assert_eq!(plane.admin.rollout(&eu()).await.unwrap().state, "undone");

    let shown = tokio::task::spawn_blocking(move || {
        let shown = served.good(&["rollout", "show", "eu"]);
        let watched = served.run(&["rollout", "watch", "eu"]);
        assert_eq!(watched.status.code(), Some(1), "a program that waits for it learns that it failed");
        assert!(String::from_utf8_lossy(&watched.stderr).contains("undone: 27.8 % of 90 turns failed"), "{watched:?}");
        for args in [
            &["rollout", "list"][..],
            &["node", "label", "a", "canary", "big"],
            &["node", "cordon", "a"],
            &["node", "drain", "b"],
            &["node", "uncordon", "b"],
            &["node", "list"],
            &["node", "show", "a"],
            &["top", "--once"],
            &["events", "--last", "12"],
        ] {
            println!("$ control-plane {}\n{}", args.join(" "), served.good(args));
        }
        let file = served.dir().root().join("../regions/eu.toml");
        let waves = WAVES.replace("percent = 100", "percent = 100\napproval = true");
        fs::write(&file, fs::read_to_string(&file).unwrap() + &waves).unwrap();
        let plan = served.good(&["plan"]);
        println!("$ control-plane plan\n{plan}");
        // One node of four is cordoned, and the one that is left of the label is passed over with it.
        for wave in ["wave 1: no node (nodes labelled canary), passed over", "wave 2: 2 nodes (up to 50 %)"] {
            assert!(plan.contains(wave), "{plan}");
        }
        assert!(plan.contains("wave 3: 1 node (all nodes), once approved, watched for 10 min"), "{plan}");
        let events = served.good(&["events", "--json"]);
        assert!(events.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{events}");
        assert_eq!(served.json(&["top", "--json"]).as_array().unwrap().len(), NODES.len());
        assert_eq!(served.json(&["rollout", "show", "eu", "--json"])["state"], "undone");
        let (_, refused) = (served.kill_and_serve(), served.run(&["rollout", "approve", "eu"]));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("is over"), "{refused:?}");
        shown
    });
    println!("{}", shown.await.unwrap());
}
