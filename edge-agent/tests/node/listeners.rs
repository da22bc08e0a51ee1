//! What callers and programs on this machine get over HTTP.

use crate::{host::Behaviour, rig::Rig};
use edge_agent::{
    config::{Config, TlsFiles, WebRtcConfig},
    daemon::StartError,
    secrets,
};
use nearfield_shared::{artefact::Stage, routing::RouteAnswer};
use serde_json::Value;
use std::{fs, path::Path};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn get(url: &str) -> (u16, String) {
    let response = reqwest::get(url).await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_metrics_and_routes_are_told() {
    let mut rig = Rig::new().await;
    let models: Vec<_> = Stage::ALL.map(|stage| rig.model(stage, Behaviour::Good, "one")).into();
    let daemon = rig.start().await;
    let base = daemon.urls()[0].clone();
    let (code, body) = get(&format!("{base}/v1/healthz")).await;
    assert_eq!((code, serde_json::from_str::<Value>(&body).unwrap()["status"].as_str()), (503, Some("starting")));
    rig.plane.want(rig.state(1, &models.iter().collect::<Vec<_>>()));
    rig.acked(1).await;
    let (code, body) = get(&format!("{base}/v1/healthz")).await;
    assert_eq!((code, serde_json::from_str::<Value>(&body).unwrap()["status"].as_str()), (200, Some("ok")), "{body}");

    let (code, body) = get(&format!("{base}/v1/route?country=FR")).await;
    let answer: RouteAnswer = serde_json::from_str(&body).unwrap();
    assert_eq!((code, answer.nodes.len(), answer.nodes[0].node.as_str()), (200, 1, "fra-1"));
    let (code, body) = get(&format!("{base}/v1/route?country=US&latitude=40&longitude=-75")).await;
    let answer: RouteAnswer = serde_json::from_str(&body).unwrap();
    assert_eq!((code, answer.nodes[0].node.as_str()), (200, "iad-1"));
    for (query, code, word) in [
        ("country=Germany", 400, "two letters"),
        ("latitude=50", 400, "go together"),
        ("planet=mars", 400, "planet"),
        ("country=PL", 451, "stay within jurisdiction `eu`"),
    ] {
        let (found, body) = get(&format!("{base}/v1/route?{query}")).await;
        assert!(found == code && body.contains(word), "{query}: {found} {body}");
    }

    let (code, body) = get(&format!("{base}/metrics")).await;
    assert_eq!(code, 200);
    for line in [
        "nearfield_agent_generation 1",
        "nearfield_agent_calls_max 4",
        "nearfield_agent_model_resident_bytes{stage=\"asr\"}",
    ] {
        assert!(body.contains(line), "{line} in {body}");
    }
    let deployed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    for file in ["grafana/nearfield.json", "prometheus/nearfield.rules.yml"] {
        let text = fs::read_to_string(deployed.join(file)).unwrap();
        let watched: Vec<&str> = text
            .split(|c: char| !c.is_ascii_lowercase() && c != '_')
            .filter(|word| word.starts_with("nearfield_agent_"))
            .collect();
        assert!(!watched.is_empty(), "{file} watches no agent");
        for name in watched {
            assert!(body.contains(&format!("# TYPE {name} ")), "{name} of {file} is not told");
        }
    }
    // The page may run and reach what is this node's, and nothing else. Pages of other origins may not call a node without a key.
    for (path, kind) in [
        ("/talk", "text/html"),
        ("/talk/talk.css", "text/css"),
        ("/talk/talk.js", "text/javascript"),
        ("/talk/ledger.js", "text/javascript"),
    ] {
        let response = reqwest::get(format!("{base}{path}")).await.unwrap();
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        let (policy, found) = (header("content-security-policy"), header("content-type"));
        assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        assert!(found.starts_with(kind) && header("x-content-type-options") == "nosniff", "{path}: {found}");
        let text = response.text().await.unwrap();
        assert!(!text.contains("src=\"http") && !text.contains("url(") && !text.contains("style=\""), "{path}");
    }
    let client = reqwest::Client::new();
    let preflight = client.request(reqwest::Method::OPTIONS, format!("{base}/v1/realtime/calls")).send().await.unwrap();
    assert!(!preflight.headers().contains_key("access-control-allow-origin"));
    // The door asks the law: this node is in the EU, and the caller says where they are.
    let (code, body) = get(&format!("{base}/v1/realtime")).await;
    assert_eq!((code, body.as_str()), (200, "hello from fra-1"));
    let (code, body) = get(&format!("{base}/v1/realtime?country=US")).await;
    assert!(code == 451 && body.contains("caller_not_permitted"), "{code} {body}");
    for (query, code, word) in [
        // Escaped letters are the same letters.
        ("country=%55S", 451, "caller_not_permitted"),
        ("latitude=40.7&longitude=-74.0&country=US", 451, "caller_not_permitted"),
        ("latitude=50.9&longitude=9.5&country=US&model=any", 200, "hello"),
        ("country=Germany", 400, "two letters"),
        ("country=DE&country=US", 400, "bad_query"),
        ("latitude=50.9", 400, "go together"),
        ("latitude=north&longitude=1", 400, "bad_query"),
    ] {
        let (found, body) = get(&format!("{base}/v1/realtime?{query}")).await;
        assert!(found == code && body.contains(word), "{query}: {found} {body}");
    }
    // A position in the Union is never answered with a node outside it, whatever country is stated.
    let (code, body) = get(&format!("{base}/v1/route?country=US&latitude=50.9&longitude=9.5")).await;
    let answer: RouteAnswer = serde_json::from_str(&body).unwrap();
    let nodes: Vec<_> = answer.nodes.iter().map(|node| node.node.as_str()).collect();
    assert_eq!((code, answer.country.as_deref(), nodes), (200, Some("DE"), vec!["fra-1"]));
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_the_node_does_not_start_unsecured_and_wants_the_key_when_secured() {
    let rig = Rig::new().await;
    let open = Config { listen: vec!["0.0.0.0:0".parse().unwrap()], ..rig.config() };
    let said = rig.start_with(open.clone()).await.err().expect("refused");
    assert!(
        matches!(said, StartError::Listen(_)) && said.to_string().contains("reachable from other machines"),
        "{said}"
    );

    // The audio of WebRTC calls comes in under the same rule.
    let audio = WebRtcConfig { listen: "0.0.0.0:0".parse().unwrap(), public: "127.0.0.1".parse().ok() };
    let said = rig.start_with(Config { webrtc: audio, ..rig.config() }).await.err().expect("refused");
    assert!(said.to_string().contains("reachable from other machines"), "{said}");

    let made = rcgen::generate_simple_self_signed(["node.example".to_owned()]).unwrap();
    let files = TlsFiles { certificate: rig.dir.root().join("tls.crt"), key: rig.dir.root().join("tls.key") };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    secrets::write(&files.key, made.signing_key.serialize_pem().as_bytes()).unwrap();
    secrets::write(&rig.dir.caller_key(), b"a-key-of-enough-bytes-for-callers\n").unwrap();
    let daemon = rig.start_with(Config { tls: Some(files), ..open }).await.unwrap();
    let port = daemon.urls()[0].rsplit_once(':').unwrap().1.to_owned();
    let client = reqwest::Client::builder()
        .add_root_certificate(reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap())
        .resolve("node.example", format!("127.0.0.1:{port}").parse().unwrap())
        .build()
        .unwrap();
    let ask = |path: &'static str, key: Option<&'static str>| {
        let request = client.get(format!("https://node.example:{port}{path}"));
        async move {
            match key {
                Some(key) => request.bearer_auth(key).send().await,
                None => request.send().await,
            }
            .unwrap()
            .status()
            .as_u16()
        }
    };
    let key = Some("a-key-of-enough-bytes-for-callers");
    for (path, with_key) in [("/v1/realtime", 200), ("/v1/route", 451)] {
        assert_eq!(ask(path, None).await, 401, "{path}");
        assert_eq!(ask(path, Some("a-key-of-enough-bytes-for-caller")).await, 401, "{path}");
        assert_eq!(ask(path, key).await, with_key, "{path}");
    }
    assert_eq!(ask("/talk", None).await, 200, "the page asks for the key itself");
    assert_eq!(ask("/v1/healthz", None).await, 503, "health is for anyone; nothing serves yet");
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_and_asks_for_nothing_is_let_go() {
    let rig = Rig::new().await;
    let daemon = rig.start_with(rig.config()).await.unwrap();
    let address = daemon.urls()[0].strip_prefix("http://").unwrap().to_owned();
    let silent = async |said: &[u8]| {
        let mut socket = tokio::net::TcpStream::connect(&address).await.unwrap();
        socket.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let asked = b"GET /v1/healthz HTTP/1.1\r\nHost: node\r\n\r\n";
    let (nothing, a_part, once) = tokio::join!(silent(b""), silent(&asked[..30]), silent(asked));
    assert!(nothing.is_empty() && !a_part.starts_with(b"HTTP/1.1 2"), "{a_part:?}");
    assert!(once.starts_with(b"HTTP/1.1 503"), "answered, and let go when no second request came");
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_told_before_anything_starts() {
    let rig = Rig::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let said = rig.start_with(Config { listen: vec![address], ..rig.config() }).await.err().expect("taken").to_string();
    assert!(said.contains(&address.to_string()) && said.contains("--listen"), "{said}");
    let taken_udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let webrtc = WebRtcConfig { listen: taken_udp.local_addr().unwrap(), public: None };
    let said = rig.start_with(Config { webrtc, ..rig.config() }).await.err().expect("taken").to_string();
    assert!(said.contains(&webrtc.listen.to_string()) && said.contains("[webrtc]"), "{said}");
    drop(taken);
    rig.start_with(Config { listen: vec![address], ..rig.config() }).await.unwrap().drain().await;
}
