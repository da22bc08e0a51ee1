//! `GET /v1/admin/prometheus`: the fleet as Prometheus reads it. What calls came to are sums over groups of calls, as agents report
//! them; no label names a node or comes from a caller, so there are as many series as regions, however large the fleet is.

use super::{rollout_view, views};
use crate::{
    fleet::{Fleet, NodeState, figures, records::FiguresRecord},
    plane::Plane,
};
use nearfield_shared::{
    exposition::{Exposition, Kind, labels},
    region::RegionId,
    report::{DURATION_BOUNDS_S, LATENCY_BOUNDS_MS},
};
use std::{collections::BTreeMap, fmt::Display};

/// The text.
pub(super) fn text(plane: &Plane) -> String {
    let now = plane.now();
    let mut text = Exposition::new("nearfield_plane");
    let up = plane.started.elapsed().as_secs_f64();
    text.one("uptime_seconds", Kind::Gauge, "Seconds since the server started.", up);
    text.one("connections", Kind::Gauge, "Links of nodes that are open.", plane.connections() as f64);
    let works = u8::from(plane.store_works());
    text.one("store_works", Kind::Gauge, "Whether the last change reached the disk.", works);
    plane.look(|fleet| {
        regions(&mut text, fleet, now);
        rollouts(&mut text, fleet);
        calls(&mut text, fleet, &figures::day(now));
    });
    text.finish()
}

/// Every state is told, so that an alert on one sees it go.
fn rollouts(text: &mut Exposition, fleet: &Fleet) {
    let mut states = BTreeMap::from(rollout_view::STATES.map(|state| (state, 0.0)));
    for (rollout, _) in fleet.rollouts() {
        *states.entry(rollout_view::state(&rollout.phase)).or_default() += 1.0;
    }
    let values = states.into_iter().map(|(state, n)| (labels([("state", &state as &dyn Display)]), n));
    text.family("rollouts", Kind::Gauge, "Regions by the state of their last rollout.", values.collect::<Vec<_>>());
}

fn regions(text: &mut Exposition, fleet: &Fleet, now: i64) {
    let regions = views::regions(fleet, now);
    let mut of_region = |name: &str, help: &str, value: &dyn Fn(&views::RegionView) -> f64| {
        let values = regions.iter().map(|view| (labels([("region", &view.region)]), value(view)));
        text.family(name, Kind::Gauge, help, values.collect::<Vec<_>>());
    };
    of_region("generation", "Generation of a region's desired state.", &|view| view.generation.0 as f64);
    of_region("nodes_up", "Nodes that callers are sent to.", &|view| view.up as f64);
    of_region("nodes_current", "Nodes that serve it.", &|view| view.current as f64);
    of_region("nodes_refused", "Nodes that refused it.", &|view| view.refused as f64);

    let mut states = BTreeMap::<(&RegionId, &str), u32>::new();
    let mut certificates = states.clone();
    // A region whose nodes have said nothing yet has no calls, which is not the same as no answer.
    let mut in_progress: BTreeMap<&RegionId, u32> = fleet.regions().map(|region| (&region.id, 0)).collect();
    let mut most = in_progress.clone();
    for node in fleet.nodes() {
        let state = fleet.state(node, now);
        *states.entry((&node.region, state.as_str())).or_default() += 1;
        *certificates.entry((&node.region, node.certificate_state(now))).or_default() += 1;
        let connected = matches!(state, NodeState::Up | NodeState::Connected | NodeState::Returning);
        if let Some(status) = fleet.live(&node.node).and_then(|live| live.status.as_ref()).filter(|_| connected) {
            *in_progress.entry(&node.region).or_default() += status.calls_in_progress;
            *most.entry(&node.region).or_default() += status.calls_max;
        }
    }
    let by_state = |((region, state), n): ((&RegionId, &str), u32)| {
        (labels([("region", region), ("state", &state)]), f64::from(n))
    };
    let by_region = |(region, n): (&RegionId, u32)| (labels([("region", region)]), f64::from(n));
    text.family("nodes", Kind::Gauge, "Nodes by their state.", states.into_iter().map(by_state));
    text.family(
        "certificates",
        Kind::Gauge,
        "Nodes by the state of their certificate.",
        certificates.into_iter().map(by_state),
    );
    text.family("calls_in_progress", Kind::Gauge, "Calls in progress.", in_progress.into_iter().map(by_region));
    text.family(
        "calls_max",
        Kind::Gauge,
        "Calls at once at most, over connected nodes.",
        most.into_iter().map(by_region),
    );
}

/// What ended calls came to since midnight (UTC): counters that start anew each day.
fn calls(text: &mut Exposition, fleet: &Fleet, today: &str) {
    let rows: Vec<&FiguresRecord> = fleet.figures().filter(|row| row.day == today).collect();
    let mut total = |name: &str, help: &str, value: fn(&FiguresRecord) -> u64| {
        let values = rows.iter().map(|row| (labels([("region", &row.region)]), value(row) as f64));
        text.family(name, Kind::Counter, help, values);
    };
    total("calls_total", "Calls that ended since midnight (UTC).", |row| row.calls);
    total("calls_handed_over_total", "Of these, handed to a person.", |row| row.handed_over);
    total("calls_dropped_total", "Of these, left early by the caller.", |row| row.dropped);
    total("turns_from_cache_total", "Turns answered from the cache of known questions.", |row| row.turns_from_cache);
    total("turns_by_model_total", "Turns answered by the language model.", |row| row.turns_by_model);
    total("barge_ins_total", "Answers spoken over.", |row| row.barge_ins);
    let seconds = LATENCY_BOUNDS_MS.map(|ms| f64::from(ms) / 1e3);
    let first_audio = rows.iter().flat_map(|row| buckets(&row.region, &seconds, &row.first_audio));
    text.family(
        "first_audio_seconds_bucket",
        Kind::Histogram,
        "From the commit of a turn to the first audio.",
        first_audio,
    );
    let duration = rows.iter().flat_map(|row| buckets(&row.region, &DURATION_BOUNDS_S, &row.duration));
    text.family("call_duration_seconds_bucket", Kind::Histogram, "How long calls lasted.", duration);
}

/// Counts of buckets and of what lies above the last bound, each with those below it.
fn buckets(region: &RegionId, bounds: &[impl Display], counts: &[u64]) -> Vec<(String, f64)> {
    let bounds = bounds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
    let mut below = 0;
    bounds
        .enumerate()
        .map(|(i, bound)| {
            // A record of an earlier version may know fewer buckets.
            below += counts.get(i).copied().unwrap_or(0);
            (labels([("region", region), ("le", &bound)]), below as f64)
        })
        .collect()
}
