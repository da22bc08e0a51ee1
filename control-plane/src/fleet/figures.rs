//! Anonymised reports, added up for each region and day.

use super::{Fleet, records::FiguresRecord};
use crate::store::Write;
use nearfield_shared::{
    region::RegionId,
    wire::{NodeName, message::Report},
};
use std::collections::BTreeMap;

/// Ids of reports remembered for each region and day; a node sends a report again only right after a reconnect.
const TAKEN_MAX: usize = 512;

/// All figures, by region and day.
#[derive(Debug, Default)]
pub struct Figures {
    rows: BTreeMap<(RegionId, String), FiguresRecord>,
}

impl Figures {
    pub(super) fn load(&mut self, record: FiguresRecord) {
        self.rows.insert((record.region.clone(), record.day.clone()), record);
    }
}

/// The day (UTC) of a time in seconds since 1970.
pub fn day(unix_s: i64) -> String {
    jiff::Timestamp::from_second(unix_s)
        .map(|time| time.to_zoned(jiff::tz::TimeZone::UTC).date().to_string())
        .unwrap_or_else(|_| "1970-01-01".into())
}

fn add(to: &mut Vec<u64>, counts: &[u64]) {
    // A record of an earlier version may know fewer buckets.
    to.resize(to.len().max(counts.len()), 0);
    for (to, count) in to.iter_mut().zip(counts) {
        *to = to.saturating_add(*count);
    }
}

impl Fleet {
    /// Adds a report; one that was taken before changes nothing.
    pub fn report(&mut self, node: &NodeName, region: &RegionId, report: &Report, now: i64) -> Vec<Write> {
        let (today, yesterday) = (day(now), day(now - 24 * 60 * 60));
        // Around midnight the same report can come on both days.
        let taken = [&today, &yesterday].into_iter().any(|day| {
            self.figures.rows.get(&(region.clone(), day.clone())).is_some_and(|row| row.taken.contains(&report.id))
        });
        if taken {
            return Vec::new();
        }
        let row = self.figures.rows.entry((region.clone(), today.clone())).or_insert_with(|| FiguresRecord {
            region: region.clone(),
            day: today,
            reports: 0,
            calls: 0,
            turns_from_cache: 0,
            turns_by_model: 0,
            turns_failed: 0,
            handed_over: 0,
            dropped: 0,
            barge_ins: 0,
            begun_ahead: 0,
            wasted_ahead_ms: 0,
            first_audio: Vec::new(),
            duration: Vec::new(),
            taken: Vec::new(),
        });
        let tally = report.figures.figures();
        row.reports += 1;
        for (to, count) in [
            (&mut row.calls, tally.calls),
            (&mut row.turns_from_cache, tally.turns_from_cache),
            (&mut row.turns_by_model, tally.turns_by_model),
            (&mut row.turns_failed, tally.turns_failed),
            (&mut row.handed_over, tally.handed_over),
            (&mut row.dropped, tally.dropped),
            (&mut row.barge_ins, tally.barge_ins),
            (&mut row.begun_ahead, tally.begun_ahead),
            (&mut row.wasted_ahead_ms, tally.wasted_ahead_ms),
        ] {
            *to = to.saturating_add(count);
        }
        add(&mut row.first_audio, &tally.first_audio);
        add(&mut row.duration, &tally.duration);
        if row.taken.len() >= TAKEN_MAX {
            row.taken.remove(0);
        }
        row.taken.push(report.id);
        let mut writes = vec![row.write()];
        writes.extend(self.observe(node, region, &tally, now));
        writes
    }

    /// All figures, by region and day.
    pub fn figures(&self) -> impl Iterator<Item = &FiguresRecord> {
        self.figures.rows.values()
    }
}
