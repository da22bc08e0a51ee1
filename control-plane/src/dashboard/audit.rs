//! The last changes, newest first.

use super::{Place, whole};
use crate::{
    api::{admin::Admin, views},
    audit::{Entry, Wanted},
};
use axum::{extract::State, response::Response};
use maud::{Markup, html};
use std::{io, sync::Arc};

/// Changes that are shown.
const SHOWN: usize = 100;

pub(super) async fn page(State(Admin { plane, .. }): State<Admin>) -> Response {
    let audit = Arc::clone(&plane.audit);
    let read = tokio::task::spawn_blocking(move || audit.last(SHOWN, &Wanted::default())).await;
    let content = match read.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
        Ok(lines) => html! {
            h1 { "Audit" }
            p { "The last " (SHOWN) " changes at most; " code { "control-plane audit verify" } " says whether the whole record holds." }
            (table(lines))
        },
        Err(failed) => html! { h1 { "Audit" } p.bad { "audit.log cannot be read: " (failed) } },
    };
    whole(Place::Audit, &content)
}

fn table(lines: Vec<Result<Entry, String>>) -> Markup {
    html! {
        table {
            thead { tr {
                th.number scope="col" { "Nr" } th scope="col" { "When (UTC)" } th scope="col" { "Who" } th scope="col" { "What" }
                th scope="col" { "To what" } th scope="col" { "More" }
            } }
            tbody { @for line in lines.into_iter().rev() {
                @match line {
                    Ok(entry) => tr {
                        td.number { (entry.n) }
                        td { (views::time(entry.unix_s)) }
                        td { (entry.who) @if let Some(role) = entry.role { " (" (role) ")" } }
                        td { (entry.what) }
                        td { (entry.object) }
                        td { (entry.detail) }
                    },
                    Err(problem) => tr { td.bad colspan="6" { (problem) } },
                }
            } }
        }
    }
}
