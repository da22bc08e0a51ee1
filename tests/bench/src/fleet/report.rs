//! What came of it, for a person and for a program.

use comfy_table::{Table as Grid, presets};
use serde::Serialize;

/// How a restart went.
#[derive(Debug, Clone, Serialize)]
pub struct Restart {
    /// Whether it was killed instead of being told to stop.
    pub crash: bool,
    /// Until it served again.
    pub started_seconds: f64,
    /// Until half of the nodes were welcomed again.
    pub p50_seconds: Option<f64>,
    /// Until 99 of 100 were.
    pub p99_seconds: Option<f64>,
    /// Until all were.
    pub all_seconds: Option<f64>,
}

/// Every figure. Memory is resident memory of the control plane over that of one without nodes, divided by the nodes.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Simulated nodes.
    pub agents: usize,
    /// Processes that they ran in.
    pub processes: usize,
    /// Regions that they belong to.
    pub regions: usize,
    /// To make all tokens and enrol all nodes.
    pub enrol_seconds: f64,
    /// From the first dial to the welcome, 99 of 100 nodes.
    pub connect_p99_seconds: Option<f64>,
    /// From the first dial until the plane knew that all serve what they should.
    pub settled_seconds: f64,
    /// After the enrolment, none connected.
    pub kib_per_agent_enrolled: f64,
    /// Connected and at rest.
    pub kib_per_agent_connected: f64,
    /// At most.
    pub kib_per_agent_peak: f64,
    /// Cores that the plane takes while nothing happens.
    pub idle_cores: f64,
    /// Cores that the simulated nodes take meanwhile.
    pub idle_crowd_cores: f64,
    /// From the admin's request to a state in use on a node.
    pub push_p50_ms: Option<f64>,
    /// The same, 99 of 100.
    pub push_p99_ms: Option<f64>,
    /// Until the plane had every acknowledgement on its disk and told so.
    pub acknowledged_ms: Option<f64>,
    /// Until the admin's request was answered: the new state is on the plane's disk then, and in the audit.
    pub stored_ms: Option<f64>,
    /// What the plane computes for a push to one node, in microseconds.
    pub push_plane_us: Option<f64>,
    /// What the simulated node computes.
    pub push_crowd_us: Option<f64>,
    /// Size of the model that was fetched.
    pub model_mb: f64,
    /// Rate at which one node took it to its disk, verified.
    pub gbit_s: Option<f64>,
    /// Share of its bytes that the second node of a region took from the first; `None` where no process has two of one region.
    pub near_share: Option<f64>,
    /// Restarts of the control plane.
    pub restarts: Vec<Restart>,
}

impl Report {
    /// For a person.
    pub fn text(&self) -> String {
        let figure =
            |value: Option<f64>, digits: usize| value.map_or_else(|| "–".to_owned(), |v| format!("{v:.digits$}"));
        let mut grid = Grid::new();
        grid.load_style(presets::ASCII_MARKDOWN);
        grid.set_header(["what", "figure"]);
        let mut row = |what: &str, value: String| {
            grid.add_row([what.to_owned(), value]);
        };
        row("nodes connected", format!("{} in {} processes, {} regions", self.agents, self.processes, self.regions));
        row("tokens and enrolment of all", format!("{:.1} s", self.enrol_seconds));
        row("first dial → welcome, p99", format!("{} s", figure(self.connect_p99_seconds, 1)));
        row("first dial → all serve, as the plane knows", format!("{:.1} s", self.settled_seconds));
        row(
            "memory of the plane for a node: enrolled, connected at rest, peak",
            format!(
                "{:.1}, {:.1}, {:.1} KiB",
                self.kib_per_agent_enrolled, self.kib_per_agent_connected, self.kib_per_agent_peak
            ),
        );
        row("cores at rest: plane, nodes", format!("{:.2}, {:.2}", self.idle_cores, self.idle_crowd_cores));
        row(
            "state pushed to all: in use on a node p50, p99; all acknowledged",
            format!(
                "{}, {}; {} ms",
                figure(self.push_p50_ms, 0),
                figure(self.push_p99_ms, 0),
                figure(self.acknowledged_ms, 0)
            ),
        );
        row(
            &format!("model of {:.0} MB to the disk of one node", self.model_mb),
            format!("{} Gbit/s", figure(self.gbit_s, 2)),
        );
        row(
            "of a push: answered to the admin; computed for each node by plane, node",
            format!(
                "{} ms; {}, {} µs",
                figure(self.stored_ms, 0),
                figure(self.push_plane_us, 0),
                figure(self.push_crowd_us, 0)
            ),
        );
        row(
            "second node of a region: share of the model from its neighbour",
            format!("{} %", figure(self.near_share.map(|share| share * 100.0), 1)),
        );
        for restart in &self.restarts {
            row(
                if restart.crash {
                    "killed: serves again; half, 99 %, all back"
                } else {
                    "restarted: serves again; half, 99 %, all back"
                },
                format!(
                    "{:.1}; {}, {}, {} s",
                    restart.started_seconds,
                    figure(restart.p50_seconds, 1),
                    figure(restart.p99_seconds, 1),
                    figure(restart.all_seconds, 1)
                ),
            );
        }
        grid.to_string()
    }
}
