//! A node's certificate through its life: renewed while the link stands, interrupted at every step, revoked, ended, and under clocks that
//! jump. A whole node and a whole control plane over real QUIC and disk; time is a clock that these tests set.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

#[path = "../scripted_node/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod scripted_node;

use edge_agent::{
    control::{dial::Dialer, renewal::Request, tls},
    daemon::Daemon,
    identity::Identity,
    state_dir::StateDir,
    status::StatusReport,
};
use nearfield_shared::{artefact::Stage, desired::Generation};
use scripted_node::{PATIENCE, Plane, enrol_node, host::Behaviour, manual_clock::ManualClock, start_node_at};
use std::{sync::Arc, time::Duration};

/// Where the clocks begin, seconds since 1970.
const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;
const NEVER: Duration = Duration::from_secs(86_400);

/// An enrolled node and its plane, each with a clock of its own.
struct Pair {
    plane: Plane,
    planes_clock: Arc<ManualClock>,
    clock: Arc<ManualClock>,
    dir: StateDir,
    _folder: tempfile::TempDir,
}

impl Pair {
    async fn new() -> Self {
        let (planes_clock, clock) = (ManualClock::at(NOW), ManualClock::at(NOW));
        let plane = Plane::start_at(planes_clock.clone()).await;
        for stage in Stage::ALL {
            let name = if stage == Stage::Asr { "asr-1" } else { stage.as_str() };
            plane.add_model(name, stage, format!("{}{name}", Behaviour::Good.line()).as_bytes());
        }
        plane.apply("asr-1").await;
        let folder = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&folder.path().join("node")).unwrap();
        enrol_node(&plane, &dir, &plane.token().await).await.unwrap();
        Self { plane, planes_clock, clock, dir, _folder: folder }
    }

    async fn start(&self) -> Daemon {
        start_node_at(&self.dir, NEVER, self.clock.clone()).await
    }

    fn pass_days(&self, days: u32) {
        self.clock.pass_days(days);
        self.planes_clock.pass_days(days);
    }

    fn identity(&self) -> Identity {
        Identity::load(&self.dir).unwrap()
    }

    /// Waits until the plane has seen the node with a certificate that it signed at this time, and no other is under way.
    async fn settled(&self, what: &str, issued: i64) {
        let settled = |node: &control_plane::api::views::NodeView| {
            node.certificate == "good" && node.certificate_issued_unix_s == issued && node.state == "up"
        };
        self.plane.node(what, settled).await;
    }
}

async fn until(what: &str, daemon: &Daemon, holds: impl Fn(&StatusReport) -> bool) {
    let waited = async {
        while !holds(&daemon.status()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("never: {what}; now {:?}", daemon.status()));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_half_life_a_new_key_and_certificate_take_over_and_nothing_else_changes() {
    let pair = Pair::new().await;
    let daemon = pair.start().await;
    pair.settled("it serves", NOW).await;
    let (first, fetched) = (pair.identity(), daemon.status().fetched_bytes);
    let Ok(call) = daemon.services().calls.admit() else { panic!("a call is let in") };
    for round in 1..=3 {
        pair.pass_days(6);
        pair.settled("nothing is due yet", NOW + (round - 1) * 8 * DAY).await;
        pair.pass_days(2);
        pair.settled("the renewal", NOW + round * 8 * DAY).await;
        until("the node shows it", &daemon, |status| {
            status.certificate_ends_unix_s == NOW + round * 8 * DAY + 14 * DAY && status.certificate_problem.is_none()
        })
        .await;
    }
    let last = pair.identity();
    assert_eq!(last.valid_unix_s.1, NOW + 38 * DAY);
    let key = |identity: &Identity| {
        let (_, parsed) = x509_parser::parse_x509_certificate(&identity.chain[0]).unwrap();
        parsed.public_key().raw.to_vec()
    };
    assert_ne!(key(&first), key(&last), "a key of its own");
    let status = daemon.status();
    assert_eq!((status.calls.in_progress, status.fetched_bytes, status.serving), (1, fetched, 1));
    let node = pair.plane.node("it is up", |node| node.state == "up").await;
    assert_eq!(node.serving, Generation(1));
    drop(call);
    daemon.drain().await;
}

/// What an interrupted rotation has left: how far it came.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Killed {
    BeforeTheReply,
    BeforeStoring,
    WhileWriting,
    BeforeMoving,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_in_the_middle_of_a_rotation_comes_back() {
    for step in [Killed::BeforeTheReply, Killed::BeforeStoring, Killed::WhileWriting, Killed::BeforeMoving] {
        let pair = Pair::new().await;
        pair.start().await.drain().await;
        pair.pass_days(8);
        // The rotation's own steps up to the kill, as the daemon does them.
        let identity = pair.identity();
        let config = tls::link_config(&pair.dir, &identity).unwrap();
        let dialled = Dialer::default().dial(&pair.plane.running.agents.to_string(), &config).await.unwrap();
        let request = Request::new(&identity).unwrap();
        if step == Killed::BeforeTheReply {
            let asked = request.ask(&dialled.connection);
            tokio::select! {
                biased;
                _ = asked => {}
                () = async { dialled.connection.close(0_u32.into(), b"killed") } => {}
            }
        } else {
            let certificate = request.ask(&dialled.connection).await.unwrap();
            match step {
                Killed::WhileWriting => {
                    let half = pair.dir.node_key().with_file_name("node.key.new");
                    std::fs::write(half, &certificate.as_bytes()[..100]).unwrap();
                }
                Killed::BeforeMoving => drop(request.keep(&pair.dir, &identity, &certificate).unwrap()),
                Killed::BeforeTheReply | Killed::BeforeStoring => {}
            }
        }
        drop(dialled);
        let daemon = pair.start().await;
        pair.settled(&format!("{step:?}"), NOW + 8 * DAY).await;
        pair.pass_days(8);
        pair.settled("and the next rotation", NOW + 16 * DAY).await;
        daemon.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_cut_off_for_a_year_comes_back_without_a_person() {
    let mut pair = Pair::new().await;
    let daemon = pair.start().await;
    pair.settled("it serves", NOW).await;
    pair.plane.stop().await;
    pair.pass_days(370);
    pair.plane.start_again().await;
    pair.settled("it is back while it ran on", NOW + 370 * DAY).await;
    daemon.drain().await;
    pair.pass_days(370);
    let daemon = pair.start().await;
    pair.settled("it is back after it was switched off", NOW + 740 * DAY).await;
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_boots_without_the_control_plane_and_serves_for_sixty_days() {
    let mut pair = Pair::new().await;
    let daemon = pair.start().await;
    pair.settled("it serves", NOW).await;
    daemon.drain().await;
    pair.plane.stop().await;
    for day in [0, 1, 15, 60] {
        pair.clock.jump_days(day);
        let daemon = pair.start().await;
        until("it serves alone", &daemon, |status| status.serving == 1 && !status.link.connected).await;
        let Ok(call) = daemon.services().calls.admit() else { panic!("a call is let in after {day} days") };
        assert!(daemon.services().serving.borrow().missing().is_empty(), "every model is there after {day} days");
        drop(call);
        daemon.drain().await;
        pair.clock.jump_days(-day);
    }
    pair.pass_days(60);
    pair.plane.start_again().await;
    let daemon = pair.start().await;
    pair.settled("and it is back", NOW + 60 * DAY).await;
    assert_eq!(daemon.status().serving, 1, "with nothing new, nothing changes");
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_jump_by_ninety_days_lock_nobody_out() {
    for days in [90, -90] {
        for whose in ["plane", "node", "both"] {
            let pair = Pair::new().await;
            let daemon = pair.start().await;
            pair.settled("it serves", NOW).await;
            let jump = |days| {
                if whose != "node" {
                    pair.planes_clock.jump_days(days);
                }
                if whose != "plane" {
                    pair.clock.jump_days(days);
                }
            };
            let issued = if whose == "node" { NOW } else { NOW + days * DAY };
            jump(days);
            daemon.drain().await;
            let daemon = pair.start().await;
            pair.settled(&format!("{whose} {days}"), issued).await;
            jump(-days);
            daemon.drain().await;
            let daemon = pair.start().await;
            pair.settled(&format!("{whose} {days} and back"), NOW).await;
            daemon.drain().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_node_is_out_at_once_and_serves_on_alone() {
    let pair = Pair::new().await;
    let daemon = pair.start().await;
    pair.settled("it serves", NOW).await;
    pair.plane.admin.revoke("fra-1", Some("stolen".into())).await.unwrap();
    until("the node is told", &daemon, |status| {
        !status.link.connected && status.link.last_problem.as_ref().is_some_and(|problem| problem.contains("revoked"))
    })
    .await;
    assert_eq!(daemon.status().serving, 1, "callers are still answered");
    daemon.drain().await;
    // Not after its certificate has ended either, and not by a renewal.
    pair.pass_days(30);
    let daemon = pair.start().await;
    until("it is refused", &daemon, |status| {
        status.certificate_problem.as_ref().is_some_and(|problem| problem.contains("revoked"))
    })
    .await;
    assert_eq!(pair.plane.node("it stays out", |_| true).await.state, "revoked");
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_keeps_the_list_of_what_is_revoked() {
    let pair = Pair::new().await;
    let daemon = pair.start().await;
    pair.settled("it serves", NOW).await;
    // The same name on another machine: what the first one held is revoked.
    let folder = tempfile::tempdir().unwrap();
    let other = StateDir::open(&folder.path().join("node")).unwrap();
    enrol_node(&pair.plane, &other, &pair.plane.token().await).await.unwrap();
    until("the first one is out", &daemon, |status| !status.link.connected).await;
    let second = start_node_at(&other, NEVER, pair.clock.clone()).await;
    until("the list is there", &second, |status| status.certificates_revoked == 1).await;
    second.drain().await;
    let second = start_node_at(&other, NEVER, pair.clock.clone()).await;
    until("and it stays", &second, |status| status.certificates_revoked == 1).await;
    second.drain().await;
    daemon.drain().await;
}
