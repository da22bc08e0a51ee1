//! An etcd that wants TLS, a client certificate and a password, with a user who may use one prefix.

use super::super::{
    Client, EtcdConfig, EtcdSettings, EtcdStore, Leader, campaign, cluster::say_skipped, contents, wire::after,
};
use crate::store::{Store as _, Write};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::{
    fs,
    net::TcpListener,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

struct Etcd {
    folder: tempfile::TempDir,
    process: Child,
    port: u16,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn secret(path: &Path, text: &str) {
    let file = fs::File::options().write(true).create_new(true).mode(0o600).open(path);
    std::io::Write::write_all(&mut file.unwrap(), text.as_bytes()).unwrap();
}

impl Etcd {
    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start() -> Option<Self> {
        if Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            say_skipped();
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        fs::write(at("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, key);
        for (name, host) in [("server", "127.0.0.1"), ("client", "client.example"), ("named", "client.example")] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new([host.to_owned()]).unwrap();
            if name == "client" {
                params.distinguished_name = DistinguishedName::new();
            }
            // etcd's gateway is a client of etcd itself, with the server's certificate.
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            fs::write(at(&format!("{name}.pem")), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
            secret(&at(&format!("{name}.key")), &key.serialize_pem());
        }
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [port, peer] = [0, 1].map(|n: usize| ports[n].local_addr().unwrap().port());
        drop(ports);
        let (url, peer) = (format!("https://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let process = Command::new("etcd")
            .args(["--name", "m", "--initial-cluster", &format!("m={peer}")])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--client-cert-auth"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .arg("--data-dir")
            .arg(at("data"))
            .arg("--cert-file")
            .arg(at("server.pem"))
            .arg("--key-file")
            .arg(at("server.key"))
            .arg("--trusted-ca-file")
            .arg(at("ca.pem"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { folder, process, port })
    }

    fn settings(&self, config: EtcdConfig) -> EtcdSettings {
        EtcdSettings::new(&format!("etcd://127.0.0.1:{}/ours", self.port), &config).unwrap()
    }

    fn config(&self) -> EtcdConfig {
        EtcdConfig {
            ca: Some(self.at("ca.pem")),
            certificate: Some(self.at("client.pem")),
            key: Some(self.at("client.key")),
            lease_s: 2,
            ..EtcdConfig::default()
        }
    }
}

#[test]
fn tls_a_certificate_and_a_password_are_used_and_what_is_wrong_with_them_is_told() {
    let Some(etcd) = Etcd::start() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let admin = Client::new(&etcd.settings(etcd.config())).unwrap();
    while let Err(error) = runtime.block_on(admin.get("ours/x")) {
        assert!(error.may_pass(), "{error}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let base64 = |text: &str| STANDARD.encode(text);
    let permission = json!({"permType": "READWRITE", "key": base64("ours/"), "range_end": base64(&after("ours/"))});
    for (path, body) in [
        ("user/add", json!({"name": "root", "password": "r"})),
        ("user/grant", json!({"user": "root", "role": "root"})),
        ("role/add", json!({"name": "fleet"})),
        ("role/grant", json!({"name": "fleet", "perm": permission})),
        ("user/add", json!({"name": "nearfield", "password": "pass word"})),
        ("user/grant", json!({"user": "nearfield", "role": "fleet"})),
        ("enable", json!({})),
    ] {
        runtime.block_on(admin.ask::<Value>(&format!("/v3/auth/{path}"), &body)).unwrap();
    }
    secret(&etcd.at("password"), "pass word\n");
    secret(&etcd.at("wrong"), "wrong");
    let of = |user: &str, password: &str| EtcdConfig {
        user: Some(user.into()),
        password_file: Some(etcd.at(password)),
        ..etcd.config()
    };
    let good = etcd.settings(of("nearfield", "password"));
    let me = Leader { name: "test".into(), agents: "-".into(), pid: 1, since_unix_s: 0 };
    let client = Client::new(&good).unwrap();
    let leadership = runtime.block_on(campaign(&client, &good, &me)).unwrap().expect("nobody leads");
    let mut store = EtcdStore::open(&good, leadership.fence()).unwrap();
    store.write(&[Write::Put { key: "a".into(), value: "1".into() }]).unwrap();
    assert_eq!(contents(&good).unwrap().entries.len(), 1);
    // Renewed, too.
    std::thread::sleep(Duration::from_millis(2_500));
    store.write(&[Write::Put { key: "a".into(), value: "2".into() }]).unwrap();
    leadership.resign();

    let says = |config: EtcdConfig| match Client::new(&etcd.settings(config)) {
        Ok(client) => runtime.block_on(client.get("ours/leader")).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    for config in [of("nearfield", "wrong"), etcd.config()] {
        let said = says(config);
        assert!(said.contains("`password_file`"), "{said}");
    }
    let named = EtcdConfig {
        certificate: Some(etcd.at("named.pem")),
        key: Some(etcd.at("named.key")),
        ..of("nearfield", "password")
    };
    let said = says(named);
    assert!(said.contains("without"), "{said}");
    let elsewhere = runtime.block_on(client.get("theirs/x")).unwrap_err().to_string();
    assert!(elsewhere.contains("permission denied"), "{elsewhere}");
    let said = says(EtcdConfig { certificate: None, key: None, ..of("nearfield", "password") });
    assert!(said.contains("does not answer"), "etcd wants a certificate: {said}");
    let other = KeyPair::generate().unwrap();
    fs::write(etcd.at("other.pem"), CertificateParams::default().self_signed(&other).unwrap().pem()).unwrap();
    let said = says(EtcdConfig { ca: Some(etcd.at("other.pem")), ..of("nearfield", "password") });
    assert!(said.contains("certificate"), "another authority's: {said}");
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(etcd.at("password"), fs::Permissions::from_mode(0o644)).unwrap();
    let said = says(of("nearfield", "password"));
    assert!(said.contains("chmod 600"), "{said}");
}
