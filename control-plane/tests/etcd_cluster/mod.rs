//! A real etcd cluster of three on loopback, for as long as the value lives.

use std::{
    io::Write as _,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// Members; one may be killed.
const MEMBERS: usize = 3;

/// Sets of ports that are tried.
const TRIES: usize = 5;

/// Says so to whoever runs the tests, past the harness, which keeps what a test prints that does not fail.
pub fn say_skipped() {
    let line = "SKIPPED: etcd is not installed (`apt-get install etcd-server`), so nothing was tested with it";
    writeln!(std::io::stderr(), "{line}").ok();
}

pub struct Cluster {
    folder: TempDir,
    members: Vec<Option<Child>>,
    /// Of clients and of the other members.
    ports: Vec<(u16, u16)>,
}

impl Cluster {
    /// `None`, and a line that says so, where etcd is not installed.
    pub fn start() -> Option<Self> {
        if Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            say_skipped();
            return None;
        }
        // Another test may be given a port between its choice and its use.
        (0..TRIES).find_map(|_| Self::on_free_ports()).or_else(|| panic!("etcd ends as soon as it is started"))
    }

    /// `None` where a member ends instead of listening.
    fn on_free_ports() -> Option<Self> {
        let free: Vec<TcpListener> =
            (0..2 * MEMBERS).map(|_| TcpListener::bind(("127.0.0.1", 0)).expect("a free port")).collect();
        let port = |n: usize| free[n].local_addr().expect("bound").port();
        let ports = (0..MEMBERS).map(|n| (port(2 * n), port(2 * n + 1))).collect();
        let members = (0..MEMBERS).map(|_| None).collect();
        drop(free);
        let mut cluster = Self { folder: tempfile::tempdir().expect("a folder"), members, ports };
        for n in 0..MEMBERS {
            cluster.start_member(n);
        }
        for n in 0..MEMBERS {
            while TcpStream::connect(("127.0.0.1", cluster.ports[n].0)).is_err() {
                let ended = |member: &mut Child| member.try_wait().is_ok_and(|ended| ended.is_some());
                if cluster.members.iter_mut().flatten().any(ended) {
                    return None;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Some(cluster)
    }

    /// The store's URL with a prefix.
    pub fn url(&self, prefix: &str) -> String {
        let hosts: Vec<String> = self.ports.iter().map(|(client, _)| format!("127.0.0.1:{client}")).collect();
        format!("etcd://{}/{prefix}", hosts.join(","))
    }

    /// Starts a member, new or with what it had.
    pub fn start_member(&mut self, n: usize) {
        let of = |n: usize| format!("m{n}=http://127.0.0.1:{}", self.ports[n].1);
        let all: Vec<String> = (0..MEMBERS).map(of).collect();
        let (client, peer) = self.ports[n];
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let folder: &Path = self.folder.path();
        let log = std::fs::File::create(folder.join(format!("m{n}.log"))).expect("a log");
        let member = Command::new("etcd")
            .args(["--name", &format!("m{n}"), "--initial-cluster", &all.join(",")])
            .arg("--data-dir")
            .arg(folder.join(format!("m{n}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd starts");
        self.members[n] = Some(member);
    }

    /// Kills a member without a word.
    pub fn kill_member(&mut self, n: usize) {
        if let Some(mut member) = self.members[n].take() {
            // One that has ended by itself is as good.
            member.kill().ok();
            member.wait().expect("it ends");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for n in 0..MEMBERS {
            self.kill_member(n);
        }
        // Its last files may still be on their way.
        std::thread::sleep(Duration::from_millis(10));
    }
}
