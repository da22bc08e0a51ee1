//! Figures about groups of calls: counted once, by region and day.

use super::{agent::Agent, plane::TestPlane};
use control_plane::fleet::accounts::Role;
use nearfield_shared::{
    policy::Policy,
    report::{AnonymisedReport, CallTally},
    wire::{AgentToPlane, PlaneToAgent, message::Report},
};
use std::{collections::BTreeSet, fs, path::Path};

fn report(id: u64, calls: u64) -> AgentToPlane {
    let policy = Policy {
        serves_countries: vec![],
        store_transcripts: false,
        retention_days: 0,
        metrics_group_min: 5,
        notices: vec![],
    };
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

/// Names of the plane's metrics in what is deployed beside it.
fn watched() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let files = ["grafana/nearfield.json", "prometheus/nearfield.rules.yml"];
    let text = files.map(|file| fs::read_to_string(folder.join(file)).unwrap()).concat();
    let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    words.filter(|word| word.starts_with("nearfield_plane_")).map(str::to_owned).collect()
}

#[tokio::test]
async fn prometheus_is_told_of_everything_that_is_watched() {
    let plane = TestPlane::new().await;
    let mut agent = Agent::new(&plane, "eu", "a").await;
    agent.say(report(1, 6)).await;
    assert_eq!(taken(&mut agent).await, 1);
    let url = format!("http://{}/v1/admin/prometheus", plane.running.admin);
    let viewer = plane.admin.add_account("prometheus".parse().unwrap(), Role::Viewer).await.unwrap();
    let answer = reqwest::Client::new().get(url).bearer_auth(&viewer.token).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.text().await.unwrap();
    let watched = watched();
    assert!(watched.len() > 10, "{watched:?}");
    for name in &watched {
        assert!(text.lines().any(|line| line.split(['{', ' ']).next() == Some(name)), "{name} is watched and not told");
    }
    for line in [
        "nearfield_plane_connections 1",
        "nearfield_plane_certificates{region=\"eu\",state=\"good\"} 1",
        "nearfield_plane_calls_total{region=\"eu\"} 6",
        "nearfield_plane_turns_by_model_total{region=\"eu\"} 6",
        "nearfield_plane_first_audio_seconds_bucket{region=\"eu\",le=\"0.15\"} 0",
        "nearfield_plane_first_audio_seconds_bucket{region=\"eu\",le=\"0.2\"} 1",
        "nearfield_plane_first_audio_seconds_bucket{region=\"eu\",le=\"+Inf\"} 1",
    ] {
        assert!(text.lines().any(|told| told == line), "{line} is missing in\n{text}");
    }
}
