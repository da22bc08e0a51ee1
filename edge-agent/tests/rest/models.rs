//! What a client is told that there is.

use crate::{
    ask::{Answer, get},
    support::Node,
};

#[tokio::test]
async fn assistants_and_live_models_are_listed_and_found_by_name() {
    let node = Node::start().await;
    let list = get(&node, "/v1/models").await.done();
    assert_eq!(list["object"], "list");
    let models = list["data"].as_array().expect("a list");
    assert_eq!(models.len(), 1 + 6);
    assert_eq!((&models[0]["id"], &models[0]["owned_by"]), (&"front-desk".into(), &"eu-central".into()));
    for model in models {
        let id = model["id"].as_str().expect("a name");
        assert!(model["object"] == "model" && model["created"].as_i64() > Some(1_600_000_000), "{model}");
        assert_eq!(get(&node, &format!("/v1/models/{id}")).await.done(), *model);
    }
    assert!(models.iter().any(|model| model["id"] == "fake-asr" && model["nearfield"]["stage"] == "asr"));
    get(&node, "/v1/models/gpt-7").await.refused(404, "model_not_found", Some("model"), "gpt-7");
}

#[tokio::test]
async fn what_is_not_there_is_refused_in_the_shape_of_the_api() {
    let node = Node::start().await;
    get(&node, "/v1/images/generations").await.refused(404, "unknown_url", None, "/v1/models");
    get(&node, "/v1/embeddings").await.refused(405, "method_not_allowed", None, "GET");
    let response = reqwest::Client::new().delete(format!("http://{}/v1/models/front-desk", node.address)).send().await;
    Answer::of(response.expect("an answer")).await.refused(405, "method_not_allowed", None, "DELETE");
}
