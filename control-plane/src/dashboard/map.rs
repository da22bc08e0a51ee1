//! Regions on a map: degrees east and north as they are, with lines every thirty of them. The coldest parts, where no node is, are left out.

use crate::{api::views::RegionView, fleet::Fleet};
use maud::{Markup, html};

/// Units of the drawing for each degree.
const SCALE: f64 = 3.0;
/// Degrees north where the map begins, and ends.
const NORTH: f64 = 80.0;
const SOUTH: f64 = -60.0;
const WIDTH: f64 = 360.0 * SCALE;
const HEIGHT: f64 = (NORTH - SOUTH) * SCALE;

/// Where a point stands in the drawing.
fn place(longitude: f64, latitude: f64) -> (f64, f64) {
    ((longitude + 180.0) * SCALE, (NORTH - latitude.clamp(SOUTH, NORTH)) * SCALE)
}

/// Radius of the circle of so many nodes: its area grows with them.
fn radius(nodes: usize) -> f64 {
    (7.0 + 2.5 * (nodes as f64).sqrt()).min(40.0)
}

/// How a region is, in a word that also names its colour.
fn state(region: &RegionView) -> &'static str {
    match (region.nodes, region.up) {
        (0, _) => "empty",
        (_, 0) => "down",
        (nodes, up) if up < nodes || region.refused > 0 => "partly",
        _ => "up",
    }
}

pub(super) fn of(fleet: &Fleet, regions: &[RegionView]) -> Markup {
    let placed = regions.iter().filter_map(|region| {
        let at = fleet.region(&region.region)?.defined.as_ref()?.region.location;
        Some((region, place(at.longitude, at.latitude)))
    });
    html! {
        svg.map viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label="Regions by their place on earth; the table below says the same" {
            @for degrees in (-150..=150).step_by(30) {
                @let (x, _) = place(f64::from(degrees), 0.0);
                line x1=(x) x2=(x) y1="0" y2=(HEIGHT) {}
            }
            @for degrees in (-30..=60).step_by(30) {
                @let (_, y) = place(0.0, f64::from(degrees));
                line.equator[degrees == 0] x1="0" x2=(WIDTH) y1=(y) y2=(y) {}
            }
            @for (region, (x, y)) in placed {
                // A name at the eastern edge stands on the other side.
                @let eastern = x > WIDTH * 0.85;
                g class=(state(region)) {
                    circle cx=(x) cy=(y) r=(radius(region.nodes)) {}
                    text x=(if eastern { x - radius(region.nodes) - 6.0 } else { x + radius(region.nodes) + 6.0 }) y=(y + 6.0)
                        text-anchor=(if eastern { "end" } else { "start" }) {
                        (region.region) " " (region.up) "/" (region.nodes)
                    }
                }
            }
        }
        p.legend { "Nodes up, of those enrolled." }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn north_is_up_and_east_is_right() {
        assert_eq!(place(0.0, 0.0), (WIDTH / 2.0, 80.0 * SCALE));
        assert_eq!((place(-180.0, 80.0), place(180.0, -60.0)), ((0.0, 0.0), (WIDTH, HEIGHT)));
        assert_eq!(place(0.0, -78.0).1, HEIGHT, "a station at the pole stands at the edge");
        assert!(radius(1) < radius(4) && radius(1_000_000) <= 40.0);
    }
}
