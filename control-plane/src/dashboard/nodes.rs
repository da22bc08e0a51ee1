//! Nodes, a page at a time: those of a region or in a state, where one is asked for.

use super::{Place, whole};
use crate::api::{
    admin::Admin,
    views::{self, NodeView},
};
use axum::{
    extract::{Query, State},
    response::Response,
};
use maud::{Markup, html};
use serde::Deserialize;

/// Nodes on one page.
const PAGE: usize = 100;

/// What is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    region: String,
    state: String,
    page: usize,
}

impl Asked {
    fn link(&self, page: usize) -> String {
        // What a stranger put there is not carried on: names of regions and states have letters, digits and dashes only.
        let plain = |text: &str| text.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect::<String>();
        format!("/dashboard/nodes?region={}&state={}&page={page}", plain(&self.region), plain(&self.state))
    }
}

pub(super) async fn page(State(Admin { plane, .. }): State<Admin>, Query(asked): Query<Asked>) -> Response {
    let now = plane.now();
    let (regions, found, shown) = plane.look(|fleet| {
        let regions: Vec<String> = fleet.regions().map(|region| region.id.to_string()).collect();
        let wanted = fleet
            .nodes()
            .filter(|node| asked.region.is_empty() || node.region.as_str() == asked.region)
            .filter(|node| asked.state.is_empty() || fleet.state(node, now).as_str() == asked.state);
        let wanted: Vec<_> = wanted.collect();
        let shown: Vec<NodeView> = wanted
            .iter()
            .skip(asked.page.saturating_mul(PAGE))
            .take(PAGE)
            .map(|node| NodeView::of(fleet, node, now))
            .collect();
        (regions, wanted.len(), shown)
    });
    let states = ["up", "connected", "returning", "down", "revoked"];
    let last = found.saturating_sub(1) / PAGE;
    let content = html! {
        h1 { "Nodes" }
        form method="get" {
            label { "Region " (choice("region", &asked.region, regions.iter().map(String::as_str))) }
            label { "State " (choice("state", &asked.state, states)) }
            button { "Show" }
        }
        p { (found) @if found == 1 { " node" } @else { " nodes" } @if last > 0 { ", page " (asked.page + 1) " of " (last + 1) } }
        @if !shown.is_empty() { (table(&shown, now)) }
        @if last > 0 {
            nav aria-label="Pages of nodes" {
                @if asked.page > 0 { a href=(asked.link(asked.page - 1)) { "Before" } }
                @if asked.page < last { a href=(asked.link(asked.page + 1)) { "Next" } }
            }
        }
    };
    whole(Place::Nodes, &content)
}

fn choice<'a>(name: &str, chosen: &str, options: impl IntoIterator<Item = &'a str>) -> Markup {
    html! {
        select name=(name) {
            option value="" { "all" }
            @for option in options { option value=(option) selected[option == chosen] { (option) } }
        }
    }
}

fn table(nodes: &[NodeView], now: i64) -> Markup {
    html! {
        table {
            thead { tr {
                th scope="col" { "Node" } th scope="col" { "Region" } th scope="col" { "State" } th.number scope="col" { "Since" }
                th.number scope="col" { "Serves" } th.number scope="col" { "Calls" } th.number scope="col" { "Load" }
                th scope="col" { "Version" } th scope="col" { "Device" } th scope="col" { "Certificate" }
            } }
            tbody { @for node in nodes { tr {
                th scope="row" { (node.node) }
                td { (node.region) }
                td.state.bad[node.state == "down" || node.state == "revoked"] {
                    (node.state) @if let Some(cordon) = &node.cordon { ", " (cordon) }
                }
                td.number { (views::ago(now.abs_diff(node.since_unix_s))) }
                td.number.bad[node.refusal.is_some()] title=[node.refusal.as_ref()] {
                    (node.serving) @if node.desired.is_some_and(|desired| desired != node.serving) { " of " (node.desired.unwrap_or_default()) }
                }
                td.number { @if let Some((now, most)) = node.calls { (now) "/" (most) } @else { "–" } }
                td.number { @if let Some(load) = node.load { (format!("{:.0} %", load * 100.0)) } @else { "–" } }
                td { (node.agent_version.as_deref().unwrap_or("–")) }
                td { (node.device.as_ref().map_or("–", |device| device.name.as_str())) }
                td { (node.certificate) }
            } } }
        }
    }
}
