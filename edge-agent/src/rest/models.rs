//! `GET /v1/models` and `GET /v1/models/{id}`: assistants, and the live models of all stages.

use super::Rest;
use crate::{node::Serving, refusal::Refusal};
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde_json::{Value, json};

/// Everything that `model` may name: the assistants first, the default one at the head.
///
/// `created` is when this node began to serve, because neither assistants nor models know a date.
fn models(rest: &Rest, serving: &Serving) -> Vec<Value> {
    let region = serving.region.as_ref().map_or_else(|| "nearfield".to_owned(), ToString::to_string);
    let model = |id: &str, owned_by: &str, extension: Value| {
        json!({
            "id": id, "object": "model", "created": rest.since_unix_s, "owned_by": owned_by, "nearfield": extension,
        })
    };
    let assistants = serving
        .assistants
        .iter()
        .map(|assistant| model(&assistant.name, &region, json!({ "kind": "assistant", "voice": assistant.voice })));
    let stages = serving.models.iter().map(|(stage, served)| {
        let extension = json!({ "kind": "model", "stage": stage.as_str(), "version": served.version });
        model(&served.name, "nearfield", extension)
    });
    assistants.chain(stages).collect()
}

pub(super) async fn list(State(rest): State<Rest>) -> Json<Value> {
    let serving = rest.services.serving.borrow().clone();
    Json(json!({ "object": "list", "data": models(&rest, &serving) }))
}

pub(super) async fn one(State(rest): State<Rest>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    let serving = rest.services.serving.borrow().clone();
    let found = models(&rest, &serving).into_iter().find(|model| model["id"] == id.as_str());
    found.map(Json).ok_or_else(|| {
        let id: String = id.chars().take(100).collect();
        let message = format!("there is no model `{}` here; GET /v1/models lists them", id.escape_debug());
        let refusal = Refusal::new(StatusCode::NOT_FOUND, "model_not_found", message);
        Refusal { param: Some("model".into()), ..refusal }
    })
}
