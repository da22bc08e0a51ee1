//! Several control planes that share a store in a real etcd: one leads, the others wait, and nodes move over by themselves.

use super::{
    agent::enrolled,
    audit::entries,
    etcd_cluster::Cluster,
    plane::{TestPlane, add_model},
    roaming::{Roaming, Seen},
};
use control_plane::{
    admin_client::AdminClient, api::views::StatusView, backup, config::Config, state_dir::StateDir,
    store::etcd::EtcdConfig,
};
use nearfield_shared::artefact::Stage;
use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

/// A control plane as a process of its own.
struct Process {
    folder: PathBuf,
    server: Option<Child>,
}

fn run(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_control-plane"));
    command.arg("--state").arg(folder).args(args).env_remove("NEARFIELD_PLANE_STORE");
    command.env_remove("NEARFIELD_ADMIN_TOKEN").env_remove("NEARFIELD_PLANE_ADMIN").output().unwrap()
}

fn good(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn bad(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    assert!(!output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

impl Process {
    /// In a folder that `init` has made, with times that a test can wait for.
    fn of(folder: PathBuf, name: &str) -> Self {
        let path = folder.join("config.toml");
        let config = Config::load(&path).unwrap();
        let etcd = EtcdConfig { lease_s: 2, name: Some(name.into()), ..config.etcd.clone() };
        fs::write(&path, Config { heartbeat_s: 0.3, drain_s: 1.0, etcd, ..config }.to_toml()).unwrap();
        Self { folder, server: None }
    }

    fn dir(&self) -> StateDir {
        StateDir::open(&self.folder).unwrap()
    }

    fn serve(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_control-plane"));
        command.arg("--state").arg(&self.folder).arg("serve").env_remove("NEARFIELD_PLANE_STORE");
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        self.server = Some(command.stderr(log).stdout(Stdio::null()).spawn().unwrap());
    }

    fn kill(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// Sends a signal by its name.
    fn signal(&self, name: &str) {
        let pid = self.server.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Waits until its status is as wanted.
    async fn wait_for(&self, what: impl Fn(&StatusView) -> bool) -> StatusView {
        loop {
            if let Ok(client) = AdminClient::connect(&self.dir())
                && let Ok(status) = client.status().await
                && what(&status)
            {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn leads(&self) -> TestPlane {
        self.wait_for(|status| !status.stands_by).await;
        TestPlane::beside(self.dir())
    }

    async fn stands_by(&self, leader: &str) -> StatusView {
        self.wait_for(|status| status.stands_by && status.leader.as_ref().is_some_and(|known| known.name == leader))
            .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            server.kill().ok();
            server.wait().ok();
        }
    }
}

async fn all(nodes: &[Roaming], plane: usize, serving: u64) {
    for node in nodes {
        node.is(Seen { plane: Some(plane), serving }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_dies_or_is_paused_the_fleet_goes_on_with_the_other() {
    let Some(cluster) = Cluster::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let sockets = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let agents: Vec<SocketAddr> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
    drop(sockets);
    let (url, any) = (cluster.url("fleet"), "127.0.0.1:0");
    good(&at("a"), &["--store", &url, "init", "--agents", &agents[0].to_string(), "--api", any, "--admin", any]);
    let bundle = at("bundle").display().to_string();
    good(&at("a"), &["peer", "export", &bundle]);
    good(&at("b"), &["init", "--join", &bundle, "--agents", &agents[1].to_string(), "--api", any, "--admin", any]);
    let (mut a, mut b) = (Process::of(at("a"), "a"), Process::of(at("b"), "b"));
    for stage in [Stage::Vad, Stage::Asr, Stage::Llm, Stage::Tts] {
        add_model(&a.dir(), &format!("{stage}-1"), stage, stage.as_str().as_bytes());
        if stage != Stage::Tts {
            add_model(&b.dir(), &format!("{stage}-1"), stage, stage.as_str().as_bytes());
        }
    }

    a.serve();
    let first = a.leads().await;
    b.serve();
    let waits = b.stands_by("a").await;
    assert!(good(&at("b"), &["status"]).contains("stands by; leading is a"));
    assert!(bad(&at("b"), &["node", "list"]).contains("run this on a"));
    let health = reqwest::get(format!("{}/v1/healthz", waits.api)).await.unwrap();
    assert_eq!(health.status().as_u16(), 503);

    first.apply(&first.files()).await;
    let mut nodes = Vec::new();
    for name in ["n1", "n2", "n3", "n4"] {
        let identity = enrolled(&first, "eu", name).await;
        // Half of them try the one that waits first.
        let order = if nodes.len() % 2 == 0 { agents.clone() } else { agents.iter().rev().copied().collect() };
        nodes.push(Roaming::new(&identity, order));
    }
    let (forth, back): (Vec<_>, Vec<_>) = nodes.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
    let of = |half: Vec<(usize, Roaming)>| half.into_iter().map(|(_, node)| node).collect::<Vec<_>>();
    let (forth, back) = (of(forth), of(back));
    let everybody = async |plane: usize, serving: u64| {
        all(&forth, plane, serving).await;
        all(&back, 1 - plane, serving).await;
    };
    everybody(0, 1).await;

    // Killed without a word.
    a.kill();
    let second = b.leads().await;
    everybody(1, 1).await;
    let status = second.admin.status().await.unwrap();
    assert!(status.lacking.len() == 1 && status.lacking[0].contains("tts-1"), "{:?}", status.lacking);
    add_model(&b.dir(), "tts-1", Stage::Tts, Stage::Tts.as_str().as_bytes());
    assert!(second.admin.status().await.unwrap().lacking.is_empty());
    second.apply(&second.files_with("i1")).await;
    everybody(1, 2).await;
    let told: Vec<String> = entries(&second).await.into_iter().map(|entry| entry.what).collect();
    assert_eq!(told.iter().filter(|what| *what == "region.apply").count(), 2, "{told:?}");
    assert_eq!(told.iter().filter(|what| *what == "node.enrol").count(), 4, "the whole audit came with it");
    assert!(!told.contains(&"model.remove".to_owned()), "what lies on the other is not gone");
    assert_eq!(second.admin.verify_audit().await.unwrap().problem, None);

    // Stopped for longer than its lease, with a change that waits at its door.
    a.serve();
    a.stands_by("b").await;
    b.signal("STOP");
    let third = a.leads().await;
    everybody(0, 2).await;
    third.apply(&third.files_with("i2")).await;
    everybody(0, 3).await;
    let (admin, stale) = (AdminClient::connect(&b.dir()).unwrap(), third.files_with("stale"));
    let asked = tokio::spawn(async move { admin.apply(stale).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    b.signal("CONT");
    let refused = asked.await.unwrap();
    assert!(refused.is_err(), "a leader that was paused does not change anything: {refused:?}");
    b.stands_by("a").await;
    assert!(!third.apply(&third.files_with("i2")).await.changes(), "nothing has changed");
    third.apply(&third.files_with("i3")).await;
    everybody(0, 4).await;
    assert_eq!(third.admin.verify_audit().await.unwrap().problem, None);

    // A copy of everything can be made on either, and a folder with a store of its own from that.
    for name in ["a", "b"] {
        let copy = at(&format!("copy-of-{name}"));
        good(&at(name), &["backup", copy.to_str().unwrap()]);
        assert_eq!(backup::check(&copy).unwrap().nodes, 4);
        good(&at(name), &["verify"]);
    }
    let copy = at("copy-of-b").display().to_string();
    assert!(good(&at("alone"), &["restore", &copy]).contains("shared an etcd"));
    assert!(good(&at("alone"), &["verify"]).contains("4 nodes"));

    // Told to stop, it gives the lead away.
    a.signal("TERM");
    assert!(a.server.take().unwrap().wait().unwrap().success());
    let last = b.leads().await;
    everybody(1, 4).await;
    assert_eq!(last.admin.verify_audit().await.unwrap().problem, None);
}
