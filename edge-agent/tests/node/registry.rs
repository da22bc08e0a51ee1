//! A new model is installed while the registry's metadata is fresh and lists it; whatever is wrong with that, what serves goes on.

use crate::{
    host::Behaviour,
    rig::{Rig, enrol_offline, until},
    signer::{Numbers, Signer},
};
use edge_agent::daemon::Daemon;
use nearfield_shared::{
    artefact::{Digest, Manifest, Stage},
    desired::{DesiredState, Generation},
    wire::message::{ProblemKind, Registry},
};

const DAY_S: i64 = 24 * 3600;

fn named(state: &DesiredState, models: &[&Manifest]) -> Vec<(Manifest, Digest)> {
    models.iter().map(|manifest| ((*manifest).clone(), state.models[&manifest.stage].digest())).collect()
}

/// A rig that serves generation 1 with a model that the registry lists, and its root came with the enrolment.
async fn serving() -> (Rig, Daemon, Signer, Manifest) {
    let mut rig = Rig::new().await;
    let signer = Signer::new();
    rig.plane.give_root(&signer.root(1, 1 << 37, &[]));
    enrol_offline(&rig.plane, &rig.dir);
    let model = rig.model(Stage::Asr, Behaviour::Good, "one");
    let state = rig.state(1, &[&model]);
    rig.plane.tell_registry(signer.parts(Numbers::all(1, rig.plane.now() + DAY_S), &named(&state, &[&model])));
    rig.plane.want(state);
    let daemon = rig.start().await;
    rig.acked(1).await;
    (rig, daemon, signer, model)
}

/// Metadata that lists the model of this state alone.
fn listing(signer: &Signer, state: &DesiredState, model: &Manifest, numbers: Numbers) -> Registry {
    signer.parts(numbers, &named(state, &[model]))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_timestamp_blocks_a_new_model_and_never_what_runs_and_a_fresh_one_ends_it() {
    let (mut rig, daemon, signer, old) = serving().await;
    // Two days later the plane comes back, and nobody has signed anew.
    rig.plane.vanish().await;
    rig.plane.set_ahead_s(2 * DAY_S);
    let new = rig.model(Stage::Asr, Behaviour::Good, "two");
    let state = rig.state(2, &[&new]);
    let ended = Numbers { timestamp: (2, rig.plane.now() - DAY_S), ..Numbers::all(2, rig.plane.now() + 9 * DAY_S) };
    rig.plane.tell_registry(listing(&signer, &state, &new, ended));
    rig.plane.want(state.clone());
    rig.plane.come_back().await;
    let nack = rig.nacked(2).await;
    assert_eq!((nack.detail.kind, nack.serving), (ProblemKind::RegistryExpired, Generation(1)));
    assert_eq!((nack.detail.stage, nack.detail.artefact), (Some(Stage::Asr), Some(new.digest)));
    assert!(nack.detail.kind.is_transient() && nack.detail.found < nack.detail.wanted, "{nack:?}");
    assert!(rig.plane.served(new.digest).is_empty(), "it was not even fetched");
    assert_eq!(rig.host.live()[&Stage::Asr], old.digest);
    assert!(daemon.status().registry.unwrap().ends_unix_s < rig.plane.now());

    // A restart asks nobody: the node boots into what it had.
    daemon.drain().await;
    rig.plane.vanish().await;
    let daemon = rig.start().await;
    until("the old model serves", || daemon.status().serving == 1).await;
    assert_eq!(rig.host.live()[&Stage::Asr], old.digest);
    rig.plane.come_back().await;
    assert_eq!(rig.nacked(2).await.detail.kind, ProblemKind::RegistryExpired, "the file was kept over the restart");

    let fresh = Numbers { timestamp: (3, rig.plane.now() + DAY_S), ..Numbers::all(2, rig.plane.now() + 9 * DAY_S) };
    rig.plane.tell_registry(listing(&signer, &state, &new, fresh));
    rig.plane.want(state);
    rig.acked(2).await;
    assert_eq!(rig.host.live()[&Stage::Asr], new.digest);
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_registry_does_not_list_or_lists_otherwise_is_refused_and_what_serves_may_be_taken_out() {
    let (mut rig, daemon, signer, old) = serving().await;
    let numbers = |version| Numbers::all(version, rig.plane.now() + DAY_S);
    let (second, third, fourth) = (numbers(2), numbers(3), numbers(4));
    let new = rig.model(Stage::Asr, Behaviour::Good, "two");
    // The old model goes out of the list while it serves: that is no reason to stop.
    rig.plane.tell_registry(signer.parts(second, &[]));
    rig.plane.want(rig.state(2, &[&new]));
    assert_eq!(rig.nacked(2).await.detail.kind, ProblemKind::NotInRegistry);
    let tts = rig.model(Stage::Tts, Behaviour::Good, "two");
    let state = rig.state(3, &[&old, &tts]);
    rig.plane.tell_registry(signer.parts(third, &[(tts.clone(), Digest::of(b"another signed manifest"))]));
    rig.plane.want(state.clone());
    let nack = rig.nacked(3).await;
    assert_eq!((nack.detail.kind, nack.detail.artefact), (ProblemKind::NotInRegistry, Some(tts.digest)));
    rig.plane.tell_registry(signer.parts(fourth, &named(&state, &[&tts])));
    rig.plane.want(state);
    rig.acked(3).await;
    assert_eq!(rig.host.live().len(), 2);
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_registry_and_a_strangers_are_refused_by_their_kinds() {
    let (mut rig, daemon, signer, old) = serving().await;
    let new = rig.model(Stage::Asr, Behaviour::Good, "two");
    let numbers = |version| Numbers::all(version, rig.plane.now() + DAY_S);
    let (zero, five, six) = (numbers(1), numbers(5), numbers(6));
    let state = rig.state(2, &[&new]);
    rig.plane.tell_registry(signer.parts(five, &[]));
    rig.plane.want(state.clone());
    assert_eq!(rig.nacked(2).await.detail.kind, ProblemKind::NotInRegistry);
    let state = DesiredState { generation: Generation(3), ..state };
    rig.plane.tell_registry(signer.parts(zero, &named(&state, &[&new])));
    rig.plane.want(state.clone());
    assert_eq!(rig.nacked(3).await.detail.kind, ProblemKind::RegistryRollback);
    assert!(daemon.status().registry.unwrap().problem.is_some());
    let state = DesiredState { generation: Generation(4), ..state };
    rig.plane.tell_registry(Signer::new().whole(six, &named(&state, &[&new])));
    rig.plane.want(state.clone());
    assert_eq!(rig.nacked(4).await.detail.kind, ProblemKind::RegistryInvalid);
    assert_eq!(rig.host.live()[&Stage::Asr], old.digest);
    rig.plane.tell_registry(signer.parts(six, &named(&state, &[&new])));
    rig.plane.want(state);
    rig.acked(4).await;
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_stops_new_models_until_it_is_removed_and_a_plane_without_a_registry_is_no_way_around() {
    let (mut rig, daemon, signer, old) = serving().await;
    daemon.drain().await;
    let new = rig.model(Stage::Asr, Behaviour::Good, "two");
    let state = rig.state(2, &[&new]);
    std::fs::write(rig.dir.registry(), b"{\"version\":1").unwrap();
    rig.plane.tell_registry(signer.whole(Numbers::all(2, rig.plane.now() + DAY_S), &named(&state, &[&new])));
    rig.plane.want(state.clone());
    let daemon = rig.start().await;
    let nack = rig.nacked(2).await;
    assert_eq!((nack.detail.kind, nack.serving), (ProblemKind::RegistryDamaged, Generation(1)));
    let status = daemon.status();
    assert!(status.last_refusal.unwrap().reason.contains("remove the file"));
    assert_eq!(rig.host.live()[&Stage::Asr], old.digest);
    daemon.drain().await;

    std::fs::remove_file(rig.dir.registry()).unwrap();
    let daemon = rig.start().await;
    rig.acked(2).await;
    daemon.drain().await;

    // The same authority without metadata, as an older control plane is: what was trusted counts on.
    let newest = rig.model(Stage::Asr, Behaviour::Good, "three");
    rig.plane.tell_registry(Registry::default());
    rig.plane.want(rig.state(3, &[&newest]));
    let daemon = rig.start().await;
    let kind = rig.nacked(3).await.detail.kind;
    assert!(matches!(kind, ProblemKind::RegistryInvalid | ProblemKind::NotInRegistry), "{kind:?}");
    assert_eq!(rig.host.live()[&Stage::Asr], new.digest);
    daemon.drain().await;
}
