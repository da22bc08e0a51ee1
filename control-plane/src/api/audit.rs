//! The audit over the admin API.

use super::{
    admin::Admin,
    error,
    views::{AuditQuery, AuditVerdict, AuditView},
};
use crate::audit::Wanted;
use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use std::{io, sync::Arc};

/// Lines that one answer holds at most.
pub const LINES_MAX: usize = 10_000;

/// Reads the file beside the runtime.
async fn read<T: Serialize + Send + 'static>(
    admin: Admin,
    read: impl FnOnce(&crate::audit::Audit) -> io::Result<T> + Send + 'static,
) -> Response {
    let audit = Arc::clone(&admin.plane.audit);
    let done = tokio::task::spawn_blocking(move || read(&audit)).await;
    match done.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
        Ok(answer) => Json(answer).into_response(),
        Err(failed) => {
            let message = format!("audit.log cannot be read: {failed}");
            error(StatusCode::INTERNAL_SERVER_ERROR, "audit", message)
        }
    }
}

pub(super) async fn list(State(admin): State<Admin>, Query(query): Query<AuditQuery>) -> Response {
    let AuditQuery { last, what, object } = query;
    read(admin, move |audit| {
        let (mut entries, mut problems) = (Vec::new(), Vec::new());
        for line in audit.last(last.min(LINES_MAX), &Wanted { what, object })? {
            match line {
                Ok(entry) => entries.push(entry),
                Err(problem) => problems.push(problem),
            }
        }
        Ok(AuditView { entries, problems })
    })
    .await
}

pub(super) async fn verify(State(admin): State<Admin>) -> Response {
    read(admin, |audit| {
        let (lines, problem) = audit.verify()?;
        Ok(AuditVerdict { lines, problem })
    })
    .await
}
