//! The tally of calls: counted in memory, carried over until the group is large enough to hide each call.

use nearfield_shared::{
    desired::Generation,
    policy::{Denial, Policy},
    report::{AnonymisedReport, CallTally},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Generations that are counted apart. Calls of older ones are counted together, so that few calls of each still become a group.
const APART_MAX: usize = 2;

/// Counts the calls of a window. Clones share it.
///
/// A crash loses the window that is being counted: writing single calls to disk in order to count them would keep
/// exactly the records that the group size exists to avoid.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    counted: Arc<Mutex<Groups>>,
}

/// Calls by the generation that served them; `None` for those that had more than one, or an old one.
type Groups = BTreeMap<Option<Generation>, CallTally>;

impl Tally {
    /// Adds the figures of one call that has ended (its `calls` is 1), or of several.
    pub fn add(&self, figures: &CallTally) {
        let mut groups = self.lock();
        add(groups.entry(figures.generation).or_default(), figures);
        while groups.keys().flatten().count() > APART_MAX {
            let oldest = groups.keys().flatten().next().copied();
            if let Some(oldest) = groups.remove(&oldest) {
                add(groups.entry(None).or_default(), &oldest);
            }
        }
    }

    /// Calls counted since the last report.
    pub fn calls(&self) -> u64 {
        self.lock().values().map(|group| group.calls).sum()
    }

    /// Takes a report about the calls of one generation, the newest first, if the policy permits one about a group of this size.
    ///
    /// Where it permits none, everything stays counted and is carried into the next window.
    pub fn take_report(&self, policy: Option<&Policy>) -> Result<AnonymisedReport, Denial> {
        let mut groups = self.lock();
        let generations: Vec<_> = groups.keys().rev().copied().collect();
        let mut refused = AnonymisedReport::suppress(&CallTally::default(), policy);
        for generation in generations {
            let Some(group) = groups.get(&generation) else { continue };
            refused = AnonymisedReport::suppress(&CallTally { generation, ..group.clone() }, policy);
            if refused.is_ok() {
                groups.remove(&generation);
                break;
            }
        }
        refused
    }

    /// Puts back a report that could not be delivered, so that the next one carries it.
    pub fn put_back(&self, report: &AnonymisedReport) {
        self.add(&report.figures());
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        // Counters cannot be left half-changed in a way that matters more than losing them all would.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(sum: &mut CallTally, more: &CallTally) {
    // Taken apart by name, so that a figure added to the type cannot be forgotten here.
    let CallTally {
        generation: _,
        calls,
        turns_from_cache,
        turns_by_model,
        turns_failed,
        handed_over,
        dropped,
        barge_ins,
        begun_ahead,
        wasted_ahead_ms,
        first_audio,
        duration,
    } = more;
    sum.calls += calls;
    sum.turns_from_cache += turns_from_cache;
    sum.turns_by_model += turns_by_model;
    sum.turns_failed += turns_failed;
    sum.handed_over += handed_over;
    sum.dropped += dropped;
    sum.barge_ins += barge_ins;
    sum.begun_ahead += begun_ahead;
    sum.wasted_ahead_ms += wasted_ahead_ms;
    sum.first_audio.iter_mut().zip(first_audio).for_each(|(a, b)| *a += b);
    sum.duration.iter_mut().zip(duration).for_each(|(a, b)| *a += b);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(metrics_group_min: u32) -> Policy {
        Policy {
            serves_countries: vec!["*".into()],
            store_transcripts: false,
            retention_days: 0,
            metrics_group_min,
            notices: vec![],
        }
    }

    fn one_call(ms: u32) -> CallTally {
        let mut call = CallTally { calls: 1, turns_by_model: 2, ..CallTally::default() };
        call.count_first_audio(ms);
        call.count_duration(12);
        call
    }

    #[test]
    fn a_group_that_is_too_small_is_carried_over_until_it_is_not() {
        let tally = Tally::default();
        (0..6).for_each(|_| tally.add(&one_call(100)));
        assert!(tally.take_report(Some(&policy(8))).is_err());
        assert!(tally.take_report(None).is_err(), "no policy means deny");
        (0..2).for_each(|_| tally.add(&one_call(700)));
        let figures = tally.take_report(Some(&policy(8))).expect("eight are enough").figures();
        assert_eq!((figures.calls, figures.turns_by_model), (8, 16));
        assert_eq!((figures.first_audio[1], figures.first_audio[7], figures.duration[1]), (6, 2, 8));
        assert_eq!(tally.calls(), 0, "reported once");
    }

    #[test]
    fn generations_are_reported_apart_and_old_ones_together() {
        let tally = Tally::default();
        let of = |generation: u64| CallTally { generation: Some(Generation(generation)), ..one_call(100) };
        let groups = |tally: &Tally| -> Vec<(Option<u64>, u64)> {
            let report = || tally.take_report(Some(&policy(5))).ok().map(|report| report.figures());
            std::iter::from_fn(report).map(|group| (group.generation.map(|g| g.0), group.calls)).collect()
        };
        (0..5).for_each(|_| tally.add(&of(1)));
        (0..6).for_each(|_| tally.add(&of(2)));
        assert_eq!(groups(&tally), [(Some(2), 6), (Some(1), 5)]);
        for generation in 1..=6 {
            (0..2).for_each(|_| tally.add(&of(generation)));
        }
        assert_eq!(tally.calls(), 12);
        assert_eq!(groups(&tally), [(None, 8)], "few calls of each of four are a group together");
        assert_eq!(tally.calls(), 4);
    }

    #[test]
    fn a_report_that_was_not_delivered_is_not_lost() {
        let tally = Tally::default();
        (0..5).for_each(|_| tally.add(&one_call(100)));
        let report = tally.take_report(Some(&policy(5))).expect("report");
        tally.add(&one_call(100));
        tally.put_back(&report);
        assert_eq!(tally.calls(), 6);
    }
}
