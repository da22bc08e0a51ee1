//! Who asks, and whether they may: every call of the admin API has a bearer token, the token an account, the account a role.

use super::{admin::Admin, error};
use crate::fleet::{
    accounts::{AccountName, Caller, Role},
    tokens,
};
use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::Response,
};

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(header::AUTHORIZATION)?.as_bytes().strip_prefix(b"Bearer ")
}

/// Whose token this is: the owner's by the file in the state folder, everyone else's by its hash.
pub(crate) fn caller(given: &[u8], admin: &Admin) -> Option<Caller> {
    if aws_lc_rs::constant_time::verify_slices_are_equal(given, admin.credential.as_bytes()).is_ok() {
        return Some(Caller { name: AccountName::owner(), role: Role::Admin });
    }
    let hash = tokens::hash(std::str::from_utf8(given).ok()?);
    admin.plane.look(|fleet| fleet.caller(&hash))
}

/// Lets only known callers on, and tells the handlers who it is.
pub(super) async fn known(State(admin): State<Admin>, mut request: Request, next: Next) -> Response {
    let Some(caller) = bearer(request.headers()).and_then(|token| caller(token, &admin)) else {
        let message = "the admin API wants a token: that of an account in NEARFIELD_ADMIN_TOKEN (an admin makes one with \
                       `control-plane admin add`), or use the `control-plane` command as the owner of the state folder";
        return error(StatusCode::UNAUTHORIZED, "credential", message);
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Lets only callers on that have this role, or a higher one.
pub(super) async fn permitted(State(needed): State<Role>, request: Request, next: Next) -> Response {
    match request.extensions().get::<Caller>() {
        Some(caller) if caller.role >= needed => next.run(request).await,
        Some(caller) => refused(caller, needed),
        // Without `known` before it there is no caller, and nothing is permitted.
        None => error(StatusCode::UNAUTHORIZED, "credential", "nobody asks"),
    }
}

/// What somebody is told whose role does not suffice.
pub(super) fn refused(caller: &Caller, needed: Role) -> Response {
    let Caller { name, role } = caller;
    let message =
        format!("this needs the role {needed}, and the account {name} has {role}; ask an admin of this control plane");
    error(StatusCode::FORBIDDEN, "role", message)
}
