//! The talk page: `GET /talk`, a page to speak with this node from a browser, over WebRTC.
//!
//! Four files without a build step, in the binary as they stand here. They hold no secret and no content, so they are for anyone who
//! reaches the listener; the call itself wants the key and the law like every call. The policy of the page lets it run what
//! comes from here, talk to this node, and nothing else.

use axum::{
    Router,
    http::{HeaderName, header},
    response::IntoResponse,
    routing::get,
};

/// Where the page is.
pub const TALK_PATH: &str = "/talk";

/// What the page may do: its own script and style, connections to this node, and nothing that others could put in.
const POLICY: &str = concat!(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src 'self'; img-src data:; ",
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// The page's routes.
pub fn router() -> Router {
    let file = |kind: &'static str, text: &'static str| get(move || async move { served(kind, text) });
    Router::new()
        .route(TALK_PATH, file("text/html; charset=utf-8", include_str!("talk.html")))
        .route("/talk/talk.css", file("text/css; charset=utf-8", include_str!("talk.css")))
        .route("/talk/talk.js", file("text/javascript; charset=utf-8", include_str!("talk.js")))
        .route("/talk/ledger.js", file("text/javascript; charset=utf-8", include_str!("ledger.js")))
}

fn served(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("permissions-policy"), "microphone=(self), camera=(), geolocation=()"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (headers, text)
}
