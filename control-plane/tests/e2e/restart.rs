//! What the plane knows outlives it; what broke is set aside and the export restored.

use super::{
    agent::{Agent, enrol, enrolled},
    plane::TestPlane,
};
use nearfield_shared::{desired::Generation, wire::PlaneToAgent};

#[tokio::test]
async fn a_restarted_plane_knows_what_it_knew() {
    let mut plane = TestPlane::new().await;
    let unused = plane.token("eu", None, 3600).await;
    let used = plane.token("eu", Some("a"), 3600).await;
    let identity = enrol(&plane, &used, None).await.unwrap();
    let mut agent = Agent::connect(&plane, &identity, 0).await;
    let (nonce, _) = agent.desired().await;
    agent.ack(nonce, Generation(1)).await;
    plane.wait_for("a", |node| node.state == "up").await;

    plane.start_again().await;
    let told = loop {
        match agent.hear().await {
            Ok(PlaneToAgent::GoAway(go)) => break go,
            Ok(_) => {}
            Err(reason) => panic!("no goodbye: {reason}"),
        }
    };
    assert!(told.retry_after_ms > 0);
    let node = plane.node("a").await;
    assert_eq!((node.state.as_str(), node.serving), ("returning", Generation(1)));
    assert!(!plane.apply(&plane.files()).await.changes(), "the regions are still applied");
    assert!(enrol(&plane, &used, None).await.is_err(), "the used token is still used");
    enrol(&plane, &unused, Some("b")).await.unwrap();

    let mut agent = Agent::connect(&plane, &identity, 1).await;
    plane.wait_for("a", |node| node.state == "up").await;
    plane.apply(&plane.files_with("i1")).await;
    assert_eq!(agent.desired().await.1.generation, Generation(2), "numbers go on");
}

#[tokio::test]
async fn a_broken_store_is_set_aside_and_the_fleet_goes_on() {
    let mut plane = TestPlane::new().await;
    let identity = enrolled(&plane, "eu", "a").await;
    plane.stop().await;
    let db = plane.dir.store().join("db");
    let mut bytes = std::fs::read(&db).unwrap();
    bytes.fill(0x5a);
    std::fs::write(&db, bytes).unwrap();

    plane.start_again().await;
    let aside = std::fs::read_dir(plane.dir.root()).unwrap().flatten();
    assert!(aside.into_iter().any(|e| e.file_name().to_string_lossy().starts_with("store.broken-")));
    assert!(!plane.apply(&plane.files()).await.changes(), "from the export");
    let mut agent = Agent::connect(&plane, &identity, 0).await;
    let generation = agent.desired().await.1.generation.0;
    assert!(generation > 1000, "above whatever the lost store may have made: {generation}");
}
