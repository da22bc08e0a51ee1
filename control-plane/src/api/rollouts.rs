//! Rollouts, cordons, labels and events over the admin API.

use super::{
    admin::{Admin, bad_json, named, no_such_node, store_failed},
    error,
    rollout_view::{self, RolloutView},
    views::{CordonWanted, EventsQuery, LabelsWanted, NodeView},
};
use crate::{
    audit::{Act, Actor},
    fleet::{Fleet, accounts::Caller, events::Event},
    plane::Plane,
    rollout::Order,
    store::Write,
};
use axum::{
    Extension, Json,
    extract::{Path, Query, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use nearfield_shared::{region::RegionId, wire::NodeName};
use std::sync::Arc;

pub(super) async fn list(State(Admin { plane, .. }): State<Admin>) -> Json<Vec<RolloutView>> {
    Json(plane.look(|fleet| rollout_view::rollouts(fleet, plane.now())))
}

fn region_named(text: &str) -> Result<RegionId, Box<Response>> {
    text.parse().map_err(|reason: String| Box::new(error(StatusCode::BAD_REQUEST, "bad_name", reason)))
}

/// The rollout of a region, or that there was none.
fn shown(plane: &Plane, region: &RegionId) -> Response {
    let view = plane.look(|fleet| {
        let (rollout, evidence) = fleet.rollout(region)?;
        Some(RolloutView::of(fleet, rollout, evidence, plane.now()))
    });
    view.map_or_else(
        || {
            let message = format!(
                "there was no rollout in {region}; a change of a region whose file has [rollout] makes one. See `control-plane rollout list`"
            );
            error(StatusCode::NOT_FOUND, "no_such_rollout", message)
        },
        |view| Json(view).into_response(),
    )
}

pub(super) async fn show(State(Admin { plane, .. }): State<Admin>, Path(region): Path<String>) -> Response {
    match region_named(&region) {
        Ok(region) => shown(&plane, &region),
        Err(refused) => *refused,
    }
}

pub(super) async fn order(
    State(Admin { plane, .. }): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path((region, order)): Path<(String, Order)>,
) -> Response {
    let region = match region_named(&region) {
        Ok(region) => region,
        Err(refused) => return *refused,
    };
    let by = caller.name.to_string();
    let now = plane.now();
    let outcome = plane
        .change(&Actor::Account(caller), |fleet| {
            let before = fleet.regions_digest();
            match fleet.order_rollout(&region, order, &by, now) {
                Err(reason) => (Err(reason), Vec::new(), None),
                Ok(mut stepped) => {
                    let what = match order {
                        Order::Approve => "rollout.approve",
                        Order::Pause => "rollout.pause",
                        Order::Resume => "rollout.resume",
                        Order::Abort => "rollout.abort",
                    };
                    let detail = stepped.told.iter().map(|entry| entry.what.to_string()).collect();
                    let (object, after) = (format!("region/{region}"), fleet.regions_digest());
                    let writes = std::mem::take(&mut stepped.writes);
                    (Ok(stepped), writes, Some(Act { what, object, detail, before, after }))
                }
            }
        })
        .await;
    match outcome {
        Err(failure) => {
            plane.rollout_not_stored(&region);
            store_failed(&failure)
        }
        Ok(Err(reason)) => error(StatusCode::CONFLICT, "rollout", reason),
        Ok(Ok(stepped)) => {
            plane.tell_of_rollout(&region, &stepped);
            plane.touch_rollouts();
            shown(&plane, &region)
        }
    }
}

/// Changes something about a node on somebody's behalf, and answers with the node.
async fn change_node(
    plane: &Arc<Plane>,
    caller: Caller,
    name: &str,
    (what, detail): (&'static str, String),
    change: impl FnOnce(&mut Fleet, &NodeName, i64) -> Option<Result<Vec<Write>, String>>,
) -> Response {
    let name = match named(name) {
        Ok(name) => name,
        Err(refused) => return *refused,
    };
    let now = plane.now();
    let changed = plane
        .change(&Actor::Account(caller), |fleet| {
            let before = fleet.node_digest(&name);
            match change(fleet, &name, now) {
                None => (None, Vec::new(), None),
                Some(Err(reason)) => (Some(Err(reason)), Vec::new(), None),
                Some(Ok(writes)) => {
                    let (object, after) = (format!("node/{name}"), fleet.node_digest(&name));
                    let act = (!writes.is_empty()).then_some(Act { what, object, detail, before, after });
                    (Some(Ok(())), writes, act)
                }
            }
        })
        .await;
    match changed {
        Err(failure) => return store_failed(&failure),
        Ok(None) => return no_such_node(&name),
        Ok(Some(Err(reason))) => return error(StatusCode::CONFLICT, "node", reason),
        Ok(Some(Ok(()))) => {}
    }
    plane.publish_desired();
    plane.touch_routes();
    plane.touch_rollouts();
    let view = plane.look(|fleet| fleet.node(&name).map(|node| NodeView::of(fleet, node, now)));
    Json(view).into_response()
}

pub(super) async fn cordon(
    State(Admin { plane, .. }): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    body: Result<Json<CordonWanted>, JsonRejection>,
) -> Response {
    let Json(CordonWanted { drain }) = match body {
        Ok(body) => body,
        Err(rejection) => return bad_json(&rejection),
    };
    let what = if drain { "node.drain" } else { "node.cordon" };
    change_node(&plane, caller, &name, (what, String::new()), |fleet, name, now| fleet.cordon(name, drain, now).map(Ok))
        .await
}

pub(super) async fn uncordon(
    State(Admin { plane, .. }): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Response {
    let act = ("node.uncordon", String::new());
    change_node(&plane, caller, &name, act, |fleet, name, now| fleet.uncordon(name, now).map(Ok)).await
}

pub(super) async fn label(
    State(Admin { plane, .. }): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    body: Result<Json<LabelsWanted>, JsonRejection>,
) -> Response {
    let Json(LabelsWanted { add, remove }) = match body {
        Ok(body) => body,
        Err(rejection) => return bad_json(&rejection),
    };
    let signed = |sign: char, labels: &[_]| labels.iter().map(|label| format!("{sign}{label}")).collect::<Vec<_>>();
    let detail = [signed('+', &add), signed('-', &remove)].concat().join(" ");
    change_node(&plane, caller, &name, ("node.label", detail), |fleet, name, _| fleet.label(name, &add, &remove)).await
}

pub(super) async fn events(
    State(Admin { plane, .. }): State<Admin>,
    Query(EventsQuery { after }): Query<EventsQuery>,
) -> Json<Vec<Event>> {
    Json(plane.look(|fleet| fleet.events(after).cloned().collect()))
}
