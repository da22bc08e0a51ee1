//! What calls of a day came to, region by region: sums over groups of calls, as agents report them.

use crate::api::views::FiguresView;
use maud::{Markup, html};

/// Units of the drawing for each bar.
const BAR: usize = 14;
const HEIGHT: f64 = 40.0;

pub(super) fn table(rows: &[FiguresView]) -> Markup {
    if rows.is_empty() {
        return html! { p { "None reported yet. Figures come only about groups of calls, so the first ones wait for a group." } };
    }
    let share = |part: u64, of: u64| {
        if of == 0 { "–".to_owned() } else { format!("{:.0} %", part as f64 / of as f64 * 100.0) }
    };
    html! {
        table {
            thead { tr {
                th scope="col" { "Region" } th.number scope="col" { "Calls" } th.number scope="col" { "Turns from the cache" }
                th.number scope="col" { "Handed over" } th.number scope="col" { "Left early" } th.number scope="col" { "Spoken over" }
                th.number scope="col" { "First audio p50 / p95" } th scope="col" { "First audio" }
            } }
            tbody { @for row in rows { tr {
                th scope="row" { (row.region) }
                td.number { (row.calls) }
                td.number { (share(row.turns_from_cache, row.turns_from_cache + row.turns_by_model)) }
                td.number { (share(row.handed_over, row.calls)) }
                td.number { (share(row.dropped, row.calls)) }
                td.number { (row.barge_ins) }
                td.number { (at_most(row, row.first_audio_p50_ms_max)) " / " (at_most(row, row.first_audio_p95_ms_max)) " ms" }
                td { (bars(row)) }
            } } }
        }
    }
}

/// The upper bound of a bucket, or that it is above the last one.
fn at_most(row: &FiguresView, bound: Option<u32>) -> String {
    match (bound, row.first_audio_bounds_ms.last()) {
        (Some(bound), _) => format!("≤ {bound}"),
        (None, Some(last)) if row.first_audio.iter().any(|count| *count > 0) => format!("> {last}"),
        _ => "–".to_owned(),
    }
}

/// The buckets from commit to first audio.
fn bars(row: &FiguresView) -> Markup {
    let most = row.first_audio.iter().copied().max().unwrap_or(0).max(1);
    let bounds = row.first_audio_bounds_ms.iter().map(|bound| format!("up to {bound} ms")).chain(["longer".to_owned()]);
    html! {
        svg.bars viewBox={ "0 0 " (row.first_audio.len() * BAR) " " (HEIGHT) } role="img" aria-label="Turns by the time to their first audio" {
            @for (i, (count, bound)) in row.first_audio.iter().zip(bounds).enumerate() {
                @let height = *count as f64 / most as f64 * HEIGHT;
                rect x=(i * BAR) y=(HEIGHT - height) width=(BAR - 2) height=(height) { title { (bound) ": " (count) } }
            }
        }
    }
}
