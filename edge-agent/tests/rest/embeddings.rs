//! `POST /v1/embeddings`.

use crate::{
    ask::{Answer, get, post},
    support::{Did, Node},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use edge_agent::speech::SpeechError;
use serde_json::{Value, json};

fn floats(embedding: &Value) -> Vec<f32> {
    match embedding.as_str() {
        Some(text) => {
            let bytes = STANDARD.decode(text).expect("base64");
            bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        }
        None => embedding.as_array().expect("a list").iter().map(|n| n.as_f64().expect("a number") as f32).collect(),
    }
}

#[tokio::test]
async fn texts_become_vectors_in_both_encodings() {
    let node = Node::start().await;
    node.warm().await;
    let one = post(&node, "/v1/embeddings", &json!({"model": "any", "input": "opening hours"})).await.done();
    assert_eq!((&one["object"], &one["model"]), (&"list".into(), &"fake-embed".into()));
    assert_eq!(one["usage"], json!({"prompt_tokens": 4, "total_tokens": 4}));
    let texts: Vec<String> = (0..40).map(|n| format!("text number {n}")).chain(["opening hours".to_owned()]).collect();
    let body = json!({"model": "fake-embed", "input": texts, "encoding_format": "base64", "user": "somebody"});
    let many = post(&node, "/v1/embeddings", &body).await.done();
    let data = many["data"].as_array().expect("a list");
    assert_eq!(data.len(), 41);
    assert!(data.iter().enumerate().all(|(n, entry)| entry["index"] == n && entry["object"] == "embedding"));
    assert_eq!(floats(&data[40]["embedding"]), floats(&one["data"][0]["embedding"]), "the order is that of the input");
    assert!(floats(&data[0]["embedding"]) != floats(&data[1]["embedding"]));
}

#[tokio::test]
async fn what_cannot_be_embedded_is_refused_by_name() {
    let node = Node::start().await;
    node.warm().await;
    let check = async |body: Value, code: &str, param: &str, word: &str| {
        post(&node, "/v1/embeddings", &body).await.refused(400, code, Some(param), word);
    };
    check(json!({"model": "any"}), "missing_required_parameter", "input", "missing").await;
    check(json!({"input": "x"}), "missing_required_parameter", "model", "missing").await;
    check(json!({"model": 7, "input": "x"}), "invalid_value", "model", "string").await;
    check(json!({"model": "fake-asr", "input": "x"}), "invalid_value", "model", "asr model").await;
    check(json!({"model": "any", "input": []}), "invalid_value", "input", "empty").await;
    check(json!({"model": "any", "input": ["fine", " "]}), "invalid_value", "input", "text 1").await;
    check(json!({"model": "any", "input": [1, 2, 3]}), "invalid_value", "input", "lists of tokens").await;
    check(json!({"model": "any", "input": "x".repeat(2_001)}), "invalid_value", "input", "2000 are the most").await;
    check(json!({"model": "any", "input": vec!["x"; 2_049]}), "invalid_value", "input", "2048 are the most").await;
    check(
        json!({"model": "any", "input": "x", "encoding_format": "hex"}),
        "invalid_value",
        "encoding_format",
        "base64",
    )
    .await;
    check(json!({"model": "any", "input": "x", "dimensions": 64}), "invalid_value", "dimensions", "256 dimensions")
        .await;
    let body = json!({"model": "any", "input": "x", "dimensions": 256});
    post(&node, "/v1/embeddings", &body).await.done();

    let url = format!("http://{}/v1/embeddings", node.address);
    let send = async |body: String| {
        Answer::of(reqwest::Client::new().post(&url).body(body).send().await.expect("an answer")).await
    };
    let secret = send("{\"input\": \"my secret\", oops}".into()).await;
    secret.refused(400, "invalid_json", None, "line 1");
    assert!(!secret.body.to_string().contains("secret"));
    send("[]".into()).await.refused(400, "invalid_json", None, "object");
    send("x".repeat((4 << 20) + 1)).await.refused(413, "body_too_large", None, "4194304");
}

#[tokio::test]
async fn a_busy_moment_is_waited_out_and_a_failure_is_told() {
    let node = Node::start().await;
    node.warm().await;
    let body = json!({"model": "any", "input": "x"});
    node.script(|s| s.embedding.push_back(Did::Fails(SpeechError::Overloaded { retry_after_ms: 30 })));
    post(&node, "/v1/embeddings", &body).await.done();
    node.script(|s| s.embedding.push_back(Did::Fails(SpeechError::Model("tensor 7 says my secret".into()))));
    let failed = post(&node, "/v1/embeddings", &body).await;
    failed.refused(500, "model_failed", None, "try again");
    assert!(!failed.body.to_string().contains("tensor"));
    assert_eq!(get(&node, "/v1/models").await.status, 200, "nothing else is lost");
}
