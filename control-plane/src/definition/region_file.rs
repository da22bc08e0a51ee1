//! What `regions/NAME.toml` may say.

use super::{
    Known, KnownModel, rollout_table,
    section::{At, Document, Section, distance},
};
use nearfield_shared::{
    artefact::Stage,
    policy::{METRICS_GROUP_FLOOR, Notice, Request},
    region::{Jurisdiction, RegionId},
    release::Release,
    routing::{middle_of, serve_request},
    wire::VersionName,
};
use std::collections::{BTreeMap, BTreeSet};
use toml::de::DeTable;

/// Stages without which no call can be held. The turn model and the embedding have a simpler way around them.
const STAGES_NEEDED: [Stage; 4] = [Stage::Vad, Stage::Asr, Stage::Llm, Stage::Tts];

/// Longest time that a transcript may be kept: ten years, the longest that a law we know of asks for.
const RETENTION_DAYS_MAX: i64 = 3653;

/// Notes everything that is wrong in a region's file.
pub fn check(document: &Document<'_>, table: &DeTable<'_>, stem: &str, known: &Known, assistants: &[&str]) {
    let root = Section::root(document, table);
    if let Some(id) = root.string("id") {
        if let Err(error) = id.value.parse::<RegionId>() {
            root.note(id.at, error);
        } else if id.value != stem {
            root.note(
                id.at,
                format!("`id` is \"{}\", but the file is named {stem}.toml; make them the same", id.value),
            );
        }
    }
    let law = root.string("jurisdiction").filter(|law| {
        let good =
            (1..=20).contains(&law.value.len()) && law.value.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        if !good {
            root.note(law.at, "`jurisdiction` must be 1 to 20 of a-z and -, for example \"eu\"");
        }
        good
    });
    if let Some(location) = root.table("location", true) {
        location.number("latitude", (-90.0, 90.0), true);
        location.number("longitude", (-180.0, 180.0), true);
        location.finish();
    }
    if let Some(policy) = root.table("policy", true) {
        check_policy(&policy, law.as_ref());
    }
    if let Some(section) = root.table("models", true) {
        check_models(&section, &known.models);
    }
    let mut seen = BTreeSet::new();
    for name in root.strings("assistants", 1) {
        if !seen.insert(name.value) {
            root.note(name.at, format!("assistant \"{}\" is listed twice", name.value));
        } else if !assistants.contains(&name.value) {
            let hint = nearest(assistants.iter().copied(), name.value).map_or_else(
                || format!("make assistants/{}.toml", name.value),
                |near| format!("did you mean \"{near}\"?"),
            );
            root.note(name.at, format!("there is no assistant \"{}\"; {hint}", name.value));
        }
    }
    if let Some(rollout) = root.table("rollout", false) {
        rollout_table::check(&rollout);
    }
    if let Some(agent) = root.table("agent", false) {
        check_agent(&agent, &known.releases);
    }
    root.finish();
}

fn check_agent(section: &Section<'_, '_>, releases: &BTreeMap<VersionName, Release>) {
    if let Some(version) = section.string("version") {
        match version.value.parse::<VersionName>() {
            Err(error) => section.note(version.at, error),
            Ok(named) if !releases.contains_key(&named) => {
                let there = releases.keys().map(|version| format!("\"{version}\"")).collect::<Vec<_>>().join(", ");
                let there = if there.is_empty() { "none is".to_owned() } else { format!("there are {there}") };
                let message = format!(
                    "agent \"{named}\" is not imported, {there}; run `control-plane agent import FILE --version {named}`"
                );
                section.note(version.at, message);
            }
            Ok(_) => {}
        }
    }
    section.finish();
}

fn check_policy(policy: &Section<'_, '_>, law: Option<&At<&str>>) {
    let mut seen = BTreeSet::new();
    for country in policy.strings("serves_countries", 1) {
        if !seen.insert(country.value) {
            policy.note(country.at, format!("country \"{}\" is listed twice", country.value));
        }
        if country.value == "*" {
            continue;
        }
        if middle_of(country.value).is_none() {
            let message =
                format!("\"{}\" is not a country: use two capital letters of ISO 3166-1, or \"*\"", country.value);
            policy.note(country.at, message);
        } else if let Some(law) = law {
            let node = Jurisdiction(law.value.to_owned());
            if let Request::ServeCaller { home: Some(home), .. } = serve_request(&[], Some(country.value), &node)
                && home != node
            {
                let message = format!(
                    "callers from {} stay within jurisdiction \"{home}\" by law, so a region in \"{node}\" can never serve them; take it out",
                    country.value
                );
                policy.note(country.at, message);
            }
        }
    }
    let stores = policy.boolean("store_transcripts");
    let days = policy.integer("retention_days", (0, RETENTION_DAYS_MAX));
    if let (Some(At { value: true, .. }), Some(days)) = (stores, days)
        && days.value == 0
    {
        policy.note(
            days.at,
            "`store_transcripts` is true, but 0 `retention_days` keep none; state days or make it false",
        );
    }
    policy.integer("metrics_group_min", (METRICS_GROUP_FLOOR.into(), 1_000_000));
    for notice in policy.strings("notices", 0) {
        if !Notice::ALL.iter().any(|known| known.as_str() == notice.value) {
            let known = Notice::ALL.map(|known| format!("\"{}\"", known.as_str())).join(" and ");
            policy.note(notice.at, format!("\"{}\" is no notice; there are {known}", notice.value));
        }
    }
    policy.finish();
}

fn check_models(section: &Section<'_, '_>, models: &BTreeMap<String, KnownModel>) {
    let mut there = BTreeSet::new();
    for (key, name) in section.entries() {
        let stage = match key.value.parse::<Stage>() {
            Ok(stage) => stage,
            Err(error) => {
                section.note(key.at, error);
                continue;
            }
        };
        there.insert(stage);
        let Some(name) = name else { continue };
        match models.get(name.value) {
            None => {
                let hint = nearest(models.keys().map(String::as_str), name.value)
                    .map_or_else(String::new, |near| format!(", or did you mean \"{near}\"?"));
                let message = format!(
                    "model \"{}\" is not imported; run `control-plane model import {}`{hint}",
                    name.value, name.value
                );
                section.note(name.at, message);
            }
            Some(model) if model.stage != stage => {
                section.note(name.at, format!("model \"{}\" serves `{}`, not `{stage}`", name.value, model.stage));
            }
            Some(_) => {}
        }
    }
    for stage in STAGES_NEEDED.into_iter().filter(|stage| !there.contains(stage)) {
        section.note_here(format!("`models.{stage}` is missing; no call can be held without it"));
    }
}

fn nearest<'n>(names: impl Iterator<Item = &'n str>, wanted: &str) -> Option<&'n str> {
    names.map(|name| (distance(name, wanted), name)).min().filter(|(d, _)| *d <= 3).map(|(_, name)| name)
}
