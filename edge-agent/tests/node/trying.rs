//! Candidates are tried before they serve: in a spoken call, then on a share of live turns. Whatever happens meanwhile, the live models serve.

use crate::{
    host::Behaviour,
    offline::{kill, spawn_child},
    rig::{Rig, until},
};
use edge_agent::{
    daemon::Daemon,
    trial::{Side, TriedTurn},
};
use nearfield_shared::{
    artefact::{Manifest, Stage},
    desired::{DesiredState, Generation},
    trial::TrialSettings,
    wire::{AgentToPlane, message::ProblemKind},
};
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;

/// A node that serves generation 1 with a model for each stage.
async fn serving() -> (Rig, Daemon, BTreeMap<Stage, Manifest>) {
    let mut rig = Rig::new().await;
    let models: BTreeMap<Stage, Manifest> =
        Stage::ALL.into_iter().map(|stage| (stage, rig.model(stage, Behaviour::Good, "one"))).collect();
    rig.plane.want(rig.state(1, &models.values().collect::<Vec<_>>()));
    let daemon = rig.start().await;
    rig.acked(1).await;
    (rig, daemon, models)
}

/// The same state with another model of one stage.
fn changed(rig: &Rig, generation: u64, models: &BTreeMap<Stage, Manifest>, other: &Manifest) -> DesiredState {
    let mut models = models.clone();
    models.insert(other.stage, other.clone());
    rig.state(generation, &models.values().collect::<Vec<_>>())
}

fn trial(time_s_max: u32) -> Option<TrialSettings> {
    Some(TrialSettings { share_percent: 50.0, turns_min: 5, time_s_max, ..TrialSettings::default() })
}

/// Pushes a new recogniser that is to be tried, and waits until it is.
async fn tried(rig: &Rig, daemon: &Daemon, models: &BTreeMap<Stage, Manifest>, time_s_max: u32) -> Manifest {
    let better = rig.model(Stage::Asr, Behaviour::Good, "two");
    rig.plane.want(DesiredState { trial: trial(time_s_max), ..changed(rig, 2, models, &better) });
    until("the candidate is tried", || daemon.services().trials.progress().is_some()).await;
    better
}

/// Turns of a side, as a call begins them.
fn turns(daemon: &Daemon, side: Side, count: usize) -> Vec<Arc<TriedTurn>> {
    let begun = (0..).map(|n| daemon.services().trials.turn(Uuid::new_v4(), n).expect("a trial is under way"));
    begun.filter(|turn| turn.side() == side).take(count).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_with_which_a_spoken_call_goes_wrong_is_refused_with_its_stage() {
    let (mut rig, daemon, models) = serving().await;
    let live = rig.host.live();
    for (generation, stage) in (2..).zip(Stage::ALL) {
        let bad = rig.model(stage, Behaviour::FailsInCalls, "two");
        rig.plane.want(changed(&rig, generation, &models, &bad));
        let nack = rig.nacked(generation).await;
        assert_eq!((nack.detail.kind, nack.detail.stage), (ProblemKind::SpokenCallFailed, Some(stage)), "{nack:?}");
        assert_eq!((nack.detail.artefact, nack.serving), (Some(bad.digest), Generation(1)));
        assert_eq!(rig.host.live(), live, "the old models serve");
        until("the candidate is freed", || rig.host.candidates() == 0).await;
        let refusal = daemon.status().last_refusal.expect("told in words");
        assert!(refusal.reason.contains("a spoken call went wrong"), "{}", refusal.reason);
    }
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_takes_far_longer_than_the_live_model_is_refused_with_both_times() {
    let (mut rig, daemon, models) = serving().await;
    let slow = rig.model(Stage::Llm, Behaviour::SlowInCalls, "two");
    rig.plane.want(changed(&rig, 2, &models, &slow));
    let problem = rig.nacked(2).await.detail;
    assert_eq!((problem.kind, problem.stage), (ProblemKind::SpokenCallSlow, Some(Stage::Llm)));
    assert!(problem.found.unwrap() > problem.wanted.unwrap(), "{problem:?}");
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_serves_after_enough_turns_that_went_as_well() {
    let (mut rig, daemon, models) = serving().await;
    let before = rig.host.live();
    let better = tried(&rig, &daemon, &models, 3_600).await;
    let begun = turns(&daemon, Side::Candidate, 1).remove(0);
    assert_eq!(begun.candidate(Stage::Asr), Some(better.digest));
    assert_eq!(begun.candidate(Stage::Llm), None, "what does not change is the live model's");
    assert_eq!(turns(&daemon, Side::Live, 1)[0].candidate(Stage::Asr), None);
    for turn in turns(&daemon, Side::Candidate, 4).into_iter().chain(turns(&daemon, Side::Live, 5)) {
        turn.ended(false, Some(300));
    }
    let trying = daemon.status().trial.expect("shown");
    assert_eq!((trying.turns, trying.live_turns, trying.turns_min, trying.share_percent), (4, 5, 5, 50.0));
    assert_eq!((rig.host.live(), daemon.status().activating), (before, Some(2)), "one turn is still wanted");
    begun.ended(false, Some(400));
    rig.acked(2).await;
    assert_eq!(rig.host.live()[&Stage::Asr], better.digest);
    assert!(daemon.services().trials.turn(Uuid::new_v4(), 1).is_none() && daemon.status().trial.is_none());
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_and_delays_end_a_trial_at_once_and_are_told_as_figures() {
    for (ends, kind, found, wanted) in [
        (vec![(true, None); 3], ProblemKind::TrialErrors, 100.0, 2.0),
        (vec![(false, Some(900)); 5], ProblemKind::TrialLatency, 900.0, 450.0),
    ] {
        let (mut rig, daemon, models) = serving().await;
        let live = rig.host.live();
        tried(&rig, &daemon, &models, 3_600).await;
        turns(&daemon, Side::Live, 5).iter().for_each(|turn| turn.ended(false, Some(300)));
        let late = turns(&daemon, Side::Candidate, 1);
        let begun = turns(&daemon, Side::Candidate, ends.len());
        begun.iter().zip(&ends).for_each(|(turn, (failed, ms))| turn.ended(*failed, *ms));
        let problem = rig.nacked(2).await.detail;
        assert_eq!((problem.kind, problem.found, problem.wanted), (kind, Some(found), Some(wanted)));
        assert_eq!(problem.stage, Some(Stage::Asr));
        assert!(!problem.kind.is_transient(), "the same candidate is not tried again by itself");
        assert_eq!((rig.host.live(), daemon.status().serving), (live, 1));
        until("the candidate is freed", || rig.host.candidates() == 0).await;
        // A turn that was under way ends as turns do.
        late[0].ended(false, Some(300));
        daemon.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_dies_in_its_trial_is_refused() {
    let (mut rig, daemon, models) = serving().await;
    let live = rig.host.live();
    let better = tried(&rig, &daemon, &models, 3_600).await;
    rig.host.kill(Stage::Asr);
    let problem = rig.nacked(2).await.detail;
    assert_eq!((problem.kind, problem.artefact), (ProblemKind::TrialDied, Some(better.digest)));
    assert_eq!(rig.host.live(), live);
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_too_few_call_the_candidate_serves_when_the_time_is_up() {
    let (mut rig, daemon, models) = serving().await;
    let better = tried(&rig, &daemon, &models, 2).await;
    turns(&daemon, Side::Candidate, 1)[0].ended(false, Some(9_000));
    rig.acked(2).await;
    assert_eq!(rig.host.live()[&Stage::Asr], better.digest);
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_state_ends_a_trial() {
    let (mut rig, daemon, models) = serving().await;
    tried(&rig, &daemon, &models, 3_600).await;
    let newest = rig.model(Stage::Asr, Behaviour::Good, "three");
    rig.plane.want(changed(&rig, 3, &models, &newest));
    assert_eq!(rig.nacked(2).await.detail.kind, ProblemKind::Superseded);
    rig.acked(3).await;
    assert_eq!(rig.host.live()[&Stage::Asr], newest.digest);
    assert!(daemon.services().trials.progress().is_none());
    until("both candidates are gone", || rig.host.candidates() == 0).await;
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_no_tried_model_is_not_tried() {
    let (mut rig, daemon, models) = serving().await;
    // Neither the detector, whose state runs through a call, nor a state without new models.
    let detector = rig.model(Stage::Vad, Behaviour::Good, "two");
    rig.plane.want(DesiredState { trial: trial(3_600), ..changed(&rig, 2, &models, &detector) });
    rig.acked(2).await;
    rig.plane.want(DesiredState { trial: trial(3_600), ..changed(&rig, 3, &models, &detector) });
    rig.acked(3).await;
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_in_a_trial_comes_back_whole_and_tries_again() {
    let mut rig = Rig::new().await;
    let models: BTreeMap<Stage, Manifest> =
        Stage::ALL.into_iter().map(|stage| (stage, rig.model(stage, Behaviour::Good, "one"))).collect();
    rig.plane.want(rig.state(1, &models.values().collect::<Vec<_>>()));
    let child = spawn_child(&rig);
    rig.acked(1).await;
    let better = rig.model(Stage::Asr, Behaviour::Good, "two");
    rig.plane.want(DesiredState { trial: trial(3_600), ..changed(&rig, 2, &models, &better) });
    let told = rig.hear(|message| match message {
        AgentToPlane::Status(status) => status.trial,
        _ => None,
    });
    assert_eq!(told.await.turns_min, 5, "the control plane sees that it tries");
    kill(child);

    let daemon = rig.start().await;
    until("the last-known-good state serves", || daemon.status().serving == 1).await;
    assert_eq!(rig.host.live()[&Stage::Asr], models[&Stage::Asr].digest);
    until("the candidate is tried again", || daemon.services().trials.progress().is_some()).await;
    for turn in turns(&daemon, Side::Candidate, 5).into_iter().chain(turns(&daemon, Side::Live, 5)) {
        turn.ended(false, Some(300));
    }
    rig.acked(2).await;
    daemon.drain().await;
}
