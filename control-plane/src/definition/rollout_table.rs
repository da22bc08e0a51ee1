//! What `[rollout]` of a region's file may say.

use super::section::Section;
use nearfield_shared::{
    rollout::{Day, Label, TimeOfDay, WATCH_S_MAX, WAVES_MAX},
    trial::{ERRORS_POINTS_MAX, P95_RATIO_MAX, SHARE_PERCENT, TIME_S_MAX, TURNS_MIN},
};

/// Smallest share that can be meant: one node of ten thousand.
const PERCENT_MIN: f64 = 0.01;

const PERCENT: (f64, f64) = (PERCENT_MIN, 100.0);

/// Notes everything that is wrong in it.
pub fn check(rollout: &Section<'_, '_>) {
    let longest = i64::from(WATCH_S_MAX);
    rollout.integer("bake_s", (0, longest));
    check_waves(rollout, &rollout.tables("waves"));
    if let Some(gates) = rollout.table("gates", false) {
        for key in ["errors_points_max", "refused_percent_max", "lost_percent_max"] {
            gates.number(key, (0.0, 100.0), false);
        }
        gates.number("p95_ratio_max", (1.0, 100.0), false);
        gates.optional_integer("turns_min", (1, 1_000_000));
        gates.finish();
    }
    if let Some(budget) = rollout.table("budget", false) {
        budget.number("percent", PERCENT, true);
        budget.integer("within_s", (1, longest));
        budget.finish();
    }
    if let Some(maintenance) = rollout.table("maintenance", false) {
        check_maintenance(&maintenance);
    }
    if let Some(trial) = rollout.table("trial", false) {
        let whole = |(least, most): (u32, u32)| (i64::from(least), i64::from(most));
        trial.number("share_percent", SHARE_PERCENT, false);
        trial.optional_integer("turns_min", whole(TURNS_MIN));
        trial.optional_integer("time_s_max", whole(TIME_S_MAX));
        trial.number("errors_points_max", ERRORS_POINTS_MAX, false);
        trial.number("p95_ratio_max", P95_RATIO_MAX, false);
        trial.finish();
    }
    rollout.finish();
}

fn check_waves(rollout: &Section<'_, '_>, waves: &[Section<'_, '_>]) {
    if waves.is_empty() {
        return rollout.note_here(
            "`rollout.waves` is missing: write [[rollout.waves]] at least once, the last time with `percent = 100`",
        );
    }
    if waves.len() > WAVES_MAX {
        rollout.note_here(format!("a rollout has at most {WAVES_MAX} waves, not {}", waves.len()));
    }
    let mut before = 0.0;
    for (i, wave) in waves.iter().enumerate() {
        let label = wave.optional_string("label");
        if let Some(label) = &label
            && let Err(error) = label.value.parse::<Label>()
        {
            wave.note(label.at, error);
        }
        let percent = wave.number("percent", PERCENT, false);
        wave.optional_boolean("approval");
        wave.optional_integer("bake_s", (0, i64::from(WATCH_S_MAX)));
        wave.finish();
        // One that is wrong has its mistake already.
        let wrong = percent.is_none() && wave.json("percent").is_some();
        if label.is_none() && !wrong {
            let share = percent.as_ref().map_or(100.0, |percent| percent.value);
            if share <= before {
                wave.note_here(format!(
                    "`percent` counts all nodes that have the change after the wave, so this one must be above {before}"
                ));
            }
            before = share.max(before);
        }
        if i + 1 == waves.len() && (label.is_some() || before < 100.0) {
            wave.note_here("the last wave must take every node: no `label`, and `percent = 100`");
        }
    }
}

fn check_maintenance(window: &Section<'_, '_>) {
    for day in window.strings("days", 0) {
        if !Day::ALL.iter().any(|known| known.as_str() == day.value) {
            let known: Vec<&str> = Day::ALL.into_iter().map(Day::as_str).collect();
            window.note(day.at, format!("\"{}\" is not a day: use {}", day.value, known.join(", ")));
        }
    }
    let time = |key| {
        let text = window.string(key)?;
        text.value.parse::<TimeOfDay>().map_err(|error| window.note(text.at, error)).ok()
    };
    if let (Some(from), Some(until)) = (time("from"), time("until"))
        && from == until
    {
        window.note_here(
            "`from` and `until` are the same time; leave [rollout.maintenance] out to begin waves at any time",
        );
    }
    window.finish();
}
