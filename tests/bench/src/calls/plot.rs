//! Both curves as a picture: calls at once against the 95th percentile of commit → first audio.

use super::{Curve, P95_MS_MAX};
use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 55.0;
const COLOURS: [&str; 4] = ["#1a6faf", "#c0392b", "#2e8b57", "#7d5ba6"];
/// The picture ends here; what is later than this is as good as no answer.
const MS_MAX: f64 = 3.0 * P95_MS_MAX;

/// An SVG of the curves.
pub fn svg(title: &str, curves: &[Curve]) -> String {
    let calls_max = curves.iter().flat_map(|c| &c.levels).map(|l| l.calls).max().unwrap_or(1).max(2) as f64;
    let x = |calls: f64| LEFT + calls / calls_max * (WIDTH - LEFT - RIGHT);
    let y = |ms: f64| HEIGHT - BOTTOM - ms.min(MS_MAX) / MS_MAX * (HEIGHT - TOP - BOTTOM);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"14\">{}</text>\n",
        escape(title)
    );
    for ms in (0..=(MS_MAX as u32)).step_by(400).map(f64::from) {
        let limit = ms == P95_MS_MAX;
        let (colour, width) = if limit { ("#444", 1.5) } else { ("#ddd", 1.0) };
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{ms:.0} ms</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y(ms) + 4.0,
            y = y(ms)
        );
    }
    let mut calls: Vec<usize> = curves.iter().flat_map(|c| &c.levels).map(|l| l.calls).collect();
    calls.sort_unstable();
    calls.dedup();
    for n in calls {
        let (at, below) = (x(n as f64), HEIGHT - BOTTOM + 18.0);
        let _ = writeln!(out, "<text x=\"{at:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{n}</text>");
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">calls at once (filled: held; open: not held)</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 15.0
    );
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let points: Vec<(f64, f64, bool)> =
            curve.levels.iter().filter_map(|l| Some((x(l.calls as f64), y(l.commit_ms.p95?), l.is_held()))).collect();
        let line: Vec<String> = points.iter().map(|(x, y, _)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            line.join(" ")
        );
        for (x, y, held) in &points {
            let fill = if *held { colour } else { "white" };
            let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{fill}\" stroke=\"{colour}\"/>");
        }
        if let Some((x, y, _)) = points.last() {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\" text-anchor=\"end\">{}</text>",
                x - 8.0,
                y - 8.0,
                escape(&curve.name)
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
