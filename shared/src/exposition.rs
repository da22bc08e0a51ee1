//! Measurements in the text format that Prometheus reads.

use std::fmt::{Display, Write as _};

/// What a measurement does over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It goes up and down.
    Gauge,
    /// It only goes up, or starts anew.
    Counter,
    /// Cumulative counts of buckets, each with the label `le`.
    Histogram,
}

/// A text that grows by one family of measurements after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposition {
    prefix: &'static str,
    text: String,
}

impl Exposition {
    /// The `Content-Type` of the text.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// An empty text whose names all begin with `prefix`.
    pub fn new(prefix: &'static str) -> Self {
        Self { prefix, text: String::new() }
    }

    /// A family with one value and no label.
    pub fn one(&mut self, name: &str, kind: Kind, help: &str, value: impl Into<f64>) {
        self.family(name, kind, help, [(String::new(), value.into())]);
    }

    /// A family with a value for each set of labels. A histogram's name ends in `_bucket` here.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str, values: impl IntoIterator<Item = (String, f64)>) {
        let (prefix, family) = (self.prefix, name.trim_end_matches("_bucket"));
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {prefix}_{family} {help}\n# TYPE {prefix}_{family} {kind}");
        for (labels, value) in values {
            let _ = writeln!(self.text, "{prefix}_{name}{labels} {value}");
        }
    }

    /// The text.
    pub fn finish(self) -> String {
        self.text
    }
}

/// Labels as they stand behind a name: `{region="eu",state="up"}`.
pub fn labels<const N: usize>(pairs: [(&str, &dyn Display); N]) -> String {
    let one = |(name, value): (&str, &dyn Display)| {
        let value = value.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("{name}=\"{value}\"")
    };
    format!("{{{}}}", pairs.map(one).join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_as_prometheus_reads_it() {
        let mut text = Exposition::new("ours");
        text.one("up", Kind::Gauge, "Whether it is.", 1);
        let calls = [("eu", 3.0), ("a\"b\\c\nd", 0.5)];
        text.family("calls_total", Kind::Counter, "Calls.", calls.map(|(r, n)| (labels([("region", &r)]), n)));
        text.family("wait_bucket", Kind::Histogram, "Waits.", [(labels([("r", &"x"), ("le", &"+Inf")]), 2.0)]);
        let expected = "# HELP ours_up Whether it is.\n# TYPE ours_up gauge\nours_up 1\n\
            # HELP ours_calls_total Calls.\n# TYPE ours_calls_total counter\nours_calls_total{region=\"eu\"} 3\n\
            ours_calls_total{region=\"a\\\"b\\\\c\\nd\"} 0.5\n\
            # HELP ours_wait Waits.\n# TYPE ours_wait histogram\nours_wait_bucket{r=\"x\",le=\"+Inf\"} 2\n";
        assert_eq!(text.finish(), expected);
    }
}
