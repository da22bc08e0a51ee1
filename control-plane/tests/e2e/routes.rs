//! `GET /v1/route`: law first, then distance; refused with the reason rather than sent abroad.

use super::{agent::Agent, plane::TestPlane};
use control_plane::config::Config;
use nearfield_shared::wire::PlaneToAgent;
use serde_json::Value;

async fn route(plane: &TestPlane, query: &str) -> (u16, Value) {
    let response = reqwest::get(format!("http://{}/v1/route{query}", plane.running.api)).await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
}

async fn nodes(plane: &TestPlane, query: &str) -> Vec<String> {
    let (status, body) = route(plane, query).await;
    assert_eq!(status, 200, "{body}");
    body["nodes"].as_array().unwrap().iter().map(|node| node["node"].as_str().unwrap().to_owned()).collect()
}

async fn serving(plane: &TestPlane, region: &str, name: &str) -> Agent {
    let mut agent = Agent::new(plane, region, name).await;
    let (nonce, state) = agent.desired().await;
    agent.ack(nonce, state.generation).await;
    agent.status(1, true).await;
    plane.wait_for(name, |node| node.state == "up" && node.calls.is_some()).await;
    agent
}

/// Asks until the answer is as wanted; routes follow the fleet within milliseconds, not at once.
async fn wait_for(plane: &TestPlane, query: &str, status: u16) -> Value {
    loop {
        let (found, body) = route(plane, query).await;
        if found == status {
            return body;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_caller_from_the_union_never_gets_a_node_outside_it() {
    let plane = TestPlane::new().await;
    let us = serving(&plane, "us", "us-1").await;
    wait_for(&plane, "?country=US", 200).await;
    let (status, body) = route(&plane, "?country=DE").await;
    assert_eq!(status, 503, "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains("eu"), "{body}");
    let (status, body) = route(&plane, "?country=IT").await;
    assert_eq!(status, 451, "listed nowhere, and still of the Union: {body}");

    let eu = serving(&plane, "eu", "eu-1").await;
    wait_for(&plane, "?country=DE", 200).await;
    assert_eq!(nodes(&plane, "?country=DE&latitude=40.7&longitude=-74").await, ["eu-1"]);
    assert_eq!(nodes(&plane, "?country=US").await, ["us-1"]);
    assert_eq!(nodes(&plane, "").await, ["us-1"], "a loopback address has no country");
    drop((us, eu));
}

#[tokio::test]
async fn the_strictest_of_address_statement_and_position_wins() {
    let config = Config { heartbeat_s: 30.0, trust_forwarded_for: true, ..Config::on_loopback() };
    let plane = TestPlane::with(config).await;
    plane.apply(&plane.files()).await;
    let _us = serving(&plane, "us", "us-1").await;
    wait_for(&plane, "?country=US", 200).await;
    // An address of a German publisher, and one of a Californian company.
    let (german, american) = ("193.99.144.80", "8.8.8.8");
    let ask = |address: &'static str, query: &'static str| {
        let request = reqwest::Client::new().get(format!("http://{}/v1/route{query}", plane.running.api));
        async move { request.header("x-forwarded-for", address).send().await.unwrap().status().as_u16() }
    };
    assert_eq!(ask(american, "").await, 200);
    for (address, query) in [
        (german, ""),
        (german, "?country=US"),
        (german, "?address=8.8.8.8"),
        (german, "?latitude=40.7&longitude=-74"),
        (american, "?country=DE"),
        (american, "?address=193.99.144.80"),
        (american, "?latitude=51.3&longitude=9.5"),
        (american, "?country=US&latitude=51.3&longitude=9.5"),
        ("10.0.0.1", "?latitude=51.3&longitude=9.5"),
    ] {
        assert_eq!(ask(address, query).await, 503, "no node of the Union is up: {address} {query}");
    }
    // Somewhere in Italy, which neither region serves.
    assert_eq!(ask(american, "?latitude=41.9&longitude=12.5").await, 451);
}

#[tokio::test]
async fn a_node_that_takes_no_calls_or_has_gone_is_not_offered() {
    let plane = TestPlane::new().await;
    let mut agent = serving(&plane, "us", "us-1").await;
    wait_for(&plane, "?country=US", 200).await;
    agent.status(1, false).await;
    wait_for(&plane, "?country=US", 503).await;
    agent.status(1, true).await;
    wait_for(&plane, "?country=US", 200).await;
    drop(agent);
    let body = wait_for(&plane, "?country=US", 503).await;
    assert_eq!(body["error"]["code"], "none_up");
}

#[tokio::test]
async fn every_node_is_told_where_callers_can_go() {
    let plane = TestPlane::new().await;
    let mut watcher = Agent::new(&plane, "eu", "eu-1").await;
    let _us = serving(&plane, "us", "us-1").await;
    loop {
        let PlaneToAgent::Routes(routes) = watcher.hear().await.unwrap() else { continue };
        let us = routes.routes.iter().find(|route| route.region.as_str() == "us").unwrap();
        if us.nodes.iter().any(|node| node.node == "us-1" && node.up) {
            break;
        }
    }
}

#[tokio::test]
async fn bad_queries_say_what_is_expected() {
    let plane = TestPlane::new().await;
    for bad in ["?country=Germany", "?latitude=1", "?latitude=x&longitude=1", "?latitude=99&longitude=0", "?contry=DE"]
    {
        let (status, body) = route(&plane, bad).await;
        assert_eq!((status, body["error"]["code"].as_str()), (400, Some("bad_query")), "{bad}: {body}");
    }
    let health = reqwest::get(format!("http://{}/v1/healthz", plane.running.api)).await.unwrap();
    assert_eq!(health.status(), 200);
}
