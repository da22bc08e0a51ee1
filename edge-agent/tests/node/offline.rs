//! The node serves without the control plane, and comes back whole from any moment at which it is killed.

use crate::{
    host::{Behaviour, FakeHost},
    plane::Fault,
    rig::{Rig, config, enrol_offline, large, parts, until},
};
use edge_agent::{config::Config, daemon::Daemon, state_dir::StateDir};
use nearfield_shared::{
    artefact::{CHUNK_BYTES, Stage},
    desired::Generation,
    wire::AgentToPlane,
};
use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_boots_offline_into_its_last_known_good_state_and_reconnects_without_a_change() {
    let mut rig = Rig::new().await;
    let model = rig.model(Stage::Asr, Behaviour::Good, "one");
    rig.plane.want(rig.state(1, &[&model]));
    let daemon = rig.start().await;
    rig.acked(1).await;
    daemon.drain().await;
    rig.plane.vanish().await;

    rig.host = FakeHost::new();
    let daemon = rig.start().await;
    until("it serves", || daemon.status().serving == 1).await;
    assert_eq!(rig.host.live()[&Stage::Asr], model.digest, "proven again on this device");
    let status = daemon.status();
    assert!(!status.link.connected);
    until("it says why it is alone", || daemon.status().link.last_problem.is_some()).await;
    let policy = daemon.services().serving.borrow().policy.clone();
    assert_eq!(policy, Some(crate::rig::policy()), "the law is in force too");

    rig.plane.come_back().await;
    let serving = rig
        .hear(|message| match message {
            AgentToPlane::HereIAm(here) if here.serving != Generation(0) => Some(here.serving),
            _ => None,
        })
        .await;
    assert_eq!(serving, Generation(1));
    until("connected", || daemon.status().link.connected).await;
    for _ in 0..3 {
        rig.hear(|message| matches!(message, AgentToPlane::Status(_)).then_some(())).await;
    }
    assert_eq!(rig.host.loads(), 1, "nothing new, nothing done");
    assert_eq!(rig.plane.served(model.digest).len(), 1);
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_planes_the_one_that_leads_is_found_and_named() {
    let mut rig = Rig::new().await;
    let model = rig.model(Stage::Asr, Behaviour::Good, "one");
    rig.plane.want(rig.state(1, &[&model]));
    let waits = [rig.plane.standing_by(), rig.plane.standing_by()];
    let planes = vec![waits[0].clone(), waits[1].clone(), rig.plane.address()];
    let daemon = rig.start_with(Config { planes, ..rig.config() }).await.unwrap();
    rig.acked(1).await;
    assert_eq!(daemon.status().link.plane, rig.plane.address());
    daemon.drain().await;

    let daemon = rig.start_with(Config { planes: waits.to_vec(), ..rig.config() }).await.unwrap();
    let says = |daemon: &Daemon| {
        daemon.status().link.last_problem.is_some_and(|said| said.contains("does not lead (not leading: another does)"))
    };
    until("it says that none of them leads", || says(&daemon)).await;
    assert!(daemon.status().serving == 1 && !daemon.status().link.connected, "it serves what it has");
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_that_vanishes_is_dialled_again_and_its_news_are_taken() {
    let mut rig = Rig::new().await;
    let model = rig.model(Stage::Asr, Behaviour::Good, "one");
    rig.plane.want(rig.state(1, &[&model]));
    let daemon = rig.start().await;
    rig.acked(1).await;
    rig.plane.vanish().await;
    until("cut off", || !daemon.status().link.connected).await;
    assert_eq!(daemon.status().serving, 1);
    let better = rig.model(Stage::Asr, Behaviour::Good, "two");
    rig.plane.want(rig.state(2, &[&better]));
    rig.plane.come_back().await;
    rig.acked(2).await;
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_model_file_is_found_at_boot_and_fetched_again() {
    let mut rig = Rig::new().await;
    let model = rig.model(Stage::Asr, Behaviour::Good, "one");
    rig.plane.want(rig.state(1, &[&model]));
    let daemon = rig.start().await;
    rig.acked(1).await;
    daemon.drain().await;
    let path = rig.dir.artefacts().join(format!("{}.gguf", model.digest));
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    rig.host = FakeHost::new();
    let daemon = rig.start().await;
    rig.acked(1).await;
    assert_eq!(rig.host.live()[&Stage::Asr], model.digest);
    assert_eq!(rig.plane.served(model.digest).len(), 2);
    daemon.drain().await;
}

/// What a child process of these tests is told through its environment.
const CHILD_DIR: &str = "NEARFIELD_TEST_CHILD_DIR";
const CHILD_PLANE: &str = "NEARFIELD_TEST_CHILD_PLANE";

/// Not a test of its own: the body of the child processes that the tests below kill.
#[tokio::test(flavor = "multi_thread")]
async fn child_process() {
    let (Ok(dir), Ok(plane)) = (std::env::var(CHILD_DIR), std::env::var(CHILD_PLANE)) else { return };
    let dir = StateDir::open(&PathBuf::from(dir)).unwrap();
    let _daemon = Daemon::start(parts(dir, config(&plane), FakeHost::new())).await.unwrap();
    std::future::pending::<()>().await;
}

pub fn spawn_child(rig: &Rig) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "offline::child_process", "--nocapture"])
        .env(CHILD_DIR, rig.dir.root())
        .env(CHILD_PLANE, rig.plane.address())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

pub fn kill(mut child: Child) {
    // SIGKILL: nothing in the child gets a chance to tidy up.
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_in_the_middle_of_an_activation_comes_back_whole() {
    let mut rig = Rig::new().await;
    let old = rig.model(Stage::Asr, Behaviour::Good, "one");
    rig.plane.want(rig.state(1, &[&old]));
    let child = spawn_child(&rig);
    rig.acked(1).await;
    let new = rig.model(Stage::Asr, Behaviour::Slow, "two");
    rig.plane.want(rig.state(2, &[&new]));
    // The new file is here, and its model is being proven, which never ends in the child.
    rig.hear(|message| match message {
        AgentToPlane::Status(status) if status.activating == Some(Generation(2)) => Some(()),
        _ => None,
    })
    .await;
    let file = rig.dir.artefacts().join(format!("{}.gguf", new.digest));
    until("the new file is here", || file.exists()).await;
    kill(child);

    let daemon = rig.start().await;
    until("the old state serves", || daemon.status().serving == 1).await;
    assert_eq!(rig.host.live()[&Stage::Asr], old.digest);
    rig.host.release();
    rig.acked(2).await;
    assert_eq!(rig.host.live()[&Stage::Asr], new.digest);
    assert_eq!(rig.plane.served(new.digest).len(), 1, "what was whole on the disk is not fetched again");
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_in_the_middle_of_a_download_goes_on_at_the_very_byte() {
    let mut rig = Rig::new().await;
    let file = large(Behaviour::Good, 4_000_000);
    let model = rig.plane.stock(Stage::Asr, &file);
    let stall = CHUNK_BYTES + 123_457;
    rig.plane.fault(model.digest, Fault::StallAt(stall));
    rig.plane.want(rig.state(1, &[&model]));
    let child = spawn_child(&rig);
    let part = rig.dir.artefacts().join(format!("{}.part", model.digest));
    until("the download stalls", || std::fs::metadata(&part).is_ok_and(|about| about.len() == stall)).await;
    kill(child);

    let daemon = rig.start().await;
    rig.acked(1).await;
    let offsets: Vec<u64> = rig.plane.served(model.digest).iter().map(|served| served.offset).collect();
    assert_eq!(offsets, [0, stall]);
    assert_eq!(daemon.status().fetched_bytes, file.len() as u64 - stall, "no byte twice");
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_any_state_waits_and_says_so() {
    let rig = Rig::new().await;
    let dir = StateDir::open(&rig.folder.path().join("other")).unwrap();
    enrol_offline(&rig.plane, &dir);
    let daemon = Daemon::start(parts(dir, rig.config(), Arc::clone(&rig.host) as _)).await.unwrap();
    let status = daemon.status();
    assert_eq!((status.serving, status.missing.len()), (0, 6));
    until("connected", || daemon.status().link.connected).await;
    daemon.drain().await;
}
