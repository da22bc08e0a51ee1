//! Models that are imported, changed or removed beside the server stand in its audit before any region can name them.

use super::{
    audit::entries,
    plane::{TestPlane, add_model},
};
use nearfield_shared::artefact::Stage;
use std::fs;

/// Who did what to which model.
async fn told(plane: &TestPlane) -> Vec<(String, String, String)> {
    let of_models = entries(plane).await.into_iter().filter(|entry| entry.object.starts_with("model/"));
    of_models.map(|entry| (entry.who, entry.what, entry.object)).collect()
}

fn line(who: &str, what: &str, object: &str) -> (String, String, String) {
    (who.into(), what.into(), object.into())
}

#[tokio::test]
async fn imports_stand_in_the_audit_whoever_noticed_them() {
    let mut plane = TestPlane::empty().await;
    let first = ["asr-1", "llm-1", "tts-1", "vad-1"]
        .map(|name| line("control-plane", "model.import", &format!("model/{name}")));
    assert_eq!(told(&plane).await, first, "what was imported before the start");
    let manifest = add_model(&plane.dir, "new", Stage::Turn, b"first");
    assert_eq!(plane.admin.note_models().await.unwrap().noted, 1);
    assert_eq!(plane.admin.note_models().await.unwrap().noted, 0);
    let all = entries(&plane).await;
    assert!(
        all[4].detail.contains(&manifest.digest.to_hex()) && all[4].detail.contains("for turn"),
        "{}",
        all[4].detail
    );
    assert_eq!((all[4].who.as_str(), all[4].before.as_ref()), ("owner", None));

    // Whoever applies a region is too late to find one unnoted.
    add_model(&plane.dir, "new", Stage::Turn, b"second");
    plane.apply(&plane.files()).await;
    let all = entries(&plane).await;
    assert_eq!((all[5].what.as_str(), &all[5].before), ("model.import", &all[4].after));
    assert_eq!(all[6].what, "region.apply");
    fs::remove_file(plane.dir.models().join("new.json")).unwrap();
    plane.start_again().await;
    assert_eq!(
        told(&plane).await[4..],
        [
            line("owner", "model.import", "model/new"),
            line("owner", "model.import", "model/new"),
            line("control-plane", "model.remove", "model/new"),
        ]
    );
    plane.start_again().await;
    assert_eq!(told(&plane).await.len(), 7, "and no line twice");
    assert_eq!(plane.admin.verify_audit().await.unwrap().problem, None);
}
