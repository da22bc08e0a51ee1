//! Callers beyond this machine: TLS and the key, or no server at all.

use control_plane::{
    config::{Config, TlsFiles},
    secret_file,
    serve::Server,
    state_dir::StateDir,
};
use std::os::unix::fs::PermissionsExt as _;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const KEY: &str = "a-key-of-enough-bytes-for-callers";

struct Folder {
    _folder: TempDir,
    dir: StateDir,
    tls: TlsFiles,
    certificate_pem: String,
}

/// A state folder and a certificate, without a caller key.
fn folder() -> Folder {
    let folder = tempfile::tempdir().unwrap();
    let dir = StateDir::init(&folder.path().join("state"), &Config::on_loopback()).unwrap();
    let made = rcgen::generate_simple_self_signed(["plane.example".to_owned()]).unwrap();
    let tls = TlsFiles { certificate: folder.path().join("tls.crt"), key: folder.path().join("tls.key") };
    let certificate_pem = made.cert.pem();
    std::fs::write(&tls.certificate, &certificate_pem).unwrap();
    secret_file::write_new(&tls.key, made.signing_key.serialize_pem().as_bytes()).unwrap();
    Folder { _folder: folder, dir, tls, certificate_pem }
}

fn open(tls: Option<&TlsFiles>) -> Config {
    Config { api: "0.0.0.0:0".parse().unwrap(), tls: tls.cloned(), ..Config::on_loopback() }
}

async fn refused(folder: &Folder, config: Config) -> String {
    format!("{:#}", Server::bind(folder.dir.clone(), config).await.err().expect("it does not start"))
}

#[tokio::test]
async fn beyond_loopback_the_server_does_not_start_unsecured_and_each_missing_piece_is_named() {
    let folder = folder();
    let said = refused(&folder, open(None)).await;
    assert!(said.contains("[tls]") && said.contains("behind a proxy"), "{said}");
    let said = refused(&folder, open(Some(&folder.tls))).await;
    assert!(said.contains("caller.key is missing") && said.contains("/dev/urandom"), "{said}");
    secret_file::write_new(&folder.dir.caller_key(), b"short\n").unwrap();
    assert!(refused(&folder, open(Some(&folder.tls))).await.contains("guessed"));
    std::fs::write(folder.dir.caller_key(), KEY).unwrap();
    let swapped = TlsFiles { certificate: folder.tls.key.clone(), key: folder.tls.key.clone() };
    let said = refused(&folder, open(Some(&swapped))).await;
    assert!(said.contains("tls.key"), "{said}");
    for secret in [&folder.tls.key, &folder.dir.caller_key()] {
        std::fs::set_permissions(secret, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(refused(&folder, open(Some(&folder.tls))).await.contains("chmod 600"));
        std::fs::set_permissions(secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    Server::bind(folder.dir.clone(), open(Some(&folder.tls))).await.expect("now it is secured");
}

#[tokio::test]
async fn beyond_loopback_callers_use_tls_and_the_key() {
    let folder = folder();
    secret_file::write_new(&folder.dir.caller_key(), KEY.as_bytes()).unwrap();
    let server = Server::bind(folder.dir.clone(), open(Some(&folder.tls))).await.unwrap();
    assert!(server.running().api_url().starts_with("https://0.0.0.0:"));
    let port = server.running().api.port();
    let stop = CancellationToken::new();
    let served = tokio::spawn(server.run(stop.clone()));

    let client = reqwest::Client::builder()
        .add_root_certificate(reqwest::Certificate::from_pem(folder.certificate_pem.as_bytes()).unwrap())
        .resolve("plane.example", format!("127.0.0.1:{port}").parse().unwrap())
        .build()
        .unwrap();
    let url = |path: &str| format!("https://plane.example:{port}{path}");
    let ask = |key: Option<&'static str>| {
        let request = client.get(url("/v1/route?country=DE"));
        async move {
            let request = match key {
                Some(key) => request.bearer_auth(key),
                None => request,
            };
            request.send().await.unwrap().status().as_u16()
        }
    };
    assert_eq!(ask(None).await, 401);
    assert_eq!(ask(Some("a-key-of-enough-bytes-for-caller")).await, 401);
    assert_eq!(ask(Some(KEY)).await, 451, "let in, and no region is applied");
    assert_eq!(client.get(url("/v1/healthz")).send().await.unwrap().status(), 200, "health is for anyone");

    // A browser asks first whether it may send a key.
    let preflight = client.request(reqwest::Method::OPTIONS, url("/v1/route")).send().await.unwrap();
    assert_eq!(preflight.status(), 204);
    assert_eq!(preflight.headers()["access-control-allow-headers"], "authorization");
    let unknown = client.get(url("/v1/route")).send().await.unwrap();
    assert_eq!(unknown.headers()["access-control-allow-origin"], "*", "a browser may read the refusal");

    reqwest::get(format!("http://127.0.0.1:{port}/v1/healthz")).await.expect_err("nothing is said in the clear");
    reqwest::Client::new().get(format!("https://127.0.0.1:{port}/v1/healthz")).send().await.expect_err("another name");
    stop.cancel();
    served.await.unwrap().unwrap();
}
