//! The agent updates itself: real processes, real signals, real files; the releases are scripts that start this very test program as a node, or
//! misbehave.

use crate::{
    host::{Behaviour, FakeHost},
    rig::{Rig, config, parts, until},
};
use aws_lc_rs::signature::Ed25519KeyPair;
use edge_agent::{
    calls::Refused,
    daemon::{Daemon, DaemonParts},
    run,
    state_dir::StateDir,
    update::{Book, Failure, Leave, Program, Shelf, Updates, Way, Why},
};
use nearfield_shared::{
    artefact::{SignedManifest, Stage},
    desired::{DesiredState, Generation},
    release::Release,
    wire::{AgentToPlane, message::ProblemKind},
};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

const DIR: &str = "NEARFIELD_TEST_NODE_DIR";
const PLANE: &str = "NEARFIELD_TEST_NODE_PLANE";
const HEALTHY_S: &str = "NEARFIELD_TEST_HEALTHY_S";
const EXE: &str = "NEARFIELD_TEST_EXE";

/// The version of this build, which is what is installed.
const INSTALLED: &str = env!("CARGO_PKG_VERSION");

/// A release that works.
const WORKS: &str = "exec \"$NEARFIELD_TEST_EXE\" --exact updates::node_process --nocapture";

/// Not a test of its own: a node, as `edge-agent run` is one, with a scripted host.
#[test]
fn node_process() {
    let (Ok(dir), Ok(plane)) = (std::env::var(DIR), std::env::var(PLANE)) else { return };
    let dir = StateDir::open(&PathBuf::from(dir)).unwrap();
    let healthy_s = std::env::var(HEALTHY_S).unwrap().parse().unwrap();
    let code = run::process(&dir.clone(), Vec::new(), |handed| {
        let config = edge_agent::config::Config { update_healthy: Duration::from_secs(healthy_s), ..config(&plane) };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(run::serve(parts(dir, config, FakeHost::new()), handed))
    });
    let code = code.unwrap_or_else(|e| {
        eprintln!("{e:#}");
        99
    });
    std::process::exit(code.into());
}

struct Node {
    rig: Rig,
    child: Option<Child>,
    /// Seconds that a trial has.
    healthy_s: u32,
}

impl Node {
    /// A node that serves generation 1 with the program that is installed.
    async fn serving() -> Self {
        let mut node = Self { rig: Rig::new().await, child: None, healthy_s: 600 };
        let model = node.rig.model(Stage::Asr, Behaviour::Good, "one");
        let state = node.rig.state(1, &[&model]);
        node.rig.plane.want(state);
        node.start();
        node.rig.acked(1).await;
        node
    }

    fn start(&mut self) {
        let exe = std::env::current_exe().unwrap();
        let child = Command::new(&exe)
            .args(["--exact", "updates::node_process", "--nocapture"])
            .env(DIR, self.rig.dir.root())
            .env(PLANE, self.rig.plane.address())
            .env(HEALTHY_S, self.healthy_s.to_string())
            .env(EXE, exe)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.unwrap());
    }

    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("it was started")
    }

    /// Asks it to stop; returns its exit code.
    async fn stop(&mut self) -> Option<i32> {
        let id = self.child().id();
        // SAFETY: the child is ours and was not waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(id as i32, libc::SIGTERM) }, 0);
        self.ended().await
    }

    async fn ended(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it was started");
        tokio::task::spawn_blocking(move || child.wait().unwrap().code()).await.unwrap()
    }

    /// Kills the process that was started, and nothing else.
    async fn kill(&mut self) {
        self.child().kill().unwrap();
        self.ended().await;
    }

    /// Wants this generation with a release that is this script; returns what it is.
    fn want(&mut self, generation: u64, script: &str) -> Program {
        let release = self.rig.plane.release("9.9.9", self.script(script).as_bytes());
        self.want_release(generation, Some(release.clone()));
        program(&release)
    }

    fn want_release(&mut self, generation: u64, agent: Option<Release>) {
        let model = self.rig.model(Stage::Asr, Behaviour::Good, "one");
        let state = self.rig.state(generation, &[&model]);
        self.rig.plane.want(DesiredState { agent, ..state });
    }

    /// Each start leaves a line, with the number of the process.
    fn script(&self, script: &str) -> String {
        format!("#!/bin/sh\necho $$ >> '{}'\n{script}\n", self.starts_file().display())
    }

    fn starts_file(&self) -> PathBuf {
        self.rig.folder.path().join("starts")
    }

    /// Processes of releases that were started.
    fn starts(&self) -> Vec<u32> {
        let text = std::fs::read_to_string(self.starts_file()).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    fn book(&self) -> Book {
        Shelf::of(&self.rig.dir).book().read().unwrap_or_default()
    }

    fn last_failure(&self) -> Failure {
        self.book().failures().first().cloned().expect("something was given up")
    }

    /// Waits until a daemon of this version greets; returns what it serves.
    async fn greets(&mut self, version: &str) -> u64 {
        let of_version = |message| match message {
            AgentToPlane::HereIAm(here) if here.agent_version.as_str() == version => Some(here.serving.0),
            _ => None,
        };
        self.rig.hear(of_version).await
    }

    async fn nacked(&mut self, generation: u64) -> ProblemKind {
        self.rig.nacked(generation).await.detail.kind
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn program(release: &Release) -> Program {
    let signed = release.programs.values().next().unwrap();
    let manifest: nearfield_shared::release::ProgramManifest = serde_json::from_str(&signed.body).unwrap();
    Program::Release { digest: manifest.digest, version: manifest.version }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_release_takes_over_stays_over_restarts_and_goes_back_when_it_is_not_wanted_any_more() {
    let mut node = Node::serving().await;
    let id = node.child().id();
    let wanted = node.want(2, WORKS);
    assert_eq!(node.greets("9.9.9").await, 1, "it serves what was served before it is told anything new");
    node.rig.acked(2).await;
    let book = node.book();
    assert_eq!((book.current(), book.previous(), book.trial()), (&wanted, &Program::Installed, None));
    assert!(node.child().try_wait().unwrap().is_none(), "the process that was started is still there");

    // A supervisor passes on the signal, and the exit code of its daemon.
    assert_eq!(node.stop().await, Some(0));
    assert_ne!(node.starts(), [id]);
    node.start();
    assert_eq!(node.greets("9.9.9").await, 2);
    // One that is killed takes its daemon with it, so that the next finds the folder free.
    node.kill().await;
    node.start();
    assert_eq!(node.greets("9.9.9").await, 2);

    let better = node.want(3, &format!("# better\n{WORKS}"));
    node.rig.acked(3).await;
    assert_eq!((node.book().current(), node.book().previous()), (&better, &wanted));
    node.want_release(4, None);
    assert_eq!(node.greets(INSTALLED).await, 3);
    node.rig.acked(4).await;
    assert_eq!((node.book().current(), node.book().previous()), (&Program::Installed, &better));
    let kept = std::fs::read_dir(node.rig.dir.programs().join("versions")).unwrap().count();
    assert_eq!(kept, 1, "what ran before is kept, and nothing else");
    assert_eq!(node.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_ends_at_once_is_refused_and_tried_again_only_by_a_newer_state() {
    let mut node = Node::serving().await;
    let wanted = node.want(2, "exit 3");
    assert_eq!(node.nacked(2).await, ProblemKind::AgentUpdateFailed);
    let failure = node.last_failure();
    assert_eq!((failure.program, failure.generation, failure.why), (wanted, Generation(2), Why::Ended { code: 3 }));
    assert_eq!(node.starts().len(), 1);
    // Whoever comes back asks nothing of it either.
    node.kill().await;
    node.start();
    assert_eq!(node.greets(INSTALLED).await, 1);
    assert_eq!(node.nacked(2).await, ProblemKind::AgentUpdateFailed);
    assert_eq!(node.starts().len(), 1);
    node.want(3, "exit 3");
    assert_eq!(node.nacked(3).await, ProblemKind::AgentUpdateFailed);
    assert_eq!(node.starts().len(), 2);
    // Another one is tried at once.
    node.want(4, WORKS);
    node.rig.acked(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_hangs_or_never_greets_is_killed_in_time() {
    let mut node = Node::serving().await;
    node.kill().await;
    node.healthy_s = 1;
    node.start();
    // It does not even follow SIGTERM.
    node.want(2, "trap '' TERM\nwhile :; do sleep 1; done");
    assert_eq!(node.nacked(2).await, ProblemKind::AgentUpdateFailed);
    assert_eq!(node.last_failure().why, Why::Late { after_s: 1 });
    // It serves, and cannot be reached by the control plane.
    node.want(3, &format!("export NEARFIELD_TEST_NODE_PLANE=127.0.0.1:1\n{WORKS}"));
    assert_eq!(node.nacked(3).await, ProblemKind::AgentUpdateFailed);
    assert_eq!((node.last_failure().why, node.starts().len()), (Why::Late { after_s: 1 }, 2));
    assert_eq!(node.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_killed_in_a_trial_comes_back_with_what_ran_before() {
    let mut node = Node::serving().await;
    node.want(2, "exec sleep 1000");
    until("the trial has begun", || node.starts().len() == 1).await;
    assert!(node.book().trial().is_some_and(|trial| trial.begun), "it is on the disk");
    let tried = PathBuf::from(format!("/proc/{}", node.starts()[0]));
    assert!(tried.exists());
    node.kill().await;
    until("what was tried is gone, too", || !tried.exists()).await;
    node.start();
    assert_eq!(node.nacked(2).await, ProblemKind::AgentUpdateFailed);
    assert_eq!(node.last_failure().why, Why::Interrupted);

    // One that is stopped on purpose has not failed.
    node.want(3, "exec sleep 1000");
    until("the trial has begun", || node.starts().len() == 2).await;
    assert_eq!(node.stop().await, Some(128 + libc::SIGTERM));
    assert!(node.book().trial().is_some_and(|trial| !trial.begun));
    node.start();
    until("it begins anew", || node.starts().len() == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_is_tried_by_the_next_start_should_nothing_come_of_making_way() {
    let mut node = Node::serving().await;
    node.kill().await;
    let release = node.rig.plane.release("9.9.9", node.script(WORKS).as_bytes());
    let (shelf, wanted) = (Shelf::of(&node.rig.dir), program(&release));
    let file = node.rig.folder.path().join("program");
    std::fs::write(&file, node.script(WORKS)).unwrap();
    shelf.install(wanted.digest().unwrap(), &file).unwrap();
    let mut book = Book::default();
    book.ask(wanted.clone(), Generation(2), edge_agent::update::Terms { healthy_s: 600, grace_s: 0 });
    shelf.book().save(&book).unwrap();
    node.want_release(2, Some(release));
    node.start();
    node.rig.acked(2).await;
    assert_eq!((node.book().current(), node.starts().len()), (&wanted, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_damaged_or_does_not_stay_up_is_left_for_the_one_before() {
    let mut node = Node::serving().await;
    let sick = node.rig.folder.path().join("sick");
    let wanted = node.want(2, &format!("[ -e '{}' ] && exit 5\n{WORKS}", sick.display()));
    node.rig.acked(2).await;
    assert_eq!(node.stop().await, Some(0));
    std::fs::write(&sick, "").unwrap();
    for _ in 0..3 {
        node.start();
        assert_eq!(node.ended().await, Some(5), "whoever started the node is told");
    }
    node.start();
    assert_eq!(node.greets(INSTALLED).await, 2);
    assert_eq!(node.last_failure().why, Why::Crashing { starts: 3 });
    std::fs::remove_file(&sick).unwrap();
    node.want(3, &format!("[ -e '{}' ] && exit 5\n{WORKS}", sick.display()));
    node.rig.acked(3).await;
    assert_eq!(node.stop().await, Some(0));
    let path = Shelf::of(&node.rig.dir).path(wanted.digest().unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    node.start();
    assert_eq!(node.greets(INSTALLED).await, 3);
    assert_eq!(node.last_failure().why, Why::Damaged);
}

/// A daemon in this process that makes way alone.
async fn daemon(rig: &Rig) -> Daemon {
    let config = edge_agent::config::Config { drain_grace: Duration::from_secs(60), ..rig.config() };
    let updates = Updates::of(Way::Alone, Shelf::of(&rig.dir), Duration::from_secs(60), config.drain_grace);
    let parts = parts(rig.dir.clone(), config, Arc::clone(&rig.host) as _);
    Daemon::start(DaemonParts { updates, ..parts }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_progress_end_before_a_release_takes_over_and_new_ones_are_kept_out() {
    let mut rig = Rig::new().await;
    let model = rig.model(Stage::Asr, Behaviour::Good, "one");
    rig.plane.want(rig.state(1, &[&model]));
    let daemon = daemon(&rig).await;
    rig.acked(1).await;
    let calls = daemon.services().calls.clone();
    let call = calls.admit().expect("in");
    let with = |rig: &Rig, generation| DesiredState {
        agent: Some(rig.plane.release("9.9.9", b"#!/bin/sh\n")),
        ..rig.state(generation, &[&model])
    };
    rig.plane.want(with(&rig, 2));
    until("new calls are kept out", || calls.keeps_out()).await;
    assert_eq!(calls.admit().expect_err("kept out"), Refused::Held);
    rig.hear(|message| matches!(message, AgentToPlane::Status(status) if !status.accepting).then_some(())).await;
    // A newer state thinks better of it.
    rig.plane.want(rig.state(3, &[&model]));
    rig.acked(3).await;
    drop(calls.admit().expect("open again"));
    rig.plane.want(with(&rig, 4));
    until("new calls are kept out", || calls.keeps_out()).await;
    assert!(!call.draining().is_cancelled() && !call.cut().is_cancelled(), "the call notices nothing");
    assert_eq!(Shelf::of(&rig.dir).book().read().ok(), None, "nothing is asked for yet");
    drop(call);
    assert_eq!(daemon.has_to_leave().await, Leave::HandOver);
    let book = Shelf::of(&rig.dir).book().read().unwrap();
    assert_eq!(book.trial().map(|trial| (trial.generation, trial.begun)), Some((Generation(4), false)));
    assert!(calls.keeps_out());
    daemon.drain().await;
    let answered = |message: &AgentToPlane| match message {
        AgentToPlane::Ack(ack) => ack.generation == Generation(4),
        AgentToPlane::Nack(nack) => nack.generation == Generation(4),
        _ => false,
    };
    assert!(!rig.plane.log().iter().any(answered), "whoever takes over answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_not_vouched_for_or_not_for_this_machine_is_refused_untouched() {
    let mut rig = Rig::new().await;
    let model = rig.model(Stage::Asr, Behaviour::Good, "one");
    rig.plane.want(rig.state(1, &[&model]));
    let daemon = daemon(&rig).await;
    rig.acked(1).await;
    let good = rig.plane.release("9.9.9", b"#!/bin/sh\n");
    let (target, signed) = good.programs.first_key_value().map(|(t, s)| (t.clone(), s.clone())).unwrap();
    let of = |signed: SignedManifest| Release { programs: [(target.clone(), signed)].into(), ..good.clone() };
    let manifest: nearfield_shared::release::ProgramManifest = serde_json::from_str(&signed.body).unwrap();
    let stranger = manifest.sign(&Ed25519KeyPair::generate().unwrap()).unwrap();
    let elsewhere = Release { programs: BTreeMap::new(), ..good.clone() };
    let renamed = Release { version: "10.0.0".parse().unwrap(), ..good.clone() };
    let cases = [
        (of(stranger), ProblemKind::BadSignature),
        // The signature of a model is none of a program.
        (of(rig.plane.sign(&model)), ProblemKind::BadSignature),
        (elsewhere, ProblemKind::AgentNotForTarget),
        (renamed, ProblemKind::BadManifest),
    ];
    for (generation, (release, kind)) in (2..).zip(cases) {
        rig.plane.want(DesiredState { agent: Some(release), ..rig.state(generation, &[&model]) });
        assert_eq!(rig.nacked(generation).await.detail.kind, kind, "{generation}");
    }
    assert_eq!(rig.plane.served(manifest.digest), [], "not a byte of it was fetched");
    assert!(!Shelf::of(&rig.dir).is_used() && !daemon.services().calls.keeps_out());
    assert_eq!(daemon.status().serving, 1);
    // The version that is installed needs no release.
    let same = Release { version: INSTALLED.parse().unwrap(), programs: BTreeMap::new() };
    rig.plane.want(DesiredState { agent: Some(same), ..rig.state(9, &[&model]) });
    rig.acked(9).await;
    daemon.drain().await;
}
