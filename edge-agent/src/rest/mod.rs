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

pub(crate) mod body;
mod chat;
mod embeddings;
mod models;
pub(crate) mod outlet;
mod places;
mod speech;
pub mod transcriptions;
mod visit;

use crate::{assistants::Assistants, node::Services, refusal::Refusal};
use axum::{
    Router,
    http::{Method, StatusCode, Uri},
    routing::{get, post},
};
use nearfield_shared::artefact::Stage;
pub use places::{Place, Places};
pub(crate) use speech::INPUT_CHARS_MAX;
pub(crate) use visit::Visit;

/// What every endpoint works with. Clones share it.
#[derive(Clone)]
struct Rest {
    services: Services,
    assistants: Assistants,
    /// When this node began to serve, in Unix seconds.
    since_unix_s: i64,
}

/// The routes. Everything under `/v1` that nobody knows is refused in their error shape, too.
pub fn router(services: Services, assistants: Assistants) -> Router {
    let rest = Rest { services, assistants, since_unix_s: crate::control::unix_now_s() };
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

impl Rest {
    /// Lets a request in that works with a stage, or says at once why not.
    fn visit(&self, stage: Stage) -> Result<Visit, Refusal> {
        Visit::enter(&self.services, stage)
    }
}
