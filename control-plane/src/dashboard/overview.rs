//! The first page: how the server is, where the nodes are, what calls came to today.

use super::{Place, figures, map, whole};
use crate::{
    api::{admin::Admin, views},
    fleet::figures::day,
};
use axum::{extract::State, response::Response};
use maud::{Markup, html};

pub(super) async fn page(State(Admin { plane, .. }): State<Admin>) -> Response {
    let now = plane.now();
    let (regions, map, figures) = plane.look(|fleet| {
        let regions = views::regions(fleet, now);
        let today = day(now);
        let today: Vec<_> = fleet.figures().filter(|row| row.day == today).map(views::FiguresView::from).collect();
        (table(&regions, now), map::of(fleet, &regions), figures::table(&today))
    });
    let up = views::ago(plane.started.elapsed().as_secs());
    let content = html! {
        h1 { "Fleet" }
        p.state {
            "control-plane " (env!("CARGO_PKG_VERSION")) ", up " (up) ", links open: " (plane.connections())
            @if !plane.store_works() { " " strong.bad { "The last change did not reach the disk; see the log." } }
        }
        section aria-label="Map" { (map) }
        section { h2 { "Regions" } (regions) }
        section { h2 { "Calls today (UTC)" } (figures) }
    };
    whole(Place::Overview, &content)
}

fn table(regions: &[views::RegionView], now: i64) -> Markup {
    if regions.is_empty() {
        return html! { p { "No regions yet; run " code { "control-plane apply regions/" } "." } };
    }
    html! {
        table {
            thead { tr {
                th scope="col" { "Region" } th scope="col" { "Law" } th.number scope="col" { "Generation" } th.number scope="col" { "Since" }
                th.number scope="col" { "Nodes" } th.number scope="col" { "Up" } th.number scope="col" { "Serve it" } th.number scope="col" { "Refused it" }
            } }
            tbody { @for region in regions { tr {
                th scope="row" { a href={ "/dashboard/nodes?region=" (region.region) } { (region.region) } }
                td { (region.jurisdiction) }
                td.number { (region.generation) }
                td.number { (views::ago(now.abs_diff(region.changed_unix_s))) }
                td.number { (region.nodes) }
                td.number.bad[region.up == 0 && region.nodes > 0] { (region.up) }
                td.number { (region.current) }
                td.number.bad[region.refused > 0] { (region.refused) }
            } } }
        }
    }
}
