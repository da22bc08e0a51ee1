//! Offers that are not taken, each with its reason in the API's error shape.

use crate::{caller::Offering, support::Node};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

struct Asked {
    status: u16,
    code: String,
    param: Value,
    message: String,
}

async fn post(node: &Node, kind: &str, body: impl Into<reqwest::Body>) -> Asked {
    let response = reqwest::Client::new()
        .post(format!("http://{}/v1/realtime/calls", node.address))
        .header("content-type", kind)
        .body(body)
        .send()
        .await
        .unwrap();
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    let error = &body["error"];
    assert!(error["type"].is_string(), "{body}");
    let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
    Asked { status, code: text("code"), param: error["param"].clone(), message: text("message") }
}

/// A form with these fields, and the type of its body.
fn form(fields: &[(&str, &str)]) -> (&'static str, String) {
    let part = |(name, value): &(&str, &str)| {
        format!("--line\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let parts: String = fields.iter().map(part).collect();
    ("multipart/form-data; boundary=line", format!("{parts}--line--\r\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_offer_is_refused_with_its_reason() {
    let node = Node::start().await;
    let good = Offering::new().await.sdp;
    let without = |word: &str| {
        let lines = good.lines().filter(|line| !line.starts_with(word));
        lines.map(|line| format!("{line}\r\n")).collect::<String>()
    };
    let no_opus = good.replace("opus/48000/2", "PCMU/8000");
    let only_events = good.replace("m=audio ", "m=video ");
    let sdp = "application/sdp";
    for (body, status, code, param) in [
        (String::new(), 400, "missing_required_parameter", json!("sdp")),
        ("hello".into(), 400, "invalid_offer", json!("sdp")),
        ("v=0\r\n".into(), 400, "invalid_offer", json!("sdp")),
        (without("a=fingerprint"), 400, "invalid_offer", json!("sdp")),
        (without("a=ice-ufrag"), 400, "invalid_offer", json!("sdp")),
        (no_opus, 400, "invalid_offer", json!("sdp")),
        (only_events, 400, "invalid_offer", json!("sdp")),
        ("x".repeat(65 * 1024), 413, "body_too_large", Value::Null),
    ] {
        let begin: String = body.chars().take(40).collect();
        let asked = post(&node, sdp, body).await;
        assert_eq!(
            (asked.status, asked.code.as_str(), asked.param),
            (status, code, param),
            "{begin}: {}",
            asked.message
        );
    }
    let asked = post(&node, "application/json", "{}").await;
    assert_eq!((asked.status, asked.code.as_str()), (415, "unsupported_media_type"));
    for (fields, status, code, param) in [
        (vec![("session", "{}")], 400, "missing_required_parameter", json!("sdp")),
        (vec![("sdp", good.as_str()), ("session", "{")], 400, "invalid_value", json!("session")),
        (vec![("sdp", &good), ("session", r#"{"wat": 1}"#)], 400, "unknown_parameter", json!("session.wat")),
        (vec![("sdp", "hello"), ("session", "{}")], 400, "invalid_offer", json!("sdp")),
    ] {
        let (kind, body) = form(&fields);
        let asked = post(&node, kind, body).await;
        assert_eq!((asked.status, asked.code.as_str(), asked.param), (status, code, param), "{}", asked.message);
    }
    node.quiet().await;
    assert_eq!(node.speech.places.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_brings_the_session_with_the_offer() {
    let node = Node::start().await;
    let offering = Offering::new().await;
    let session = r#"{"type": "realtime", "model": "front-desk", "instructions": "Whisper."}"#;
    let (kind, body) = form(&[("sdp", &offering.sdp), ("session", session)]);
    let url = format!("http://{}/v1/realtime/calls", node.address);
    let response = reqwest::Client::new().post(url).header("content-type", kind).body(body).send().await.unwrap();
    assert_eq!(response.status(), 201);
    let caller = offering.accept(&response.text().await.unwrap()).await;
    let session = &caller.all("session.created")[0]["session"];
    assert_eq!((&session["instructions"], &session["model"]), (&json!("Whisper."), &json!("front-desk")));
    caller.leave().await;
    node.quiet().await;
}
