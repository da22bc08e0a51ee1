//! A state serves as a whole after it was proven, or not at all while the old one serves on.

use crate::{
    host::Behaviour,
    rig::{Rig, until},
};
use edge_agent::slots::LastKnownGood;
use nearfield_shared::{
    artefact::{Manifest, SignedManifest, Stage},
    desired::{DesiredState, Generation},
    wire::{AgentToPlane, message::ProblemKind},
};

/// A rig that serves generation 1 with a model for hearing and one for speaking.
async fn serving() -> (Rig, edge_agent::daemon::Daemon, [Manifest; 2]) {
    let mut rig = Rig::new().await;
    let models = [rig.model(Stage::Asr, Behaviour::Good, "one"), rig.model(Stage::Tts, Behaviour::Good, "one")];
    rig.plane.want(rig.state(1, &[&models[0], &models[1]]));
    let daemon = rig.start().await;
    rig.acked(1).await;
    (rig, daemon, models)
}

fn on_disk(rig: &Rig) -> Generation {
    LastKnownGood::at(&rig.dir.last_known_good()).load().unwrap().expect("a state").generation
}

/// Pushes a state that must be refused for this reason, and checks that nothing of what served has changed.
async fn refused(
    make: impl FnOnce(&Rig, &[Manifest; 2]) -> DesiredState,
    kind: ProblemKind,
) -> nearfield_shared::wire::message::Problem {
    let (mut rig, daemon, models) = serving().await;
    let live = rig.host.live();
    let bad = make(&rig, &models);
    rig.plane.want(bad);
    let nack = rig.nacked(2).await;
    assert_eq!(nack.detail.kind, kind, "{nack:?}");
    assert_eq!(nack.serving, Generation(1));
    assert_eq!(rig.host.live(), live, "the old models serve");
    until("candidates are freed", || rig.host.candidates() == 0).await;
    let status = daemon.status();
    assert_eq!((status.serving, status.models.len()), (1, 2));
    assert_eq!(status.last_refusal.expect("told in words").generation, 2);
    assert_eq!(on_disk(&rig), Generation(1));
    // And the node still takes a good one.
    let better = rig.model(Stage::Asr, Behaviour::Good, "three");
    let state = rig.state(3, &[&better, &models[1]]);
    rig.plane.want(state);
    rig.acked(3).await;
    assert_eq!(rig.host.live()[&Stage::Asr], better.digest);
    assert_eq!(on_disk(&rig), Generation(3));
    daemon.drain().await;
    nack.detail
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_change_is_not_loaded_again() {
    let (mut rig, daemon, models) = serving().await;
    assert_eq!(rig.host.loads(), 2);
    let better = rig.model(Stage::Asr, Behaviour::Good, "two");
    rig.plane.want(rig.state(2, &[&better, &models[1]]));
    rig.acked(2).await;
    assert_eq!(rig.host.loads(), 3);
    assert_eq!(rig.host.live()[&Stage::Asr], better.digest);
    let model = &daemon.status().models[0];
    assert_eq!((model.golden_cases, model.digest), (2, better.digest));
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_with_a_wrong_signature_is_refused() {
    let state = |rig: &Rig, models: &[Manifest; 2]| {
        let mut state = rig.state(2, &[&models[0], &models[1]]);
        let signed = state.models.get_mut(&Stage::Asr).unwrap();
        *signed = SignedManifest { body: signed.body.replace("MIT", "BSD"), ..signed.clone() };
        state
    };
    let problem = refused(state, ProblemKind::BadSignature).await;
    assert_eq!(problem.stage, Some(Stage::Asr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_in_the_place_of_another_stage_is_refused() {
    let state = |rig: &Rig, models: &[Manifest; 2]| {
        let mut state = rig.state(2, &[&models[0]]);
        state.models.insert(Stage::Llm, rig.plane.sign(&models[1]));
        state
    };
    refused(state, ProblemKind::BadManifest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_golden_results_is_refused() {
    let state = |rig: &Rig, models: &[Manifest; 2]| {
        rig.state(2, &[&Manifest { golden_cases: 0, ..models[0].clone() }, &models[1]])
    };
    refused(state, ProblemKind::BadManifest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_architecture_that_this_agent_cannot_run_is_refused_before_it_is_fetched() {
    let state = |rig: &Rig, models: &[Manifest; 2]| {
        let strange = rig.model(Stage::Asr, Behaviour::Good, "strange");
        let strange = Manifest { architecture: "perceiver".into(), ..strange };
        assert!(rig.plane.served(strange.digest).is_empty());
        rig.state(2, &[&strange, &models[1]])
    };
    let problem = refused(state, ProblemKind::UnknownArchitecture).await;
    assert!(problem.artefact.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_for_another_interface_is_refused_with_both_versions() {
    let state = |rig: &Rig, models: &[Manifest; 2]| {
        let newer = Manifest { interface: 2, ..rig.model(Stage::Asr, Behaviour::Good, "newer") };
        rig.state(2, &[&newer, &models[1]])
    };
    let problem = refused(state, ProblemKind::WrongInterface).await;
    assert_eq!((problem.found, problem.wanted), (Some(2.0), Some(1.0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_does_not_reproduce_its_golden_results_is_refused() {
    let state = |rig: &Rig, models: &[Manifest; 2]| {
        // The other stage is good and new: it must not be swapped alone.
        let good = rig.model(Stage::Tts, Behaviour::Good, "two");
        let _ = models;
        rig.state(2, &[&rig.model(Stage::Asr, Behaviour::GoldenDiffers, "two"), &good])
    };
    let problem = refused(state, ProblemKind::GoldenDiffers).await;
    assert_eq!((problem.stage, problem.index), (Some(Stage::Asr), Some(1)));
    assert_eq!((problem.found, problem.wanted), (Some(0.5), Some(0.999)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_fewer_golden_cases_than_its_manifest_says_is_refused() {
    let state = |rig: &Rig, models: &[Manifest; 2]| {
        let claims = Manifest { golden_cases: 5, ..rig.model(Stage::Asr, Behaviour::Good, "claims") };
        rig.state(2, &[&claims, &models[1]])
    };
    refused(state, ProblemKind::GoldenDiffers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_panics_costs_the_state_and_not_the_node() {
    for behaviour in [Behaviour::PanicsAtLoad, Behaviour::PanicsAtGolden] {
        let state =
            |rig: &Rig, models: &[Manifest; 2]| rig.state(2, &[&rig.model(Stage::Asr, behaviour, "two"), &models[1]]);
        refused(state, ProblemKind::Failed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_in_the_middle_of_the_swap_leaves_the_old_state_whole() {
    let state = |rig: &Rig, _: &[Manifest; 2]| {
        // Hearing is swapped first and succeeds; speaking kills the worker.
        let asr = rig.model(Stage::Asr, Behaviour::Good, "two");
        let tts = rig.model(Stage::Tts, Behaviour::DiesAtSwap, "two");
        rig.state(2, &[&asr, &tts])
    };
    refused(state, ProblemKind::Failed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_state_pre_empts_one_that_is_stuck() {
    let (mut rig, daemon, models) = serving().await;
    let stuck = rig.model(Stage::Asr, Behaviour::Slow, "two");
    rig.plane.want(rig.state(2, &[&stuck, &models[1]]));
    until("the slow model is loaded", || rig.host.candidates() == 1).await;
    assert_eq!(daemon.status().activating, Some(2));
    let better = rig.model(Stage::Asr, Behaviour::Good, "three");
    rig.plane.want(rig.state(3, &[&better, &models[1]]));
    let nack = rig.nacked(2).await;
    assert_eq!(nack.detail.kind, ProblemKind::Superseded);
    rig.acked(3).await;
    assert_eq!(rig.host.live()[&Stage::Asr], better.digest);
    until("the stuck candidate is freed", || rig.host.candidates() == 0).await;
    // The stuck one comes to its end at last and must not win after the fact.
    rig.host.release();
    daemon.drain().await;
    assert_eq!(rig.host.live()[&Stage::Asr], better.digest);
    assert_eq!(on_disk(&rig), Generation(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_generation_is_never_taken() {
    let (mut rig, daemon, models) = serving().await;
    rig.plane.want(rig.state(5, &[&models[0], &models[1]]));
    rig.acked(5).await;
    rig.plane.want(rig.state(4, &[&models[0]]));
    let nack = rig.nacked(4).await;
    assert_eq!((nack.detail.kind, nack.serving), (ProblemKind::OldGeneration, Generation(5)));
    assert_eq!(daemon.status().models.len(), 2);
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_out_of_use_go_and_those_in_use_stay() {
    let (mut rig, daemon, models) = serving().await;
    daemon.drain().await;
    let config = edge_agent::config::Config { artefacts_keep: 0, ..rig.config() };
    let daemon = rig.start_with(config).await.unwrap();
    let better = rig.model(Stage::Asr, Behaviour::Good, "two");
    rig.plane.want(rig.state(2, &[&better, &models[1]]));
    rig.acked(2).await;
    let mut expected = vec![format!("{}.gguf", better.digest), format!("{}.gguf", models[1].digest)];
    expected.sort();
    until("the old file is gone", || crate::rig::artefact_files(&rig.dir) == expected).await;
    let said_goodbye = |log: &[AgentToPlane]| log.iter().filter(|m| **m == AgentToPlane::Goodbye).count();
    daemon.drain().await;
    until("both goodbyes arrived", || said_goodbye(&rig.plane.log()) == 2).await;
}
