//! Rollouts in the fleet: what nodes are offered, what numbers it has, what is stored, what budgets refuse.

use super::*;
use crate::rollout::{Order, Phase, Wait};
use nearfield_shared::{
    rollout::{Budget, Gates, RolloutSettings, WaveSettings},
    trial::{TrialSettings, Trying},
};

fn settings(percents: &[f64]) -> RolloutSettings {
    let wave = |percent: &f64| WaveSettings { label: None, percent: *percent, approval: false, bake_s: None };
    RolloutSettings {
        bake_s: 60,
        waves: percents.iter().map(wave).collect(),
        gates: Gates::default(),
        budget: None,
        maintenance: None,
        trial: None,
    }
}

/// The region with these words as its model, and a rollout.
fn changed(model: &str, rollout: RolloutSettings) -> Definition {
    let mut definition = definition(&["eu"]);
    let region = definition.regions.get_mut(&eu()).unwrap();
    region.models.insert(Stage::Vad, SignedManifest { body: model.into(), signature: "s".into() });
    region.region.rollout = Some(rollout);
    definition
}

/// Four nodes that are connected and serve generation 1.
fn four() -> Fleet {
    let mut fleet = fleet();
    for (i, node) in ["a", "b", "c", "d"].into_iter().enumerate() {
        fleet.nodes.insert(name(node), NodeRecord::new(name(node), eu(), format!("{i}"), NOW + 1_000_000, NOW));
        fleet.greeted(ConnectionId(i as u64), &here(node, 1), NOW);
    }
    fleet
}

fn offered(fleet: &Fleet) -> Vec<u64> {
    ["a", "b", "c", "d"].map(|node| fleet.offered(&eu(), &name(node)).unwrap().0).into()
}

/// Nodes serve what they are offered.
fn take_up(fleet: &mut Fleet) {
    for node in ["a", "b", "c", "d"] {
        let offered = fleet.offered(&eu(), &name(node)).unwrap();
        fleet.acked(&name(node), offered, NOW);
    }
}

fn count(generations: &[u64], generation: u64) -> usize {
    generations.iter().filter(|g| **g == generation).count()
}

fn body(state: Option<DesiredState>) -> (u64, String) {
    let state = state.unwrap();
    (state.generation.0, state.models[&Stage::Vad].body.clone())
}

#[test]
fn nodes_are_offered_the_change_wave_by_wave_and_all_of_them_at_the_end() {
    let mut fleet = four();
    let plan = fleet.apply(changed("two", settings(&[25.0, 100.0])), NOW).0;
    assert_eq!(plan.regions[0].waves.iter().map(|wave| wave.nodes).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(offered(&fleet), [1, 1, 1, 1], "nothing before the first wave");
    let stepped = fleet.step_rollout(&eu(), NOW);
    assert!(stepped.offers_changed && stepped.act.is_some());
    assert_eq!(count(&offered(&fleet), 2), 1);
    assert_eq!(body(fleet.desired(&eu(), &[])), (2, "two".into()));
    assert_eq!(body(fleet.desired_before(&eu(), &[])), (1, "{}".into()));
    assert_eq!(fleet.duties(&eu()).len(), 4, "both sides report often");
    take_up(&mut fleet);
    assert!(!fleet.apply(changed("two", settings(&[25.0, 100.0])), NOW).0.changes(), "the same again is no change");
    fleet.step_rollout(&eu(), NOW);
    fleet.step_rollout(&eu(), NOW + 60);
    take_up(&mut fleet);
    fleet.step_rollout(&eu(), NOW + 60);
    let stepped = fleet.step_rollout(&eu(), NOW + 120);
    assert!(stepped.offers_changed);
    assert!(matches!(fleet.rollout(&eu()).unwrap().0.phase, Phase::Done { .. }));
    assert_eq!(offered(&fleet), [2; 4]);
    assert!(fleet.desired_before(&eu(), &[]).is_none() && fleet.duties(&eu()).is_empty());
}

#[test]
fn a_breach_puts_everybody_back_under_a_new_number() {
    let mut fleet = four();
    let mut writes = fleet.apply(changed("two", settings(&[25.0, 100.0])), NOW).1;
    writes.extend(fleet.step_rollout(&eu(), NOW).writes);
    take_up(&mut fleet);
    fleet.step_rollout(&eu(), NOW);
    let bad = ["a", "b", "c", "d"].into_iter().find(|node| fleet.offered(&eu(), &name(node)) == Some(Generation(2)));
    let policy = defined("eu").region.policy;
    let tally = CallTally {
        generation: Some(Generation(2)),
        calls: 60,
        turns_by_model: 50,
        turns_failed: 10,
        ..CallTally::default()
    };
    let report = Report { id: 1, figures: AnonymisedReport::suppress(&tally, Some(&policy)).unwrap() };
    writes.extend(fleet.report(&name(bad.unwrap()), &eu(), &report, NOW));
    // The plane dies between the report and the decision, and another one decides.
    let mut fleet = Fleet::load(&stored(writes), NOW).unwrap();
    let stepped = fleet.step_rollout(&eu(), NOW + 1);
    assert!(stepped.told[0].what.to_string().contains("16.7 % of 60 turns failed"), "{:?}", stepped.told);
    assert_eq!(stepped.act.as_ref().unwrap().what, "rollout.undone");
    assert_eq!(body(fleet.desired(&eu(), &[])), (3, "{}".into()));
    let fleet = Fleet::load(&stored(stepped.writes), NOW).unwrap();
    assert_eq!(body(fleet.desired(&eu(), &[])), (3, "{}".into()));
    let plan = fleet.plan(&changed("two", settings(&[25.0, 100.0])), NOW);
    assert_eq!(
        plan.regions[0].differences.len(),
        1,
        "what the files say and was undone is shown as a difference again: {plan:?}"
    );
}

#[test]
fn only_what_a_rollout_brings_is_tried_and_never_what_is_put_back() {
    let trial = TrialSettings::default();
    let mut fleet = four();
    let tried = RolloutSettings { trial: Some(trial.clone()), ..settings(&[25.0, 100.0]) };
    fleet.apply(changed("two", tried.clone()), NOW);
    assert_eq!(fleet.desired(&eu(), &[]).unwrap().trial, Some(trial.clone()));
    assert_eq!(fleet.desired_before(&eu(), &[]).unwrap().trial, None);
    fleet.step_rollout(&eu(), NOW);
    // While a node of the wave tries it, whoever looks sees that.
    let moved = ["a", "b", "c", "d"].into_iter().find(|node| fleet.offered(&eu(), &name(node)) == Some(Generation(2)));
    let (moved, at) = (moved.unwrap(), ["a", "b", "c", "d"].iter().position(|node| Some(*node) == moved).unwrap());
    let trying = Trying { turns: 7, live_turns: 70, turns_min: 20, share_percent: 10.0, left_s: 90 };
    fleet.status(&name(moved), ConnectionId(at as u64), Status { trial: Some(trying), ..status(1, true) }, NOW);
    let (rollout, evidence) = fleet.rollout(&eu()).unwrap();
    let view = crate::api::rollout_view::RolloutView::of(&fleet, rollout, evidence, NOW);
    assert!(view.trying == 1 && view.stands.ends_with(", 1 tries it (7 turns so far)"), "{}", view.stands);
    fleet.order_rollout(&eu(), Order::Abort, "eve", NOW).unwrap();
    assert_eq!(fleet.desired(&eu(), &[]).unwrap().trial, None, "it served before");
    // A rollout that is done: nodes that come back later try it too.
    fleet.apply(changed("three", RolloutSettings { waves: vec![], ..tried }), NOW);
    fleet.step_rollout(&eu(), NOW);
    assert!(matches!(fleet.rollout(&eu()).unwrap().0.phase, Phase::Done { .. }));
    assert_eq!(fleet.desired(&eu(), &[]).unwrap().trial, Some(trial));
}

#[test]
fn a_newer_change_ends_a_stuck_rollout() {
    let mut fleet = four();
    let mut stuck = settings(&[25.0, 100.0]);
    stuck.waves[1].approval = true;
    fleet.apply(changed("two", stuck.clone()), NOW);
    fleet.step_rollout(&eu(), NOW);
    take_up(&mut fleet);
    fleet.step_rollout(&eu(), NOW);
    fleet.step_rollout(&eu(), NOW + 60);
    let waits = Phase::Waiting { why: Wait::Approval, since_unix_s: NOW + 60 };
    assert_eq!(fleet.rollout(&eu()).unwrap().0.phase, waits);
    let plan = fleet.apply(changed("three", stuck.clone()), NOW + 61).0;
    assert_eq!(plan.regions[0].preempts, Some(Generation(2)));
    assert_eq!(offered(&fleet), [3; 4], "first all go back to what most have");
    assert_eq!(body(fleet.desired_before(&eu(), &[])), (3, "{}".into()));
    fleet.step_rollout(&eu(), NOW + 61);
    assert_eq!(count(&offered(&fleet), 4), 1);
    // Back to the old files: nothing to roll out.
    let mut old = definition(&["eu"]);
    old.regions.get_mut(&eu()).unwrap().region.rollout = Some(stuck);
    let plan = fleet.apply(old, NOW + 62).0;
    assert!(plan.regions[0].waves.is_empty());
    assert_eq!((offered(&fleet), fleet.rolling().len()), (vec![5; 4], 0));
}

#[test]
fn only_how_changes_are_made_makes_no_generation() {
    let mut fleet = four();
    let mut definition = definition(&["eu"]);
    definition.regions.get_mut(&eu()).unwrap().region.rollout = Some(settings(&[100.0]));
    let (plan, writes) = fleet.apply(definition, NOW + 5);
    assert!(plan.changes() && !plan.regions[0].differences.is_empty() && plan.regions[0].waves.is_empty());
    assert_eq!((plan.regions[0].generation, offered(&fleet)), (Generation(1), vec![1; 4]));
    assert_eq!((writes.len(), fleet.region(&eu()).unwrap().changed_unix_s), (1, NOW), "no touch, no rollout");
}

#[test]
fn numbers_go_on_above_whatever_nodes_serve() {
    let mut fleet = four();
    fleet.apply(changed("two", settings(&[25.0, 100.0])), NOW);
    fleet.step_rollout(&eu(), NOW);
    fleet.agent_ahead(&eu(), Generation(9)).unwrap();
    assert_eq!((count(&offered(&fleet), 10), count(&offered(&fleet), 11)), (3, 1));
    let mut fleet = Fleet::load(&stored(fleet.skip_generations()), NOW).unwrap();
    fleet.order_rollout(&eu(), Order::Abort, "eve", NOW).unwrap();
    assert_eq!(body(fleet.desired(&eu(), &[])), (RESTORED_SKIP + 12, "{}".into()));
}

#[test]
fn a_budget_refuses_what_touches_too_much_and_makes_later_waves_wait() {
    let mut fleet = four();
    let half = Some(Budget { percent: 50.0, within_s: 3_600 });
    let refused = |fleet: &Fleet, percents: &[f64]| {
        let settings = RolloutSettings { budget: half.clone(), ..settings(percents) };
        fleet.plan(&changed("two", settings), NOW).refused
    };
    let said = refused(&fleet, &[25.0, 100.0]);
    assert!(said[0].contains("wave 2 in region eu touches 75 % of jurisdiction eu"), "{said:?}");
    assert!(refused(&fleet, &[50.0, 100.0]).is_empty());
    fleet.apply(changed("two", RolloutSettings { budget: half.clone(), ..settings(&[50.0, 100.0]) }), NOW);
    fleet.step_rollout(&eu(), NOW);
    take_up(&mut fleet);
    fleet.step_rollout(&eu(), NOW);
    fleet.step_rollout(&eu(), NOW + 60);
    let waits = Phase::Waiting { why: Wait::Budget, since_unix_s: NOW + 60 };
    assert_eq!(fleet.rollout(&eu()).unwrap().0.phase, waits);
    fleet.step_rollout(&eu(), NOW + 3_600);
    assert_eq!(count(&offered(&fleet), 2), 4);
}

/// Found by the simulation: what was touched while the clock was 90 days ahead used a budget up for 90 days.
#[test]
fn regression_a_budget_is_not_used_up_by_a_clock_that_was_ahead() {
    const AHEAD: i64 = 90 * 24 * 60 * 60;
    let mut fleet = four();
    let settings =
        RolloutSettings { budget: Some(Budget { percent: 50.0, within_s: 600 }), ..settings(&[50.0, 100.0]) };
    fleet.apply(changed("two", settings), NOW + AHEAD);
    fleet.step_rollout(&eu(), NOW + AHEAD);
    take_up(&mut fleet);
    fleet.step_rollout(&eu(), NOW + AHEAD);
    let writes = fleet.step_rollout(&eu(), NOW).writes;
    assert!(writes.iter().any(|write| write.key() == "touches/eu"), "{writes:?}");
    fleet.step_rollout(&eu(), NOW + 60);
    assert_eq!(count(&offered(&fleet), 2), 2, "the budget holds, counted from when the clock was put right");
    fleet.step_rollout(&eu(), NOW + 600);
    assert_eq!(count(&offered(&fleet), 2), 4);
}

#[test]
fn a_cordoned_node_gets_no_callers_and_a_drained_one_takes_none() {
    let mut fleet = four();
    let url = |fleet: &Fleet| fleet.routes(NOW)[0].nodes.iter().map(|node| node.up).collect::<Vec<_>>();
    for node in ["a", "b", "c", "d"] {
        fleet.nodes.get_mut(&name(node)).unwrap().public_url = Some("http://x".parse().unwrap());
        fleet.acked(&name(node), Generation(1), NOW);
    }
    assert!(fleet.cordon(&name("nobody"), true, NOW).is_none());
    fleet.cordon(&name("a"), false, NOW);
    assert_eq!((url(&fleet), fleet.duties(&eu()).len()), (vec![false, true, true, true], 0));
    fleet.cordon(&name("a"), true, NOW).unwrap();
    assert!(fleet.cordon(&name("a"), false, NOW).unwrap().is_empty(), "a drain is more than a cordon");
    assert!(!fleet.duties(&eu())[&name("a")].accepting);
    fleet.uncordon(&name("a"), NOW).unwrap();
    assert_eq!((url(&fleet), fleet.duties(&eu()).len()), (vec![true; 4], 0));
    let told: Vec<&str> = fleet.events(0).filter(|e| e.what.contains("cordon")).map(|e| e.what.as_str()).collect();
    assert_eq!(told, ["node.cordoned", "node.uncordoned"]);
}

#[test]
fn labels_are_few() {
    let mut fleet = four();
    let labels: Vec<_> = (0..17).map(|i| format!("l{i}").parse().unwrap()).collect();
    assert!(fleet.label(&name("a"), &labels, &[]).unwrap().unwrap_err().contains("at most 16"));
    assert_eq!(fleet.label(&name("a"), &labels[..2], &[]).unwrap().unwrap().len(), 1);
    fleet.label(&name("a"), &[], &labels[..1]).unwrap().unwrap();
    assert_eq!(fleet.node(&name("a")).unwrap().labels.len(), 1);
}
