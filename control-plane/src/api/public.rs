//! For callers: `GET /v1/route`, with the callers' key where the listener has one, and `GET /v1/healthz` for anyone.

use super::{error, listener::Peer};
use crate::plane::Plane;
use axum::{
    Json, Router,
    extract::{ConnectInfo, Query, Request, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use nearfield_shared::{
    caller_key::CallerKey,
    routing::{self, NoRoute, RouteQuery},
};
use serde_json::json;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// The routes of this API. With a `key`, callers have to present it.
pub fn router(plane: Arc<Plane>, key: Option<Arc<CallerKey>>) -> Router {
    let route = get(route).layer(middleware::from_fn_with_state(key, keyed)).options(preflight);
    Router::new()
        .route("/v1/route", route)
        .layer(middleware::map_response(for_browsers))
        .route("/v1/healthz", get(healthz))
        .with_state(plane)
}

/// Lets in whoever has the key, where there is one.
async fn keyed(State(key): State<Option<Arc<CallerKey>>>, request: Request, next: Next) -> Response {
    let presented = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if key.is_none_or(|key| key.admits(presented, [])) {
        return next.run(request).await;
    }
    let message = "this control plane wants its caller key as `Authorization: Bearer KEY`; ask its operator for it";
    error(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
}

/// What a browser asks before it sends a key.
async fn preflight() -> impl IntoResponse {
    let allowed = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    (StatusCode::NO_CONTENT, allowed)
}

/// Callers are browsers of any site; nothing here depends on cookies, and every answer is of the moment.
async fn for_browsers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The caller's address: the connection's, or what a trusted proxy says. Of several the last counts, since only that one
/// was added by our own proxy.
fn caller_address(peer: SocketAddr, headers: &HeaderMap, trust_forwarded_for: bool) -> IpAddr {
    if !trust_forwarded_for {
        return peer.ip();
    }
    let forwarded = headers.get_all("x-forwarded-for").iter().next_back().and_then(|value| value.to_str().ok());
    forwarded.and_then(|list| list.rsplit(',').next()?.trim().parse().ok()).unwrap_or(peer.ip())
}

fn country_of(address: IpAddr) -> Option<String> {
    iptocc::country_code(address.to_canonical()).map(str::to_owned)
}

async fn route(
    State(plane): State<Arc<Plane>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    headers: HeaderMap,
    query: Result<Query<RouteQuery>, QueryRejection>,
) -> Response {
    let address = caller_address(peer, &headers, plane.config.trust_forwarded_for);
    let answer = query
        .map_err(|e| NoRoute::BadQuery { reason: e.body_text() })
        .and_then(|Query(query)| query.caller(Some(address), country_of))
        .and_then(|caller| routing::nearest(&plane.routes(), &caller));
    match answer {
        Ok(answer) => Json(answer).into_response(),
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = error(status, refusal.code(), refusal.to_string());
            if let Some(seconds) = refusal.retry_after_s() {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            response
        }
    }
}

async fn healthz(State(plane): State<Arc<Plane>>) -> Response {
    if plane.store_works() {
        Json(json!({"status": "ok"})).into_response()
    } else {
        error(StatusCode::SERVICE_UNAVAILABLE, "store", "the last change did not reach the disk; see the log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_proxy_says_where_the_caller_is() {
        let peer: SocketAddr = "10.0.0.1:99".parse().unwrap();
        let check = |lines: &[&str], trust, expect: &str| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            assert_eq!(caller_address(peer, &headers, trust), expect.parse::<IpAddr>().unwrap(), "{lines:?}");
        };
        check(&["1.1.1.1"], false, "10.0.0.1");
        check(&[], true, "10.0.0.1");
        check(&["9.9.9.9, 1.1.1.1"], true, "1.1.1.1");
        check(&["9.9.9.9", "2.2.2.2 ,2001:db8::1"], true, "2001:db8::1");
        check(&["nonsense"], true, "10.0.0.1");
    }

    #[test]
    fn addresses_have_countries() {
        assert_eq!(country_of("193.0.6.139".parse().unwrap()).as_deref(), Some("NL"), "RIPE NCC");
        assert_eq!(country_of("::ffff:193.0.6.139".parse().unwrap()).as_deref(), Some("NL"));
        assert_eq!(country_of("127.0.0.1".parse().unwrap()), None);
    }
}
