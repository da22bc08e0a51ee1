//! Figures leave the node for groups that are large enough, and never before.

use crate::{
    host::Behaviour,
    rig::{Rig, until},
};
use edge_agent::{calls::Refused, config::Config};
use nearfield_shared::{
    artefact::Stage,
    desired::Generation,
    report::CallTally,
    wire::{AgentToPlane, message::Duty},
};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_small_group_is_carried_over_and_a_large_one_is_reported_once() {
    let mut rig = Rig::new().await;
    let model = rig.model(Stage::Asr, Behaviour::Good, "one");
    rig.plane.want(rig.state(1, &[&model]));
    let config = Config { report_window: Duration::from_millis(50), ..rig.config() };
    let daemon = rig.start_with(config).await.unwrap();
    rig.acked(1).await;
    let one = CallTally { calls: 1, turns_by_model: 3, ..CallTally::default() };
    (0..4).for_each(|_| daemon.services().tally.add(&one));
    // Ten windows pass, and four calls are still too few to hide one another.
    for _ in 0..5 {
        rig.hear(|message| match message {
            AgentToPlane::Report(report) => panic!("{report:?}"),
            message => matches!(message, AgentToPlane::Status(_)).then_some(()),
        })
        .await;
    }
    assert_eq!(daemon.status().calls_unreported, 4);
    daemon.services().tally.add(&one);
    let figures = rig
        .hear(|message| match message {
            AgentToPlane::Report(report) => Some(report.figures.figures()),
            _ => None,
        })
        .await;
    assert_eq!((figures.calls, figures.turns_by_model), (5, 15));
    assert_eq!(daemon.status().calls_unreported, 0);
    // What is counted before a stop goes out with the goodbye.
    (0..6).for_each(|_| daemon.services().tally.add(&one));
    daemon.drain().await;
    let figures = rig
        .hear(|message| match message {
            AgentToPlane::Report(report) => Some(report.figures.figures()),
            _ => None,
        })
        .await;
    assert_eq!(figures.calls, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plane_may_ask_for_short_windows_and_for_no_new_calls() {
    let mut rig = Rig::new().await;
    let model = rig.model(Stage::Asr, Behaviour::Good, "one");
    rig.plane.want(rig.state(1, &[&model]));
    // Five minutes, were nothing asked.
    let daemon = rig.start().await;
    rig.acked(1).await;
    let one = |generation| CallTally { generation: Some(Generation(generation)), calls: 1, ..CallTally::default() };
    (0..5).for_each(|_| daemon.services().tally.add(&one(1)));
    (0..6).for_each(|_| daemon.services().tally.add(&one(2)));
    rig.plane.ask(Duty { accepting: false, report_every_ms: Some(1) });
    let mut groups = Vec::new();
    for _ in 0..2 {
        groups.push(
            rig.hear(|message| match message {
                AgentToPlane::Report(report) => Some(report.figures.figures()),
                _ => None,
            })
            .await,
        );
    }
    let groups: Vec<_> = groups.iter().map(|group| (group.generation.map(|g| g.0), group.calls)).collect();
    assert_eq!(groups, [(Some(2), 6), (Some(1), 5)], "each generation by itself");
    assert_eq!(daemon.services().calls.admit().expect_err("drained"), Refused::Held);
    rig.plane.ask(Duty::default());
    until("the door is open again", || daemon.services().calls.admit().is_ok()).await;
}
