//! Figures leave the node for groups that are large enough, and never before.

use crate::{host::Behaviour, rig::Rig};
use edge_agent::config::Config;
use nearfield_shared::{artefact::Stage, report::CallTally, wire::AgentToPlane};
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
