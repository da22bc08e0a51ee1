//! The REST endpoints of the OpenAI API, on the same port as calls and behind the same door: key and law are checked by the layers
//! that `http` lays around these routes.
//!
//! | path | what |
//! |---|---|
//! | `GET /v1/models`, `GET /v1/models/{id}` | assistants, and the live models of all stages |
//! | `POST /v1/embeddings` | sentence embeddings |
//! | `POST /v1/audio/transcriptions` | the words of a recording |
//! | `POST /v1/audio/speech` | a text, spoken |
//! | `POST /v1/chat/completions` | a written conversation |
//!
//! BACKPRESSURE: calls go first. A request is turned away where a call would be (503), works in the pauses that calls leave, and has
//! at most [`places::WORKING_MAX`] jobs of a stage in the engine, so slots for calls are always free; beyond
//! [`places::waiting_max`] that wait it is told to come back (429). Bodies are bounded before they are read.
//!
//! Nothing of a request or an answer is kept or logged. A request that was let in has the seconds that any HTTP connection has when
//! the node goes down; only calls are waited for.

mod body;
mod chat;
mod embeddings;
mod models;
mod outlet;
mod places;
mod speech;
mod transcriptions;

use crate::{
    assistants::{Assistants, unhurried},
    node::{Services, Serving},
    refusal::Refusal,
    speech::Speech,
};
use axum::{
    Router,
    http::{Method, StatusCode, Uri},
    routing::{get, post},
};
use nearfield_shared::artefact::Stage;
use places::{Place, Places};
use std::{
    any::Any,
    sync::{Arc, Mutex},
};

/// What every endpoint works with. Clones share it.
#[derive(Clone)]
struct Rest {
    services: Services,
    assistants: Assistants,
    places: Places,
    /// When this node began to serve, in Unix seconds.
    since_unix_s: i64,
}

/// The routes. Everything under `/v1` that nobody knows is refused in their error shape, too.
pub fn router(services: Services, assistants: Assistants) -> Router {
    let rest = Rest { services, assistants, places: Places::default(), since_unix_s: crate::control::unix_now_s() };
    Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{id}", get(models::one))
        .route("/v1/embeddings", post(embeddings::embed))
        .route("/v1/audio/transcriptions", post(transcriptions::transcribe))
        .route("/v1/audio/speech", post(speech::speak))
        .route("/v1/chat/completions", post(chat::complete))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(rest)
}

async fn unknown(uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(100).collect();
    let message = format!("there is nothing at `{}`; GET /v1/models lists what is served", path.escape_debug());
    Refusal::new(StatusCode::NOT_FOUND, "unknown_url", message)
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(100).collect();
    let message = format!("{method} is not for `{}`; look at the OpenAI API for the method", path.escape_debug());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

/// A request that was let in. Dropping it is the end of the request.
struct Visit {
    /// What this node serves, for all of the request.
    serving: Arc<Serving>,
    rest: Rest,
    /// The place in the line of one stage.
    place: Place,
    // Never locked: a mutex is what makes a value that is only held shareable between threads.
    _inside: Mutex<Box<dyn Any + Send>>,
}

impl Rest {
    /// Lets a request in that works with a stage, or says at once why not.
    fn visit(&self, stage: Stage) -> Result<Visit, Refusal> {
        if self.services.calls.is_draining() {
            let message = "this node is going down; ask for another node at /v1/route";
            return Err(Refusal::busy("node_draining", message, 30_000));
        }
        let serving = Arc::clone(&self.services.serving.borrow());
        if !serving.models.contains_key(&stage) {
            return Err(crate::speech::SpeechError::NoModel(stage).into());
        }
        let place = self.places.enter(stage)?;
        let inside = self.services.speech.visit()?;
        Ok(Visit { serving, rest: self.clone(), place, _inside: Mutex::new(inside) })
    }
}

impl Visit {
    /// The models, for work that calls go before.
    fn speech(&self) -> Arc<dyn Speech> {
        unhurried(&self.rest.services.speech)
    }

    /// Checks the `model` of a request for a stage and gives the name of the model that does it. Names of other houses' models mean
    /// the one that is here; one of ours that does something else is a mistake.
    fn model(&self, stage: Stage, asked: &str) -> Result<String, Refusal> {
        let other = self.serving.models.iter().find(|(other, model)| **other != stage && model.name == asked);
        if let Some((other, _)) = other {
            let message = format!("`{asked}` is this node's {other} model; this endpoint takes its {stage} model");
            return Err(Refusal::field("model", message));
        }
        Ok(self.serving.models.get(&stage).map_or_else(|| asked.to_owned(), |model| model.name.clone()))
    }
}
