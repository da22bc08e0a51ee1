//! Figures about groups of calls: counted once, by region and day.

use super::{agent::Agent, plane::TestPlane};
use nearfield_shared::{
    policy::Policy,
    report::{AnonymisedReport, CallTally},
    wire::{AgentToPlane, PlaneToAgent, message::Report},
};

fn report(id: u64, calls: u64) -> AgentToPlane {
    let policy = Policy { serves_countries: vec![], store_transcripts: false, retention_days: 0, metrics_group_min: 5 };
    let mut tally = CallTally { calls, turns_by_model: calls, ..CallTally::default() };
    tally.count_first_audio(180);
    AgentToPlane::Report(Report { id, figures: AnonymisedReport::suppress(&tally, Some(&policy)).unwrap() })
}

async fn taken(agent: &mut Agent) -> u64 {
    loop {
        if let PlaneToAgent::ReportTaken(taken) = agent.hear().await.unwrap() {
            return taken.id;
        }
    }
}

#[tokio::test]
async fn a_report_that_is_sent_twice_counts_once_even_after_a_restart() {
    let mut plane = TestPlane::new().await;
    let mut agent = Agent::new(&plane, "eu", "a").await;
    for message in [report(1, 6), report(2, 7), report(1, 6)] {
        agent.say(message).await;
    }
    assert_eq!([taken(&mut agent).await, taken(&mut agent).await, taken(&mut agent).await], [1, 2, 1]);
    plane.start_again().await;
    let mut agent = Agent::connect(&plane, &agent.identity, 0).await;
    agent.say(report(2, 7)).await;
    assert_eq!(taken(&mut agent).await, 2);
    let figures = plane.admin.metrics().await.unwrap();
    let calls: u64 = figures.iter().map(|row| row.calls).sum();
    assert_eq!(calls, 13);
    assert!(figures.iter().all(|row| row.region.as_str() == "eu" && row.first_audio_p50_ms_max == Some(200)));
}
