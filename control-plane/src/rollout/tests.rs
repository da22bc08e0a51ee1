//! A scripted region: nodes take changes up, refuse them, go away; calls come to them. Time is the test's.

use super::*;
use crate::fleet::rollouts::WATCH_EVERY_MS;
use nearfield_shared::{
    rollout::{Budget, Day, Gates, Maintenance},
    trial::TrialSettings,
};
use proptest::prelude::*;

/// 2026-11-22, a Sunday, at midnight.
const NOW: i64 = 1_795_305_600;

const FROM: Generation = Generation(7);
const TO: Generation = Generation(8);

fn wave(label: Option<&str>, percent: f64) -> WaveSettings {
    WaveSettings { label: label.map(|label| label.parse().unwrap()), percent, approval: false, bake_s: None }
}

fn settings(waves: Vec<WaveSettings>) -> RolloutSettings {
    RolloutSettings { bake_s: 600, waves, gates: Gates::default(), budget: None, maintenance: None, trial: None }
}

fn thirds() -> RolloutSettings {
    settings(vec![wave(Some("canary"), 100.0), wave(None, 50.0), wave(None, 100.0)])
}

fn node(i: usize) -> NodeFacts {
    let labels = if i == 0 { BTreeSet::from(["canary".parse().unwrap()]) } else { BTreeSet::new() };
    NodeFacts {
        node: format!("n{i}").parse().unwrap(),
        labels,
        presence: Presence::Here,
        takes: Takes::NotYet,
        calls_max: 4,
        past: Sample::default(),
    }
}

/// `turns`, of which so many fail, all with this latency.
fn turns(turns: u64, failed: u64, bucket: usize) -> Sample {
    let mut first_audio = vec![0; 10];
    first_audio[bucket] = turns - failed;
    Sample { turns, failed, first_audio }
}

struct World {
    now: i64,
    rollout: Rollout,
    evidence: Evidence,
    nodes: Vec<NodeFacts>,
    room: Option<u64>,
}

impl World {
    fn new(settings: RolloutSettings, nodes: usize) -> Self {
        let rollout = Rollout::new("eu".parse().unwrap(), (FROM, TO), settings, NOW);
        let nodes = (0..nodes).map(node).collect();
        Self { now: NOW, rollout, evidence: Evidence::default(), nodes, room: None }
    }

    fn step(&mut self) -> Vec<Moment> {
        let seen = Seen { nodes: &self.nodes, room: self.room };
        let told = self.rollout.step(self.now, seen, &mut self.evidence);
        told.into_iter().map(|entry| entry.what).collect()
    }

    fn pass(&mut self, seconds: i64) -> Vec<Moment> {
        self.now += seconds;
        self.step()
    }

    /// Every node that was told and is there takes the change up.
    fn take_up(&mut self) -> Vec<Moment> {
        for facts in &mut self.nodes {
            let told = self.rollout.moved.contains_key(&facts.node) && facts.presence == Presence::Here;
            if told && facts.takes == Takes::NotYet {
                facts.takes = Takes::Serves;
            }
        }
        self.step()
    }

    /// A report of every node: one figure for those with the change, one for the others.
    fn report(&mut self, new: &Sample, old: &Sample) {
        for facts in &self.nodes {
            let moved = self.rollout.moved.contains_key(&facts.node);
            let (served, sample) = if moved && facts.takes == Takes::Serves { (TO, new) } else { (FROM, old) };
            self.evidence.observe(&self.rollout, &facts.node, Some(served), sample, self.now);
        }
    }

    fn moved(&self) -> usize {
        self.rollout.moved.len()
    }

    fn undone(&self) -> &Undone {
        match &self.rollout.phase {
            Phase::Undone { why, .. } => why,
            phase => panic!("{phase:?}"),
        }
    }
}

#[test]
fn a_good_change_goes_through_its_waves() {
    let mut world = World::new(thirds(), 10);
    assert_eq!(world.step(), [Moment::WaveBegan { wave: 0, nodes: 1 }]);
    assert!(world.rollout.moved.contains_key(&"n0".parse().unwrap()), "the one with the label");
    assert_eq!(world.take_up(), [Moment::WaveServes { wave: 0, bake_s: 600 }]);
    world.report(&turns(100, 1, 2), &turns(100, 1, 2));
    assert_eq!(world.pass(599), []);
    assert_eq!(world.pass(1), [Moment::WavePassed { wave: 0, turns: 100 }, Moment::WaveBegan { wave: 1, nodes: 4 }]);
    world.take_up();
    world.pass(600);
    assert_eq!(world.moved(), 10);
    world.take_up();
    let told = world.pass(600);
    assert_eq!(told.last(), Some(&Moment::Done));
    assert!(world.rollout.is_over() && world.pass(1).is_empty());
}

#[test]
fn a_breach_is_seen_with_the_report_that_shows_it() {
    let check = |what: &str, old: Sample, past: Sample, new: Sample, expect: &str| {
        let mut world = World::new(thirds(), 10);
        world.nodes[0].past = past;
        world.step();
        world.take_up();
        world.report(&new, &old);
        let told = world.step();
        match told.as_slice() {
            [] if expect.is_empty() => {}
            [Moment::Undone(why)] if !expect.is_empty() => assert!(why.to_string().contains(expect), "{what}: {why}"),
            told => panic!("{what}: {told:?}"),
        }
    };
    let none = Sample::default;
    check("as the others", turns(20, 1, 2), none(), turns(100, 6, 2), "");
    check("failures", turns(20, 0, 2), none(), turns(100, 6, 2), "6.0 % of 100 turns failed, 0.0 % on the other nodes");
    check("too few turns", turns(20, 0, 2), none(), turns(40, 40, 2), "");
    check("two failures of few", turns(20, 0, 2), none(), turns(50, 2, 2), "");
    check(
        "late",
        turns(20, 0, 2),
        none(),
        turns(100, 0, 6),
        "95 % of first audio within 593 ms, 148 ms on the other nodes",
    );
    check("late, beside nothing", none(), none(), turns(100, 0, 6), "");
    check("failures, beside nothing", none(), none(), turns(100, 6, 2), "with nothing to compare them with");
    check("worse than before", none(), turns(200, 0, 2), turns(100, 6, 2), "on the same nodes before");
    check("as bad as before", none(), turns(200, 10, 2), turns(100, 6, 2), "");
}

/// A change that is good for an hour and then fails: the short look sees it, and from the first bad call it takes less than ten seconds.
#[test]
fn from_the_first_failing_calls_to_the_rollback_are_less_than_ten_seconds() {
    let mut long = thirds();
    long.bake_s = 7_200;
    let mut world = World::new(long, 10);
    world.step();
    world.take_up();
    let every = i64::from(WATCH_EVERY_MS / 1_000);
    for _ in 0..720 {
        world.report(&turns(50, 0, 2), &turns(50, 0, 2));
        assert_eq!(world.pass(every), []);
    }
    // Calls begin to fail just after a report; the next one holds them.
    let bad_since = world.now;
    while !world.rollout.is_over() {
        world.now += every;
        world.report(&turns(50, 25, 2), &turns(50, 0, 2));
        world.step();
    }
    assert!(world.now - bad_since < 10, "{} s", world.now - bad_since);
    assert!(matches!(world.undone(), Undone::Breached(Breach::Errors { .. })));
}

#[test]
fn a_refusal_or_lost_nodes_undo_it() {
    let mut world = World::new(thirds(), 10);
    world.step();
    world.nodes[0].takes = Takes::Refuses("n0: asr: a golden result was not reproduced on the device".into());
    world.step();
    assert!(world.undone().to_string().contains("1 of 1 nodes refuse it: n0: asr"), "{}", world.undone());

    let mut world = World::new(thirds(), 10);
    world.step();
    world.take_up();
    world.nodes[0].presence = Presence::Away;
    assert_eq!(world.pass(1), []);
    world.nodes[0].presence = Presence::Here;
    assert_eq!(world.pass(LOST_GRACE_S), [], "it came back");
    world.nodes[0].presence = Presence::Away;
    world.step();
    world.pass(LOST_GRACE_S);
    assert_eq!(*world.undone(), Undone::Breached(Breach::Lost { nodes: 1, of: 1 }));

    let mut world = World::new(thirds(), 10);
    world.step();
    world.pass(SETTLE_S);
    assert_eq!(*world.undone(), Undone::Breached(Breach::Lost { nodes: 1, of: 1 }), "it never took it up");
}

#[test]
fn nodes_that_try_a_change_are_given_the_time_of_the_trial() {
    let trial = TrialSettings { time_s_max: 900, ..TrialSettings::default() };
    let mut world = World::new(RolloutSettings { trial: Some(trial), ..thirds() }, 10);
    world.step();
    assert_eq!(world.pass(SETTLE_S + 899), [], "it may still try it");
    world.step();
    world.pass(1);
    assert_eq!(*world.undone(), Undone::Breached(Breach::Lost { nodes: 1, of: 1 }));
}

#[test]
fn nodes_that_are_away_or_cordoned_hold_nothing_up() {
    let mut world = World::new(thirds(), 10);
    world.nodes[0].presence = Presence::Away;
    world.nodes[1].presence = Presence::Cordoned;
    assert_eq!(world.step(), [Moment::Waits { wave: 0, why: Wait::Nodes }]);
    let told = world.pass(NODES_WAIT_S);
    assert_eq!(told, [Moment::WaveSkipped { wave: 0, away: 1 }, Moment::WaveBegan { wave: 1, nodes: 4 }]);
    let gone = world.nodes.iter().position(|facts| world.rollout.moved.contains_key(&facts.node)).unwrap();
    world.nodes[gone].presence = Presence::Away;
    assert_eq!(world.take_up().len(), 1, "one of four may go");
    world.pass(600);
    world.take_up();
    assert_eq!(world.pass(600).last(), Some(&Moment::Done));
    assert_eq!(world.moved(), 8, "all but the one that is away and the one that is cordoned");

    let mut world = World::new(thirds(), 2);
    world.nodes.iter_mut().for_each(|facts| facts.presence = Presence::Away);
    world.step();
    assert_eq!(world.pass(10 * NODES_WAIT_S), [], "nobody is there to learn from");
}

#[test]
fn a_wave_waits_for_approval_its_window_and_room() {
    let mut asks = settings(vec![WaveSettings { approval: true, ..wave(None, 100.0) }]);
    asks.maintenance =
        Some(Maintenance { days: vec![Day::Sun], from: "06:00".parse().unwrap(), until: "07:00".parse().unwrap() });
    asks.budget = Some(Budget { percent: 50.0, within_s: 60 });
    let mut world = World::new(asks, 3);
    world.room = Some(11);
    assert_eq!(world.step(), [Moment::Waits { wave: 0, why: Wait::Approval }]);
    assert!(world.rollout.order(Order::Resume, "eve", NOW).unwrap_err().contains("not paused"));
    world.rollout.order(Order::Approve, "eve", NOW).unwrap();
    assert!(world.rollout.order(Order::Approve, "eve", NOW).unwrap_err().contains("no wave in eu waits for approval"));
    assert_eq!(world.step(), [Moment::Waits { wave: 0, why: Wait::Maintenance }]);
    assert_eq!(world.pass(6 * 3_600), [Moment::Waits { wave: 0, why: Wait::Budget }]);
    world.room = Some(12);
    assert_eq!(world.step(), [Moment::WaveBegan { wave: 0, nodes: 3 }]);
}

#[test]
fn a_pause_stops_the_clock_and_not_the_gates() {
    let mut world = World::new(thirds(), 10);
    world.step();
    world.take_up();
    world.pass(500);
    world.rollout.order(Order::Pause, "eve", world.now).unwrap();
    assert!(world.rollout.order(Order::Pause, "eve", world.now).is_err());
    assert_eq!(world.pass(5_000), []);
    world.rollout.order(Order::Resume, "eve", world.now).unwrap();
    assert_eq!(world.pass(99), []);
    assert_eq!(world.pass(1).len(), 2, "passed, and the next one began");
    world.rollout.order(Order::Pause, "eve", world.now).unwrap();
    world.take_up();
    world.report(&turns(100, 50, 2), &turns(100, 0, 2));
    assert_eq!(world.step().len(), 1);
    assert!(matches!(world.undone(), Undone::Breached(_)));
    assert!(world.rollout.order(Order::Abort, "eve", world.now).unwrap_err().contains("is over"));
}

/// Found by the simulation: a clock that was 90 days ahead when a wave began to be watched, and then was put right, made it be watched for 90 days.
#[test]
fn regression_a_clock_that_is_put_back_holds_nothing_up() {
    const AHEAD: i64 = 90 * 24 * 60 * 60;
    let mut world = World::new(thirds(), 10);
    world.now += AHEAD;
    world.step();
    world.take_up();
    assert!(matches!(world.rollout.phase, Phase::Baking { .. }));
    world.now -= AHEAD;
    assert_eq!(world.step(), []);
    assert_eq!(world.pass(599), []);
    assert!(matches!(world.pass(1)[..], [Moment::WavePassed { .. }, Moment::WaveBegan { wave: 1, .. }]));
    // Nor does it wait longer for nodes that do not take it up.
    world.now += AHEAD;
    world.rollout.phase = Phase::Moving { since_unix_s: world.now };
    world.now -= AHEAD;
    assert_eq!(world.step(), []);
    assert!(matches!(world.pass(SETTLE_S)[..], [Moment::Undone(Undone::Breached(Breach::Lost { .. }))]));
}

#[test]
fn an_abort_is_an_end() {
    let mut world = World::new(thirds(), 10);
    world.step();
    let told = world.rollout.order(Order::Abort, "eve", world.now).unwrap();
    assert_eq!(told.what.to_string(), "undone: eve aborted it");
    assert_eq!(world.pass(10_000), []);
}

#[test]
fn a_preview_says_what_will_be() {
    let nodes: Vec<NodeFacts> = (0..10).map(node).collect();
    let waves = preview(&thirds(), TO, &nodes);
    assert_eq!(waves.iter().map(|wave| (wave.nodes, wave.calls)).collect::<Vec<_>>(), [(1, 4), (4, 16), (5, 20)]);
}

/// Something that may happen.
#[derive(Debug, Clone)]
enum Happens {
    Pass(i64),
    TakeUp,
    Presence(usize, Presence),
    Refuse(usize),
    Report { failed: u64, bucket: usize },
    Order(Order),
    Room(Option<u64>),
    Restart,
}

fn happens() -> impl Strategy<Value = Happens> {
    let presence = prop_oneof![3 => Just(Presence::Here), 1 => Just(Presence::Away), 1 => Just(Presence::Cordoned)];
    let order = prop_oneof![4 => Just(Order::Approve), 1 => Just(Order::Pause), 2 => Just(Order::Resume)];
    prop_oneof![
        6 => (1..3_000_i64).prop_map(Happens::Pass),
        6 => Just(Happens::TakeUp),
        4 => (0..12_usize, presence).prop_map(|(node, presence)| Happens::Presence(node, presence)),
        1 => (0..12_usize).prop_map(Happens::Refuse),
        4 => (0..4_u64, 0..4_usize).prop_map(|(failed, bucket)| Happens::Report { failed, bucket }),
        3 => order.prop_map(Happens::Order),
        1 => prop_oneof![Just(None), (0..40_u64).prop_map(Some)].prop_map(Happens::Room),
        1 => Just(Happens::Restart),
    ]
}

fn any_settings() -> impl Strategy<Value = RolloutSettings> {
    (1..5_usize, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(waves, approval, canary, window)| {
        let mut list: Vec<WaveSettings> = canary.then(|| wave(Some("canary"), 100.0)).into_iter().collect();
        list.extend((1..=waves).map(|i| wave(None, i as f64 * 100.0 / waves as f64)));
        list[0].approval = approval;
        let maintenance = window.then(|| Maintenance {
            days: vec![],
            from: "22:00".parse().unwrap(),
            until: "06:00".parse().unwrap(),
        });
        RolloutSettings { maintenance, ..settings(list) }
    })
}

/// What holds after every step, whatever happened before.
fn holds(world: &World, before: &Rollout, told: &[Moment]) {
    let now = &world.rollout;
    assert!(before.moved.iter().all(|(node, wave)| now.moved.get(node) == Some(wave)), "no node is moved back alone");
    assert!(!before.is_over() || (told.is_empty() && now == before), "an end is an end");
    for moment in told {
        let Moment::WaveBegan { wave, nodes } = moment else { continue };
        let settings = &now.settings.waves[*wave];
        assert!(
            !settings.approval
                || now.log.iter().any(|e| matches!(&e.what, Moment::Approved { wave: w, .. } if w == wave))
        );
        assert!(now.settings.maintenance.as_ref().is_none_or(|window| window.is_open(world.now)));
        let members: Vec<_> = now.moved.iter().filter(|(_, w)| *w == wave).map(|(node, _)| node).collect();
        assert_eq!(members.len(), *nodes);
        let facts = |name: &NodeName| world.nodes.iter().find(|facts| facts.node == *name).unwrap();
        assert!(members.iter().all(|name| facts(name).presence == Presence::Here));
        assert!(world.room.is_none_or(|room| members.iter().map(|name| facts(name).calls_max).sum::<u64>() <= room));
        if settings.label.is_none() {
            let there = world.nodes.iter().filter(|f| f.presence == Presence::Here || now.moved.contains_key(&f.node));
            assert!(now.moved.len() as f64 <= (there.count() as f64 * settings.percent / 100.0).ceil());
        }
        // The wave before was watched for as long as it should be, or had nobody.
        if let Some(previous) = wave.checked_sub(1) {
            let when = |what: &dyn Fn(&Moment) -> bool| now.log.iter().rev().find(|e| what(&e.what)).map(|e| e.unix_s);
            let served = when(&|m| matches!(m, Moment::WaveServes { wave, .. } if *wave == previous));
            let skipped = when(&|m| matches!(m, Moment::WaveSkipped { wave, .. } if *wave == previous));
            assert!(skipped.is_some() || served.is_some_and(|at| world.now >= at + i64::from(now.settings.bake_s)));
        }
    }
    let refused = world.nodes.iter().any(|facts| {
        matches!(facts.takes, Takes::Refuses(_))
            && facts.presence != Presence::Cordoned
            && now.moved.contains_key(&facts.node)
    });
    assert!(!refused || now.is_over(), "whatever may breach a gate has done so within the step");
}

proptest! {
    #[test]
    fn whatever_happens_the_rules_hold_and_in_the_end_it_ends(
        settings in any_settings(),
        script in prop::collection::vec(happens(), 0..60),
    ) {
        let mut world = World::new(settings, 12);
        for event in script {
            let before = world.rollout.clone();
            let told = match event {
                Happens::Pass(seconds) => world.pass(seconds),
                Happens::TakeUp => world.take_up(),
                Happens::Presence(node, presence) => {
                    world.nodes[node].presence = presence;
                    world.step()
                }
                Happens::Refuse(node) => {
                    world.nodes[node].takes = Takes::Refuses("no".into());
                    world.step()
                }
                Happens::Report { failed, bucket } => {
                    world.report(&turns(30, failed, bucket), &turns(30, 0, 1));
                    world.step()
                }
                Happens::Order(order) => {
                    // One that makes no sense now is refused and changes nothing.
                    if world.rollout.order(order, "eve", world.now).is_err() {
                        prop_assert_eq!(&before, &world.rollout);
                    }
                    let before = world.rollout.clone();
                    let told = world.step();
                    holds(&world, &before, &told);
                    continue;
                }
                Happens::Room(room) => {
                    world.room = room;
                    world.step()
                }
                Happens::Restart => {
                    // What is stored is all that there is.
                    let stored = serde_json::to_string(&(&world.rollout, &world.evidence)).unwrap();
                    (world.rollout, world.evidence) = serde_json::from_str(&stored).unwrap();
                    prop_assert_eq!(&before, &world.rollout);
                    world.step()
                }
            };
            holds(&world, &before, &told);
        }
        // Then all is well for a week, and somebody approves what asks for it.
        world.room = None;
        world.nodes.iter_mut().for_each(|facts| facts.presence = Presence::Here);
        for _ in 0..(7 * 24 * 4) {
            world.rollout.order(Order::Resume, "eve", world.now).ok();
            world.rollout.order(Order::Approve, "eve", world.now).ok();
            let before = world.rollout.clone();
            world.take_up();
            let told = world.pass(900);
            if !world.rollout.is_over() {
                holds(&world, &before, &told);
            }
        }
        prop_assert!(world.rollout.is_over(), "{:?}", world.rollout);
    }
}

#[test]
fn nodes_that_start_anew_for_a_change_are_waited_for_and_lost_when_they_do_not_come_back() {
    let begun = || {
        let mut world = World::new(thirds(), 10);
        world.rollout = world.rollout.restarting(true);
        assert_eq!(world.step(), [Moment::WaveBegan { wave: 0, nodes: 1 }]);
        world.nodes[0].presence = Presence::Away;
        assert_eq!(world.pass(SETTLE_S - 1), [], "it is away because of the change, and nothing is known of it yet");
        world
    };
    let mut comes_back = begun();
    comes_back.nodes[0].presence = Presence::Here;
    assert_eq!(comes_back.take_up(), [Moment::WaveServes { wave: 0, bake_s: 600 }]);
    // Once it has taken the change up, going away is another matter.
    comes_back.nodes[0].presence = Presence::Away;
    comes_back.pass(1);
    comes_back.pass(LOST_GRACE_S);
    assert!(matches!(comes_back.undone(), Undone::Breached(Breach::Lost { nodes: 1, of: 1 })));
    let mut refuses = begun();
    refuses.nodes[0].presence = Presence::Here;
    refuses.nodes[0].takes = Takes::Refuses("it did not come up healthy".into());
    refuses.step();
    assert!(matches!(refuses.undone(), Undone::Breached(Breach::Refused { nodes: 1, of: 1, .. })));
    let mut stays_away = begun();
    stays_away.pass(1);
    assert!(matches!(stays_away.undone(), Undone::Breached(Breach::Lost { nodes: 1, of: 1 })));
}
