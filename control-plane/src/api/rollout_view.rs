//! What the admin API says of rollouts. Fields are only ever added.

use super::views::ago;
use crate::{
    fleet::Fleet,
    rollout::{Evidence, Phase, Rollout, Sample, Wait},
};
use nearfield_shared::{desired::Generation, region::RegionId, rollout::Label, trial::Trying, wire::NodeName};
use serde::{Deserialize, Serialize};

/// Names of a wave's nodes that are told.
const NAMES_MAX: usize = 20;

/// A rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutView {
    /// The region.
    pub region: RegionId,
    /// What served before.
    pub from: Generation,
    /// What is rolled out.
    pub to: Generation,
    /// `waiting`, `moving`, `baking`, `done` or `undone`.
    pub state: String,
    /// Whether it is paused.
    pub paused: bool,
    /// Where it stands, in a sentence.
    pub stands: String,
    /// When it began, seconds since 1970.
    pub began_unix_s: i64,
    /// Nodes of the region that are not revoked.
    pub nodes: usize,
    /// Nodes that were given the change.
    pub moved: usize,
    /// Nodes that serve it.
    pub serving: usize,
    /// Nodes that try it on a share of their turns.
    #[serde(default)]
    pub trying: usize,
    /// The waves, in order.
    pub waves: Vec<WaveView>,
    /// Calls on nodes with the change, since the wave began.
    pub new: SampleView,
    /// What they are held against; `None` while that has too few turns.
    pub reference: Option<SampleView>,
    /// Which calls those are.
    pub reference_is: Option<String>,
    /// What happened, oldest first.
    pub log: Vec<LogView>,
}

/// A wave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaveView {
    /// The label of its nodes, where it asks for one.
    pub label: Option<Label>,
    /// Percent of the nodes that have the change afterwards.
    pub percent: f64,
    /// Whether it has to be approved.
    pub approval: bool,
    /// Seconds for which it is watched.
    pub bake_s: i64,
    /// `to come`, `waiting`, `moving`, `baking`, `passed`, `undone` where it was going on when the rollout was undone, or `not begun` after that.
    pub state: String,
    /// Nodes that it gave the change.
    pub nodes: usize,
    /// Those of them that serve it.
    pub serving: usize,
    /// The first of their names.
    pub names: Vec<NodeName>,
}

/// Figures about turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleView {
    /// Turns.
    pub turns: u64,
    /// Failed ones in percent.
    pub errors_percent: Option<f64>,
    /// 95th percentile from commit to first audio, in milliseconds.
    pub p95_ms: Option<f64>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogView {
    /// When, seconds since 1970.
    pub unix_s: i64,
    /// A word for programs.
    pub what: String,
    /// A sentence for people.
    pub text: String,
}

impl From<&Sample> for SampleView {
    fn from(sample: &Sample) -> Self {
        Self { turns: sample.turns, errors_percent: sample.errors_percent(), p95_ms: sample.p95_ms() }
    }
}

/// All rollouts as they are now.
pub fn rollouts(fleet: &Fleet, now: i64) -> Vec<RolloutView> {
    fleet.rollouts().map(|(rollout, evidence)| RolloutView::of(fleet, rollout, evidence, now)).collect()
}

/// The words of [`RolloutView::state`].
pub const STATES: [&str; 5] = ["waiting", "moving", "baking", "done", "undone"];

/// The word for where a rollout stands.
pub fn state(phase: &Phase) -> &'static str {
    match phase {
        Phase::Waiting { .. } => "waiting",
        Phase::Moving { .. } => "moving",
        Phase::Baking { .. } => "baking",
        Phase::Done { .. } => "done",
        Phase::Undone { .. } => "undone",
    }
}

fn stands(rollout: &Rollout, (serving, of): (usize, usize), trials: &[Trying], now: i64) -> String {
    let wave = format!("wave {} of {}", rollout.wave + 1, rollout.settings.waves.len());
    let stands = match &rollout.phase {
        Phase::Waiting { why: Wait::Approval, .. } if !rollout.approved => {
            format!("{wave} waits for approval (`control-plane rollout approve {}`)", rollout.region)
        }
        Phase::Waiting { why, .. } => format!("{wave} waits for {why}"),
        Phase::Moving { .. } => {
            let turns: u32 = trials.iter().map(|trial| trial.turns).sum();
            let tried = match trials.len() {
                0 => String::new(),
                1 => format!(", 1 tries it ({turns} turns so far)"),
                nodes => format!(", {nodes} try it ({turns} turns so far)"),
            };
            format!("{wave} moves, {serving} of {of} nodes serve the change{tried}")
        }
        Phase::Baking { until_unix_s } => {
            let left = u64::try_from(until_unix_s - now).unwrap_or(0);
            format!("{wave} is watched for another {}", ago(left))
        }
        Phase::Done { .. } => "done".to_owned(),
        Phase::Undone { why, .. } => format!("undone: {why}"),
    };
    if rollout.paused_unix_s.is_some() { format!("paused; {stands}") } else { stands }
}

impl RolloutView {
    /// A rollout as it is now.
    pub fn of(fleet: &Fleet, rollout: &Rollout, evidence: &Evidence, now: i64) -> Self {
        let of_region = || fleet.nodes().filter(|n| n.region == rollout.region && n.revoked_unix_s.is_none());
        let serves = |name: &NodeName| fleet.node(name).is_some_and(|node| node.serving == rollout.to);
        let waves = rollout.settings.waves.iter().enumerate().map(|(i, settings)| {
            let of_wave = || rollout.moved.iter().filter(move |(_, wave)| **wave == i).map(|(node, _)| node);
            let state = match i.cmp(&rollout.wave) {
                std::cmp::Ordering::Less => "passed",
                std::cmp::Ordering::Equal => state(&rollout.phase),
                std::cmp::Ordering::Greater if rollout.is_over() => "not begun",
                std::cmp::Ordering::Greater => "to come",
            };
            WaveView {
                label: settings.label.clone(),
                percent: settings.percent,
                approval: settings.approval,
                bake_s: rollout.bake_s(settings),
                state: state.to_owned(),
                nodes: of_wave().count(),
                serving: of_wave().filter(|node| serves(node)).count(),
                names: of_wave().take(NAMES_MAX).cloned().collect(),
            }
        });
        let waves: Vec<_> = waves.collect();
        let of_wave = waves.get(rollout.wave).map_or((0, 0), |wave| (wave.serving, wave.nodes));
        let reference = evidence.reference(&rollout.settings.gates);
        let moved = rollout.moved.keys().filter(|node| !rollout.is_over() && !serves(node));
        let trials: Vec<Trying> = moved.filter_map(|node| fleet.live(node)?.status.as_ref()?.trial).collect();
        Self {
            region: rollout.region.clone(),
            from: rollout.from,
            to: rollout.to,
            state: state(&rollout.phase).to_owned(),
            paused: rollout.paused_unix_s.is_some(),
            stands: stands(rollout, of_wave, &trials, now),
            began_unix_s: rollout.began_unix_s,
            nodes: of_region().count(),
            moved: rollout.moved.len(),
            serving: of_region().filter(|node| node.serving == rollout.to).count(),
            trying: trials.len(),
            waves,
            new: SampleView::from(&evidence.whole.new),
            reference: reference.map(|(sample, _)| sample.into()),
            reference_is: reference.map(|(_, which)| which.to_string()),
            log: rollout
                .log
                .iter()
                .map(|entry| LogView {
                    unix_s: entry.unix_s,
                    what: entry.what.word().to_owned(),
                    text: entry.what.to_string(),
                })
                .collect(),
        }
    }
}
