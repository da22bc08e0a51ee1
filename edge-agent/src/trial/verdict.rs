//! Whether candidates hold against the live models on the same node in the same minutes, as pure state: how turns ended goes in, a verdict comes out.
//!
//! Failures are held against the candidates as soon as the turns that are still wanted could not make up for them; times once both sides have enough
//! of them. Only answers of the language model are timed: a known answer is there at once with a voice whose phrases are kept, and no other.
//!
//! The downside of few turns: of twenty, the 95th percentile is the second largest, so a burst of load that falls on one side can decide. The
//! ratio is generous for that reason, and a refused state can be applied again.

use nearfield_shared::trial::TrialSettings;
use std::time::Duration;

/// Failures that are needed, whatever share they are: one or two happen.
pub const FAILURES_MIN: u32 = 3;

/// Below this a delay is not heard, so a ratio to less says nothing.
pub const UNHEARD_MS: f64 = 50.0;

/// Times that are kept of each side: more change nothing about a percentile.
const TIMES_MAX: usize = 4_096;

/// Whose models answer a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Those that serve.
    Live,
    /// Those that are tried.
    Candidate,
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnEnd {
    /// Whether its answer failed, or a candidate failed in it and the live model stepped in.
    pub failed: bool,
    /// Milliseconds from commit to first audio, where the language model answered.
    pub first_audio_ms: Option<u32>,
}

/// What the turns of one side came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Turns {
    ended: u32,
    failed: u32,
    /// Sorted.
    first_audio_ms: Vec<u32>,
}

/// What is known of a trial so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Count {
    settings: TrialSettings,
    live: Turns,
    candidate: Turns,
}

/// What follows from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// There is nothing to say yet.
    GoesOn,
    /// The candidates may serve.
    Holds {
        /// Whether there were turns enough to judge by; else the time was up.
        judged: bool,
    },
    /// They may not.
    Breached(Breach),
}

/// What does not hold.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Breach {
    /// Too many turns failed.
    #[error("{failed} of {turns} turns failed on the candidate, {live_percent:.1} % on the live models")]
    Errors {
        /// Failed turns.
        failed: u32,
        /// Of so many.
        turns: u32,
        /// Percent of the live models' turns that failed.
        live_percent: f64,
        /// Percent of the candidate's turns that might have failed.
        percent_max: f64,
    },
    /// Answers came too late.
    #[error("95 % of first audio within {p95_ms} ms on the candidate, {live_ms} ms on the live models")]
    Latency {
        /// 95th percentile of the candidate, in milliseconds.
        p95_ms: u32,
        /// The same of the live models.
        live_ms: u32,
        /// The most that would have been taken.
        p95_ms_max: u32,
    },
}

impl Turns {
    fn add(&mut self, end: TurnEnd) {
        self.ended = self.ended.saturating_add(1);
        self.failed = self.failed.saturating_add(u32::from(end.failed));
        if let Some(ms) = end.first_audio_ms.filter(|_| self.first_audio_ms.len() < TIMES_MAX) {
            let at = self.first_audio_ms.partition_point(|known| *known <= ms);
            self.first_audio_ms.insert(at, ms);
        }
    }

    /// Percent of failed turns, as if there were this many turns at least and all others went well.
    fn failed_percent(&self, turns_min: u32) -> f64 {
        f64::from(self.failed) * 100.0 / f64::from(self.ended.max(turns_min).max(1))
    }

    /// The 95th percentile by nearest rank, where so many turns were timed.
    fn p95_ms(&self, timed_min: u32) -> Option<u32> {
        let times = &self.first_audio_ms;
        let rank = (times.len() as f64 * 0.95).ceil() as usize;
        times.get(rank.checked_sub(1)?).copied().filter(|_| times.len() >= timed_min.min(TIMES_MAX as u32) as usize)
    }
}

impl Count {
    /// Nothing counted yet.
    pub fn new(settings: &TrialSettings) -> Self {
        Self { settings: settings.bounded(), live: Turns::default(), candidate: Turns::default() }
    }

    /// The bounds that it is judged by.
    pub fn settings(&self) -> &TrialSettings {
        &self.settings
    }

    /// Takes the end of a turn.
    pub fn add(&mut self, side: Side, end: TurnEnd) {
        match side {
            Side::Live => self.live.add(end),
            Side::Candidate => self.candidate.add(end),
        }
    }

    /// Turns that ended on a side.
    pub fn turns(&self, side: Side) -> u32 {
        match side {
            Side::Live => self.live.ended,
            Side::Candidate => self.candidate.ended,
        }
    }

    /// What follows, so long after the beginning.
    pub fn verdict(&self, elapsed: Duration) -> Verdict {
        let TrialSettings { turns_min, time_s_max, errors_points_max, p95_ratio_max, .. } = self.settings;
        let (live, candidate) = (&self.live, &self.candidate);
        let live_percent = live.failed_percent(0);
        let percent_max = live_percent + errors_points_max;
        if candidate.failed >= FAILURES_MIN && candidate.failed_percent(turns_min) > percent_max {
            let (failed, turns) = (candidate.failed, candidate.ended);
            return Verdict::Breached(Breach::Errors { failed, turns, live_percent, percent_max });
        }
        let timed = candidate.p95_ms(turns_min).zip(live.p95_ms(turns_min));
        if let Some((p95_ms, live_ms)) = timed {
            let most = f64::from(live_ms).max(UNHEARD_MS) * p95_ratio_max;
            if f64::from(p95_ms) > most {
                return Verdict::Breached(Breach::Latency { p95_ms, live_ms, p95_ms_max: most as u32 });
            }
        }
        if timed.is_some() {
            Verdict::Holds { judged: true }
        } else if elapsed >= Duration::from_secs(time_s_max.into()) {
            Verdict::Holds { judged: candidate.ended >= turns_min && live.ended >= turns_min }
        } else {
            Verdict::GoesOn
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A trial of ten turns and a minute, after these turns: `n` times `ms`, failed where that is `None`.
    fn count(live: &[(u32, Option<u32>)], candidate: &[(u32, Option<u32>)]) -> Count {
        let settings = TrialSettings { turns_min: 10, time_s_max: 60, ..TrialSettings::default() };
        let mut count = Count::new(&settings);
        for (side, turns) in [(Side::Live, live), (Side::Candidate, candidate)] {
            for (n, ms) in turns {
                (0..*n).for_each(|_| count.add(side, TurnEnd { failed: ms.is_none(), first_audio_ms: *ms }));
            }
        }
        count
    }

    #[test]
    fn a_verdict_follows_from_counts_and_times() {
        let (good, slow) = (Some(300), Some(500));
        let check = |name: &str, live: &[(u32, Option<u32>)], candidate: &[(u32, Option<u32>)], says: &str| {
            let verdicts = [0, 60].map(|s| match count(live, candidate).verdict(Duration::from_secs(s)) {
                Verdict::GoesOn => "goes on",
                Verdict::Holds { judged: true } => "holds",
                Verdict::Holds { judged: false } => "holds unjudged",
                Verdict::Breached(Breach::Errors { .. }) => "errors",
                Verdict::Breached(Breach::Latency { .. }) => "latency",
            });
            assert_eq!(verdicts.join(", "), says, "{name}");
        };
        check("nobody calls", &[], &[], "goes on, holds unjudged");
        check("enough, and as good", &[(90, good)], &[(10, good)], "holds, holds");
        check("too few on one side", &[(90, good)], &[(9, good)], "goes on, holds unjudged");
        check("too few on the other", &[(9, good)], &[(10, good)], "goes on, holds unjudged");
        check("two failures happen", &[(90, good)], &[(2, None), (10, good)], "holds, holds");
        check("three are too many", &[(90, good)], &[(3, None)], "errors, errors");
        check("unless the others fail as often", &[(30, good), (15, None)], &[(3, None), (7, good)], "goes on, holds");
        check("a delay", &[(90, good)], &[(9, good), (1, slow)], "latency, latency");
        check("that few have", &[(90, good)], &[(99, good), (1, slow)], "holds, holds");
        check("that others have", &[(90, good), (10, slow)], &[(9, good), (1, slow)], "holds, holds");
        check("a delay that nobody hears", &[(10, Some(1))], &[(10, Some(70))], "holds, holds");
        check("too few to time", &[(90, good)], &[(1, Some(9_000))], "goes on, holds unjudged");
    }

    #[test]
    fn a_breach_tells_its_figures() {
        let Verdict::Breached(breach) = count(&[(40, Some(100))], &[(3, None), (1, Some(9))]).verdict(Duration::ZERO)
        else {
            panic!("three of four failed")
        };
        assert_eq!(breach.to_string(), "3 of 4 turns failed on the candidate, 0.0 % on the live models");
        let Verdict::Breached(breach) = count(&[(40, Some(100))], &[(10, Some(400))]).verdict(Duration::ZERO) else {
            panic!("four times as long")
        };
        assert_eq!(breach, Breach::Latency { p95_ms: 400, live_ms: 100, p95_ms_max: 150 });
    }

    fn ends() -> impl Strategy<Value = Vec<(bool, TurnEnd)>> {
        let end = (any::<bool>(), 0u32..10, proptest::option::of(0u32..2_000));
        let end =
            end.prop_map(|(side, failed, first_audio_ms)| (side, TurnEnd { failed: failed == 0, first_audio_ms }));
        proptest::collection::vec(end, 0..120)
    }

    fn after(ends: &[(bool, TurnEnd)]) -> Count {
        let mut count = Count::new(&TrialSettings { turns_min: 10, time_s_max: 60, ..TrialSettings::default() });
        for (candidate, end) in ends {
            count.add(if *candidate { Side::Candidate } else { Side::Live }, *end);
        }
        count
    }

    proptest! {
        #[test]
        fn a_trial_ends_in_time_and_only_failures_or_delays_breach_it(ends in ends(), seconds in 0u64..120) {
            let count = after(&ends);
            let failed = ends.iter().filter(|(candidate, end)| *candidate && end.failed).count();
            match count.verdict(Duration::from_secs(seconds)) {
                Verdict::GoesOn => prop_assert!(seconds < 60),
                Verdict::Holds { judged } => {
                    prop_assert!(seconds >= 60 || judged);
                    prop_assert!(!judged || (count.turns(Side::Live) >= 10 && count.turns(Side::Candidate) >= 10));
                }
                Verdict::Breached(Breach::Errors { .. }) => prop_assert!(failed >= 3),
                Verdict::Breached(Breach::Latency { p95_ms, live_ms, .. }) => prop_assert!(p95_ms > live_ms),
            }
        }

        #[test]
        fn the_order_of_turns_does_not_matter(ends in ends()) {
            let mut turned = ends.clone();
            turned.reverse();
            prop_assert_eq!(after(&ends), after(&turned));
        }

        #[test]
        fn a_candidate_that_is_as_good_turn_by_turn_is_never_refused(ends in ends(), seconds in 0u64..120) {
            let both: Vec<_> = ends.iter().flat_map(|(_, end)| [(false, *end), (true, *end)]).collect();
            let breached = matches!(after(&both).verdict(Duration::from_secs(seconds)), Verdict::Breached(_));
            prop_assert!(!breached);
        }
    }
}
