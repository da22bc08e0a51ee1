//! What a control plane answers while another leads: who that is, to the owner of the state folder; and to everybody that it does not serve.

use super::{NOT_LEADING, error, views::StatusView};
use crate::{state_dir::Running, store::etcd::Leader};
use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use std::{sync::Arc, time::Instant};
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Seconds after which a caller asks again.
const RETRY_AFTER_S: u32 = 5;

/// What the answers are made of.
pub struct StandingBy {
    /// Where this control plane is bound.
    pub running: Arc<Running>,
    /// Its state folder.
    pub state_dir: String,
    /// The owner's credential. Accounts stand in the store, which only the leader has.
    pub credential: Arc<Zeroizing<String>>,
    /// Who leads, as seen last.
    pub leader: watch::Receiver<Option<Leader>>,
}

/// For callers: 503, so that whatever spreads them asks the leader.
pub fn for_callers() -> Router {
    Router::new().fallback(async || {
        let mut response = error(
            StatusCode::SERVICE_UNAVAILABLE,
            NOT_LEADING,
            "this control plane stands by, and another one leads; ask that one",
        );
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        response
    })
}

/// For the owner of the state folder.
pub fn for_admins(state: Arc<StandingBy>) -> Router {
    let started = Instant::now();
    Router::new()
        .fallback(async move |State(state): State<Arc<StandingBy>>, request: Request| answer(&state, &request, started))
        .with_state(state)
}

fn answer(state: &StandingBy, request: &Request, started: Instant) -> Response {
    let given =
        request.headers().get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let owner = given.is_some_and(|given| {
        aws_lc_rs::constant_time::verify_slices_are_equal(given, state.credential.as_bytes()).is_ok()
    });
    if !owner {
        let message = "this control plane stands by and knows no accounts; ask the one that leads, or use `control-plane status` as the owner of the state folder";
        return error(StatusCode::SERVICE_UNAVAILABLE, NOT_LEADING, message);
    }
    let leader = state.leader.borrow().clone();
    if request.uri().path() == "/v1/admin/status" {
        let running = &state.running;
        return Json(StatusView {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: running.pid,
            uptime_s: started.elapsed().as_secs(),
            agents: running.agents.to_string(),
            api: running.api_url(),
            connections: 0,
            store_works: true,
            state_dir: state.state_dir.clone(),
            stands_by: true,
            leader,
            lacking: Vec::new(),
            regions: Vec::new(),
        })
        .into_response();
    }
    let message = match leader {
        Some(leader) => format!("this control plane stands by; run this on {}, which leads", leader.name),
        None => "this control plane stands by, and nobody leads at the moment; try again in some seconds".to_owned(),
    };
    error(StatusCode::SERVICE_UNAVAILABLE, NOT_LEADING, message)
}
