//! How many calls a node holds is judged by what its callers hear.

use crate::support::FakeSpeech;
use edge_agent::{
    doctor::bench::{Level, level},
    speech::Speech,
};
use std::{sync::Arc, time::Duration};

/// Some seconds of simulated calls on scripted models.
async fn held(speech: FakeSpeech, calls: usize) -> Level {
    let sayings = Arc::new(vec![vec![0.1; 6_000], vec![0.1; 9_000]]);
    let speech: Arc<dyn Speech> = Arc::new(speech);
    level(&speech, &sayings, calls, Duration::from_secs(8)).await
}

#[tokio::test]
async fn what_is_measured_is_what_the_models_take() {
    let quick = held(FakeSpeech { work_ms: 20, ..FakeSpeech::default() }, 3);
    let slow = held(FakeSpeech { work_ms: 500, ..FakeSpeech::default() }, 3);
    let (quick, slow) = tokio::join!(quick, slow);
    // A transcript and a comparison for a cached answer; a thought and a phrase more for the others.
    assert!(quick.answers >= 3 && quick.first_audio_p50_ms >= 40, "{quick:?}");
    assert_eq!(quick.failures, 0, "{quick:?}");
    assert!(slow.answers > 0 && slow.first_audio_p95_ms >= 1_000 && !slow.holds(), "{slow:?}");
}

#[tokio::test]
async fn calls_that_the_models_have_no_place_for_do_not_hold() {
    let full = held(FakeSpeech { slots_max: 2, work_ms: 20, ..FakeSpeech::default() }, 3).await;
    assert!(full.failures > 0 && !full.holds(), "{full:?}");
}
