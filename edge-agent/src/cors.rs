//! Pages of other origins: they may open calls over WebRTC where the listener has a key, because no browser adds that key by itself.
//! A listener without one answers to every program on its machine, so it is closed to pages that merely happen to be open there.

use crate::media::webrtc::WEBRTC_PATH;
use axum::{
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

/// What the answer to a preflight says beside the origin.
const PREFLIGHT: [(header::HeaderName, &str); 3] = [
    (header::ACCESS_CONTROL_ALLOW_METHODS, "POST"),
    (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type"),
    (header::ACCESS_CONTROL_MAX_AGE, "600"),
];

/// Answers preflights, and lets pages read the answers, on the paths of calls over WebRTC. `has_key` is of the listener.
pub async fn pages(State(has_key): State<bool>, request: Request, next: Next) -> Response {
    if !has_key || !request.uri().path().starts_with(WEBRTC_PATH) {
        return next.run(request).await;
    }
    let mut response = if request.method() == Method::OPTIONS {
        (StatusCode::NO_CONTENT, PREFLIGHT).into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    let told = HeaderValue::from_static("location, retry-after, x-nearfield-region, x-nearfield-node");
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, told);
    response
}
