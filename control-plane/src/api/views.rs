//! What the admin API says: the shapes that `--json` prints too. Fields are only ever added.

use super::rollout_view::SampleView;
use crate::{
    audit::Entry,
    definition::{Mistake, SourceFile},
    fleet::{
        Fleet,
        accounts::{AccountName, AccountRecord, Role},
        change::Plan,
        figures,
        records::{FiguresRecord, NodeRecord},
    },
    store::etcd::Leader,
};
use nearfield_shared::{
    desired::Generation,
    region::RegionId,
    report::{DURATION_BOUNDS_S, LATENCY_BOUNDS_MS},
    rollout::Label,
    trial::Trying,
    wire::{
        NodeName,
        message::{DeviceSummary, LiveModel, Status},
    },
};
use serde::{Deserialize, Serialize};

/// `POST plan` and `POST apply`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Files {
    /// The definition's files.
    pub files: Vec<SourceFile>,
}

/// The answer to both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanView {
    /// The files have mistakes; nothing was done.
    Mistakes(Vec<Mistake>),
    /// What changes, or has changed.
    Plan(Plan),
}

/// `POST tokens`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewToken {
    /// The region that the node enrols into.
    pub region: RegionId,
    /// Its name, where the admin chooses it.
    #[serde(default)]
    pub node: Option<NodeName>,
    /// Seconds until it ends.
    pub ttl_s: i64,
}

/// `POST nodes/NODE/revoke`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Revocation {
    /// Why, in the admin's words.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The answer: the one time that the token can be seen.
#[derive(Clone, Serialize, Deserialize)]
pub struct TokenView {
    /// The text for `edge-agent enroll --token`.
    pub token: String,
    /// The region.
    pub region: RegionId,
    /// The node's name, where the admin chose it.
    pub node: Option<NodeName>,
    /// When it ends, seconds since 1970.
    pub expires_unix_s: i64,
}

/// `POST nodes/NODE/cordon`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct CordonWanted {
    /// Whether the node should take no new calls at all.
    #[serde(default)]
    pub drain: bool,
}

/// `POST nodes/NODE/labels`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LabelsWanted {
    /// Labels that it gets.
    pub add: Vec<Label>,
    /// Labels that it loses.
    pub remove: Vec<Label>,
}

/// `GET events`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EventsQuery {
    /// Only events with a higher number.
    pub after: u64,
}

/// `POST accounts`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewAccount {
    /// Its name.
    pub name: AccountName,
    /// What it may do.
    pub role: Role,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountView {
    /// Its name.
    pub name: AccountName,
    /// What it may do.
    pub role: Role,
    /// When it was made, seconds since 1970.
    pub created_unix_s: i64,
    /// When its token was made, seconds since 1970.
    pub token_unix_s: i64,
}

impl From<&AccountRecord> for AccountView {
    fn from(record: &AccountRecord) -> Self {
        let AccountRecord { name, role, created_unix_s, token_unix_s, .. } = record;
        Self { name: name.clone(), role: *role, created_unix_s: *created_unix_s, token_unix_s: *token_unix_s }
    }
}

/// The answer to making an account or its token: the one time that the token can be seen.
#[derive(Clone, Serialize, Deserialize)]
pub struct MadeAccount {
    /// The account.
    #[serde(flatten)]
    pub account: AccountView,
    /// Its token.
    pub token: String,
}

/// `GET audit`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditQuery {
    /// How many of the last lines.
    pub last: usize,
    /// Only those that did this, for example `node.renew`.
    #[serde(default)]
    pub what: Option<String>,
    /// Only those that did it to this, for example `node/fra-1`.
    #[serde(default)]
    pub object: Option<String>,
}

/// The store was exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// When, seconds since 1970.
    pub unix_s: i64,
}

/// How many changes of imported models were added to the audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// Lines.
    pub noted: usize,
}

/// The last lines of the audit, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditView {
    /// The lines.
    pub entries: Vec<Entry>,
    /// What is wrong with lines that cannot be read.
    pub problems: Vec<String>,
}

/// `GET audit/verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditVerdict {
    /// Lines that hold, from the first on.
    pub lines: u64,
    /// What is wrong with the next; `None` where nothing is.
    pub problem: Option<String>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub node: NodeName,
    /// Its region.
    pub region: RegionId,
    /// `up`, `connected`, `returning`, `down` or `revoked`.
    pub state: String,
    /// Since when, seconds since 1970.
    pub since_unix_s: i64,
    /// The generation it serves.
    pub serving: Generation,
    /// The generation it should serve.
    pub desired: Option<Generation>,
    /// Why it does not, where it said so.
    pub refusal: Option<String>,
    /// Its agent's version.
    pub agent_version: Option<String>,
    /// What it computes on.
    pub device: Option<DeviceSummary>,
    /// Where callers reach it.
    pub public_url: Option<String>,
    /// Calls right now, and at most.
    pub calls: Option<(u32, u32)>,
    /// Share of the device's time in use.
    pub load: Option<f32>,
    /// How far it has come with trying new models on its turns, while it does.
    #[serde(default)]
    pub trial: Option<Trying>,
    /// `cordoned`, `draining` (calls go on), `drained`, or nothing.
    #[serde(default)]
    pub cordon: Option<String>,
    /// Its labels.
    #[serde(default)]
    pub labels: Vec<Label>,
    /// What its calls came to under the generation that it serves, as far as it reported them.
    #[serde(default)]
    pub figures: Option<SampleView>,
    /// Its live models.
    pub models: Vec<LiveModel>,
    /// Bytes of model weights in its memory.
    pub resident_bytes: Option<u64>,
    /// When it was enrolled, seconds since 1970.
    pub enrolled_unix_s: i64,
    /// When its certificate was signed, seconds since 1970; 0 where an older control plane did it.
    #[serde(default)]
    pub certificate_issued_unix_s: i64,
    /// When its certificate expires, seconds since 1970.
    pub certificate_expires_unix_s: i64,
    /// `good`, `renewing` (the next one is signed and not used yet), `overdue`, `ended` (it can still be renewed) or `revoked`.
    #[serde(default)]
    pub certificate: String,
    /// Why it was revoked, where it was and somebody said why.
    #[serde(default)]
    pub revoked_reason: Option<String>,
}

impl NodeView {
    /// A node as it is now.
    pub fn of(fleet: &Fleet, node: &NodeRecord, now: i64) -> Self {
        let live = fleet.live(&node.node);
        let status: Option<&Status> = live.and_then(|live| live.status.as_ref());
        Self {
            node: node.node.clone(),
            region: node.region.clone(),
            state: fleet.state(node, now).as_str().to_owned(),
            since_unix_s: live.map_or(node.transition.unix_s, |live| live.since),
            serving: node.serving,
            desired: fleet.offered(&node.region, &node.node),
            refusal: node
                .refusal
                .as_ref()
                .map(|refusal| format!("generation {}: {}", refusal.generation, refusal.detail)),
            agent_version: node.agent_version.as_ref().map(ToString::to_string),
            device: node.device.clone(),
            public_url: node.public_url.as_ref().map(ToString::to_string),
            calls: status.map(|status| (status.calls_in_progress, status.calls_max)),
            load: status.map(|status| status.load),
            trial: status.and_then(|status| status.trial),
            cordon: node.cordon.map(|cordon| {
                let word = match (cordon.drain, status.map_or(0, |status| status.calls_in_progress)) {
                    (false, _) => "cordoned",
                    (true, 0) => "drained",
                    (true, _) => "draining",
                };
                word.to_owned()
            }),
            labels: node.labels.iter().cloned().collect(),
            figures: fleet.recent(&node.node).map(SampleView::from),
            models: status.map(|status| status.models.clone()).unwrap_or_default(),
            resident_bytes: status.map(|status| status.resident_bytes),
            enrolled_unix_s: node.enrolled_unix_s,
            certificate_issued_unix_s: node.issued_unix_s,
            certificate_expires_unix_s: node.expires_unix_s,
            certificate: node.certificate_state(now).to_owned(),
            revoked_reason: node.revoked_reason.clone(),
        }
    }
}

/// One region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionView {
    /// Its name.
    pub region: RegionId,
    /// The law it stands under.
    pub jurisdiction: String,
    /// Its generation.
    pub generation: Generation,
    /// When that was made, seconds since 1970.
    pub changed_unix_s: i64,
    /// Nodes enrolled and not revoked.
    pub nodes: usize,
    /// Nodes that callers are sent to.
    pub up: usize,
    /// Nodes that serve this generation.
    pub current: usize,
    /// Nodes that refused it.
    pub refused: usize,
}

/// `GET status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the server started.
    pub uptime_s: u64,
    /// Where agents connect.
    pub agents: String,
    /// Where callers ask: the base URL.
    pub api: String,
    /// Links open.
    pub connections: usize,
    /// Whether the last change reached the disk.
    pub store_works: bool,
    /// The state folder.
    pub state_dir: String,
    /// Whether another control plane leads, or nobody does yet; then nothing of the fleet is told.
    #[serde(default)]
    pub stands_by: bool,
    /// Who leads, where several control planes share a store.
    #[serde(default)]
    pub leader: Option<Leader>,
    /// Models that regions name and that this control plane cannot give, in words.
    #[serde(default)]
    pub lacking: Vec<String>,
    /// Each region.
    pub regions: Vec<RegionView>,
}

/// All regions as they are now.
pub fn regions(fleet: &Fleet, now: i64) -> Vec<RegionView> {
    fleet
        .regions()
        .map(|record| {
            let nodes: Vec<NodeView> = fleet
                .nodes()
                .filter(|node| node.region == record.id && node.revoked_unix_s.is_none())
                .map(|node| NodeView::of(fleet, node, now))
                .collect();
            let count = |which: &dyn Fn(&NodeView) -> bool| nodes.iter().filter(|node| which(node)).count();
            RegionView {
                region: record.id.clone(),
                jurisdiction: record.defined.as_ref().map(|d| d.region.jurisdiction.to_string()).unwrap_or_default(),
                generation: record.generation,
                changed_unix_s: record.changed_unix_s,
                nodes: nodes.len(),
                up: count(&|node| node.state == "up" || node.state == "returning"),
                current: count(&|node| node.serving == record.generation),
                refused: count(&|node| node.serving < record.generation && node.refusal.is_some()),
            }
        })
        .collect()
}

/// Figures of one region on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FiguresView {
    /// The region.
    pub region: RegionId,
    /// The day (UTC).
    pub day: String,
    /// Calls that ended.
    pub calls: u64,
    /// Turns answered from the cache of known questions.
    pub turns_from_cache: u64,
    /// Turns answered by the language model.
    pub turns_by_model: u64,
    /// Turns whose answer failed.
    #[serde(default)]
    pub turns_failed: u64,
    /// Calls handed to a person.
    pub handed_over: u64,
    /// Calls whose caller left early.
    pub dropped: u64,
    /// Answers spoken over.
    pub barge_ins: u64,
    /// Turns whose words were asked for before the turn had certainly ended, and used.
    pub begun_ahead: u64,
    /// Work that was begun before a turn had certainly ended and was thrown away, in milliseconds.
    pub wasted_ahead_ms: u64,
    /// Upper bound in milliseconds of the bucket that holds the median of commit to first audio; `None` without turns, or above
    /// the last bound.
    pub first_audio_p50_ms_max: Option<u32>,
    /// The same for the 95th percentile.
    pub first_audio_p95_ms_max: Option<u32>,
    /// Upper bound in seconds of the bucket that holds the median duration.
    pub duration_p50_s_max: Option<u32>,
    /// Counts of the buckets `first_audio_bounds_ms`, and one above.
    pub first_audio: Vec<u64>,
    /// Upper bounds of `first_audio`.
    pub first_audio_bounds_ms: Vec<u32>,
    /// Counts of the buckets `duration_bounds_s`, and one above.
    pub duration: Vec<u64>,
    /// Upper bounds of `duration`.
    pub duration_bounds_s: Vec<u32>,
}

/// The upper bound of the bucket that holds this share of all counts.
fn quantile(counts: &[u64], bounds: &[u32], share: f64) -> Option<u32> {
    let all: u64 = counts.iter().sum();
    let rank = (all as f64 * share).ceil().max(1.0) as u64;
    let mut seen = 0;
    let bucket = counts.iter().position(|count| {
        seen += count;
        seen >= rank
    })?;
    bounds.get(bucket).copied()
}

impl From<&FiguresRecord> for FiguresView {
    fn from(row: &FiguresRecord) -> Self {
        Self {
            region: row.region.clone(),
            day: row.day.clone(),
            calls: row.calls,
            turns_from_cache: row.turns_from_cache,
            turns_by_model: row.turns_by_model,
            turns_failed: row.turns_failed,
            handed_over: row.handed_over,
            dropped: row.dropped,
            barge_ins: row.barge_ins,
            begun_ahead: row.begun_ahead,
            wasted_ahead_ms: row.wasted_ahead_ms,
            first_audio_p50_ms_max: quantile(&row.first_audio, &LATENCY_BOUNDS_MS, 0.5),
            first_audio_p95_ms_max: quantile(&row.first_audio, &LATENCY_BOUNDS_MS, 0.95),
            duration_p50_s_max: quantile(&row.duration, &DURATION_BOUNDS_S, 0.5),
            first_audio: row.first_audio.clone(),
            first_audio_bounds_ms: LATENCY_BOUNDS_MS.to_vec(),
            duration: row.duration.clone(),
            duration_bounds_s: DURATION_BOUNDS_S.to_vec(),
        }
    }
}

/// `3 d 4 h`, `5 min`, `12 s`: the two largest units are enough.
pub fn ago(seconds: u64) -> String {
    let (d, h, m) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (d, h, m) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, m) => format!("{m} min"),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) => format!("{d} d {h} h"),
    }
}

/// A time as people read it: UTC, to the second.
pub fn time(unix_s: i64) -> String {
    jiff::Timestamp::from_second(unix_s).map_or_else(|_| figures::day(unix_s), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        let check =
            |counts: &[u64], share, expect| assert_eq!(quantile(counts, &[50, 100], share), expect, "{counts:?}");
        check(&[1, 0, 0], 0.5, Some(50));
        check(&[1, 1, 0], 0.5, Some(50));
        check(&[1, 2, 0], 0.5, Some(100));
        check(&[1, 1, 8], 0.95, None);
        check(&[0, 0, 0], 0.5, None);
        check(&[], 0.5, None);
    }
}
