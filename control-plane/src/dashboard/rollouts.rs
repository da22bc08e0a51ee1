//! Rollouts: where each stands, wave by wave, what it is judged by, and what happened.

use super::{Place, whole};
use crate::api::{
    admin::Admin,
    rollout_view::{self, RolloutView, SampleView},
    views,
};
use axum::{extract::State, response::Response};
use maud::{Markup, html};

/// Lines of each log that are shown.
const LOG_SHOWN: usize = 30;

pub(super) async fn page(State(Admin { plane, .. }): State<Admin>) -> Response {
    let rollouts = plane.look(|fleet| rollout_view::rollouts(fleet, plane.now()));
    let content = html! {
        h1 { "Rollouts" }
        @if rollouts.is_empty() {
            p { "None yet. A change of a region whose file has " code { "[rollout]" } " goes out in waves; without it, all nodes are told at once." }
        }
        @for rollout in &rollouts { (one(rollout)) }
    };
    whole(Place::Rollouts, &content)
}

fn figures(sample: &SampleView) -> Markup {
    html! {
        td.number { (sample.turns) }
        td.number { @if let Some(percent) = sample.errors_percent { (format!("{percent:.1} %")) } @else { "–" } }
        td.number { @if let Some(ms) = sample.p95_ms { (format!("{ms:.0} ms")) } @else { "–" } }
    }
}

fn one(rollout: &RolloutView) -> Markup {
    html! {
        section {
            h2 { (rollout.region) ": generation " (rollout.from) " to " (rollout.to) }
            p.bad[rollout.state == "undone"] { (rollout.stands) }
            p {
                progress max=(rollout.nodes.max(1)) value=(rollout.serving) aria-label="Nodes that serve the change" {}
                " " (rollout.serving) " of " (rollout.nodes) " nodes serve it"
            }
            table {
                thead { tr {
                    th.number scope="col" { "Wave" } th scope="col" { "Nodes" } th scope="col" { "Approval" } th.number scope="col" { "Watched for" }
                    th scope="col" { "State" } th.number scope="col" { "Serve it" }
                } }
                tbody { @for (i, wave) in rollout.waves.iter().enumerate() { tr {
                    th.number scope="row" { (i + 1) }
                    td { @if let Some(label) = &wave.label { (label) ", " } "up to " (wave.percent) " %" }
                    td { @if wave.approval { "asked" } @else { "–" } }
                    td.number { (views::ago(wave.bake_s.unsigned_abs())) }
                    td.bad[wave.state == "undone"] { (wave.state) }
                    td.number { (wave.serving) " of " (wave.nodes) }
                } } }
            }
            table {
                thead { tr {
                    th scope="col" { "Calls since the wave began" } th.number scope="col" { "Turns" } th.number scope="col" { "Failed" }
                    th.number scope="col" { "First audio p95" }
                } }
                tbody {
                    tr { th scope="row" { "with the change" } (figures(&rollout.new)) }
                    @if let (Some(sample), Some(which)) = (&rollout.reference, &rollout.reference_is) {
                        tr { th scope="row" { (which) } (figures(sample)) }
                    }
                }
            }
            ul { @for entry in rollout.log.iter().rev().take(LOG_SHOWN) {
                li { time { (views::time(entry.unix_s)) } " " (entry.text) }
            } }
        }
    }
}
