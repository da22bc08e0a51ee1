//! For the command line: everything under `/v1/admin`, with the token of an account, on a loopback address.
//!
//! HTTP on loopback with a bearer token was chosen over a unix socket: it works the same in a container, through `ssh -L` and on
//! systems without unix sockets, and has no limit on the length of the state folder's path. The price is that any local process can connect; without a
//! token it learns nothing, and a web page in a browser cannot send one.

use super::{
    access, accounts, audit, error, prometheus, rollouts,
    views::{
        self, Exported, FiguresView, Files, NewToken, NodeView, Noted, PlanView, Revocation, StatusView, TokenView,
    },
};
use crate::{
    audit::{Act, Actor},
    definition::{self, Definition, FILES_BYTES_MAX, FILES_MAX, Known, KnownModel},
    fleet::{
        accounts::{Caller, Role},
        change::Action,
        tokens,
    },
    plane::Plane,
    registry::{Imported, Imports, programs},
    state_dir::Running,
    store::StoreError,
};
use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Path, State, rejection::JsonRejection},
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use nearfield_shared::{
    exposition::Exposition,
    wire::{
        NodeName,
        enrol::{EnrolToken, SECRET_BYTES},
        message::{Refused, RefusedCode},
    },
};
use std::{io, sync::Arc};
use zeroize::Zeroizing;

/// How long a token may last: a week is enough to send hardware by post.
pub const TTL_S_MAX: i64 = 7 * 24 * 60 * 60;

/// Longest reason of a revocation.
const REASON_BYTES_MAX: usize = 200;

/// What the handlers share.
#[derive(Clone)]
pub struct Admin {
    /// The server.
    pub plane: Arc<Plane>,
    /// Where it runs.
    pub running: Arc<Running>,
    /// The owner's credential.
    pub credential: Arc<Zeroizing<String>>,
}

/// The routes of this API.
pub fn router(admin: Admin) -> Router {
    let of = |role: Role| middleware::from_fn_with_state(role, access::permitted);
    let viewer = Router::new()
        .route("/status", get(status))
        .route("/nodes", get(nodes))
        .route("/nodes/{node}", get(node))
        .route("/plan", post(plan))
        .route("/metrics", get(metrics))
        .route("/rollouts", get(rollouts::list))
        .route("/rollouts/{region}", get(rollouts::show))
        .route("/events", get(rollouts::events))
        .route("/prometheus", get(exposition))
        .route("/audit", get(audit::list))
        .route("/audit/verify", get(audit::verify))
        .route("/accounts/{name}/rotate", post(accounts::rotate))
        .route_layer(of(Role::Viewer));
    let operator = Router::new()
        .route("/nodes/{node}/revoke", post(revoke))
        .route("/nodes/{node}/cordon", post(rollouts::cordon))
        .route("/nodes/{node}/uncordon", post(rollouts::uncordon))
        .route("/nodes/{node}/labels", post(rollouts::label))
        .route("/rollouts/{region}/{order}", post(rollouts::order))
        .route("/tokens", post(token))
        .route("/apply", post(apply))
        .route("/models/note", post(note_models))
        .route_layer(of(Role::Operator));
    let admins = Router::new()
        .route("/accounts", get(accounts::list).post(accounts::add))
        .route("/accounts/{name}", delete(accounts::remove))
        .route("/export", post(export))
        .route_layer(of(Role::Admin));
    let routes = viewer
        .merge(operator)
        .merge(admins)
        // JSON escapes make a text at most six times longer; in practice it is the quotes and line ends.
        .layer(DefaultBodyLimit::max(FILES_BYTES_MAX * 2))
        .layer(middleware::from_fn_with_state(admin.clone(), access::known))
        .with_state(admin);
    Router::new().nest("/v1/admin", routes)
}

pub(super) fn store_failed(failure: &StoreError) -> Response {
    tracing::error!(error = %failure, "a change did not reach the disk");
    error(StatusCode::INTERNAL_SERVER_ERROR, "store", failure.to_string())
}

pub(super) fn bad_json(rejection: &JsonRejection) -> Response {
    error(rejection.status(), "bad_request", rejection.body_text())
}

async fn status(State(Admin { plane, running, .. }): State<Admin>) -> Json<StatusView> {
    let regions = plane.look(|fleet| views::regions(fleet, plane.now()));
    let of_disk = plane.clone();
    let lacking = tokio::task::spawn_blocking(move || of_disk.lacking()).await.unwrap_or_default();
    Json(StatusView {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: running.pid,
        uptime_s: plane.started.elapsed().as_secs(),
        agents: running.agents.to_string(),
        api: running.api_url(),
        connections: plane.connections(),
        store_works: plane.store_works(),
        state_dir: plane.dir.root().display().to_string(),
        stands_by: false,
        leader: plane.leads.clone(),
        lacking,
        regions,
    })
}

async fn nodes(State(Admin { plane, .. }): State<Admin>) -> Json<Vec<NodeView>> {
    let now = plane.now();
    Json(plane.look(|fleet| fleet.nodes().map(|node| NodeView::of(fleet, node, now)).collect()))
}

pub(super) fn named(text: &str) -> Result<NodeName, Box<Response>> {
    text.parse().map_err(|reason: String| Box::new(error(StatusCode::BAD_REQUEST, "bad_name", reason)))
}

pub(super) fn no_such_node(name: &NodeName) -> Response {
    error(StatusCode::NOT_FOUND, "no_such_node", format!("there is no node {name}; see `control-plane node list`"))
}

async fn node(State(Admin { plane, .. }): State<Admin>, Path(name): Path<String>) -> Response {
    let name = match named(&name) {
        Ok(name) => name,
        Err(refused) => return *refused,
    };
    let view = plane.look(|fleet| fleet.node(&name).map(|node| NodeView::of(fleet, node, plane.now())));
    view.map_or_else(|| no_such_node(&name), |view| Json(view).into_response())
}

async fn revoke(
    State(Admin { plane, .. }): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    body: Result<Json<Revocation>, JsonRejection>,
) -> Response {
    let name = match named(&name) {
        Ok(name) => name,
        Err(refused) => return *refused,
    };
    let Json(Revocation { reason }) = match body {
        Ok(body) => body,
        Err(rejection) => return bad_json(&rejection),
    };
    if reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control)) {
        let message = format!("a reason is one line of at most {REASON_BYTES_MAX} bytes");
        return error(StatusCode::BAD_REQUEST, "bad_reason", message);
    }
    let now = plane.now();
    let revoked = plane
        .change(&Actor::Account(caller), |fleet| {
            let before = fleet.node_digest(&name);
            let certificates = fleet.node(&name).into_iter().flat_map(|node| node.certificates());
            let certificates: String = certificates.map(|(serial, _)| format!("certificate {serial}; ")).collect();
            let detail = format!("{certificates}{}", reason.as_deref().unwrap_or("no reason given"));
            let Some(writes) = fleet.revoke(&name, reason, now) else {
                return (fleet.node(&name).is_some(), Vec::new(), None);
            };
            let (object, after) = (format!("node/{name}"), fleet.node_digest(&name));
            (true, writes, Some(Act { what: "node.revoke", object, detail, before, after }))
        })
        .await;
    match revoked {
        Err(failure) => return store_failed(&failure),
        Ok(false) => return no_such_node(&name),
        Ok(true) => {}
    }
    tracing::info!(node = %name, "revoked");
    let reason = format!("node {name} was revoked; enrol it again with a token for its name");
    plane.hang_up(&name, &Refused { code: RefusedCode::Revoked, reason });
    plane.publish_revoked();
    plane.touch_routes();
    let view = plane.look(|fleet| fleet.node(&name).map(|node| NodeView::of(fleet, node, now)));
    Json(view).into_response()
}

async fn token(
    State(Admin { plane, .. }): State<Admin>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<NewToken>, JsonRejection>,
) -> Response {
    let Json(NewToken { region, node, ttl_s }) = match body {
        Ok(body) => body,
        Err(rejection) => return bad_json(&rejection),
    };
    if !(1..=TTL_S_MAX).contains(&ttl_s) {
        let message = format!("a token lasts from 1 s to {} days", TTL_S_MAX / 86_400);
        return error(StatusCode::BAD_REQUEST, "bad_ttl", message);
    }
    let mut secret = [0; SECRET_BYTES];
    if aws_lc_rs::rand::fill(&mut secret).is_err() {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "random", "the system gives no randomness");
    }
    let token = EnrolToken::new(secret, plane.ca.fingerprint());
    let hash = tokens::hash(&token.secret_text());
    let now = plane.now();
    let made = plane
        .change(&Actor::Account(caller), |fleet| {
            match fleet.add_token(hash.clone(), region.clone(), node.clone(), ttl_s, now) {
                Ok(writes) => {
                    let detail = match &node {
                        Some(node) => format!("for node {node} in {region}, {ttl_s} s"),
                        None => format!("for a node in {region}, {ttl_s} s"),
                    };
                    let (object, after) = (format!("token/{hash}"), fleet.token_digest(&hash));
                    (Ok(()), writes, Some(Act { what: "token.create", object, detail, before: None, after }))
                }
                Err(reason) => (Err(reason), Vec::new(), None),
            }
        })
        .await;
    match made {
        Err(failure) => store_failed(&failure),
        Ok(Err(reason)) => error(StatusCode::CONFLICT, "token", reason),
        Ok(Ok(())) => {
            tracing::info!(%region, ttl_s, "an enrolment token was made");
            Json(TokenView { token: token.to_text().to_string(), region, node, expires_unix_s: now + ttl_s })
                .into_response()
        }
    }
}

/// Blocks on reading manifests, so it runs beside the runtime.
pub(super) async fn imported(plane: &Arc<Plane>) -> Result<Imports, Box<Response>> {
    let plane = plane.clone();
    let read = tokio::task::spawn_blocking(move || plane.imported()).await;
    read.unwrap_or_else(|panic| Err(io::Error::other(panic))).map_err(|failure| {
        let message = format!("what was imported cannot be read: {failure}");
        Box::new(error(StatusCode::INTERNAL_SERVER_ERROR, "models", message))
    })
}

/// Understands the files, beside the runtime.
async fn understand(files: Files, imported: Imports) -> Result<Result<Definition, PlanView>, Box<Response>> {
    let bytes: usize = files.files.iter().map(|file| file.text.len()).sum();
    if files.files.len() > FILES_MAX || bytes > FILES_BYTES_MAX {
        let message = format!("at most {FILES_MAX} files with {FILES_BYTES_MAX} bytes together can be applied");
        return Err(Box::new(error(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)));
    }
    let model =
        |model: Imported| (model.manifest.name, KnownModel { stage: model.manifest.stage, manifest: model.signed });
    let parsed = tokio::task::spawn_blocking(move || {
        let releases = programs::releases(&imported.programs);
        let known = Known { models: imported.models.into_iter().map(model).collect(), releases };
        definition::parse(&files.files, &known)
    });
    match parsed.await {
        Ok(parsed) => Ok(parsed.map_err(PlanView::Mistakes)),
        Err(panic) => Err(Box::new(error(StatusCode::INTERNAL_SERVER_ERROR, "failed", panic.to_string()))),
    }
}

async fn plan(State(Admin { plane, .. }): State<Admin>, body: Result<Json<Files>, JsonRejection>) -> Response {
    let Json(files) = match body {
        Ok(body) => body,
        Err(rejection) => return bad_json(&rejection),
    };
    let understood = match imported(&plane).await {
        Ok(imported) => understand(files, imported).await,
        Err(failure) => Err(failure),
    };
    match understood {
        Err(failure) => *failure,
        Ok(Err(mistakes)) => Json(mistakes).into_response(),
        Ok(Ok(definition)) => {
            Json(PlanView::Plan(plane.look(|fleet| fleet.plan(&definition, plane.now())))).into_response()
        }
    }
}

async fn apply(
    State(Admin { plane, .. }): State<Admin>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<Files>, JsonRejection>,
) -> Response {
    let Json(files) = match body {
        Ok(body) => body,
        Err(rejection) => return bad_json(&rejection),
    };
    let actor = Actor::Account(caller);
    let imported = match imported(&plane).await {
        Ok(imported) => imported,
        Err(failure) => return *failure,
    };
    // Of the very list that the definition is held against, so that no state names a model without a line.
    if let Err(failure) = plane.note_imports(&actor, &imported).await {
        return store_failed(&failure);
    }
    plane.refresh_registry().await;
    let definition = match understand(files, imported).await {
        Err(failure) => return *failure,
        Ok(Err(mistakes)) => return Json(mistakes).into_response(),
        Ok(Ok(definition)) => definition,
    };
    let applied = plane
        .change(&actor, |fleet| {
            let before = fleet.regions_digest();
            let (plan, writes) = fleet.apply(definition, plane.now());
            let changed = plan.regions.iter().filter(|region| region.action != Action::Keep);
            let detail: Vec<_> =
                changed.map(|region| format!("{} becomes generation {}", region.region, region.generation)).collect();
            let (object, detail, after) = ("regions".to_owned(), detail.join(", "), fleet.regions_digest());
            let act = (!writes.is_empty()).then_some(Act { what: "region.apply", object, detail, before, after });
            (plan, writes, act)
        })
        .await;
    match applied {
        Err(failure) => store_failed(&failure),
        Ok(plan) => {
            for region in plan.regions.iter().filter(|region| !region.differences.is_empty()) {
                tracing::info!(region = %region.region, generation = %region.generation, "applied");
            }
            plane.publish_desired();
            plane.touch_routes();
            plane.touch_rollouts();
            Json(PlanView::Plan(plan)).into_response()
        }
    }
}

async fn note_models(State(Admin { plane, .. }): State<Admin>, Extension(caller): Extension<Caller>) -> Response {
    let imported = match imported(&plane).await {
        Ok(imported) => imported,
        Err(failure) => return *failure,
    };
    let noted = plane.note_imports(&Actor::Account(caller), &imported).await;
    // Even where nothing is new: a key or the list may have been changed beside the server.
    plane.refresh_registry().await;
    match noted {
        Ok(noted) => Json(Noted { noted }).into_response(),
        Err(failure) => store_failed(&failure),
    }
}

/// Writes the store's export anew, for a backup of the folder that it stands in.
async fn export(State(Admin { plane, .. }): State<Admin>) -> Response {
    match plane.export_now().await {
        Ok(()) => Json(Exported { unix_s: plane.now() }).into_response(),
        Err(failure) => store_failed(&failure),
    }
}

async fn exposition(State(Admin { plane, .. }): State<Admin>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, Exposition::CONTENT_TYPE)], prometheus::text(&plane))
}

async fn metrics(State(Admin { plane, .. }): State<Admin>) -> Json<Vec<FiguresView>> {
    Json(plane.look(|fleet| fleet.figures().map(FiguresView::from).collect()))
}
