//! `GET /dashboard` on the admin listener: the fleet in a browser, for looking only.
//!
//! Pages are made here and hold no script; they ask for themselves again every few seconds. A browser signs in by HTTP's basic
//! scheme, with an account's name and its token, because it cannot send a bearer token by itself; that scheme opens these pages
//! and nothing that changes anything.

mod audit;
mod figures;
mod map;
mod nodes;
mod overview;
mod rollouts;

use crate::api::{access, admin::Admin};
use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, html};

/// Seconds after which a page asks for itself again.
const AGAIN_S: u32 = 10;

/// What a page may load and who may frame it: its own style sheet, and nobody.
const HEADERS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

/// The pages.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/dashboard", get(overview::page))
        .route("/dashboard/nodes", get(nodes::page))
        .route("/dashboard/rollouts", get(rollouts::page))
        .route("/dashboard/audit", get(audit::page))
        .route("/dashboard/style.css", get(async || ([(header::CONTENT_TYPE, "text/css")], include_str!("style.css"))))
        .layer(middleware::from_fn_with_state(admin.clone(), signed_in))
        .with_state(admin)
}

/// Name and token of the basic scheme.
fn credentials(headers: &HeaderMap) -> Option<(String, Vec<u8>)> {
    let given = headers.get(header::AUTHORIZATION)?.as_bytes().strip_prefix(b"Basic ")?;
    let both = STANDARD.decode(given).ok()?;
    let colon = both.iter().position(|byte| *byte == b':')?;
    Some((String::from_utf8(both[..colon].to_vec()).ok()?, both[colon + 1..].to_vec()))
}

async fn signed_in(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let known = credentials(request.headers())
        .and_then(|(name, token)| access::caller(&token, &admin).filter(|caller| caller.name.to_string() == name));
    if known.is_none() {
        let ask = [(header::WWW_AUTHENTICATE, "Basic realm=\"Nearfield control plane\", charset=\"UTF-8\"")];
        let message = "Sign in with the name of your account and its token as the password (an admin makes both with \
                       `control-plane admin add`), or as `owner` with what stands in admin.token of the state folder.\n";
        return (StatusCode::UNAUTHORIZED, ask, message).into_response();
    }
    let mut response = next.run(request).await;
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, header::HeaderValue::from_static(value));
    }
    response
}

/// The places of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Overview,
    Nodes,
    Rollouts,
    Audit,
}

impl Place {
    const ALL: [(Self, &str, &str); 4] = [
        (Self::Overview, "/dashboard", "Overview"),
        (Self::Nodes, "/dashboard/nodes", "Nodes"),
        (Self::Rollouts, "/dashboard/rollouts", "Rollouts"),
        (Self::Audit, "/dashboard/audit", "Audit"),
    ];
}

/// A whole page around its content.
fn whole(place: Place, content: &Markup) -> Response {
    let name = Place::ALL.iter().find(|(at, ..)| *at == place).map_or("", |(_, _, name)| name);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content=(AGAIN_S);
                title { (name) " · Nearfield" }
                link rel="stylesheet" href="/dashboard/style.css";
            }
            body {
                a.skip href="#content" { "To the content" }
                header {
                    strong { "Nearfield" }
                    nav aria-label="Pages" {
                        @for (at, path, name) in Place::ALL {
                            @if at == place { a href=(path) aria-current="page" { (name) } }
                            @else { a href=(path) { (name) } }
                        }
                    }
                }
                main id="content" { (content) }
            }
        }
    };
    Html(page.into_string()).into_response()
}
