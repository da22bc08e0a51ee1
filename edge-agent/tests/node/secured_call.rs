//! `edge-agent call` over `wss://`, to a whole node that listens beyond loopback: a private authority, and the callers' key.

use crate::{
    host::Behaviour,
    openai,
    rig::{self, Rig},
    support::{self, FakeSpeech},
};
use edge_agent::{
    call_client::{CallArgs, CallKey, run, wav},
    config::{Config, TlsFiles},
    daemon::{Daemon, DaemonParts},
    media, secrets,
    slots::ModelHost,
};
use nearfield_shared::{artefact::Stage, desired::DesiredState};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::{path::PathBuf, sync::Arc};

const KEY: &str = "a-key-of-enough-bytes-for-callers";

/// An authority of the operator's own.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }
}

struct Secured {
    rig: Rig,
    daemon: Daemon,
    url: String,
    ca: PathBuf,
    folder: tempfile::TempDir,
}

impl Secured {
    /// A node that is live, behind TLS and the key, with a certificate for 127.0.0.1.
    async fn start() -> Self {
        let mut rig = Rig::new().await;
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, &authority.pem).unwrap();
        let tls = TlsFiles { certificate: folder.path().join("tls.crt"), key: folder.path().join("tls.key") };
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        // OpenSSL takes a certificate of the same name as its authority for one that signed itself.
        params.distinguished_name.push(DnType::CommonName, "a node");
        let leaf = params.signed_by(&key, &authority.issuer).unwrap();
        std::fs::write(&tls.certificate, leaf.pem()).unwrap();
        secrets::write(&tls.key, key.serialize_pem().as_bytes()).unwrap();
        secrets::write(&rig.dir.caller_key(), KEY.as_bytes()).unwrap();

        let models: Vec<_> = Stage::ALL.map(|stage| rig.model(stage, Behaviour::Good, "one")).into();
        let state = rig.state(1, &models.iter().collect::<Vec<_>>());
        rig.plane.want(DesiredState { assistants: vec![support::front_desk()], ..state });
        let config = Config { listen: vec!["0.0.0.0:0".parse().unwrap()], tls: Some(tls), ..rig.config() };
        let parts = rig::parts(rig.dir.clone(), config, Arc::clone(&rig.host) as Arc<dyn ModelHost>);
        let speech = Arc::new(FakeSpeech::default());
        let daemon = Daemon::start(DaemonParts { speech, calls: media::router, ..parts }).await.unwrap();
        rig.acked(1).await;
        let url = daemon.urls()[0].replace("https://0.0.0.0", "wss://127.0.0.1");
        Self { rig, daemon, url, ca, folder }
    }

    fn call(&self) -> CallArgs {
        let recording = self.folder.path().join("question.wav");
        let samples: Vec<f32> = (0..8_000).map(|n| 0.3 * (n as f32 * 0.1).sin()).collect();
        wav::write(&recording, 16_000, &samples).unwrap();
        CallArgs {
            recording,
            url: self.url.clone(),
            ca: Some(self.ca.clone()),
            key: Some(key(KEY)),
            key_file: None,
            out: None,
            assistant: None,
            country: None,
            position: None,
            fast: true,
            consent: false,
            json: true,
        }
    }
}

fn key(text: &str) -> CallKey {
    text.parse().unwrap()
}

async fn refused(args: CallArgs) -> String {
    format!("{:#}", run(args).await.expect_err("refused"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_over_tls_to_a_private_authority_with_the_key() {
    let node = Secured::start().await;
    let answered = run(node.call()).await.expect("answered");
    let outcome: serde_json::Value = serde_json::from_str(&answered).unwrap();
    assert_eq!(outcome["answer"], "This is the first sentence. And the second.");
    assert_eq!(outcome["answered_at"]["region"], "eu-central");
    // The key in a file, as an operator would keep it; it wins over one that is given.
    let file = node.folder.path().join("key");
    secrets::write(&file, format!("{KEY}\n").as_bytes()).unwrap();
    let other = Some(key("some-other-key-of-enough-bytes"));
    run(CallArgs { key_file: Some(file), key: other, ..node.call() }).await.expect("answered");
    assert_eq!(node.daemon.status().calls.admitted, 2);
    node.daemon.drain().await;
    drop(node.rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_key_or_the_authority_there_is_no_call_and_the_remedy_is_said() {
    let node = Secured::start().await;
    for wrong in [None, Some(key("some-other-key-of-enough-bytes"))] {
        let said = refused(CallArgs { key: wrong, ..node.call() }).await;
        assert!(said.contains("401") && said.contains("caller key"), "{said}");
    }
    // The system does not know the authority, and neither does another authority.
    let said = refused(CallArgs { ca: None, ..node.call() }).await;
    assert!(said.contains("--ca FILE"), "{said}");
    let other = node.folder.path().join("other.pem");
    std::fs::write(&other, Authority::new().pem).unwrap();
    let said = refused(CallArgs { ca: Some(other), ..node.call() }).await;
    assert!(said.contains("cannot be trusted") && said.contains("--ca FILE"), "{said}");
    // A certificate counts for its names only.
    let said = refused(CallArgs { url: node.url.replace("127.0.0.1", "localhost"), ..node.call() }).await;
    assert!(said.contains("cannot be trusted") && said.contains("localhost"), "{said}");
    let empty = node.folder.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    let said = refused(CallArgs { ca: Some(empty), ..node.call() }).await;
    assert!(said.contains("empty.pem") && said.contains("no certificate"), "{said}");
    let said = refused(CallArgs { ca: Some(node.folder.path().join("gone.pem")), ..node.call() }).await;
    assert!(said.contains("gone.pem"), "{said}");
    // The listener says nothing without TLS.
    refused(CallArgs { url: node.url.replace("wss:", "ws:"), ..node.call() }).await;
    assert_eq!(node.daemon.status().calls.admitted, 0);
    node.daemon.drain().await;
    drop(node.rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_secret_opens_calls_and_nothing_else() {
    let node = Secured::start().await;
    let secrets = &node.daemon.services().client_secrets;
    let session = serde_json::Map::from_iter([("instructions".to_owned(), "Whisper.".into())]);
    let secret = secrets.make(session, std::time::Duration::from_secs(600)).expect("made");
    run(CallArgs { key: Some(key(&secret)), ..node.call() }).await.expect("answered");
    let client = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&std::fs::read(&node.ca).unwrap()).unwrap()])
        .build()
        .unwrap();
    let base = node.url.replace("wss:", "https:");
    for path in ["/v1/realtime/client_secrets", "/v1/models", "/v1/route"] {
        let status = |key: &str| client.post(format!("{base}{path}")).bearer_auth(key).send();
        assert_eq!(status(&secret).await.unwrap().status(), 401, "{path}");
        assert_ne!(status(KEY).await.unwrap().status(), 401, "{path}");
    }
    // A secret opens calls over WebRTC, too; without one, an offer is not even read.
    let offer = |key: &str| {
        let request = client.post(format!("{base}/v1/realtime/calls")).bearer_auth(key);
        request.header("content-type", "application/sdp").body("no offer").send()
    };
    for (key, status, code) in [
        (secret.as_str(), 400, "invalid_offer"),
        (KEY, 400, "invalid_offer"),
        ("some-other-key-of-enough-bytes", 401, "invalid_api_key"),
    ] {
        let response = offer(key).await.unwrap();
        assert_eq!(response.status(), status);
        let body: serde_json::Value = response.json().await.unwrap();
        assert_eq!(body["error"]["code"], code);
    }
    // A page of another origin may ask, and read what it is told.
    let preflight = client.request(reqwest::Method::OPTIONS, format!("{base}/v1/realtime/calls")).send().await.unwrap();
    assert_eq!(
        (preflight.status().as_u16(), &preflight.headers()["access-control-allow-origin"]),
        (204, &"*".parse().unwrap())
    );
    assert_eq!(offer(&secret).await.unwrap().headers()["access-control-allow-origin"], "*");
    let models = client.get(format!("{base}/v1/models")).bearer_auth(KEY).send().await.unwrap();
    assert!(!models.headers().contains_key("access-control-allow-origin"));
    let expired = secrets.make(serde_json::Map::new(), std::time::Duration::ZERO).expect("made");
    let said = refused(CallArgs { key: Some(key(&expired)), ..node.call() }).await;
    assert!(said.contains("401"), "{said}");
    node.daemon.drain().await;
    drop(node.rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_endpoints_want_the_same_key_under_the_same_law() {
    let node = Secured::start().await;
    let authority = reqwest::Certificate::from_pem(&std::fs::read(&node.ca).unwrap()).unwrap();
    let client = reqwest::Client::builder().add_root_certificate(authority).build().unwrap();
    let base = node.url.replace("wss:", "https:");
    let ask = async |path: &str, key: Option<&str>| {
        let request = client.get(format!("{base}{path}"));
        let request = key.map_or(request.try_clone().unwrap(), |key| request.bearer_auth(key));
        let response = request.send().await.unwrap();
        let (status, body) = (response.status().as_u16(), response.json::<serde_json::Value>().await.unwrap());
        (status, body["error"]["code"].as_str().unwrap_or_default().to_owned(), body)
    };
    let (status, _, body) = ask("/v1/models", Some(KEY)).await;
    assert_eq!((status, &body["data"][0]["id"]), (200, &"front-desk".into()));
    for key in [None, Some("some-other-key-of-enough-bytes")] {
        for path in ["/v1/models", "/v1/nothing", "/v1/chat/completions"] {
            let (status, code, body) = ask(path, key).await;
            assert_eq!((status, code.as_str()), (401, "invalid_api_key"), "{path}");
            assert!(body["error"]["type"] == "invalid_request_error" && body["error"]["param"].is_null(), "{body}");
        }
    }
    // The telephone provider has no key but a signature, which is asked for where `[telephony]` is configured.
    assert_eq!(ask("/v1/telephony/incoming", None).await.0, 404);
    assert_eq!(ask("/v1/telephony/../models", None).await.0, 401);
    let (status, code, _) = ask("/v1/models?country=US", Some(KEY)).await;
    assert_eq!((status, code.as_str()), (451, "caller_not_permitted"));
    node.daemon.drain().await;
    drop(node.rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_of_npm_holds_a_conversation_over_tls() {
    let node = Secured::start().await;
    let recording = node.call().recording;
    let samples: Vec<f32> = (0..24_000).map(|n| 0.3 * (n as f32 * 0.1).sin()).collect();
    wav::write(&recording, 24_000, &samples).unwrap();
    let (target, ca) = (PathBuf::from(env!("CARGO_TARGET_TMPDIR")), node.ca.clone());
    let url = node.url.replace("wss:", "https:");
    let held = tokio::task::spawn_blocking(move || openai::converse_of_npm(&target, &url, KEY, &ca, &recording));
    if let Some(found) = held.await.expect("ran") {
        assert_eq!((&found["errors"], &found["refused"]), (&serde_json::json!([]), &401.into()), "{found}");
        assert_eq!(found["models"][0], "front-desk");
        assert_eq!(found["heard"], serde_json::json!(["tell me something"]));
        assert_eq!(found["answers"], serde_json::json!(["This is the first sentence. And the second."]));
        assert!(found["audio_ms"].as_f64() >= Some(2_000.0), "{found}");
    }
    node.daemon.drain().await;
    drop(node.rig);
}
