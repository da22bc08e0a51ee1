//! How much of the device a call takes, measured, and whether one more call fits.
//!
//! The device does one step at a time, so the time that steps take, per second of a call, is that call's share of it. What the
//! calls inside take on average, one more is expected to take; it is let in if the sum stays below [`SHARE_MAX`]. Batching
//! makes a call cheaper the more calls there are, and a slower device makes it dearer: both show in the measurement, and
//! nobody has to count slots. Pure: time is passed in.

use std::time::{Duration, Instant};

/// How much of the device calls may take together. A thought answer takes some 300 ms of steps, and what waits in front of it
/// grows as 1 / (1 - share): at 0.6 that is 750 ms, and `edge-agent doctor --bench` found answers late from there on.
const SHARE_MAX: f64 = 0.6;

/// Above this the device is out of breath at this very moment, whatever the average call takes.
const BUSY_MAX: f64 = 0.95;

/// What a call is taken to need before any was measured, and for how many seconds of calls that counts beside what is
/// measured. Twice what it takes on two cores of a server of today: a rush of fifteen is let in on a cold node, and after half
/// a minute of a few calls it hardly matters.
const PRIOR: (f64, f64) = (0.04, 20.0);

/// How long a measurement counts: a call's share over several of its turns, the device's business over one.
const MEMORY_S: (f64, f64) = (60.0, 5.0);

/// How long a call is taken to last before one has ended, and for how many calls that counts.
const CALL_PRIOR: (f64, f64) = (120.0, 2.0);

/// The least and greatest pause that a refusal asks for.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The measurement of one device.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    at: Instant,
    calls: usize,
    /// Seconds of steps and seconds of calls, slowly forgotten.
    stepped_s: f64,
    called_s: f64,
    /// Seconds of steps and seconds there were, quickly forgotten.
    busy_s: f64,
    passed_s: f64,
    /// Calls that ended and their seconds, the expected ones included.
    ended: f64,
    ended_s: f64,
}

impl Load {
    pub fn new(now: Instant) -> Self {
        Self {
            at: now,
            calls: 0,
            stepped_s: PRIOR.0 * PRIOR.1,
            called_s: PRIOR.1,
            busy_s: 0.0,
            passed_s: MEMORY_S.1,
            ended: CALL_PRIOR.1,
            ended_s: CALL_PRIOR.0 * CALL_PRIOR.1,
        }
    }

    fn advance(&mut self, now: Instant) {
        let dt = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        // While nobody calls there is nothing to learn about calls, and nothing is forgotten either.
        if self.calls > 0 {
            let kept = (-dt / MEMORY_S.0).exp();
            self.stepped_s *= kept;
            self.called_s = self.called_s * kept + dt * self.calls as f64;
        }
        let kept = (-dt / MEMORY_S.1).exp();
        self.busy_s *= kept;
        self.passed_s = self.passed_s * kept + dt;
    }

    /// A step has ended; `is_background` says that no call waits for it.
    pub fn stepped(&mut self, now: Instant, took: Duration, is_background: bool) {
        self.advance(now);
        if is_background {
            return;
        }
        self.busy_s += took.as_secs_f64();
        if self.calls > 0 {
            self.stepped_s += took.as_secs_f64();
        }
    }

    /// Whether one more call would be let in, or when to come back.
    pub fn room(&mut self, now: Instant) -> Result<(), Duration> {
        self.advance(now);
        let wanted = (self.calls + 1) as f64 * self.call_share();
        // The first call is always taken: a node that is too slow for one shows it by being slow.
        if self.calls > 0 && wanted > SHARE_MAX {
            return Err(self.until_a_call_ends());
        }
        if self.calls > 0 && self.busy() > BUSY_MAX {
            // A moment's rush is over as soon as it is forgotten.
            return Err(Duration::from_secs_f64(MEMORY_S.1));
        }
        Ok(())
    }

    /// Lets a call in, or says when to come back.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        self.room(now)?;
        self.calls += 1;
        Ok(())
    }

    /// A call that was let in at `since` has ended.
    pub fn left(&mut self, now: Instant, since: Instant) {
        self.advance(now);
        self.calls = self.calls.saturating_sub(1);
        self.ended += 1.0;
        self.ended_s += now.saturating_duration_since(since).as_secs_f64();
    }

    /// Calls inside.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// The share of the device that one call takes.
    pub fn call_share(&self) -> f64 {
        self.stepped_s / self.called_s
    }

    /// The share of the last seconds in which the device was stepping.
    pub fn busy(&self) -> f64 {
        (self.busy_s / self.passed_s).min(1.0)
    }

    /// When the next of the calls inside is likely to end.
    fn until_a_call_ends(&self) -> Duration {
        Duration::from_secs_f64(self.ended_s / self.ended / self.calls.max(1) as f64).clamp(RETRY.0, RETRY.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Clock(Instant);

    impl Clock {
        /// Seconds during which every call takes `share` of the device.
        fn pass(&mut self, load: &mut Load, seconds: f64, share: f64) {
            for _ in 0..(seconds * 10.0) as usize {
                self.0 += Duration::from_millis(100);
                load.stepped(self.0, Duration::from_secs_f64(0.1 * share * load.calls() as f64), false);
            }
        }
    }

    fn filled(clock: &mut Clock, load: &mut Load, share: f64) -> usize {
        while load.admit(clock.0).is_ok() {
            clock.pass(load, 10.0, share);
            assert!(load.calls() < 1_000, "the door never closes");
        }
        load.calls()
    }

    #[test]
    fn cheap_calls_are_let_in_in_greater_numbers_than_dear_ones() {
        for (share, about) in [(0.02, 30), (0.05, 12), (0.2, 3)] {
            let mut clock = Clock(Instant::now());
            let mut load = Load::new(clock.0);
            let calls = filled(&mut clock, &mut load, share);
            assert!(calls.abs_diff(about) <= 1 + about / 8, "{calls} calls of {share} each, {about} expected");
            assert!((load.call_share() - share).abs() < 0.3 * share, "{} measured of {share}", load.call_share());
        }
    }

    #[test]
    fn a_rush_on_a_cold_node_is_held_at_what_is_expected() {
        let now = Instant::now();
        let mut load = Load::new(now);
        let taken = (0..100).filter(|_| load.admit(now).is_ok()).count();
        assert_eq!(taken, 15);
    }

    #[test]
    fn the_first_call_is_taken_however_slow_the_node_is() {
        let mut clock = Clock(Instant::now());
        let mut load = Load::new(clock.0);
        assert_eq!(filled(&mut clock, &mut load, 3.0), 1);
        load.left(clock.0, clock.0);
        assert!(load.admit(clock.0).is_ok());
    }

    #[test]
    fn a_device_that_is_out_of_breath_takes_nobody_until_it_has_recovered() {
        let mut clock = Clock(Instant::now());
        let mut load = Load::new(clock.0);
        for _ in 0..3 {
            load.admit(clock.0).expect("room");
        }
        clock.pass(&mut load, 200.0, 0.01);
        clock.pass(&mut load, 20.0, 1.0 / 3.0);
        assert!(load.busy() > BUSY_MAX, "{}", load.busy());
        assert!(load.admit(clock.0).is_err());
        clock.pass(&mut load, 200.0, 0.01);
        assert!(load.admit(clock.0).is_ok());
    }

    #[test]
    fn what_no_call_waits_for_keeps_nobody_out() {
        let mut clock = Clock(Instant::now());
        let mut load = Load::new(clock.0);
        load.admit(clock.0).expect("room");
        for _ in 0..100 {
            clock.0 += Duration::from_millis(100);
            load.stepped(clock.0, Duration::from_millis(100), true);
        }
        assert!(load.call_share() < PRIOR.0 && load.busy() < 0.01);
        assert!(load.admit(clock.0).is_ok());
    }

    #[test]
    fn asking_for_room_takes_none() {
        let now = Instant::now();
        let mut load = Load::new(now);
        (0..100).for_each(|_| load.room(now).expect("nobody is inside"));
        assert_eq!(load.calls(), 0);
        while load.admit(now).is_ok() {}
        assert_eq!(load.room(now), load.admit(now));
    }

    #[test]
    fn a_refusal_says_when_a_call_is_likely_to_end() {
        let begun = Instant::now();
        let mut clock = Clock(begun);
        let mut load = Load::new(clock.0);
        let calls = filled(&mut clock, &mut load, 0.1) as f64;
        let hint = load.admit(clock.0).expect_err("full").as_secs_f64();
        assert!((hint - CALL_PRIOR.0 / calls).abs() < 0.1, "{hint} s with {calls} calls");
        // Many short calls: the hint follows.
        for _ in 0..50 {
            load.left(clock.0, clock.0 - Duration::from_secs(6));
            load.admit(clock.0).expect("a place was left");
        }
        assert!(load.admit(clock.0).expect_err("full").as_secs_f64() < hint / 3.0);
    }

    #[test]
    fn nothing_is_forgotten_while_nobody_calls() {
        let mut clock = Clock(Instant::now());
        let mut load = Load::new(clock.0);
        load.admit(clock.0).expect("room");
        clock.pass(&mut load, 300.0, 0.02);
        let share = load.call_share();
        load.left(clock.0, clock.0);
        clock.0 += Duration::from_secs(3_600);
        load.admit(clock.0).expect("room");
        assert!((load.call_share() - share).abs() < 1e-6);
    }
}
