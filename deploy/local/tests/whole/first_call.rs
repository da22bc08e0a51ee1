//! `nearfield --once`: a user's first minute, and the same with other recordings and other callers.

use crate::support::{NEARFIELD, project_regions, read_back, utterance};
use control_plane::registry::speech::wer::word_errors;
use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

fn nearfield(state: &Path, args: &[&str]) -> Output {
    Command::new(NEARFIELD)
        .args(["--state", state.to_str().unwrap(), "--regions", project_regions().to_str().unwrap()])
        .args(["--device", "cpu"])
        .args(args)
        .output()
        .unwrap()
}

/// Runs one call and checks what must hold for every call: it is understood, answered in the right region, and the WAV says
/// what was printed.
fn check_call(state: &Path, args: &[&str], said: &str, region: &str) -> Value {
    let output = nearfield(state, args);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {told}");
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("{outcome:#}");

    let heard = outcome["transcript"].as_str().unwrap();
    let errors = word_errors(said, heard);
    assert!(errors.errors <= 1, "`{said}` was heard as `{heard}`");
    assert_eq!(outcome["answered_at"]["region"], region, "{told}");
    assert_eq!(outcome["status"], "completed");

    let answer = outcome["answer"].as_str().unwrap();
    assert!(!answer.trim().is_empty());
    let wav = outcome["wav"].as_str().unwrap();
    let samples: Vec<f32> = hound::WavReader::open(wav)
        .unwrap()
        .samples::<i16>()
        .map(|sample| f32::from(sample.unwrap()) / 32768.0)
        .collect();
    let spoken = read_back(&samples);
    let errors = word_errors(answer, &spoken);
    println!("read back: {spoken} ({:.1} % word errors)", errors.percent());
    assert!(errors.percent() <= 15.0, "the WAV says `{spoken}`, the answer is `{answer}`");
    outcome
}

#[test]
fn a_new_user_hears_an_answer_and_a_second_run_is_offline_and_keeps_its_identity() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let outcome = check_call(&state, &["--once", "--json"], "what time is it", "eu-central");
    assert!(outcome["ledger"].is_object(), "the ledger is part of the outcome");

    let recording = folder.path().join("forward.wav");
    fs::write(&recording, utterance("goforward").wav()).unwrap();
    let identity = state.join("agents/us-east/identity.json");
    let before = fs::read(&identity).unwrap();
    check_call(
        &state,
        &["--once", "--json", "--offline", "--from", "US,38.9,-77.0", "call", recording.to_str().unwrap()],
        "go forward ten meters",
        "us-east",
    );
    assert_eq!(fs::read(&identity).unwrap(), before, "a second start enrols nobody again");
}

#[test]
fn what_is_no_recording_or_no_region_is_said_before_anything_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let not_a_wav = folder.path().join("notes.wav");
    fs::write(&not_a_wav, "these are notes").unwrap();
    let output = nearfield(&state, &["--once", "call", not_a_wav.to_str().unwrap()]);
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("notes.wav"), "{told}");
    assert!(!state.exists(), "nothing was started");

    let output = Command::new(NEARFIELD).args(["--from", "Berlin"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
}
