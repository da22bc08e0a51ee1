//! Accounts over the admin API.

use super::{
    access,
    admin::{Admin, bad_json, store_failed},
    error,
    views::{AccountView, MadeAccount, NewAccount},
};
use crate::{
    audit::{Act, Actor},
    fleet::{
        Fleet,
        accounts::{AccountName, AccountRecord, Caller, Role, TOKEN_BYTES},
        tokens,
    },
    store::StoreError,
};
use axum::{
    Extension, Json,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// How a token begins, so that people and scanners know one when they see it.
const TOKEN_PREFIX: &str = "nfa1.";

fn new_token() -> Result<Zeroizing<String>, Box<Response>> {
    let mut random = Zeroizing::new([0_u8; TOKEN_BYTES]);
    aws_lc_rs::rand::fill(random.as_mut_slice())
        .map_err(|_| Box::new(error(StatusCode::INTERNAL_SERVER_ERROR, "random", "the system gives no randomness")))?;
    Ok(Zeroizing::new(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(random.as_slice()))))
}

fn named(text: &str) -> Result<AccountName, Box<Response>> {
    text.parse().map_err(|reason: String| Box::new(error(StatusCode::BAD_REQUEST, "bad_name", reason)))
}

fn no_such_account(name: &AccountName) -> Response {
    let message = format!(
        "there is no account {name}; see `control-plane admin list`. The owner's token is the file admin.token"
    );
    error(StatusCode::NOT_FOUND, "no_such_account", message)
}

pub(super) async fn list(State(Admin { plane, .. }): State<Admin>) -> Json<Vec<AccountView>> {
    Json(plane.look(|fleet| fleet.accounts().map(AccountView::from).collect()))
}

/// What adding and rotating answer with.
fn made(
    outcome: Result<Result<AccountRecord, Response>, StoreError>,
    token: &Zeroizing<String>,
    what: &'static str,
) -> Response {
    match outcome {
        Err(failure) => store_failed(&failure),
        Ok(Err(refused)) => refused,
        Ok(Ok(account)) => {
            tracing::info!(account = %account.name, role = %account.role, what);
            Json(MadeAccount { account: AccountView::from(&account), token: token.to_string() }).into_response()
        }
    }
}

/// What the audit is told of a change of an account.
fn act(what: &'static str, fleet: &Fleet, name: &AccountName, detail: String, before: Option<String>) -> Option<Act> {
    Some(Act { what, object: format!("account/{name}"), detail, before, after: fleet.account_digest(name) })
}

pub(super) async fn add(
    State(Admin { plane, .. }): State<Admin>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<NewAccount>, JsonRejection>,
) -> Response {
    let Json(NewAccount { name, role }) = match body {
        Ok(body) => body,
        Err(rejection) => return bad_json(&rejection),
    };
    let token = match new_token() {
        Ok(token) => token,
        Err(failed) => return *failed,
    };
    let (hash, now) = (tokens::hash(&token), plane.now());
    let outcome = plane
        .change(&Actor::Account(caller), |fleet| match fleet.add_account(name.clone(), role, hash, now) {
            Ok(writes) => {
                let made = fleet.account(&name).cloned().ok_or_else(|| no_such_account(&name));
                (made, writes, act("account.add", fleet, &name, role.to_string(), None))
            }
            Err(reason) => (Err(error(StatusCode::CONFLICT, "account", reason)), Vec::new(), None),
        })
        .await;
    made(outcome, &token, "an account was added")
}

/// Anybody may make their own token anew; only an admin that of others.
pub(super) async fn rotate(
    State(Admin { plane, .. }): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Response {
    let name = match named(&name) {
        Ok(name) => name,
        Err(refused) => return *refused,
    };
    if caller.role < Role::Admin && caller.name != name {
        return access::refused(&caller, Role::Admin);
    }
    let token = match new_token() {
        Ok(token) => token,
        Err(failed) => return *failed,
    };
    let (hash, now) = (tokens::hash(&token), plane.now());
    let outcome = plane
        .change(&Actor::Account(caller), |fleet| {
            let before = fleet.account_digest(&name);
            match fleet.rotate_account(&name, hash, now) {
                Some(writes) => {
                    let made = fleet.account(&name).cloned().ok_or_else(|| no_such_account(&name));
                    (made, writes, act("account.rotate", fleet, &name, String::new(), before))
                }
                None => (Err(no_such_account(&name)), Vec::new(), None),
            }
        })
        .await;
    made(outcome, &token, "an account got another token")
}

pub(super) async fn remove(
    State(Admin { plane, .. }): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Response {
    let name = match named(&name) {
        Ok(name) => name,
        Err(refused) => return *refused,
    };
    let removed = plane
        .change(&Actor::Account(caller), |fleet| {
            let (account, before) = (fleet.account(&name).cloned(), fleet.account_digest(&name));
            match fleet.remove_account(&name) {
                Some(writes) => (account, writes, act("account.remove", fleet, &name, String::new(), before)),
                None => (None, Vec::new(), None),
            }
        })
        .await;
    match removed {
        Err(failure) => store_failed(&failure),
        Ok(None) => no_such_account(&name),
        Ok(Some(account)) => {
            tracing::info!(account = %name, "an account was removed");
            Json(AccountView::from(&account)).into_response()
        }
    }
}
