//! What an `apply` would change, and doing it.

use super::{
    Fleet,
    records::{Before, RegionRecord},
};
use crate::{
    definition::{DefinedRegion, Definition},
    rollout::{WavePlan, preview},
    store::Write,
};
use nearfield_shared::{desired::Generation, region::RegionId, release::ProgramManifest, rollout::RolloutSettings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What an `apply` changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// One entry for each region, changed or not.
    pub regions: Vec<RegionPlan>,
    /// Why nothing of it can be done; empty where it can.
    pub refused: Vec<String>,
}

/// What changes in one region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionPlan {
    /// The region.
    pub region: RegionId,
    /// What happens to it.
    pub action: Action,
    /// The generation afterwards.
    pub generation: Generation,
    /// Nodes that are told.
    pub nodes: usize,
    /// Each difference in words: what, from, to.
    pub differences: Vec<Difference>,
    /// The waves in which its nodes are told; empty where all are told at once.
    #[serde(default)]
    pub waves: Vec<WavePlan>,
    /// The generation of a rollout under way that this change ends.
    #[serde(default)]
    pub preempts: Option<Generation>,
}

/// What happens to a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is new.
    Add,
    /// It changes.
    Change,
    /// It is taken out.
    Remove,
    /// It stays.
    Keep,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What: the name of a setting.
    pub what: String,
    /// What it is now; `None` where it is not there.
    pub from: Option<String>,
    /// What it will be; `None` where it goes.
    pub to: Option<String>,
}

impl Plan {
    /// Whether anything changes.
    pub fn changes(&self) -> bool {
        self.regions.iter().any(|region| region.action != Action::Keep)
    }
}

/// Longest value shown in a difference, in characters.
const SHOWN_MAX: usize = 60;

/// A region's settings as flat names and values, for comparing.
fn flatten(defined: &DefinedRegion) -> Vec<(String, String)> {
    let mut flat = Vec::new();
    let mut walk = |root: &str, value: serde_json::Value| {
        let mut stack = vec![(root.to_owned(), value)];
        while let Some((name, value)) = stack.pop() {
            match value {
                serde_json::Value::Object(map) => {
                    stack.extend(map.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
                }
                // A list of tables is compared table by table; a list of words reads best as a whole.
                serde_json::Value::Array(items) if items.iter().any(serde_json::Value::is_object) => {
                    stack.extend(items.into_iter().enumerate().map(|(i, item)| (format!("{name}[{}]", i + 1), item)));
                }
                serde_json::Value::Null => {}
                serde_json::Value::Number(number) => flat.push((name, shown_number(&number))),
                other => flat.push((name, other.to_string())),
            }
        }
    };
    let json = |value: &dyn erased::Json| value.json();
    let region = &defined.region;
    walk("jurisdiction", json(&region.jurisdiction));
    walk("location", json(&region.location));
    walk("policy", json(&region.policy));
    walk("assistants", json(&region.assistants));
    walk("rollout", json(&region.rollout));
    for (stage, manifest) in &defined.models {
        // Name and version say what it is; the digest tells two imports of one version apart.
        let parsed: Option<nearfield_shared::artefact::Manifest> = serde_json::from_str(&manifest.body).ok();
        let shown = match parsed {
            Some(m) => format!("{} {} {} {}", m.name, m.version, m.quantisation, &m.digest.to_hex()[..12]),
            None => manifest.signature.clone(),
        };
        walk(&format!("models.{stage}"), serde_json::Value::String(shown));
    }
    if let Some(release) = &defined.agent {
        let programs = release.programs.iter().map(|(target, signed)| {
            let parsed: Option<ProgramManifest> = serde_json::from_str(&signed.body).ok();
            let digest = parsed.map_or_else(|| signed.signature.clone(), |m| m.digest.to_hex()[..12].to_owned());
            format!("{digest} {target}")
        });
        let shown = format!("{}: {}", release.version, programs.collect::<Vec<_>>().join(", "));
        walk("agent", serde_json::Value::String(shown));
    }
    for assistant in &defined.assistants {
        walk(&format!("assistant {}", assistant.name), json(assistant));
    }
    flat.sort();
    flat
}

mod erased {
    /// Anything that serialises, as JSON.
    pub trait Json {
        fn json(&self) -> serde_json::Value;
    }

    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> serde_json::Value {
            serde_json::to_value(self).expect("definitions have string keys only, which JSON can hold")
        }
    }
}

/// A number as it was written: what was read as f32 is not shown with the digits that f64 adds.
fn shown_number(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(float) if !number.is_i64() && !number.is_u64() && f64::from(float as f32) == float => {
            (float as f32).to_string()
        }
        _ => number.to_string(),
    }
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= SHOWN_MAX {
        return text.to_owned();
    }
    text.chars().take(SHOWN_MAX - 1).chain(['…']).collect()
}

fn differences(from: Option<&DefinedRegion>, to: Option<&DefinedRegion>) -> Vec<Difference> {
    let flat = |defined: Option<&DefinedRegion>| defined.map(flatten).unwrap_or_default();
    let (from, to) = (flat(from), flat(to));
    let names: BTreeSet<&String> = from.iter().chain(&to).map(|(name, _)| name).collect();
    let find = |flat: &[(String, String)], name: &str| flat.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let mut found = Vec::new();
    for name in names {
        let (old, new) = (find(&from, name), find(&to, name));
        if old == new {
            continue;
        }
        let (mut old, mut new) = (old.as_deref().map(shorten), new.as_deref().map(shorten));
        if old == new {
            // They differ behind what is shown.
            (old, new) = (old.map(|o| format!("{o} (before)")), new.map(|n| format!("{n} (after)")));
        }
        found.push(Difference { what: name.clone(), from: old, to: new });
    }
    found
}

/// How a change of a region is made.
struct Way {
    /// Its generation afterwards.
    generation: Generation,
    /// What nodes run until the rollout comes to them.
    before: Option<Before>,
    /// How it is rolled out, where it is.
    rollout: Option<RolloutSettings>,
}

/// The way from what a region is to what it should be, with so many nodes.
fn way(known: Option<&RegionRecord>, to: Option<&DefinedRegion>, nodes: usize) -> Way {
    let generation = known.map_or(Generation(0), |record| record.generation);
    let after = |steps: u64| Generation(generation.0 + steps);
    let at_once = Way { generation: after(1), before: None, rollout: None };
    let Some((record, to)) = known.zip(to) else { return at_once };
    let Some(from) = &record.defined else { return at_once };
    if from.runs_the_same_as(to) {
        // Only how changes are made has changed: no node is told.
        return Way { generation, before: record.before.clone(), rollout: None };
    }
    let Some(settings) = to.region.rollout.clone().filter(|_| nodes > 0) else { return at_once };
    match &record.before {
        // Back to what most nodes still run.
        Some(before) if before.defined.runs_the_same_as(to) => at_once,
        // Those that had the unfinished change go back with the others, so that there is one thing to be compared with.
        Some(before) => Way {
            generation: after(2),
            before: Some(Before { generation: after(1), defined: before.defined.clone() }),
            rollout: Some(settings),
        },
        None => Way {
            generation: after(1),
            before: Some(Before { generation, defined: from.clone() }),
            rollout: Some(settings),
        },
    }
}

impl Fleet {
    /// What applying a definition would change.
    pub fn plan(&self, definition: &Definition, now: i64) -> Plan {
        let mut plan = Plan::default();
        let names: BTreeSet<&RegionId> =
            self.regions().map(|region| &region.id).chain(definition.regions.keys()).collect();
        for id in names {
            let known = self.regions.get(id);
            let from = known.and_then(|record| record.defined.as_ref());
            let to = definition.regions.get(id);
            let nodes = self.nodes.values().filter(|node| node.region == *id && node.revoked_unix_s.is_none()).count();
            let action = match (from, to) {
                (None, _) => Action::Add,
                (Some(_), None) => Action::Remove,
                (Some(from), Some(to)) if from == to => Action::Keep,
                (Some(_), Some(_)) => Action::Change,
            };
            if action == Action::Remove && nodes > 0 {
                plan.refused.push(format!(
                    "region {id} cannot be taken out while {nodes} of its nodes are enrolled; `control-plane node revoke` them first"
                ));
            }
            let way = way(known, to, nodes);
            let unchanged = known.filter(|_| action == Action::Keep).map(|record| record.generation);
            let generation = unchanged.unwrap_or(way.generation);
            let changes = known.is_none_or(|record| record.generation != generation);
            plan.regions.push(RegionPlan {
                region: id.clone(),
                action,
                generation,
                nodes,
                differences: differences(from, to),
                waves: match &way.rollout {
                    Some(settings) if changes => preview(settings, generation, &self.facts(id, now)),
                    _ => Vec::new(),
                },
                preempts: self.rollout_under_way(id).filter(|_| changes).map(|rollout| rollout.to),
            });
        }
        plan.refused.extend(self.over_budget(definition, &plan, now));
        plan
    }

    /// Applies a definition: all of it, or nothing where the plan is refused. A region that stays gets no new generation.
    pub fn apply(&mut self, mut definition: Definition, now: i64) -> (Plan, Vec<Write>) {
        let mut writes = self.set_touches_right(now);
        let plan = self.plan(&definition, now);
        if !plan.refused.is_empty() {
            return (plan, writes);
        }
        for change in plan.regions.iter().filter(|change| change.action != Action::Keep) {
            let (id, known) = (&change.region, self.regions.get(&change.region));
            let defined = definition.regions.remove(id);
            let Way { generation, before, rollout } = way(known, defined.as_ref(), change.nodes);
            let told = known.filter(|record| record.generation == generation).map(|record| record.changed_unix_s);
            let changed_unix_s = told.unwrap_or(now);
            if told.is_none() {
                writes.extend(self.preempt(id, now));
                if rollout.is_none() && change.nodes > 0 {
                    writes.push(self.touch(id, self.capacity_of(id), now));
                }
            }
            if let Some((settings, before)) = rollout.zip(before.as_ref()) {
                let restarts = defined.as_ref().is_some_and(|defined| defined.agent != before.defined.agent);
                writes.extend(self.begin_rollout(id, (before.generation, generation), settings, restarts, now));
            }
            let record = RegionRecord { id: id.clone(), generation, changed_unix_s, defined, before };
            writes.push(record.write());
            self.regions.insert(record.id.clone(), record);
        }
        (plan, writes)
    }
}
